"""softmax, log_softmax, sigmoid and log_sigmoid as functions of their own."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.columns import (
    Tags,
    begin,
    classes_again,
    fold,
    here,
    lane_of,
    loop_end,
    put_results,
)
from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.elementwise import divmod_by_magic
from fusedce.kernels.cuda.load_store import chunks_of, decode, no_words
from fusedce.kernels.cuda.load_store_scalar import number_at, put_number
from fusedce.kernels.cuda.logit_transform import Plain
from fusedce.kernels.cuda.online_softmax import (
    absorb_visit,
    online_softmax_reduce,
    online_softmax_update,
)
from fusedce.kernels.cuda.reduce import cluster_arrive, cluster_wait, inside_of, rank
from fusedce.kernels.cuda.row_cache import fetch, read, recall, visits
from fusedce.kernels.cuda.rows import edge_of, put_edge, row_of, span_of, store
from fusedce.kernels.link import sigmoid_outcomes
from fusedce.kernels.scalar import INLINED, exp_down, log1p_up
from fusedce.kernels.vector import vector_of, width


class Itself(NamedTuple):
    """Type tag: the probability."""


class Logarithm(NamedTuple):
    """Type tag: its logarithm."""


def probability(what, z, m, others):
    """exp(z - max) / (1 + others), or (z - max) - log(1 + others)."""
    raise NotImplementedError("compiled code only")


@overload(probability, jit_options=INLINED)
def _probability(what, z, m, others):
    if what.instance_class is Logarithm:
        return lambda what, z, m, others: (z - m) - log1p_up(others)
    return lambda what, z, m, others: exp_down(z - m) / (type(m)(1) + others)


def outcome(what, z):
    """sigmoid(z), or its logarithm."""
    raise NotImplementedError("compiled code only")


@overload(outcome, jit_options=INLINED)
def _outcome(what, z):
    if what.instance_class is Logarithm:
        return lambda what, z: sigmoid_outcomes(z)[0]
    return lambda what, z: sigmoid_outcomes(z)[2]


def softmax_rows(T: Any, Dtype: type, Residency: type, Group: type, Lanes: type, Alignment: type,
                 What: type) -> Any:  # fmt: skip
    """The kernel of softmax for rows whose classes lie side by side."""

    def softmax_rows(args):
        dtype, residency, group, alignment, what = (
            Dtype(),
            Residency(),
            Group(),
            Alignment(),
            What(),
        )
        N = vector_of(T, Lanes())
        number, lane = rank(group, args)
        inside = inside_of(group, args, number)
        outer, inner = row_of(args, number if inside else np.int64(0))
        source = args.logits + outer * args.logits_outer + inner * args.logits_inner
        target = args.grad + outer * args.grad_outer + inner * args.grad_inner
        span = span_of(group, args, dtype, source, lane, inside)
        z = edge_of(T, dtype, source, span)
        top, below, ties = online_softmax_update(dtype, T(-np.finfo(T).max), T(0), T(0), z)
        words = no_words(N, dtype)
        fetch(residency, args, N, dtype, source, span, span.chunks)
        k, per = np.int32(0), chunks_of(N, dtype)
        end = visits(residency, span.chunks, per)
        while k < end:
            words = read(residency, args, N, dtype, source, span, k)
            v = decode(N, dtype, words)
            top, below, ties, _ = absorb_visit(residency, dtype, top, below, ties, v)
            k = np.int32(k + per)
        m, others = online_softmax_reduce(group, args, dtype, 0, top, below, ties)
        cluster_arrive(group)
        k, at = np.int32(0), target + span.first
        while k < end:
            v = decode(N, dtype, recall(residency, args, N, dtype, source, span, k, words))
            store(alignment, dtype, at, span, k, probability(what, v, m, others))
            k, at = np.int32(k + per), at + per * span.step
        put_edge(dtype, target, span, probability(what, z, m, others))
        cluster_wait(group)

    return softmax_rows


def softmax_columns(
    T: Any, Dtype: type, Layout: type, Residency: type, Lanes: type, What: type
) -> Any:
    """The kernel of softmax with a row in each lane."""

    def softmax_columns(args):
        dtype, extra, what = Dtype(), Plain(), What()
        tags = Tags(dtype, Layout(), Residency(), extra, dtype)
        N = vector_of(T, Lanes())
        row = lane_of(args)
        begin(tags.layout, N, T, dtype, args)
        m, others, held = fold(tags.residency, tags, N, args, row)
        j, last = np.int64(0), loop_end(tags.residency, N, row.classes)
        while j < last:
            count, present = here(N, row.classes, j)
            z = classes_again(tags.residency, tags.layout, N, T, dtype, args, row, j, count, held)
            p = probability(what, z, m, others)
            put_results(extra, tags.layout, N, T, dtype, args, row, j, count, p, p)
            j += width(N)

    return softmax_columns


def sigmoids(T: Any, Dtype: type, What: type) -> Any:
    """The kernel of sigmoid for numbers anywhere: a block takes ``span`` neighbours."""

    def sigmoids(args):
        dtype, what = Dtype(), What()
        start = np.int64(block()) * args.span
        n = min(args.span, args.outer * args.classes * args.inner - start)
        row, inner = start // args.inner, start % args.inner
        outer, cls = row // args.classes, row % args.classes
        i = np.int64(thread())
        while i < n:
            rows, h = divmod_by_magic(inner + i, args.inner, args.magic_inner)
            over, c = divmod_by_magic(cls + rows, args.classes, args.magic_classes)
            o = outer + over
            z = number_at(
                T, dtype,
                args.logits + o * args.logits_outer + c * args.logits_cls + h * args.logits_inner,
            )  # fmt: skip
            place = args.grad + o * args.grad_outer + c * args.grad_cls + h * args.grad_inner
            put_number(dtype, place, outcome(what, z))
            i += threads()

    return sigmoids
