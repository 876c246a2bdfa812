"""Softmax with a row in each lane: few classes, or a class axis that is not the last.

A lane takes the classes of its row some at a time, several loads under way. Rows of one visit wait
in registers, longer ones are read again.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.compensated import (
    GROUP,
    Exponentials,
    Tallies,
    added,
    nought,
    tally_of,
    value_of,
    with_group,
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
from fusedce.kernels.cuda.index_rows import derivatives, evaluated
from fusedce.kernels.cuda.lanes import (
    begin,
    classes_again,
    classes_at,
    lane_of,
    loop_end,
    put_results,
)
from fusedce.kernels.cuda.loose import numbered, read_lanes
from fusedce.kernels.cuda.memory import first_lanes
from fusedce.kernels.cuda.params import params_of
from fusedce.kernels.cuda.powers import absorb
from fusedce.kernels.cuda.rows import (
    finish,
    label_of,
    sample_of,
    scale_of,
    weight_of,
    z_loss_of,
)
from fusedce.kernels.cuda.seen import Full, seen, through
from fusedce.kernels.cuda.stored import float_of, number_at
from fusedce.kernels.cuda.teams import WARPS
from fusedce.kernels.cuda.waits import Held
from fusedce.kernels.scalar import INLINED, choose, log1p_up, scalar
from fusedce.kernels.vector import lanes_as, total, vector_of, width

OneLane = WARPS[0]


class Tags(NamedTuple):
    """The type tags of a kernel."""

    form: Any
    layout: Any
    way: Any
    extra: Any
    tag: Any


@scalar
def here(N, classes, j):
    """(classes from j on that a visit finds, which lanes they are in)."""
    count = np.int32(max(min(classes - j, np.int64(width(N))), 0))
    return count, first_lanes(N, count)


@scalar
def fold_classes(tags, N, plan, row, j, last, top):
    """(maximum, sum of exponentials below it, number at it, logits of the last visit) of classes.

    From j to ``last``; the maximum counts ``top``, that of the classes before.
    """
    T = lanes_as(N(0))
    below, ties, held = T(0), T(0), N(0)
    while j < last:
        count, present = here(N, row.classes, j)
        held = classes_at(tags.layout, N, T, tags.form, plan, row, j, count)
        x = seen(tags.extra, plan, held, present)
        top, below, ties = absorb(tags.form, top, below, ties, x)
        j += width(N)
    return top, below, ties, held


@scalar
def others_of(below, ties):
    """The sum of exponentials - 1; NaN without a class at the maximum: all are -inf (or NaN)."""
    T = type(below)
    return choose(ties > T(0), below + (ties - T(1)), T(np.nan))


def fold(way, tags, N, plan, row):
    """(maximum, sum of exponentials - 1, logits of the last visit) of a row."""
    raise NotImplementedError("compiled code only")


@overload(fold, jit_options=INLINED)
def _fold(way, tags, N, plan, row):
    if way.instance_class is Held:

        def at_once(way, tags, N, plan, row):
            T = lanes_as(N(0))
            last, low = loop_end(way, N, row.classes), T(-np.finfo(T).max)
            top, below, ties, held = fold_classes(tags, N, plan, row, np.int64(0), last, low)
            return top, others_of(below, ties), held

        return at_once

    def by_groups(way, tags, N, plan, row):
        T = lanes_as(N(0))
        found, j = Exponentials(T(-np.finfo(T).max), nought(T), T(0)), np.int64(0)
        while j < row.classes:
            last = min(j + GROUP, row.classes)
            top, below, ties, held = fold_classes(tags, N, plan, row, j, last, found.top)
            found = with_group(found, top, below, ties)
            j = last
        return found.top, others_of(value_of(found.below), found.ties), N(0)

    return by_groups


# ------------------------------------------------------------------------------- class indices


def own(extra, plan, N, j, label, target, found, live, first, second):
    """The same derivatives with the target's own in their place."""
    raise NotImplementedError("compiled code only")


@overload(own, jit_options=INLINED)
def _own(extra, plan, N, j, label, target, found, live, first, second):
    if extra.instance_class is not Full:

        def plain(extra, plan, N, j, label, target, found, live, first, second):
            g = choose(numbered(N, j, label if live else np.int64(-1)), N(found.first), first)
            return g, g

        return plain

    def full(extra, plan, N, j, label, target, found, live, first, second):
        hit = numbered(N, j, label if live else np.int64(-1))
        x = seen(extra, plan, target, True)
        g, h = through(plan, target, x, found.first, found.second)
        return choose(hit, N(g), first), choose(hit, N(h), second)

    return full


@scalar
def write_indices(tags, N, plan, row, label, target, found, live, held):
    """Gradients and curvatures of a row; zeros if it does not count."""
    T = lanes_as(N(0))
    j, last = np.int64(0), loop_end(tags.way, N, row.classes)
    while j < last:
        count, present = here(N, row.classes, j)
        z = classes_again(tags.way, tags.layout, N, T, tags.form, plan, row, j, count, held)
        x = seen(tags.extra, plan, z, present)
        first, second = derivatives(tags.extra, plan, tags.form, z, x, found, live)
        first, second = choose(live, first, N(0)), choose(live, second, N(0))
        first, second = own(tags.extra, plan, N, j, label, target, found, live, first, second)
        put_results(tags.extra, tags.layout, N, T, tags.form, plan, row, j, count, first, second)
        j += width(N)


def index_columns(Params: type, T: Any, Form: type, Layout: type, Way: type, Lanes: type,
                  Extra: type) -> Any:  # fmt: skip
    """The kernel of class indices with a row in each lane."""

    def index_columns(plan):
        form, extra = Form(), Extra()
        tags = Tags(form, Layout(), Way(), extra, form)
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        row = lane_of(plan)
        scale = scale_of(plan, T)
        label = label_of(plan, row.outer, row.inner)
        live = row.inside and label != plan.ignore_index and scale != T(0)
        fine = label >= 0 and label < plan.classes
        label = label if live and fine else np.int64(0)
        target = T(0)
        if live:
            target = number_at(T, form, row.logits + label * plan.logits_cls)
        sample = sample_of(plan, T, row.outer, row.inner)
        weight = weight_of(plan, T, label)
        begin(tags.layout, N, T, form, plan)
        m, others, held = fold(tags.way, tags, N, plan, row)
        z = seen(extra, plan, target, True)
        loss, found = evaluated(
            plan, form, params, T, z, m, others, weight, sample, scale, live, fine
        )
        if plan.grad != 0 or plan.hess != 0:
            write_indices(tags, N, plan, row, label, target, found, live, held)
        finish(OneLane(), plan, row.outer, row.inner, np.int32(0), row.inside, loss)

    return index_columns


# ------------------------------------------------------------------------------- distributions


@scalar
def masses(kind, weights, N, stored, plan, row, target, j, count):
    """The masses weight_j (factor label_j + shift) of classes from j on."""
    T = lanes_as(N(0))
    y = labels_at(kind, N, stored, plan, row, target.label, j, count)
    mass = y * target.factor + float_of(T, plan.label_shift)
    mass = mass * weights_at(weights, N, plan, j, count)
    return choose(first_lanes(N, count), whole_mass(plan, y, mass, target.ignored), N(0))


def labels_at(kind, N, stored, plan, row, label, j, count):
    """The labels of classes from j on."""
    raise NotImplementedError("compiled code only")


@overload(labels_at, jit_options=INLINED)
def _labels_at(kind, N, stored, plan, row, label, j, count):
    if kind.instance_class is OneHot:
        return lambda kind, N, stored, plan, row, label, j, count: choose(
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
        loss += total(f)
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
        g, h = choose(live, g, N(0)), choose(live, h, N(0))
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
        label = label_of(plan, row.outer, row.inner) if plan.one_hot != 0 else np.int64(0)
        live = row.inside and scale != T(0)
        live = live and (plan.one_hot == 0 or label != plan.ignore_index)
        fine = label >= 0 and label < plan.classes
        factor = float_of(T, plan.label_factor)
        at = plan.targets + row.outer * plan.targets_outer + row.inner * plan.targets_inner
        ignored = live and is_ignored(plan, T, stored, at)
        if plan.normalize != 0:
            many = count_labels(kind, N, stored, plan, row, label)
            live = live and many > T(0)
            factor = factor / choose(many > T(0), many, T(1))
        target = Target(at, label, factor, ignored)
        begin(tags.layout, N, T, form, plan)
        m, others, held = fold(tags.way, tags, N, plan, row)
        loss, one, two = assess(
            tags.way, tags, kind, weights, stored, N, plan, params, row, target, m, others, held
        )
        live = live and (not ignored or loss != loss)  # NaN: ignored in part
        sample = sample_of(plan, T, row.outer, row.inner) * (T(1) if fine else T(np.nan))
        lse, zeta = m + log1p_up(others), sample * z_loss_of(plan, T)
        ridge = choose(zeta == T(0), T(0), zeta * lse)  # no z-loss: also where m is infinite
        loss = sample * loss + choose(zeta == T(0), T(0), ridge * lse)
        loss = choose(live, loss, T(0))
        if plan.grad != 0 or plan.hess != 0:
            factors = sample * scale, zeta * scale, T(2) * ridge * scale, live
            found = Found(m, others, one, two)
            write_distribution(
                tags, kind, weights, stored, N, plan, params, row, target, found, factors, held
            )
        finish(OneLane(), plan, row.outer, row.inner, np.int32(0), row.inside, loss)

    return distribution_columns
