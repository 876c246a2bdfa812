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
    Tally,
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
from fusedce.kernels.cuda.load_store_masked import numbered, read_lanes
from fusedce.kernels.cuda.load_store_scalar import float_of, params_of
from fusedce.kernels.cuda.logit_transform import seen
from fusedce.kernels.cuda.row_cache import Held
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
def masses(kind, weights, N, stored, plan, row, target, j, count):
    """The masses weight_j (factor label_j + shift) of classes from j on."""
    T = lanes_as(N(0))
    y = labels_at(kind, N, stored, plan, row, target.label, j, count)
    mass = y * target.factor + float_of(T, plan.label_shift)
    mass = mass * weights_at(weights, N, plan, j, count)
    return where(first_lanes(N, count), whole_mass(plan, y, mass, target.ignored), N(0))


def labels_at(kind, N, stored, plan, row, label, j, count):
    """The labels of classes from j on."""
    raise NotImplementedError("compiled code only")


@overload(labels_at, jit_options=INLINED)
def _labels_at(kind, N, stored, plan, row, label, j, count):
    if kind.instance_class is OneHot:
        return lambda kind, N, stored, plan, row, label, j, count: where(
            numbered(N, j, label), N(1), N(0)
        )

    def dense(kind, N, stored, plan, row, label, j, count):
        T = lanes_as(N(0))
        at = plan.targets + row.outer * plan.targets_outer + row.inner * plan.targets_inner
        return read_lanes(N, stored, at + j * plan.targets_cls, plan.targets_cls, count, T(0))

    return dense


def weights_at(weights, N, plan, j, count):
    """Their weights."""
    raise NotImplementedError("compiled code only")


@overload(weights_at, jit_options=INLINED)
def _weights_at(weights, N, plan, j, count):
    if weights.instance_class is Unweighted:
        return lambda weights, N, plan, j, count: N(1)

    def weighted(weights, N, plan, j, count):
        T = lanes_as(N(0))
        return read_lanes(
            N, weights, plan.weight + j * plan.weight_step, plan.weight_step, count, T(0)
        )

    return weighted


@scalar
def count_labels(kind, N, stored, plan, row, label):
    """The number of labels of a row that are not zero."""
    T = lanes_as(N(0))
    many, j = T(0), np.int64(0)
    while j < row.classes:
        count, present = here(N, row.classes, j)
        many += nonzero(labels_at(kind, N, stored, plan, row, label, j, count))
        j += width(N)
    return many


@scalar
def assess_classes(tags, kind, weights, stored, N, plan, params, row, target, m, others,
                   held, j, last, one, two):  # fmt: skip
    """(loss, tallies) of classes from j to ``last``; the tallies go on from ``one`` and ``two``."""
    T = lanes_as(N(0))
    loss = T(0)
    while j < last:
        count, present = here(N, row.classes, j)
        z = classes_again(tags.way, tags.layout, N, T, tags.form, plan, row, j, count, held)
        x = seen(tags.extra, plan, z, present)
        mass = masses(kind, weights, N, stored, plan, row, target, j, count)
        f, a, b, p, q = assessed(tags.tag, params, x, m, others, mass)
        loss += sum_of_lanes(f)
        one, two = tallied(one, a), curved(tags.extra, two, b)
        j += width(N)
    return loss, one, two


def assess(way, tags, kind, weights, stored, N, plan, params, row, target, m, others, held):
    """(loss, tallies) of a row."""
    raise NotImplementedError("compiled code only")


@overload(assess, jit_options=INLINED)
def _assess(way, tags, kind, weights, stored, N, plan, params, row, target, m, others, held):
    if way.instance_class is Held:

        def at_once(
            way, tags, kind, weights, stored, N, plan, params, row, target, m, others, held
        ):
            T = lanes_as(N(0))
            none = Tally(T(0), T(0), T(0), T(0))
            return assess_classes(
                tags, kind, weights, stored, N, plan, params, row, target, m, others, held,
                np.int64(0), loop_end(way, N, row.classes), none, none,
            )  # fmt: skip

        return at_once

    def by_groups(way, tags, kind, weights, stored, N, plan, params, row, target, m, others, held):
        T = lanes_as(N(0))
        none = Tallies(T(0), nought(T), nought(T), T(0))
        loss, first, second, j = nought(T), none, none, np.int64(0)
        while j < row.classes:
            last = min(j + GROUP, row.classes)
            f, one, two = assess_classes(
                tags, kind, weights, stored, N, plan, params, row, target, m, others, held,
                j, last, Tally(first.top, T(0), T(0), T(0)), Tally(second.top, T(0), T(0), T(0)),
            )  # fmt: skip
            loss = added(loss, f)
            first, second = with_tally(first, one), with_tally(second, two)
            j = last
        return value_of(loss), tally_of(first), tally_of(second)

    return by_groups


@scalar
def write_distribution(tags, kind, weights, stored, N, plan, params, row, target, found, factors,
                       held):  # fmt: skip
    """Gradients and curvatures of a row; zeros if it does not count."""
    T = lanes_as(N(0))
    term, ridge, slope, live = factors
    j, last = np.int64(0), loop_end(tags.way, N, row.classes)
    while j < last:
        count, present = here(N, row.classes, j)
        z = classes_again(tags.way, tags.layout, N, T, tags.form, plan, row, j, count, held)
        x = seen(tags.extra, plan, z, present)
        mass = masses(kind, weights, N, stored, plan, row, target, j, count)
        g, h = spread(tags.extra, tags.tag, plan, params, z, x, mass, found, term, ridge, slope)
        g, h = where(live, g, N(0)), where(live, h, N(0))
        put_results(tags.extra, tags.layout, N, T, tags.form, plan, row, j, count, g, h)
        j += width(N)


def distribution_columns(Params: type, T: Any, Form: type, Stored: type, Kind: type,
                         Weights: type, Layout: type, Way: type, Lanes: type, Extra: type,
                         Tag: type) -> Any:  # fmt: skip
    """The kernel of distributions with a row in each lane."""

    def distribution_columns(plan):
        form, extra, kind, weights, stored = Form(), Extra(), Kind(), Weights(), Stored()
        tags = Tags(form, Layout(), Way(), extra, Tag())
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        row = lane_of(plan)
        scale = scale_of(plan, T)
        label = label_of(plan, row.outer, row.inner) if plan.sparse_targets != 0 else np.int64(0)
        live = row.inside and scale != T(0)
        live = live and (plan.sparse_targets == 0 or label != plan.ignore_index)
        fine = label >= 0 and label < plan.classes
        factor = float_of(T, plan.label_factor)
        at = plan.targets + row.outer * plan.targets_outer + row.inner * plan.targets_inner
        ignored = live and is_ignored(plan, T, stored, at)
        if plan.normalize != 0:
            many = count_labels(kind, N, stored, plan, row, label)
            live = live and many > T(0)
            factor = factor / where(many > T(0), many, T(1))
        target = Target(at, label, factor, ignored)
        begin(tags.layout, N, T, form, plan)
        m, others, held = fold(tags.way, tags, N, plan, row)
        loss, one, two = assess(
            tags.way, tags, kind, weights, stored, N, plan, params, row, target, m, others, held
        )
        live = live and (not ignored or loss != loss)  # NaN: ignored in part
        sample = sample_of(plan, T, row.outer, row.inner) * (T(1) if fine else T(np.nan))
        lse, zeta = m + log1p_up(others), sample * z_loss_of(plan, T)
        ridge = where(zeta == T(0), T(0), zeta * lse)  # no z-loss: also where m is infinite
        loss = sample * loss + where(zeta == T(0), T(0), ridge * lse)
        loss = where(live, loss, T(0))
        if plan.grad != 0 or plan.hess != 0:
            factors = sample * scale, zeta * scale, T(2) * ridge * scale, live
            found = Found(m, others, one, two)
            write_distribution(
                tags, kind, weights, stored, N, plan, params, row, target, found, factors, held
            )
        finish(OneLane(), plan, row.outer, row.inner, np.int32(0), row.inside, loss)

    return distribution_columns
