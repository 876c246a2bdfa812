"""Softmax rows with a distribution for a target, the classes side by side."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.compensated_sum import all_terms, first_terms, more_terms
from fusedce.kernels.cuda.distribution import (
    Found,
    SplitSum,
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
    decode,
    first_lanes,
    no_words,
    optimization_barrier,
    per_chunk,
    read_like,
)
from fusedce.kernels.cuda.load_store_masked import chunk_lane_equals, read_grid, read_lanes
from fusedce.kernels.cuda.load_store_scalar import float_of, itemsize, params_of
from fusedce.kernels.cuda.logit_transform import lanes_present, transform_logits
from fusedce.kernels.cuda.online_softmax import (
    absorb_visit,
    online_softmax_reduce,
    online_softmax_update,
)
from fusedce.kernels.cuda.reduce import cluster_arrive, cluster_wait, inside_of, rank, reduce_sum
from fusedce.kernels.cuda.row_cache import Registers, fetch, read, recall, visits
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


class SameLayout(NamedTuple):
    """Type tag: masses lie in the same chunks as the logits."""


class OwnLayout(NamedTuple):
    """Type tag: masses lie otherwise."""


class Unweighted(NamedTuple):
    """Type tag: classes have no weights."""


def labels_at(target_layout, N, dtype, target_dtype, args, target, span, k):
    """The labels of the chunks from the k-th on, as words where they come so."""
    raise NotImplementedError("compiled code only")


@overload(labels_at, jit_options=INLINED)
def _labels_at(target_layout, N, dtype, target_dtype, args, target, span, k):
    if target_layout.instance_class is SameLayout:

        def beside(target_layout, N, dtype, target_dtype, args, target, span, k):
            ratio = np.int64(itemsize(target_dtype))
            e = span.first // itemsize(dtype) + np.int64(k) * (span.step // itemsize(dtype))
            step = np.int64(span.step // itemsize(dtype)) * ratio
            here = target.address + e * ratio
            return read_like(N, target_dtype, dtype, here, step, span.chunks - k)

        return beside

    def nothing(target_layout, N, dtype, target_dtype, args, target, span, k):
        return no_words(N, target_dtype)

    return nothing


def labels_from(target_layout, N, dtype, target_dtype, args, target, span, k, words):
    """The labels of the chunks from the k-th on; zeros where there is no logit."""
    raise NotImplementedError("compiled code only")


@overload(labels_from, jit_options=INLINED)
def _labels_from(target_layout, N, dtype, target_dtype, args, target, span, k, words):
    if target_layout.instance_class is SameLayout:
        return lambda target_layout, N, dtype, target_dtype, args, target, span, k, words: decode(
            N, target_dtype, words
        )
    if target_layout.instance_class is OneHot:

        def one_hot(target_layout, N, dtype, target_dtype, args, target, span, k, words):
            item = np.int64(itemsize(dtype))
            step = np.int64(span.step) // item
            here = span.first // item + np.int64(k) * step
            return where(chunk_lane_equals(N, dtype, here, step, target.label), N(1), N(0))

        return one_hot

    def apart(target_layout, N, dtype, target_dtype, args, target, span, k, words):
        T = lanes_as(N(0))
        item = np.int64(itemsize(dtype))
        step = np.int64(span.step) // item * args.targets_cls
        here = target.address + span.first // item * args.targets_cls + np.int64(k) * step
        return read_grid(
            N, target_dtype, dtype, here, step, args.targets_cls, span.chunks - k, T(0)
        )

    return apart


def weights_at(weights, N, dtype, args, span, k):
    """The weights of the classes of chunks."""
    raise NotImplementedError("compiled code only")


@overload(weights_at, jit_options=INLINED)
def _weights_at(weights, N, dtype, args, span, k):
    if weights.instance_class is Unweighted:
        return lambda weights, N, dtype, args, span, k: N(1)

    def weighted(weights, N, dtype, args, span, k):
        T = lanes_as(N(0))
        item = np.int64(itemsize(dtype))
        step = np.int64(span.step) // item * args.weight_step
        here = args.weight + span.first // item * args.weight_step + np.int64(k) * step
        return read_grid(N, weights, dtype, here, step, args.weight_step, span.chunks - k, T(0))

    return weighted


@scalar
def masses(weights, N, dtype, args, span, k, labels, target, present):
    """The masses weight_j (factor label_j + shift); nothing where there is no logit."""
    T = lanes_as(labels)
    mass = weights_at(weights, N, dtype, args, span, k) * (
        labels * target.factor + float_of(T, args.label_shift)
    )
    return where(present, whole_mass(args, labels, mass, target.ignored), N(0))


# ---------------------------------------------------------------------- the number at an end


@scalar
def edge_label(T, dtype, target_dtype, args, target, span):
    """The label of a lane's number at an end of the row."""
    j = span.edge // np.int64(itemsize(dtype))
    if args.sparse_targets != 0:
        return T(1) if span.edges > 0 and j == target.label else T(0)
    here = target.address + j * args.targets_cls
    return read_lanes(T, target_dtype, here, np.int64(0), span.edges, T(0))


def edge_weight(weights, T, dtype, args, span):
    """The weight of its class."""
    raise NotImplementedError("compiled code only")


@overload(edge_weight, jit_options=INLINED)
def _edge_weight(weights, T, dtype, args, span):
    if weights.instance_class is Unweighted:
        return lambda weights, T, dtype, args, span: T(1)
    return lambda weights, T, dtype, args, span: read_lanes(
        T, weights,
        args.weight + span.edge // np.int64(itemsize(dtype)) * args.weight_step,
        np.int64(0), span.edges, T(0),
    )  # fmt: skip


@scalar
def edge_mass(weights, T, dtype, args, span, label, target):
    """Its mass."""
    mass = edge_weight(weights, T, dtype, args, span) * (
        label * target.factor + float_of(T, args.label_shift)
    )
    return whole_mass(args, label, mass, target.ignored) if span.edges > 0 else T(0)


@scalar
def nonzero(labels):
    """The number of labels that are not zero (NaN counts)."""
    N = type(labels)
    return sum_of_lanes(where(labels != N(0), N(1), N(0)))


@scalar
def live_factor(group, args, T, many):
    """(factor of labels, whether the row counts): with normalize_targets, by how many there are."""
    factor = float_of(T, args.label_factor)
    if args.normalize != 0:
        many = reduce_sum(group, args, 4, many)
        return factor / where(many > T(0), many, T(1)), many > T(0)
    return factor, True


@scalar
def edge_found(tag, extra, params, x, m, others, mass):
    """(loss, tallies) of a lane's number at an end of the row."""
    T = type(x)
    none = SplitSum(T(0), T(0), T(0), T(0))
    f, a, b, p, q = assessed(tag, params, x, m, others, mass)
    return f, tallied(none, a), curved(extra, none, b)


@scalar
def row_found(group, extra, args, m, others, first, second):
    """What is known of a row once its lanes have told."""
    first = joined(group, args, 5, first)
    return Found(m, others, first, curved_row(extra, group, args, 9, second))


class Tags(NamedTuple):
    """The type tags of a kernel."""

    dtype: Any
    target_dtype: Any
    target_layout: Any
    weights: Any
    residency: Any
    group: Any
    alignment: Any
    extra: Any
    tag: Any


@scalar
def read_row(tags, args, N, source, target, span, out, state, many):
    """(words of logits, words of labels, state, nonzero labels) after a first look at a row."""
    dtype = tags.dtype
    words, marks = no_words(N, dtype), no_words(N, tags.target_dtype)
    fetch(tags.residency, args, N, dtype, source, span, out.chunks)
    k, per = np.int32(0), chunks_of(N, dtype)
    end = visits(tags.residency, span.chunks, per)
    while k < end:
        words = read(tags.residency, args, N, dtype, source, span, k)
        marks = labels_at(tags.target_layout, N, dtype, tags.target_dtype, args, target, span, k)
        y = labels_from(
            tags.target_layout, N, dtype, tags.target_dtype, args, target, span, k, marks
        )
        many += nonzero(y)
        v = decode(N, dtype, words)
        v = transform_logits(tags.extra, args, v, lanes_present(tags.extra, N, dtype, span, k))
        found = absorb_visit(tags.residency, dtype, state[0], state[1], state[2], v)
        state = found[0], found[1], found[2]
        k = np.int32(k + per)
    return words, marks, state, many


@scalar
def chunk_masses(tags, args, N, target, span, k, marks):
    """The masses of the chunks from the k-th on."""
    marks = relabelled(tags, args, N, target, span, k, marks)
    y = labels_from(
        tags.target_layout, N, tags.dtype, tags.target_dtype, args, target, span, k, marks
    )
    here = min(span.chunks - k, chunks_of(N, tags.dtype)) * per_chunk(tags.dtype)
    present = first_lanes(N, np.int32(here))
    return masses(tags.weights, N, tags.dtype, args, span, k, y, target, present)


def relabelled(tags, args, N, target, span, k, marks):
    """The words of labels once more; ``marks``: of the last visit."""
    raise NotImplementedError("compiled code only")


@overload(relabelled, jit_options=INLINED)
def _relabelled(tags, args, N, target, span, k, marks):
    if tags.types[tags.fields.index("residency")].instance_class is Registers:
        return lambda tags, args, N, target, span, k, marks: optimization_barrier(marks)
    return lambda tags, args, N, target, span, k, marks: labels_at(
        tags.target_layout, N, tags.dtype, tags.target_dtype, args, target, span, k
    )


@scalar
def assess_row(tags, args, N, params, source, target, span, m, others, words, marks, found):
    """(loss, tallies) of a lane's part of a row; ``found``: those of its edge."""
    terms, visit = first_terms(tags.residency, found), np.int32(0)
    k, per = np.int32(0), chunks_of(N, tags.dtype)
    end = visits(tags.residency, span.chunks, per)
    while k < end:
        v = decode(
            N, tags.dtype, recall(tags.residency, args, N, tags.dtype, source, span, k, words)
        )
        x = transform_logits(tags.extra, args, v, lanes_present(tags.extra, N, tags.dtype, span, k))
        mass = chunk_masses(tags, args, N, target, span, k, marks)
        f, a, b, p, q = assessed(tags.tag, params, x, m, others, mass)
        terms = more_terms(tags.residency, tags.extra, terms, visit, f, a, b)
        k, visit = np.int32(k + per), np.int32(visit + 1)
    return all_terms(tags.residency, terms)


@scalar
def write_row(tags, args, N, params, source, grad, hess, target, span, out, row, factors, words,
              marks):  # fmt: skip
    """Gradients and curvatures of a lane's chunks; zeros in a row that does not count."""
    term, ridge, slope, live = factors
    k, per, at = np.int32(0), chunks_of(N, tags.dtype), out.first
    end = visits(tags.residency, out.chunks, per)
    while k < end:
        v = decode(
            N, tags.dtype, recall(tags.residency, args, N, tags.dtype, source, span, k, words)
        )
        x = transform_logits(tags.extra, args, v, lanes_present(tags.extra, N, tags.dtype, span, k))
        mass = chunk_masses(tags, args, N, target, span, k, marks)
        g, h = spread(tags.extra, tags.tag, args, params, v, x, mass, row, term, ridge, slope)
        g, h = where(live, g, N(0)), where(live, h, N(0))
        put_chunks(tags.extra, tags.alignment, args, tags.dtype, grad + at, hess + at, out, k, g, h)
        k, at = np.int32(k + per), at + per * out.step


@scalar
def end_of_row(tags, args, T, params, z, edge, mass, grad, hess, out, row, factors):
    """The same of a lane's number at an end of the row."""
    term, ridge, slope, live = factors
    g, h = spread(tags.extra, tags.tag, args, params, z, edge, mass, row, term, ridge, slope)
    g, h = where(live, g, T(0)), where(live, h, T(0))
    put_ends(tags.extra, args, tags.dtype, grad, hess, out, g, h)


def distribution_rows(Params: type, T: Any, Dtype: type, TargetDtype: type, TargetLayout: type,
                      Weights: type,
                      Residency: type, Group: type, Lanes: type, Alignment: type, Extra: type,
                      Tag: type) -> Any:  # fmt: skip
    """The kernel of distributions, and of smoothed class indices."""

    def distribution_rows(args):
        dtype, target_dtype, group, extra = Dtype(), TargetDtype(), Group(), Extra()
        tags = Tags(
            dtype,
            target_dtype,
            TargetLayout(),
            Weights(),
            Residency(),
            group,
            Alignment(),
            extra,
            Tag(),
        )
        N = vector_of(T, Lanes())
        params = params_of(args, Params, T)
        number, lane = rank(group, args)
        inside = inside_of(group, args, number)
        outer, inner = row_of(args, number if inside else np.int64(0))
        source = args.logits + outer * args.logits_outer + inner * args.logits_inner
        scale = scale_of(args, T)
        label = label_of(args, outer, inner) if args.sparse_targets != 0 else np.int64(0)
        live = inside and scale != T(0) and (args.sparse_targets == 0 or label != args.ignore_index)
        fine = label >= 0 and label < args.classes
        out = span_of(group, args, dtype, source, lane, inside)
        span = unread(out, live)
        at = args.targets + outer * args.targets_outer + inner * args.targets_inner
        target = Target(at, label, T(0), live and is_ignored(args, T, target_dtype, at))
        z = edge_of(T, dtype, source, span)
        edge = transform_logits(extra, args, z, span.edges > 0)
        y = edge_label(T, dtype, target_dtype, args, target, span)

        state = online_softmax_update(dtype, T(-np.finfo(T).max), T(0), T(0), edge)
        words, marks, state, many = read_row(
            tags, args, N, source, target, span, out, state, nonzero(y)
        )
        m, others = online_softmax_reduce(group, args, dtype, 0, state[0], state[1], state[2])
        factor, some = live_factor(group, args, T, many)
        target, live = Target(at, label, factor, target.ignored), live and some
        mass = edge_mass(tags.weights, T, dtype, args, span, y, target)
        found = edge_found(tags.tag, extra, params, edge, m, others, mass)
        loss, first, second = assess_row(
            tags, args, N, params, source, target, span, m, others, words, marks, found
        )
        row = row_found(group, extra, args, m, others, first, second)
        sample = sample_of(args, T, outer, inner) * (T(1) if fine else T(np.nan))
        lse, zeta = m + log1p_up(others), sample * z_loss_of(args, T)
        ridge = where(zeta == T(0), T(0), zeta * lse)  # no z-loss: also where m is infinite
        loss = reduce_sum(group, args, 13, loss)
        live = live and (not target.ignored or loss != loss)  # NaN: ignored in part
        loss = sample * loss + where(zeta == T(0), T(0), ridge * lse)
        cluster_arrive(group)

        if args.grad != 0 or args.hess != 0:
            grad = args.grad + outer * args.grad_outer + inner * args.grad_inner
            hess = args.hess + outer * args.hess_outer + inner * args.hess_inner
            factors = sample * scale, zeta * scale, T(2) * ridge * scale, live
            write_row(
                tags, args, N, params, source, grad, hess, target, span, out, row, factors,
                words, marks,
            )  # fmt: skip
            end_of_row(tags, args, T, params, z, edge, mass, grad, hess, out, row, factors)
        finish(group, args, outer, inner, lane, inside, where(live, loss, T(0)))
        cluster_wait(group)

    return distribution_rows
