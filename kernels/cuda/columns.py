"""Rows in lanes: where a lane finds the classes of its row, and where its results go.

Neighbouring rows lie side by side (``Strided``), so that the lanes of a warp read neighbouring
numbers; or the rows of a block are one piece of memory (``SmemStaged``), which is copied through
shared memory so that they do it then too.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.compensated_sum import (
    GROUP,
    Exponentials,
    nought,
    value_of,
    with_group,
)
from fusedce.kernels.cuda.device import barrier, block, thread, threads
from fusedce.kernels.cuda.load_store import first_lanes
from fusedce.kernels.cuda.load_store_masked import (
    get_lanes,
    put_lanes,
    read_lanes,
    write_lanes,
)
from fusedce.kernels.cuda.load_store_scalar import itemsize
from fusedce.kernels.cuda.logit_transform import Full, transform_logits
from fusedce.kernels.cuda.online_softmax import online_softmax_update
from fusedce.kernels.cuda.reduce import WARPS
from fusedce.kernels.cuda.row_cache import Registers
from fusedce.kernels.cuda.rows import (
    row_of,
)
from fusedce.kernels.scalar import INLINED, scalar, where
from fusedce.kernels.vector import itemsize as bytes_of
from fusedce.kernels.vector import lanes_as, width


class Strided(NamedTuple):
    """Type tag: each lane reads its own row."""


class SmemStaged(NamedTuple):
    """Type tag: a block's rows are one piece of memory."""


class Lane(NamedTuple):
    """A lane's row: where it begins, and how many classes are to be read."""

    logits: Any
    grad: Any
    hess: Any
    outer: Any
    inner: Any
    inside: Any
    classes: Any


@scalar
def lane_of(args):
    """The row of this lane; the last lanes of a grid may have none."""
    number = np.int64(block()) * threads() + thread()
    inside = number < args.outer * args.inner
    outer, inner = row_of(args, number if inside else np.int64(0))
    return Lane(
        args.logits + outer * args.logits_outer + inner * args.logits_inner,
        args.grad + outer * args.grad_outer + inner * args.grad_inner,
        args.hess + outer * args.hess_outer + inner * args.hess_inner,
        outer, inner, inside, args.classes if inside else np.int64(0),
    )  # fmt: skip


# --------------------------------------------------------------------- a block's rows in one piece


@scalar
def numbers_of_block(args):
    """(number of the first logit of a block, how many it has)."""
    first = np.int64(block()) * threads()
    rows = min(np.int64(threads()), args.outer * args.inner - first)
    return first * args.classes, rows * args.classes


@scalar
def bring(N, T, dtype, args, address):
    """A block's logits into shared memory."""
    start, n = numbers_of_block(args)
    size, item = bytes_of(T), np.int64(itemsize(dtype))
    step = np.int64(threads())
    e = np.int64(thread())
    while e < n:
        count = np.int32(min((n - e + step - 1) // step, np.int64(width(N))))
        here = address + (start + e) * item
        x = read_lanes(N, dtype, here, step * item, count, T(0))
        put_lanes(np.int32(args.staged + e * size), np.int32(step * size), count, x)
        e += step * width(N)
    barrier()


@scalar
def carry(N, T, dtype, args, address):
    """A block's results home from shared memory."""
    barrier()
    start, n = numbers_of_block(args)
    size, item = bytes_of(T), np.int64(itemsize(dtype))
    step = np.int64(threads())
    e = np.int64(thread())
    while e < n:
        count = np.int32(min((n - e + step - 1) // step, np.int64(width(N))))
        place = np.int32(args.staged + e * size)
        x = get_lanes(N, place, np.int32(step * size), count, T(0))
        write_lanes(dtype, address + (start + e) * item, step * item, count, x)
        e += step * width(N)
    barrier()


def begin(layout, N, T, dtype, args):
    """Before a block's rows are read."""
    raise NotImplementedError("compiled code only")


@overload(begin, jit_options=INLINED)
def _begin(layout, N, T, dtype, args):
    if layout.instance_class is SmemStaged:
        return lambda layout, N, T, dtype, args: bring(N, T, dtype, args, args.logits)
    return lambda layout, N, T, dtype, args: None


def end(layout, N, T, dtype, args, address):
    """After a block's results are there."""
    raise NotImplementedError("compiled code only")


@overload(end, jit_options=INLINED)
def _end(layout, N, T, dtype, args, address):
    if layout.instance_class is SmemStaged:
        return lambda layout, N, T, dtype, args, address: carry(N, T, dtype, args, address)
    return lambda layout, N, T, dtype, args, address: None


@scalar
def place_of(args, size, j):
    """Where class j of this lane's row is in shared memory."""
    return np.int32(args.staged + (np.int64(thread()) * args.classes + j) * size)


def classes_at(layout, N, T, dtype, args, row, j, count):
    """The stored logits of classes from j on; -inf in lanes without one."""
    raise NotImplementedError("compiled code only")


@overload(classes_at, jit_options=INLINED)
def _classes_at(layout, N, T, dtype, args, row, j, count):
    if layout.instance_class is SmemStaged:

        def along(layout, N, T, dtype, args, row, j, count):
            size = bytes_of(T)
            return get_lanes(N, place_of(args, size, j), np.int32(size), count, T(-np.inf))

        return along
    return lambda layout, N, T, dtype, args, row, j, count: read_lanes(
        N, dtype, row.logits + j * args.logits_cls, args.logits_cls, count, T(-np.inf)
    )


def put_classes(layout, T, dtype, args, address, step, j, count, x):
    """Store results of classes from j on."""
    raise NotImplementedError("compiled code only")


@overload(put_classes, jit_options=INLINED)
def _put_classes(layout, T, dtype, args, address, step, j, count, x):
    if layout.instance_class is SmemStaged:

        def along(layout, T, dtype, args, address, step, j, count, x):
            size = bytes_of(T)
            put_lanes(place_of(args, size, j), np.int32(size), count, x)

        return along
    return lambda layout, T, dtype, args, address, step, j, count, x: write_lanes(
        dtype, address + j * step, step, count, x
    )


def loop_end(residency, N, classes):
    """Where a loop over classes ends; one visit is enough for a row that is held."""
    raise NotImplementedError("compiled code only")


@overload(loop_end, jit_options=INLINED)
def _loop_end(residency, N, classes):
    if residency.instance_class is Registers:
        return lambda residency, N, classes: np.int64(width(N))
    return lambda residency, N, classes: np.int64(classes)


def classes_again(residency, layout, N, T, dtype, args, row, j, count, held):
    """The stored logits once more; ``held``: those of the last visit."""
    raise NotImplementedError("compiled code only")


@overload(classes_again, jit_options=INLINED)
def _classes_again(residency, layout, N, T, dtype, args, row, j, count, held):
    if residency.instance_class is Registers:
        return lambda residency, layout, N, T, dtype, args, row, j, count, held: held
    return lambda residency, layout, N, T, dtype, args, row, j, count, held: classes_at(
        layout, N, T, dtype, args, row, j, count
    )


def put_results(extra, layout, N, T, dtype, args, row, j, count, first, second):
    """Gradients, and curvatures if they are wanted, of classes from j on."""
    raise NotImplementedError("compiled code only")


@overload(put_results, jit_options=INLINED)
def _put_results(extra, layout, N, T, dtype, args, row, j, count, first, second):
    if extra.instance_class is not Full:

        def plain(extra, layout, N, T, dtype, args, row, j, count, first, second):
            put_classes(layout, T, dtype, args, row.grad, args.grad_cls, j, count, first)
            end(layout, N, T, dtype, args, args.grad)

        return plain

    def full(extra, layout, N, T, dtype, args, row, j, count, first, second):
        if args.grad != 0:
            put_classes(layout, T, dtype, args, row.grad, args.grad_cls, j, count, first)
            end(layout, N, T, dtype, args, args.grad)
        if args.hess != 0:
            put_classes(layout, T, dtype, args, row.hess, args.hess_cls, j, count, second)
            end(layout, N, T, dtype, args, args.hess)

    return full


OneLane = WARPS[0]


class Tags(NamedTuple):
    """The type tags of a kernel."""

    dtype: Any
    layout: Any
    residency: Any
    extra: Any
    tag: Any


@scalar
def here(N, classes, j):
    """(classes from j on that a visit finds, which lanes they are in)."""
    count = np.int32(max(min(classes - j, np.int64(width(N))), 0))
    return count, first_lanes(N, count)


@scalar
def fold_classes(tags, N, args, row, j, last, top):
    """(maximum, sum of exponentials below it, number at it, logits of the last visit) of classes.

    From j to ``last``; the maximum counts ``top``, that of the classes before.
    """
    T = lanes_as(N(0))
    below, ties, held = T(0), T(0), N(0)
    while j < last:
        count, present = here(N, row.classes, j)
        held = classes_at(tags.layout, N, T, tags.dtype, args, row, j, count)
        x = transform_logits(tags.extra, args, held, present)
        top, below, ties = online_softmax_update(tags.dtype, top, below, ties, x)
        j += width(N)
    return top, below, ties, held


@scalar
def others_of(below, ties):
    """The sum of exponentials - 1; NaN without a class at the maximum: all are -inf (or NaN)."""
    T = type(below)
    return where(ties > T(0), below + (ties - T(1)), T(np.nan))


def fold(residency, tags, N, args, row):
    """(maximum, sum of exponentials - 1, logits of the last visit) of a row."""
    raise NotImplementedError("compiled code only")


@overload(fold, jit_options=INLINED)
def _fold(residency, tags, N, args, row):
    if residency.instance_class is Registers:

        def at_once(residency, tags, N, args, row):
            T = lanes_as(N(0))
            last, low = loop_end(residency, N, row.classes), T(-np.finfo(T).max)
            top, below, ties, held = fold_classes(tags, N, args, row, np.int64(0), last, low)
            return top, others_of(below, ties), held

        return at_once

    def by_groups(residency, tags, N, args, row):
        T = lanes_as(N(0))
        found, j = Exponentials(T(-np.finfo(T).max), nought(T), T(0)), np.int64(0)
        while j < row.classes:
            last = min(j + GROUP, row.classes)
            top, below, ties, held = fold_classes(tags, N, args, row, j, last, found.top)
            found = with_group(found, top, below, ties)
            j = last
        return found.top, others_of(value_of(found.below), found.ties), N(0)

    return by_groups
