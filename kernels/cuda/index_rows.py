"""Softmax rows with class indices, the classes side by side: one evaluation of the rule a row."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.memory import chunks_of, decoded
from fusedce.kernels.cuda.params import params_of
from fusedce.kernels.cuda.rows import (
    absorb,
    absorbed,
    curvature,
    edge_of,
    finish,
    label_at,
    once_more,
    owner_of,
    put_chunks,
    put_ends,
    row_of,
    sample_of,
    scale_of,
    settled,
    span_of,
    unread,
    weight_of,
)
from fusedce.kernels.cuda.seen import Full, below_top, lanes_present, seen, through
from fusedce.kernels.cuda.stored import float_of, itemsize, number_at, put_number
from fusedce.kernels.cuda.teams import depart, have_read, leave, seat
from fusedce.kernels.cuda.waits import Kept, fetch, nothing, read, recall, visits, waiting
from fusedce.kernels.link import softmax_row
from fusedce.kernels.scalar import INLINED, choose, exp_down, scalar
from fusedce.kernels.vector import vector_of


class Settled(NamedTuple):
    """What the derivatives of a row are made of: see ``link.softmax_row``."""

    m: float
    others: float
    k: float
    first: float
    square: float
    product: float
    second: float


@scalar
def evaluated(plan, params, T, z, m, others, weight, sample, scale, fine):
    """(loss, Settled) of a row whose target has the logit z; NaN for a label that is none."""
    d = below_top(plan, z, m)
    loss, k, rest, first, square, product, second = softmax_row(
        params, d, exp_down(d), m, others, weight * sample, sample,
        float_of(T, plan.z_loss), scale,
    )  # fmt: skip
    bad = choose(fine, T(1), T(np.nan))
    return loss * bad, Settled(m, others, k * bad, first * bad, square, product * bad, second * bad)


def derivatives(extra, plan, form, z, x, row, live):
    """(gradients, curvatures) of other classes than the target; z: stored logits, x: as seen."""
    raise NotImplementedError("compiled code only")


@overload(derivatives, jit_options=INLINED)
def _derivatives(extra, plan, form, z, x, row, live):
    if extra.instance_class is not Full:

        def plain(extra, plan, form, z, x, row, live):
            g = row.k * once_more(form, x - row.m)
            return g, g

        return plain

    def full(extra, plan, form, z, x, row, live):
        N = type(z)
        e = exp_down(below_top(plan, x, row.m))
        h = curvature(e, row.others, row.square, row.product)
        g, h = through(plan, z, x, row.k * e, h)
        return choose(live, g, N(0)), choose(live, h, N(0))

    return full


def gradients(way, extra, plan, N, form, source, span, k, waits, top, row, live):
    """(gradients, curvatures) of the chunks from the k-th on, from what waits of them."""
    raise NotImplementedError("compiled code only")


@overload(gradients, jit_options=INLINED)
def _gradients(way, extra, plan, N, form, source, span, k, waits, top, row, live):
    if way.instance_class is Kept:

        def kept(way, extra, plan, N, form, source, span, k, waits, top, row, live):
            g = waits * (row.k * exp_down(top - row.m))
            return g, g

        return kept

    def recalled(way, extra, plan, N, form, source, span, k, waits, top, row, live):
        v = decoded(N, form, recall(way, plan, N, form, source, span, k, waits))
        x = seen(extra, plan, v, lanes_present(extra, N, form, span, k))
        return derivatives(extra, plan, form, v, x, row, live)

    return recalled


def put_target(extra, plan, form, grad, hess, label, z, row):
    """The same of the target class, whose stored logit is z."""
    raise NotImplementedError("compiled code only")


@overload(put_target, jit_options=INLINED)
def _put_target(extra, plan, form, grad, hess, label, z, row):
    if extra.instance_class is not Full:
        return lambda extra, plan, form, grad, hess, label, z, row: put_number(
            form, grad + label * itemsize(form), row.first
        )

    def full(extra, plan, form, grad, hess, label, z, row):
        x = seen(extra, plan, z, True)
        first, second = through(plan, z, x, row.first, row.second)
        here = label * itemsize(form)
        if plan.grad != 0:
            put_number(form, grad + here, first)
        if plan.hess != 0:
            put_number(form, hess + here, second)

    return full


def index_rows(Params: type, T: Any, Form: type, Labels: type, Way: type, Team: type, Lanes: type,
               Where: type, Extra: type) -> Any:  # fmt: skip
    """The kernel of class indices for rows whose classes lie side by side."""

    def index_rows(plan):
        form, way, team, where, extra = Form(), Way(), Team(), Where(), Extra()
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        number, lane = seat(team, plan)
        inside = number < plan.outer * plan.inner
        outer, inner = row_of(plan, number if inside else np.int64(0))
        source = plan.logits + outer * plan.logits_outer + inner * plan.logits_inner
        scale = scale_of(plan, T)
        label = label_at(plan, Labels(), outer, inner)
        live = inside and label != plan.ignore_index and scale != T(0)
        fine = label >= 0 and label < plan.classes
        label = label if live and fine else np.int64(0)
        sample = sample_of(plan, T, outer, inner)
        out = span_of(team, plan, form, source, lane, inside)
        span = unread(out, live)
        # Of an ignored row nothing is read: its exponentials are those of -inf.
        z = edge_of(T, form, source, span)
        target = number_at(T, form, source + label * itemsize(form)) if live else T(0)

        edge = seen(extra, plan, z, span.edges > 0)
        top, below, ties = absorb(form, T(-np.finfo(T).max), T(0), T(0), edge)
        waits = nothing(way, N, form)
        fetch(way, plan, source, span)
        k, per = np.int32(0), chunks_of(N, form)
        end = visits(way, span.chunks, per)
        while k < end:
            words = read(way, plan, N, form, source, span, k)
            v = decoded(N, form, words)
            v = seen(extra, plan, v, lanes_present(extra, N, form, span, k))
            top, below, ties, e = absorbed(form, top, below, ties, v)
            waits = waiting(way, words, e)
            k = np.int32(k + per)
        m, others = settled(team, plan, 0, top, below, ties)
        depart(team)
        seen_target = seen(extra, plan, target, True)
        weight = weight_of(plan, T, label)
        loss, row = evaluated(plan, params, T, seen_target, m, others, weight, sample, scale, fine)
        row = row if live else Settled(T(0), T(0), T(0), T(0), T(0), T(0), T(0))

        have_read(team)  # the target's logit; in place it is overwritten now
        if plan.grad != 0 or plan.hess != 0:
            grad = plan.grad + outer * plan.grad_outer + inner * plan.grad_inner
            hess = plan.hess + outer * plan.hess_outer + inner * plan.hess_inner
            k, end = np.int32(0), visits(way, out.chunks, per)
            while k < end:
                first, second = gradients(
                    way, extra, plan, N, form, source, span, k, waits, top, row, live
                )
                put_chunks(extra, where, plan, form, grad, hess, out, k, first, second)
                k = np.int32(k + per)
            first, second = derivatives(extra, plan, form, z, edge, row, live)
            put_ends(extra, plan, form, grad, hess, out, first, second)
            if live and lane == owner_of(team, plan, form, out, label):
                put_target(extra, plan, form, grad, hess, label, target, row)
        finish(team, plan, outer, inner, lane, inside, choose(live, loss, T(0)))
        leave(team)

    return index_rows
