"""Softmax with a distribution for a target and a row in each lane."""

from typing import Any

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.columns import (
    OneLane,
    Tags,
    begin,
    classes_again,
    fold,
    here,
    lane_of,
    loop_end,
    put_results,
)
from fusedce.kernels.cuda.compensated_sum import (
    GROUP,
    Tallies,
    added,
    nought,
    tally_of,
    value_of,
    with_tally,
)
from fusedce.kernels.cuda.distribution import (
    Found,
    SplitSum,
    Target,
    assessed,
    curved,
    is_ignored,
    spread,
    tallied,
    whole_mass,
)
from fusedce.kernels.cuda.distribution_rows import OneHot, Unweighted, nonzero
from fusedce.kernels.cuda.load_store import first_lanes
from fusedce.kernels.cuda.load_store_masked import lane_equals, read_lanes
from fusedce.kernels.cuda.load_store_scalar import float_of, params_of
from fusedce.kernels.cuda.logit_transform import transform_logits
from fusedce.kernels.cuda.row_cache import Registers
from fusedce.kernels.cuda.rows import (
    finish,
    label_of,
    sample_of,
    scale_of,
    z_loss_of,
)
from fusedce.kernels.scalar import INLINED, log1p_up, scalar, where
from fusedce.kernels.vector import lanes_as, sum_of_lanes, vector_of, width


@scalar
def masses(target_layout, weights, N, target_dtype, args, row, target, j, count):
    """The masses weight_j (factor label_j + shift) of classes from j on."""
    T = lanes_as(N(0))
    y = labels_at(target_layout, N, target_dtype, args, row, target.label, j, count)
    mass = y * target.factor + float_of(T, args.label_shift)
    mass = mass * weights_at(weights, N, args, j, count)
    return where(first_lanes(N, count), whole_mass(args, y, mass, target.ignored), N(0))


def labels_at(target_layout, N, target_dtype, args, row, label, j, count):
    """The labels of classes from j on."""
    raise NotImplementedError("compiled code only")


@overload(labels_at, jit_options=INLINED)
def _labels_at(target_layout, N, target_dtype, args, row, label, j, count):
    if target_layout.instance_class is OneHot:
        return lambda target_layout, N, target_dtype, args, row, label, j, count: where(
            lane_equals(N, j, label), N(1), N(0)
        )

    def dense(target_layout, N, target_dtype, args, row, label, j, count):
        T = lanes_as(N(0))
        at = args.targets + row.outer * args.targets_outer + row.inner * args.targets_inner
        return read_lanes(N, target_dtype, at + j * args.targets_cls, args.targets_cls, count, T(0))

    return dense


def weights_at(weights, N, args, j, count):
    """Their weights."""
    raise NotImplementedError("compiled code only")


@overload(weights_at, jit_options=INLINED)
def _weights_at(weights, N, args, j, count):
    if weights.instance_class is Unweighted:
        return lambda weights, N, args, j, count: N(1)

    def weighted(weights, N, args, j, count):
        T = lanes_as(N(0))
        return read_lanes(
            N, weights, args.weight + j * args.weight_step, args.weight_step, count, T(0)
        )

    return weighted


@scalar
def count_labels(target_layout, N, target_dtype, args, row, label):
    """The number of labels of a row that are not zero."""
    T = lanes_as(N(0))
    many, j = T(0), np.int64(0)
    while j < row.classes:
        count, present = here(N, row.classes, j)
        many += nonzero(labels_at(target_layout, N, target_dtype, args, row, label, j, count))
        j += width(N)
    return many


@scalar
def assess_classes(tags, target_layout, weights, target_dtype, N, args, params, row, target,
                   m, others, held, j, last, one, two):  # fmt: skip
    """(loss, tallies) of classes from j to ``last``; the tallies go on from ``one`` and ``two``."""
    T = lanes_as(N(0))
    loss = T(0)
    while j < last:
        count, present = here(N, row.classes, j)
        z = classes_again(tags.residency, tags.layout, N, T, tags.dtype, args, row, j, count, held)
        x = transform_logits(tags.extra, args, z, present)
        mass = masses(target_layout, weights, N, target_dtype, args, row, target, j, count)
        f, a, b, p, q = assessed(tags.tag, params, x, m, others, mass)
        loss += sum_of_lanes(f)
        one, two = tallied(one, a), curved(tags.extra, two, b)
        j += width(N)
    return loss, one, two


def assess(
    residency,
    tags,
    target_layout,
    weights,
    target_dtype,
    N,
    args,
    params,
    row,
    target,
    m,
    others,
    held,
):
    """(loss, tallies) of a row."""
    raise NotImplementedError("compiled code only")


@overload(assess, jit_options=INLINED)
def _assess(
    residency,
    tags,
    target_layout,
    weights,
    target_dtype,
    N,
    args,
    params,
    row,
    target,
    m,
    others,
    held,
):
    if residency.instance_class is Registers:

        def at_once(
            residency,
            tags,
            target_layout,
            weights,
            target_dtype,
            N,
            args,
            params,
            row,
            target,
            m,
            others,
            held,
        ):
            T = lanes_as(N(0))
            none = SplitSum(T(0), T(0), T(0), T(0))
            return assess_classes(
                tags, target_layout, weights, target_dtype, N, args, params, row, target,
                m, others, held,
                np.int64(0), loop_end(residency, N, row.classes), none, none,
            )  # fmt: skip

        return at_once

    def by_groups(
        residency,
        tags,
        target_layout,
        weights,
        target_dtype,
        N,
        args,
        params,
        row,
        target,
        m,
        others,
        held,
    ):
        T = lanes_as(N(0))
        none = Tallies(T(0), nought(T), nought(T), T(0))
        loss, first, second, j = nought(T), none, none, np.int64(0)
        while j < row.classes:
            last = min(j + GROUP, row.classes)
            f, one, two = assess_classes(
                tags, target_layout, weights, target_dtype, N, args, params, row, target,
                m, others, held,
                j, last, SplitSum(first.top, T(0), T(0), T(0)),
                SplitSum(second.top, T(0), T(0), T(0)),
            )  # fmt: skip
            loss = added(loss, f)
            first, second = with_tally(first, one), with_tally(second, two)
            j = last
        return value_of(loss), tally_of(first), tally_of(second)

    return by_groups


@scalar
def write_distribution(tags, target_layout, weights, target_dtype, N, args, params, row, target,
                       found, factors, held):  # fmt: skip
    """Gradients and curvatures of a row; zeros if it does not count."""
    T = lanes_as(N(0))
    term, ridge, slope, live = factors
    j, last = np.int64(0), loop_end(tags.residency, N, row.classes)
    while j < last:
        count, present = here(N, row.classes, j)
        z = classes_again(tags.residency, tags.layout, N, T, tags.dtype, args, row, j, count, held)
        x = transform_logits(tags.extra, args, z, present)
        mass = masses(target_layout, weights, N, target_dtype, args, row, target, j, count)
        g, h = spread(tags.extra, tags.tag, args, params, z, x, mass, found, term, ridge, slope)
        g, h = where(live, g, N(0)), where(live, h, N(0))
        put_results(tags.extra, tags.layout, N, T, tags.dtype, args, row, j, count, g, h)
        j += width(N)


def distribution_columns(Params: type, T: Any, Dtype: type, TargetDtype: type, TargetLayout: type,
                         Weights: type, Layout: type, Residency: type, Lanes: type, Extra: type,
                         Tag: type) -> Any:  # fmt: skip
    """The kernel of distributions with a row in each lane."""

    def distribution_columns(args):
        dtype, extra, target_layout, weights, target_dtype = (
            Dtype(),
            Extra(),
            TargetLayout(),
            Weights(),
            TargetDtype(),
        )
        tags = Tags(dtype, Layout(), Residency(), extra, Tag())
        N = vector_of(T, Lanes())
        params = params_of(args, Params, T)
        row = lane_of(args)
        scale = scale_of(args, T)
        label = label_of(args, row.outer, row.inner) if args.sparse_targets != 0 else np.int64(0)
        live = row.inside and scale != T(0)
        live = live and (args.sparse_targets == 0 or label != args.ignore_index)
        fine = label >= 0 and label < args.classes
        factor = float_of(T, args.label_factor)
        at = args.targets + row.outer * args.targets_outer + row.inner * args.targets_inner
        ignored = live and is_ignored(args, T, target_dtype, at)
        if args.normalize != 0:
            many = count_labels(target_layout, N, target_dtype, args, row, label)
            live = live and many > T(0)
            factor = factor / where(many > T(0), many, T(1))
        target = Target(at, label, factor, ignored)
        begin(tags.layout, N, T, dtype, args)
        m, others, held = fold(tags.residency, tags, N, args, row)
        loss, one, two = assess(
            tags.residency,
            tags,
            target_layout,
            weights,
            target_dtype,
            N,
            args,
            params,
            row,
            target,
            m,
            others,
            held,
        )
        live = live and (not ignored or loss != loss)  # NaN: ignored in part
        sample = sample_of(args, T, row.outer, row.inner) * (T(1) if fine else T(np.nan))
        lse, zeta = m + log1p_up(others), sample * z_loss_of(args, T)
        ridge = where(zeta == T(0), T(0), zeta * lse)  # no z-loss: also where m is infinite
        loss = sample * loss + where(zeta == T(0), T(0), ridge * lse)
        loss = where(live, loss, T(0))
        if args.grad != 0 or args.hess != 0:
            factors = sample * scale, zeta * scale, T(2) * ridge * scale, live
            found = Found(m, others, one, two)
            write_distribution(
                tags,
                target_layout,
                weights,
                target_dtype,
                N,
                args,
                params,
                row,
                target,
                found,
                factors,
                held,
            )
        finish(OneLane(), args, row.outer, row.inner, np.int32(0), row.inside, loss)

    return distribution_columns
