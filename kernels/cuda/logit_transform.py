"""Logit scale and softcap, applied to stored logits; and the chain rule back through both.

x = softcap tanh(scale z / softcap), or x = scale z without a softcap. ``z``: stored logits,
``x``: transformed logits, numbers or vectors of T.
"""

from typing import NamedTuple

import numpy as np

from fusedce.kernels.cuda.load_store import chunks_of, first_lanes, per_chunk
from fusedce.kernels.cuda.load_store_scalar import float_of
from fusedce.kernels.cuda.tags import tag_class
from fusedce.kernels.scalar import exp_down, generated, scalar, tanh, where
from fusedce.kernels.vector import lanes_as


class Plain(NamedTuple):
    """Type tag: no logit scale, no softcap, no Hessian."""


class Full(NamedTuple):
    """Type tag: logit scale, softcap and Hessian are compiled in."""


@generated
def transform_logits(features, args, z, present):
    """The transformed logits; -inf in lanes that are not ``present``."""
    if features.instance_class is Plain:
        return lambda features, args, z, present: z

    def capped(features, args, z, present):
        N, T = type(z), lanes_as(z)
        x = z * float_of(T, args.logit_scale)
        softcap = float_of(T, args.softcap)
        if softcap > T(0):
            x = softcap * tanh(x / softcap)
        return where(present, x, N(-np.inf))

    return capped


@scalar
def transform_slope(args, z):
    """dx/dz = scale 4 e / (1 + e)**2 with e = exp(-2 |scale z / softcap|)."""
    N, T = type(z), lanes_as(z)
    scale, softcap = float_of(T, args.logit_scale), float_of(T, args.softcap)
    if softcap > T(0):
        e = exp_down(T(-2) * abs(scale * z / softcap))
        return scale * (T(4) * e / ((T(1) + e) * (T(1) + e)))
    return N(scale)


@scalar
def transform_curvature(args, x, slope):
    """d2x/dz2, from the transformed logit and dx/dz."""
    N, T = type(x), lanes_as(x)
    scale, softcap = float_of(T, args.logit_scale), float_of(T, args.softcap)
    if softcap > T(0):
        return T(-2) * (x / softcap) / softcap * scale * slope
    return N(0)


@scalar
def minus_max(args, x, maximum):
    """x - maximum; 0 where, with a softcap, they differ by a rounding error only.

    Transformed logits are computed again in each pass, and the class at the maximum must be found
    at the maximum each time.
    """
    N, T = type(x), type(maximum)
    d = x - maximum
    if float_of(T, args.softcap) > T(0):
        d = where(d > -T(np.finfo(T).eps) * abs(maximum), N(0), d)
    return d


@scalar
def chain_transform(args, z, x, first, second):
    """(first, second) derivatives with respect to z, from those with respect to x."""
    N = type(z)
    slope = transform_slope(args, z)
    bend = transform_curvature(args, x, slope)
    more = where(bend == N(0), N(0), first * bend)  # not NaN where first is infinite
    return first * slope, second * slope * slope + more


@generated
def present_lanes(tags, N, part, k):
    """Which lanes of the iteration from chunk k on hold logits; True where it does not matter."""
    if tag_class(tags, "features") is Plain:
        return lambda tags, N, part, k: True
    return lambda tags, N, part, k: first_lanes(
        N, np.int32(min(part.chunks - k, chunks_of(N, tags.dtype)) * per_chunk(tags.dtype))
    )
