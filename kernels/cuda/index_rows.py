"""Softmax rows with class indices, the classes side by side: one evaluation of the rule a row."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.load_store import chunks_of, decode, no_words, optimization_barrier
from fusedce.kernels.cuda.load_store_scalar import itemsize, number_at, params_of, put_number
from fusedce.kernels.cuda.logit_transform import (
    Full,
    below_top,
    chain_transform,
    lanes_present,
    transform_logits,
)
from fusedce.kernels.cuda.online_softmax import (
    absorb_visit,
    fresh,
    lowered,
    multiples_of,
    online_softmax_reduce,
    online_softmax_update,
    powers,
    relative,
    scaled,
)
from fusedce.kernels.cuda.reduce import (
    cluster_arrive,
    cluster_wait,
    inside_of,
    rank,
    sync_before_overwrite,
)
from fusedce.kernels.cuda.row_cache import (
    RegisterExps,
    Registers,
    fetch,
    read,
    recall,
    visits,
    waiting,
)
from fusedce.kernels.cuda.rows import (
    curvature,
    edge_of,
    finish,
    label_at,
    owner_of,
    put_chunks,
    put_ends,
    row_of,
    sample_of,
    scale_of,
    span_of,
    unread,
    weight_of,
    z_loss_of,
)
from fusedce.kernels.link import softmax_row
from fusedce.kernels.scalar import INLINED, exp_down, scalar, where
from fusedce.kernels.vector import vector_of


class Settled(NamedTuple):
    """What the derivatives of a row are made of: see ``link.softmax_row``.

    Those of other classes than the target are ``unit`` times ``powers`` of ``scaling``.
    """

    scaling: Any
    unit: float
    m: float
    others: float
    k: float
    first: float
    square: float
    product: float
    second: float


@scalar
def evaluated(args, dtype, params, T, z, m, others, weight, sample, scale, live, fine):
    """(loss, Settled) of a row whose target has the logit z; NaN for a label that is none."""
    d = below_top(args, z, m)
    loss, k, rest, first, square, product, second = softmax_row(
        params, d, exp_down(d), m, others, weight * sample, sample,
        z_loss_of(args, T), scale,
    )  # fmt: skip
    bad, none = where(fine, T(1), T(np.nan)), T(0)
    if live:
        scaling, unit = scaled(dtype, m, k * bad)
        return loss * bad, Settled(
            scaling, unit, m, others, k * bad, first * bad, square, product * bad, second * bad
        )
    scaling, unit = scaled(dtype, none, none)
    return none, Settled(scaling, unit, none, none, none, none, none, none, none)


def derivatives(extra, args, dtype, z, x, row, live):
    """(gradients, curvatures) of other classes than the target; z: stored logits, x: as seen."""
    raise NotImplementedError("compiled code only")


@overload(derivatives, jit_options=INLINED)
def _derivatives(extra, args, dtype, z, x, row, live):
    if extra.instance_class is not Full:

        def plain(extra, args, dtype, z, x, row, live):
            g = row.unit * powers(dtype, row.scaling, relative(dtype, row.scaling, x))
            return g, g

        return plain

    def full(extra, args, dtype, z, x, row, live):
        N = type(z)
        e = exp_down(below_top(args, x, row.m))
        h = curvature(e, row.others, row.square, row.product)
        g, h = chain_transform(args, z, x, row.k * e, h)
        return where(live, g, N(0)), where(live, h, N(0))

    return full


def looked_at(residency, extra, args, N, T, dtype, source, span):
    """(maximum, sum below it, number at it, what waits) of the chunks of a lane."""
    raise NotImplementedError("compiled code only")


@overload(looked_at, jit_options=INLINED)
def _looked_at(residency, extra, args, N, T, dtype, source, span):
    if residency.instance_class in (Registers, RegisterExps):

        def at_once(residency, extra, args, N, T, dtype, source, span):
            k = np.int32(0)
            words = read(residency, args, N, dtype, source, span, k)
            v = decode(N, dtype, words)
            v = transform_logits(extra, args, v, lanes_present(extra, N, dtype, span, k))
            top, below, ties, e = fresh(dtype, v)
            return top, below, ties, waiting(residency, words, e)

        return at_once

    def by_visits(residency, extra, args, N, T, dtype, source, span):
        top, below, ties = T(-np.finfo(T).max), T(0), T(0)
        waits = no_words(N, dtype)
        k = np.int32(0)
        while k < span.chunks:
            waits = read(residency, args, N, dtype, source, span, k)
            v = decode(N, dtype, waits)
            v = transform_logits(extra, args, v, lanes_present(extra, N, dtype, span, k))
            top, below, ties, e = absorb_visit(residency, dtype, top, below, ties, v)
            k = np.int32(k + chunks_of(N, dtype))
        return top, below, ties, waits

    return by_visits


def gradients(residency, extra, args, N, dtype, source, span, k, waits, top, row, live):
    """(gradients, curvatures) of the chunks from the k-th on, from what waits of them."""
    raise NotImplementedError("compiled code only")


@overload(gradients, jit_options=INLINED)
def _gradients(residency, extra, args, N, dtype, source, span, k, waits, top, row, live):
    if residency.instance_class is RegisterExps:

        def kept(residency, extra, args, N, dtype, source, span, k, waits, top, row, live):
            g = multiples_of(dtype, top, row.k * lowered(dtype, top - row.m), waits)
            return g, g

        return kept

    def recalled(residency, extra, args, N, dtype, source, span, k, waits, top, row, live):
        v = decode(N, dtype, recall(residency, args, N, dtype, source, span, k, waits))
        x = transform_logits(extra, args, v, lanes_present(extra, N, dtype, span, k))
        return derivatives(extra, args, dtype, v, x, row, live)

    return recalled


def put_target(extra, args, dtype, grad, hess, label, z, row):
    """The same of the target class, whose stored logit is z."""
    raise NotImplementedError("compiled code only")


@overload(put_target, jit_options=INLINED)
def _put_target(extra, args, dtype, grad, hess, label, z, row):
    if extra.instance_class is not Full:
        return lambda extra, args, dtype, grad, hess, label, z, row: put_number(
            dtype, grad + label * itemsize(dtype), row.first
        )

    def full(extra, args, dtype, grad, hess, label, z, row):
        x = transform_logits(extra, args, z, True)
        first, second = chain_transform(args, z, x, row.first, row.second)
        here = label * itemsize(dtype)
        if args.grad != 0:
            put_number(dtype, grad + here, first)
        if args.hess != 0:
            put_number(dtype, hess + here, second)

    return full


def index_rows(Params: type, T: Any, Dtype: type, Labels: type, Residency: type, Group: type,
               Lanes: type,
               Alignment: type, Extra: type) -> Any:  # fmt: skip
    """The kernel of class indices for rows whose classes lie side by side."""

    def index_rows(args):
        dtype, residency, group, alignment, extra = (
            Dtype(),
            Residency(),
            Group(),
            Alignment(),
            Extra(),
        )
        N = vector_of(T, Lanes())
        params = params_of(args, Params, T)
        number, lane = rank(group, args)
        inside = inside_of(group, args, number)
        outer, inner = row_of(args, number if inside else np.int64(0))
        source = args.logits + outer * args.logits_outer + inner * args.logits_inner
        scale = scale_of(args, T)
        label = label_at(args, Labels(), outer, inner)
        live = inside and label != args.ignore_index and scale != T(0)
        fine = label >= 0 and label < args.classes
        label = label if live and fine else np.int64(0)
        sample = sample_of(args, T, outer, inner)
        out = span_of(group, args, dtype, source, lane, inside)
        span = unread(out, live)
        # Of an ignored row nothing is read: its exponentials are those of -inf.
        target = number_at(T, dtype, source + label * itemsize(dtype)) if live else T(0)

        z = edge = T(-np.inf)
        if out.ends > 0:
            z = edge_of(T, dtype, source, span)
            edge = transform_logits(extra, args, z, span.edges > 0)
        fetch(residency, args, N, dtype, source, span, out.chunks)
        top, below, ties, waits = looked_at(residency, extra, args, N, T, dtype, source, span)
        held = top  # the maximum of the chunks
        if out.ends > 0:
            top, below, ties = online_softmax_update(dtype, top, below, ties, edge)
        m, others = online_softmax_reduce(group, args, dtype, 0, top, below, ties)
        cluster_arrive(group)
        seen_target = transform_logits(extra, args, target, True)
        weight = weight_of(args, T, label)
        loss, row = evaluated(
            args, dtype, params, T, seen_target, m, others, weight, sample, scale, live, fine
        )

        sync_before_overwrite(group)  # the target's logit; in place it is overwritten now
        if args.grad != 0 or args.hess != 0:
            grad = args.grad + outer * args.grad_outer + inner * args.grad_inner
            grad = optimization_barrier(grad)
            hess = args.hess + outer * args.hess_outer + inner * args.hess_inner
            k, per, at = np.int32(0), chunks_of(N, dtype), out.first
            end = visits(residency, out.chunks, per)
            while k < end:
                first, second = gradients(
                    residency, extra, args, N, dtype, source, span, k, waits, held, row, live
                )
                put_chunks(
                    extra, alignment, args, dtype, grad + at, hess + at, out, k, first, second
                )
                k, at = np.int32(k + per), at + per * out.step
            if out.ends > 0:
                first, second = derivatives(extra, args, dtype, z, edge, row, live)
                put_ends(extra, args, dtype, grad, hess, out, first, second)
            if live and lane == owner_of(group, args, dtype, out, label):
                put_target(extra, args, dtype, grad, hess, label, target, row)
        finish(group, args, outer, inner, lane, inside, loss)
        cluster_wait(group)

    return index_rows
