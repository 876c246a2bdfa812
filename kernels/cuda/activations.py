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
from fusedce.kernels.cuda.elementwise import divided
from fusedce.kernels.cuda.load_store import chunks_of, decoded, no_words
from fusedce.kernels.cuda.load_store_scalar import number_at, put_number
from fusedce.kernels.cuda.logit_transform import Plain
from fusedce.kernels.cuda.online_softmax import absorb, absorb_visit, settled
from fusedce.kernels.cuda.reduce import depart, inside_of, leave, seat
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


def softmax_rows(T: Any, Form: type, Way: type, Team: type, Lanes: type, Alignment: type,
                 What: type) -> Any:  # fmt: skip
    """The kernel of softmax for rows whose classes lie side by side."""

    def softmax_rows(plan):
        form, way, team, alignment, what = Form(), Way(), Team(), Alignment(), What()
        N = vector_of(T, Lanes())
        number, lane = seat(team, plan)
        inside = inside_of(team, plan, number)
        outer, inner = row_of(plan, number if inside else np.int64(0))
        source = plan.logits + outer * plan.logits_outer + inner * plan.logits_inner
        target = plan.grad + outer * plan.grad_outer + inner * plan.grad_inner
        span = span_of(team, plan, form, source, lane, inside)
        z = edge_of(T, form, source, span)
        top, below, ties = absorb(form, T(-np.finfo(T).max), T(0), T(0), z)
        words = no_words(N, form)
        fetch(way, plan, N, form, source, span, span.chunks)
        k, per = np.int32(0), chunks_of(N, form)
        end = visits(way, span.chunks, per)
        while k < end:
            words = read(way, plan, N, form, source, span, k)
            v = decoded(N, form, words)
            top, below, ties, _ = absorb_visit(way, form, top, below, ties, v)
            k = np.int32(k + per)
        m, others = settled(team, plan, form, 0, top, below, ties)
        depart(team)
        k, at = np.int32(0), target + span.first
        while k < end:
            v = decoded(N, form, recall(way, plan, N, form, source, span, k, words))
            store(alignment, form, at, span, k, probability(what, v, m, others))
            k, at = np.int32(k + per), at + per * span.step
        put_edge(form, target, span, probability(what, z, m, others))
        leave(team)

    return softmax_rows


def softmax_columns(T: Any, Form: type, Layout: type, Way: type, Lanes: type, What: type) -> Any:
    """The kernel of softmax with a row in each lane."""

    def softmax_columns(plan):
        form, extra, what = Form(), Plain(), What()
        tags = Tags(form, Layout(), Way(), extra, form)
        N = vector_of(T, Lanes())
        row = lane_of(plan)
        begin(tags.layout, N, T, form, plan)
        m, others, held = fold(tags.way, tags, N, plan, row)
        j, last = np.int64(0), loop_end(tags.way, N, row.classes)
        while j < last:
            count, present = here(N, row.classes, j)
            z = classes_again(tags.way, tags.layout, N, T, form, plan, row, j, count, held)
            p = probability(what, z, m, others)
            put_results(extra, tags.layout, N, T, form, plan, row, j, count, p, p)
            j += width(N)

    return softmax_columns


def sigmoids(T: Any, Form: type, What: type) -> Any:
    """The kernel of sigmoid for numbers anywhere: a block takes ``span`` neighbours."""

    def sigmoids(plan):
        form, what = Form(), What()
        start = np.int64(block()) * plan.span
        n = min(plan.span, plan.outer * plan.classes * plan.inner - start)
        row, inner = start // plan.inner, start % plan.inner
        outer, cls = row // plan.classes, row % plan.classes
        i = np.int64(thread())
        while i < n:
            rows, h = divided(inner + i, plan.inner, plan.magic_inner)
            over, c = divided(cls + rows, plan.classes, plan.magic_classes)
            o = outer + over
            z = number_at(
                T, form,
                plan.logits + o * plan.logits_outer + c * plan.logits_cls + h * plan.logits_inner,
            )  # fmt: skip
            place = plan.grad + o * plan.grad_outer + c * plan.grad_cls + h * plan.grad_inner
            put_number(form, place, outcome(what, z))
            i += threads()

    return sigmoids
