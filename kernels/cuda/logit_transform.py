"""Logits as the loss sees them, through scale and softcap; and the chain rule back."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.load_store import chunks_of, first_lanes, per_chunk
from fusedce.kernels.cuda.load_store_scalar import float_of
from fusedce.kernels.scalar import INLINED, exp_down, scalar, tanh, where
from fusedce.kernels.vector import lanes_as


class Plain(NamedTuple):
    """Type tag: logits as they are, no Hessian."""


class Full(NamedTuple):
    """Type tag: softcap, logit scale and Hessian."""


def transform_logits(extra, args, z, present):
    """Logits through scale and softcap; lanes that are not present stay -inf."""
    raise NotImplementedError("compiled code only")


@overload(transform_logits, jit_options=INLINED)
def _seen(extra, args, z, present):
    if extra.instance_class is Plain:
        return lambda extra, args, z, present: z

    def capped(extra, args, z, present):
        N, T = type(z), lanes_as(z)
        x = z * float_of(T, args.logit_scale)
        softcap = float_of(T, args.softcap)
        if softcap > T(0):
            x = softcap * tanh(x / softcap)
        return where(present, x, N(-np.inf))

    return capped


@scalar
def slope_of(args, z):
    """d/dz of the above, by 4 e / (1 + e)**2 with e = exp(-2 |a|)."""
    N, T = type(z), lanes_as(z)
    scale, softcap = float_of(T, args.logit_scale), float_of(T, args.softcap)
    if softcap > T(0):
        e = exp_down(T(-2) * abs(scale * z / softcap))
        return scale * (T(4) * e / ((T(1) + e) * (T(1) + e)))
    return N(scale)


@scalar
def bend_of(args, x, slope):
    """The second derivative, from the capped logit and the first."""
    N, T = type(x), lanes_as(x)
    scale, softcap = float_of(T, args.logit_scale), float_of(T, args.softcap)
    if softcap > T(0):
        return T(-2) * (x / softcap) / softcap * scale * slope
    return N(0)


@scalar
def below_top(args, x, m):
    """x - m; 0 where a softcap leaves only a rounding between them.

    Capped logits are made more than once; what is the maximum must be so each time.
    """
    N, T = type(x), type(m)
    d = x - m
    if float_of(T, args.softcap) > T(0):
        d = where(d > -T(np.finfo(T).eps) * abs(m), N(0), d)
    return d


@scalar
def chain_transform(args, z, x, first, second):
    """(gradient, curvature) by the stored logits z, from those by the logits x as seen."""
    N = type(z)
    slope = slope_of(args, z)
    bend = bend_of(args, x, slope)
    more = where(bend == N(0), N(0), first * bend)  # also where the gradient is infinite
    return first * slope, second * slope * slope + more


def lanes_present(extra, N, dtype, span, k):
    """Which lanes of a visit hold logits, for those who have to know."""
    raise NotImplementedError("compiled code only")


@overload(lanes_present, jit_options=INLINED)
def _lanes_present(extra, N, dtype, span, k):
    if extra.instance_class is Plain:
        return lambda extra, N, dtype, span, k: True
    return lambda extra, N, dtype, span, k: first_lanes(
        N, np.int32(min(span.chunks - k, chunks_of(N, dtype)) * per_chunk(dtype))
    )
