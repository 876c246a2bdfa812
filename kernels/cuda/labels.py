"""Labels are read once ahead of the logits: how many count, by what weight, which is none.

So the mean's denominator is on the device when the first gradient is written, and nobody waits for
it on the host. Here, and where losses are added up, sums are float64: a number a label or a block.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import barrier, block, blocks, get, put, thread, threads
from fusedce.kernels.cuda.kernel_args import BAD, DIVISOR, PER_ROW, SCALE
from fusedce.kernels.cuda.load_store_scalar import (
    any_number,
    any_put,
    float_of,
    integer_at,
    number_at,
    peek,
    poke,
)
from fusedce.kernels.cuda.reduce import REDUCTION_SLOT, block_sum, warp_sum
from fusedce.kernels.scalar import scalar

NONE = 2**63 - 1  # no label is bad


@scalar
def place_of(args, i, end):
    """The address of the label with a number, in C order; that of the last one beyond the end."""
    i = min(i, end - 1)
    if args.outer == 1 and args.classes == 1:
        return args.targets + i * args.targets_inner
    row, inner = i // args.inner, i % args.inner
    outer, cls = row // args.classes, row % args.classes
    here = args.targets + outer * args.targets_outer + inner * args.targets_inner
    return here + cls * args.targets_cls


@scalar
def is_label(args, label):
    """Whether a number is a label of a single element: in [0, 1], or where that is so -1 or 1."""
    T = type(label)
    if args.lowest != 0:
        return abs(label) == T(1)
    return (label >= T(0)) & (label <= T(1))


@scalar
def block_least(x, place):
    """The smallest int64 in a block, for thread 0."""
    put(np.int32(place + thread() * np.int32(8)), x)
    barrier()
    if thread() == np.int32(0):
        k = np.int32(1)
        while k < threads():
            x = min(x, get(np.int32(place + k * np.int32(8)), np.int64))
            k = np.int32(k + 1)
    return x


@scalar
def settle(args, T, weights, kept, bad):
    """Write the record, which launches to come read."""
    divisor = weights if args.elements == 0 else np.float64(kept * args.elements)
    rows = np.float64(kept) if args.elements == 0 else divisor
    if args.given != 0:
        divisor = any_number(np.float64, args.given_dtype, args.given)
        rows = divisor
    poke(args.record + DIVISOR, divisor)
    poke(args.record + BAD, np.int64(-1) if bad == NONE else bad)
    poke(args.record + SCALE, T(1.0 / divisor) if divisor != 0.0 else T(0))
    poke(args.record + PER_ROW, T(divisor / rows) if rows != 0.0 else T(1))


@scalar
def conclude(args, T, weights, kept, bad):
    """What a block has found goes into the record, or to ``collected`` if there are others."""
    weights = block_sum(weights, np.int32(0))
    kept = block_sum(kept, np.int32(REDUCTION_SLOT))
    bad = block_least(bad, np.int32(2 * REDUCTION_SLOT))
    if thread() == np.int32(0):
        if blocks() == np.int32(1):
            settle(args, T, weights, kept, bad)
        else:
            here = np.int64(block()) * 8
            poke(args.partial + here, weights)
            poke(args.counts + here, kept)
            poke(args.bad + here, bad)


@scalar
def tallied(args, T, label, i, end, found):
    """(sum of weights, labels that count, first bad one) with one more label."""
    weights, kept, bad = found
    if i < end and label != args.ignore_index:
        kept += 1
        if label < args.lowest or label >= args.highest or label == args.forbidden_label:
            bad = min(bad, i)
        elif args.weight != 0:
            here = args.weight + label * args.weight_step
            weights += any_number(np.float64, args.weight_dtype, here)
        else:
            weights += 1.0
    return weights, kept, bad


@scalar
def tallied_number(args, T, label, i, end, found):
    """The same of a label that is a number."""
    weights, kept, bad = found
    if i < end and label != float_of(T, args.ignore_value):
        kept += 1
        if not is_label(args, label):
            bad = min(bad, i)
    return weights, kept, bad


@scalar
def tallied_first(args, T, label, i, end, found):
    """The same of a row by its first target, which may be any number."""
    weights, kept, bad = found
    return weights, kept + np.int64(i < end and label != float_of(T, args.ignore_value)), bad


@scalar
def integer(T, labels, address):
    """A label that is an integer."""
    return integer_at(labels, address)


class Integers(NamedTuple):
    """Type tag: class indices, or integers that say yes or no."""


class Numbers(NamedTuple):
    """Type tag: labels are numbers, of which some may be ignored and some none at all."""


class Firsts(NamedTuple):
    """Type tag: the first targets of distributions, which say whether a row is ignored."""


LOOKS: dict[type, Any] = {
    Integers: (integer, tallied), Numbers: (number_at, tallied_number),
    Firsts: (number_at, tallied_first),
}  # fmt: skip


def survey(T: Any, Labels: type, LabelKind: type) -> Any:
    """The kernel over labels that each stand alone, four loads under way a thread."""
    read, tallied = LOOKS[LabelKind]

    def survey(args):
        labels, step = Labels(), np.int64(threads())
        found = np.float64(0), np.int64(0), np.int64(NONE)
        i = np.int64(block()) * args.span + thread()
        end = min(np.int64(block() + 1) * args.span, args.outer * args.classes * args.inner)
        while i < end:
            a = read(T, labels, place_of(args, i, end))
            b = read(T, labels, place_of(args, i + step, end))
            c = read(T, labels, place_of(args, i + 2 * step, end))
            d = read(T, labels, place_of(args, i + 3 * step, end))
            found = tallied(args, T, a, i, end, found)
            found = tallied(args, T, b, i + step, end, found)
            found = tallied(args, T, c, i + 2 * step, end, found)
            found = tallied(args, T, d, i + 3 * step, end, found)
            i += 4 * step
        conclude(args, T, found[0], found[1], found[2])

    return survey


def rows_kept(T: Any) -> Any:
    """The kernel that counts distributions and finds those ignored in part; a warp takes a row.

    With normalize_targets a row without a target that is not 0 does not count.
    """

    def rows_kept(args):
        kept, bad, lane = np.int64(0), np.int64(NONE), thread() & np.int32(31)
        row = np.int64(block()) * args.span + (thread() >> np.int32(5))
        end = min(np.int64(block() + 1) * args.span, args.outer * args.inner)
        mark = float_of(T, args.ignore_value)
        while row < end:
            outer, inner = row // args.inner, row % args.inner
            here = args.targets + outer * args.targets_outer + inner * args.targets_inner
            found, ignored, j = np.int32(0), np.int32(0), np.int64(lane)
            while j < args.classes:
                y = any_number(T, args.targets_dtype, here + j * args.targets_cls)
                found |= np.int32(1) if y != T(0) else np.int32(0)
                ignored = np.int32(ignored + np.int32(y == mark))
                j += 32
            occupied, ignored = warp_sum(found) > 0, warp_sum(ignored)
            if lane == np.int32(0) and ignored == 0 and (occupied or args.normalize == 0):
                kept += 1
            if lane == np.int32(0) and 0 < ignored < args.classes:
                bad = min(bad, row)
            row += threads() >> np.int32(5)
        conclude(args, T, np.float64(0), kept, bad)

    return rows_kept


def collected(T: Any) -> Any:
    """The kernel of one block that puts together what the blocks of a survey have found."""

    def collected(args):
        weights, kept, bad = np.float64(0), np.int64(0), np.int64(NONE)
        i = np.int64(thread())
        while i < args.span:
            weights += peek(args.partial + i * 8, np.float64)
            kept += peek(args.counts + i * 8, np.int64)
            bad = min(bad, peek(args.bad + i * 8, np.int64))
            i += threads()
        conclude(args, T, weights, kept, bad)

    return collected


@scalar
def part(args, T, i):
    """A sum of losses by number; nothing beyond the last."""
    found = peek(args.partial + min(i, args.span - 1) * 8, T)
    return found if i < args.span else T(0)


def totals(T: Any) -> Any:
    """The kernel of one block that adds up the losses of blocks, and divides."""

    def totals(args):
        total, step = np.float64(0), np.int64(threads())
        i = np.int64(thread())
        while i < args.span:
            a, b = part(args, T, i), part(args, T, i + step)
            c, d = part(args, T, i + 2 * step), part(args, T, i + 3 * step)
            total += (np.float64(a) + np.float64(b)) + (np.float64(c) + np.float64(d))
            i += 4 * step
        total = block_sum(total, np.int32(0))
        if thread() == np.int32(0):
            divisor = float_of(np.float64, args.p0)
            if args.record != 0:
                divisor = peek(args.record + DIVISOR, np.float64)
            mean = total / divisor if divisor != 0.0 else np.nan
            any_put(args.loss_dtype, args.total, mean)

    return totals
