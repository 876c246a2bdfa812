"""Softmax rows with class indices, the classes side by side: one evaluation of the rule a row."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.lane_reduce import pinned
from fusedce.kernels.cuda.load_store import chunks_of, decoded, no_words
from fusedce.kernels.cuda.load_store_scalar import itemsize, number_at, params_of, put_number
from fusedce.kernels.cuda.logit_transform import Full, below_top, lanes_present, seen, through
from fusedce.kernels.cuda.online_softmax import (
    absorb,
    absorb_visit,
    fresh,
    lowered,
    multiples_of,
    powers,
    relative,
    scaled,
    settled,
)
from fusedce.kernels.cuda.reduce import depart, have_read, inside_of, leave, seat
from fusedce.kernels.cuda.row_cache import Held, Kept, fetch, read, recall, visits, waiting
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

    Those of other classes than the target are ``unit`` times ``powers`` of ``way``.
    """

    way: Any
    unit: float
    m: float
    others: float
    k: float
    first: float
    square: float
    product: float
    second: float


@scalar
def evaluated(plan, form, params, T, z, m, others, weight, sample, scale, live, fine):
    """(loss, Settled) of a row whose target has the logit z; NaN for a label that is none."""
    d = below_top(plan, z, m)
    loss, k, rest, first, square, product, second = softmax_row(
        params, d, exp_down(d), m, others, weight * sample, sample,
        z_loss_of(plan, T), scale,
    )  # fmt: skip
    bad, none = where(fine, T(1), T(np.nan)), T(0)
    if live:
        way, unit = scaled(form, m, k * bad)
        return loss * bad, Settled(
            way, unit, m, others, k * bad, first * bad, square, product * bad, second * bad
        )
    way, unit = scaled(form, none, none)
    return none, Settled(way, unit, none, none, none, none, none, none, none)


def derivatives(extra, plan, form, z, x, row, live):
    """(gradients, curvatures) of other classes than the target; z: stored logits, x: as seen."""
    raise NotImplementedError("compiled code only")


@overload(derivatives, jit_options=INLINED)
def _derivatives(extra, plan, form, z, x, row, live):
    if extra.instance_class is not Full:

        def plain(extra, plan, form, z, x, row, live):
            g = row.unit * powers(form, row.way, relative(form, row.way, x))
            return g, g

        return plain

    def full(extra, plan, form, z, x, row, live):
        N = type(z)
        e = exp_down(below_top(plan, x, row.m))
        h = curvature(e, row.others, row.square, row.product)
        g, h = through(plan, z, x, row.k * e, h)
        return where(live, g, N(0)), where(live, h, N(0))

    return full


def looked_at(way, extra, plan, N, T, form, source, span):
    """(maximum, sum below it, number at it, what waits) of the chunks of a lane."""
    raise NotImplementedError("compiled code only")


@overload(looked_at, jit_options=INLINED)
def _looked_at(way, extra, plan, N, T, form, source, span):
    if way.instance_class in (Held, Kept):

        def at_once(way, extra, plan, N, T, form, source, span):
            k = np.int32(0)
            words = read(way, plan, N, form, source, span, k)
            v = decoded(N, form, words)
            v = seen(extra, plan, v, lanes_present(extra, N, form, span, k))
            top, below, ties, e = fresh(form, v)
            return top, below, ties, waiting(way, words, e)

        return at_once

    def by_visits(way, extra, plan, N, T, form, source, span):
        top, below, ties = T(-np.finfo(T).max), T(0), T(0)
        waits = no_words(N, form)
        k = np.int32(0)
        while k < span.chunks:
            waits = read(way, plan, N, form, source, span, k)
            v = decoded(N, form, waits)
            v = seen(extra, plan, v, lanes_present(extra, N, form, span, k))
            top, below, ties, e = absorb_visit(way, form, top, below, ties, v)
            k = np.int32(k + chunks_of(N, form))
        return top, below, ties, waits

    return by_visits


def gradients(way, extra, plan, N, form, source, span, k, waits, top, row, live):
    """(gradients, curvatures) of the chunks from the k-th on, from what waits of them."""
    raise NotImplementedError("compiled code only")


@overload(gradients, jit_options=INLINED)
def _gradients(way, extra, plan, N, form, source, span, k, waits, top, row, live):
    if way.instance_class is Kept:

        def kept(way, extra, plan, N, form, source, span, k, waits, top, row, live):
            g = multiples_of(form, top, row.k * lowered(form, top - row.m), waits)
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
               Alignment: type, Extra: type) -> Any:  # fmt: skip
    """The kernel of class indices for rows whose classes lie side by side."""

    def index_rows(plan):
        form, way, team, alignment, extra = Form(), Way(), Team(), Alignment(), Extra()
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        number, lane = seat(team, plan)
        inside = inside_of(team, plan, number)
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
        target = number_at(T, form, source + label * itemsize(form)) if live else T(0)

        z = edge = T(-np.inf)
        if out.ends > 0:
            z = edge_of(T, form, source, span)
            edge = seen(extra, plan, z, span.edges > 0)
        fetch(way, plan, N, form, source, span, out.chunks)
        top, below, ties, waits = looked_at(way, extra, plan, N, T, form, source, span)
        held = top  # the maximum of the chunks
        if out.ends > 0:
            top, below, ties = absorb(form, top, below, ties, edge)
        m, others = settled(team, plan, form, 0, top, below, ties)
        depart(team)
        seen_target = seen(extra, plan, target, True)
        weight = weight_of(plan, T, label)
        loss, row = evaluated(
            plan, form, params, T, seen_target, m, others, weight, sample, scale, live, fine
        )

        have_read(team)  # the target's logit; in place it is overwritten now
        if plan.grad != 0 or plan.hess != 0:
            grad = pinned(plan.grad + outer * plan.grad_outer + inner * plan.grad_inner)
            hess = plan.hess + outer * plan.hess_outer + inner * plan.hess_inner
            k, per, at = np.int32(0), chunks_of(N, form), out.first
            end = visits(way, out.chunks, per)
            while k < end:
                first, second = gradients(
                    way, extra, plan, N, form, source, span, k, waits, held, row, live
                )
                put_chunks(
                    extra, alignment, plan, form, grad + at, hess + at, out, k, first, second
                )
                k, at = np.int32(k + per), at + per * out.step
            if out.ends > 0:
                first, second = derivatives(extra, plan, form, z, edge, row, live)
                put_ends(extra, plan, form, grad, hess, out, first, second)
            if live and lane == owner_of(team, plan, form, out, label):
                put_target(extra, plan, form, grad, hess, label, target, row)
        finish(team, plan, outer, inner, lane, inside, loss)
        leave(team)

    return index_rows
