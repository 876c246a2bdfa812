"""Softmax rows with a distribution for a target, the classes side by side."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.compensated_sum import all_terms, first_terms, more_terms
from fusedce.kernels.cuda.distribution import (
    Found,
    Tally,
    Target,
    assessed,
    curved,
    curved_row,
    is_ignored,
    joined,
    spread,
    tallied,
    whole_mass,
)
from fusedce.kernels.cuda.load_store import (
    chunks_of,
    decoded,
    first_lanes,
    no_words,
    per_chunk,
    read_beside,
    renewed,
)
from fusedce.kernels.cuda.load_store_masked import hits, read_grid, read_lanes
from fusedce.kernels.cuda.load_store_scalar import float_of, itemsize, params_of
from fusedce.kernels.cuda.logit_transform import lanes_present, seen
from fusedce.kernels.cuda.online_softmax import absorb, absorb_visit, settled
from fusedce.kernels.cuda.reduce import depart, inside_of, leave, seat, together
from fusedce.kernels.cuda.row_cache import Held, fetch, read, recall, visits
from fusedce.kernels.cuda.rows import (
    edge_of,
    finish,
    label_of,
    put_chunks,
    put_ends,
    row_of,
    sample_of,
    scale_of,
    span_of,
    unread,
    z_loss_of,
)
from fusedce.kernels.scalar import INLINED, log1p_up, scalar, where
from fusedce.kernels.vector import lanes_as, sum_of_lanes, vector_of


class OneHot(NamedTuple):
    """Type tag: class indices, whose distribution has this class and what smoothing adds."""


class Beside(NamedTuple):
    """Type tag: masses lie in the same chunks as the logits."""


class Apart(NamedTuple):
    """Type tag: masses lie otherwise."""


class Unweighted(NamedTuple):
    """Type tag: classes have no weights."""


def labels_at(kind, N, form, stored, plan, target, span, k):
    """The labels of the chunks from the k-th on, as words where they come so."""
    raise NotImplementedError("compiled code only")


@overload(labels_at, jit_options=INLINED)
def _labels_at(kind, N, form, stored, plan, target, span, k):
    if kind.instance_class is Beside:

        def beside(kind, N, form, stored, plan, target, span, k):
            ratio = np.int64(itemsize(stored))
            e = span.first // itemsize(form) + np.int64(k) * (span.step // itemsize(form))
            step = np.int64(span.step // itemsize(form)) * ratio
            here = target.address + e * ratio
            return read_beside(N, stored, form, here, step, span.chunks - k)

        return beside

    def nothing(kind, N, form, stored, plan, target, span, k):
        return no_words(N, stored)

    return nothing


def labels_from(kind, N, form, stored, plan, target, span, k, words):
    """The labels of the chunks from the k-th on; zeros where there is no logit."""
    raise NotImplementedError("compiled code only")


@overload(labels_from, jit_options=INLINED)
def _labels_from(kind, N, form, stored, plan, target, span, k, words):
    if kind.instance_class is Beside:
        return lambda kind, N, form, stored, plan, target, span, k, words: decoded(N, stored, words)
    if kind.instance_class is OneHot:

        def one_hot(kind, N, form, stored, plan, target, span, k, words):
            item = np.int64(itemsize(form))
            step = np.int64(span.step) // item
            here = span.first // item + np.int64(k) * step
            return where(hits(N, form, here, step, target.label), N(1), N(0))

        return one_hot

    def apart(kind, N, form, stored, plan, target, span, k, words):
        T = lanes_as(N(0))
        item = np.int64(itemsize(form))
        step = np.int64(span.step) // item * plan.targets_cls
        here = target.address + span.first // item * plan.targets_cls + np.int64(k) * step
        return read_grid(N, stored, form, here, step, plan.targets_cls, span.chunks - k, T(0))

    return apart


def weights_at(weights, N, form, plan, span, k):
    """The weights of the classes of chunks."""
    raise NotImplementedError("compiled code only")


@overload(weights_at, jit_options=INLINED)
def _weights_at(weights, N, form, plan, span, k):
    if weights.instance_class is Unweighted:
        return lambda weights, N, form, plan, span, k: N(1)

    def weighted(weights, N, form, plan, span, k):
        T = lanes_as(N(0))
        item = np.int64(itemsize(form))
        step = np.int64(span.step) // item * plan.weight_step
        here = plan.weight + span.first // item * plan.weight_step + np.int64(k) * step
        return read_grid(N, weights, form, here, step, plan.weight_step, span.chunks - k, T(0))

    return weighted


@scalar
def masses(weights, N, form, plan, span, k, labels, target, present):
    """The masses weight_j (factor label_j + shift); nothing where there is no logit."""
    T = lanes_as(labels)
    mass = weights_at(weights, N, form, plan, span, k) * (
        labels * target.factor + float_of(T, plan.label_shift)
    )
    return where(present, whole_mass(plan, labels, mass, target.ignored), N(0))


# ---------------------------------------------------------------------- the number at an end


@scalar
def edge_label(T, form, stored, plan, target, span):
    """The label of a lane's number at an end of the row."""
    j = span.edge // np.int64(itemsize(form))
    if plan.sparse_targets != 0:
        return T(1) if span.edges > 0 and j == target.label else T(0)
    here = target.address + j * plan.targets_cls
    return read_lanes(T, stored, here, np.int64(0), span.edges, T(0))


def edge_weight(weights, T, form, plan, span):
    """The weight of its class."""
    raise NotImplementedError("compiled code only")


@overload(edge_weight, jit_options=INLINED)
def _edge_weight(weights, T, form, plan, span):
    if weights.instance_class is Unweighted:
        return lambda weights, T, form, plan, span: T(1)
    return lambda weights, T, form, plan, span: read_lanes(
        T, weights,
        plan.weight + span.edge // np.int64(itemsize(form)) * plan.weight_step,
        np.int64(0), span.edges, T(0),
    )  # fmt: skip


@scalar
def edge_mass(weights, T, form, plan, span, label, target):
    """Its mass."""
    mass = edge_weight(weights, T, form, plan, span) * (
        label * target.factor + float_of(T, plan.label_shift)
    )
    return whole_mass(plan, label, mass, target.ignored) if span.edges > 0 else T(0)


@scalar
def nonzero(labels):
    """The number of labels that are not zero (NaN counts)."""
    N = type(labels)
    return sum_of_lanes(where(labels != N(0), N(1), N(0)))


@scalar
def live_factor(team, plan, T, many):
    """(factor of labels, whether the row counts): with normalize_targets, by how many there are."""
    factor = float_of(T, plan.label_factor)
    if plan.normalize != 0:
        many = together(team, plan, 4, many)
        return factor / where(many > T(0), many, T(1)), many > T(0)
    return factor, True


@scalar
def edge_found(tag, extra, params, x, m, others, mass):
    """(loss, tallies) of a lane's number at an end of the row."""
    T = type(x)
    none = Tally(T(0), T(0), T(0), T(0))
    f, a, b, p, q = assessed(tag, params, x, m, others, mass)
    return f, tallied(none, a), curved(extra, none, b)


@scalar
def row_found(team, extra, plan, m, others, first, second):
    """What is known of a row once its lanes have told."""
    first = joined(team, plan, 5, first)
    return Found(m, others, first, curved_row(extra, team, plan, 9, second))


class Tags(NamedTuple):
    """The type tags of a kernel."""

    form: Any
    stored: Any
    kind: Any
    weights: Any
    way: Any
    team: Any
    alignment: Any
    extra: Any
    tag: Any


@scalar
def read_row(tags, plan, N, source, target, span, out, state, many):
    """(words of logits, words of labels, state, nonzero labels) after a first look at a row."""
    form = tags.form
    words, marks = no_words(N, form), no_words(N, tags.stored)
    fetch(tags.way, plan, N, form, source, span, out.chunks)
    k, per = np.int32(0), chunks_of(N, form)
    end = visits(tags.way, span.chunks, per)
    while k < end:
        words = read(tags.way, plan, N, form, source, span, k)
        marks = labels_at(tags.kind, N, form, tags.stored, plan, target, span, k)
        y = labels_from(tags.kind, N, form, tags.stored, plan, target, span, k, marks)
        many += nonzero(y)
        v = decoded(N, form, words)
        v = seen(tags.extra, plan, v, lanes_present(tags.extra, N, form, span, k))
        found = absorb_visit(tags.way, form, state[0], state[1], state[2], v)
        state = found[0], found[1], found[2]
        k = np.int32(k + per)
    return words, marks, state, many


@scalar
def chunk_masses(tags, plan, N, target, span, k, marks):
    """The masses of the chunks from the k-th on."""
    marks = relabelled(tags, plan, N, target, span, k, marks)
    y = labels_from(tags.kind, N, tags.form, tags.stored, plan, target, span, k, marks)
    here = min(span.chunks - k, chunks_of(N, tags.form)) * per_chunk(tags.form)
    present = first_lanes(N, np.int32(here))
    return masses(tags.weights, N, tags.form, plan, span, k, y, target, present)


def relabelled(tags, plan, N, target, span, k, marks):
    """The words of labels once more; ``marks``: of the last visit."""
    raise NotImplementedError("compiled code only")


@overload(relabelled, jit_options=INLINED)
def _relabelled(tags, plan, N, target, span, k, marks):
    if tags.types[tags.fields.index("way")].instance_class is Held:
        return lambda tags, plan, N, target, span, k, marks: renewed(marks)
    return lambda tags, plan, N, target, span, k, marks: labels_at(
        tags.kind, N, tags.form, tags.stored, plan, target, span, k
    )


@scalar
def assess_row(tags, plan, N, params, source, target, span, m, others, words, marks, found):
    """(loss, tallies) of a lane's part of a row; ``found``: those of its edge."""
    terms, visit = first_terms(tags.way, found), np.int32(0)
    k, per = np.int32(0), chunks_of(N, tags.form)
    end = visits(tags.way, span.chunks, per)
    while k < end:
        v = decoded(N, tags.form, recall(tags.way, plan, N, tags.form, source, span, k, words))
        x = seen(tags.extra, plan, v, lanes_present(tags.extra, N, tags.form, span, k))
        mass = chunk_masses(tags, plan, N, target, span, k, marks)
        f, a, b, p, q = assessed(tags.tag, params, x, m, others, mass)
        terms = more_terms(tags.way, tags.extra, terms, visit, f, a, b)
        k, visit = np.int32(k + per), np.int32(visit + 1)
    return all_terms(tags.way, terms)


@scalar
def write_row(tags, plan, N, params, source, grad, hess, target, span, out, row, factors, words,
              marks):  # fmt: skip
    """Gradients and curvatures of a lane's chunks; zeros in a row that does not count."""
    term, ridge, slope, live = factors
    k, per, at = np.int32(0), chunks_of(N, tags.form), out.first
    end = visits(tags.way, out.chunks, per)
    while k < end:
        v = decoded(N, tags.form, recall(tags.way, plan, N, tags.form, source, span, k, words))
        x = seen(tags.extra, plan, v, lanes_present(tags.extra, N, tags.form, span, k))
        mass = chunk_masses(tags, plan, N, target, span, k, marks)
        g, h = spread(tags.extra, tags.tag, plan, params, v, x, mass, row, term, ridge, slope)
        g, h = where(live, g, N(0)), where(live, h, N(0))
        put_chunks(tags.extra, tags.alignment, plan, tags.form, grad + at, hess + at, out, k, g, h)
        k, at = np.int32(k + per), at + per * out.step


@scalar
def end_of_row(tags, plan, T, params, z, edge, mass, grad, hess, out, row, factors):
    """The same of a lane's number at an end of the row."""
    term, ridge, slope, live = factors
    g, h = spread(tags.extra, tags.tag, plan, params, z, edge, mass, row, term, ridge, slope)
    g, h = where(live, g, T(0)), where(live, h, T(0))
    put_ends(tags.extra, plan, tags.form, grad, hess, out, g, h)


def distribution_rows(Params: type, T: Any, Form: type, Stored: type, Kind: type, Weights: type,
                      Way: type, Team: type, Lanes: type, Alignment: type, Extra: type,
                      Tag: type) -> Any:  # fmt: skip
    """The kernel of distributions, and of smoothed class indices."""

    def distribution_rows(plan):
        form, stored, team, extra = Form(), Stored(), Team(), Extra()
        tags = Tags(form, stored, Kind(), Weights(), Way(), team, Alignment(), extra, Tag())
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        number, lane = seat(team, plan)
        inside = inside_of(team, plan, number)
        outer, inner = row_of(plan, number if inside else np.int64(0))
        source = plan.logits + outer * plan.logits_outer + inner * plan.logits_inner
        scale = scale_of(plan, T)
        label = label_of(plan, outer, inner) if plan.sparse_targets != 0 else np.int64(0)
        live = inside and scale != T(0) and (plan.sparse_targets == 0 or label != plan.ignore_index)
        fine = label >= 0 and label < plan.classes
        out = span_of(team, plan, form, source, lane, inside)
        span = unread(out, live)
        at = plan.targets + outer * plan.targets_outer + inner * plan.targets_inner
        target = Target(at, label, T(0), live and is_ignored(plan, T, stored, at))
        z = edge_of(T, form, source, span)
        edge = seen(extra, plan, z, span.edges > 0)
        y = edge_label(T, form, stored, plan, target, span)

        state = absorb(form, T(-np.finfo(T).max), T(0), T(0), edge)
        words, marks, state, many = read_row(
            tags, plan, N, source, target, span, out, state, nonzero(y)
        )
        m, others = settled(team, plan, form, 0, state[0], state[1], state[2])
        factor, some = live_factor(team, plan, T, many)
        target, live = Target(at, label, factor, target.ignored), live and some
        mass = edge_mass(tags.weights, T, form, plan, span, y, target)
        found = edge_found(tags.tag, extra, params, edge, m, others, mass)
        loss, first, second = assess_row(
            tags, plan, N, params, source, target, span, m, others, words, marks, found
        )
        row = row_found(team, extra, plan, m, others, first, second)
        sample = sample_of(plan, T, outer, inner) * (T(1) if fine else T(np.nan))
        lse, zeta = m + log1p_up(others), sample * z_loss_of(plan, T)
        ridge = where(zeta == T(0), T(0), zeta * lse)  # no z-loss: also where m is infinite
        loss = together(team, plan, 13, loss)
        live = live and (not target.ignored or loss != loss)  # NaN: ignored in part
        loss = sample * loss + where(zeta == T(0), T(0), ridge * lse)
        depart(team)

        if plan.grad != 0 or plan.hess != 0:
            grad = plan.grad + outer * plan.grad_outer + inner * plan.grad_inner
            hess = plan.hess + outer * plan.hess_outer + inner * plan.hess_inner
            factors = sample * scale, zeta * scale, T(2) * ridge * scale, live
            write_row(
                tags, plan, N, params, source, grad, hess, target, span, out, row, factors,
                words, marks,
            )  # fmt: skip
            end_of_row(tags, plan, T, params, z, edge, mass, grad, hess, out, row, factors)
        finish(team, plan, outer, inner, lane, inside, where(live, loss, T(0)))
        leave(team)

    return distribution_rows
