"""Elements of arrays that lie alike from end to end, with the same factors everywhere."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.element_losses import SINGLE, Soft, Sure, evaluated, outcome
from fusedce.kernels.cuda.label_bits import above_zero, bits_at, equal, zeros_or_ones
from fusedce.kernels.cuda.labels import Numbers, is_label
from fusedce.kernels.cuda.lane_reduce import chunks_total, pinned
from fusedce.kernels.cuda.load_store import (
    decoded,
    per_chunk,
    read_beside,
    write_beside,
)
from fusedce.kernels.cuda.load_store_scalar import (
    any_put,
    float_of,
    itemsize,
    number_at,
    params_of,
    poke,
    put_number,
)
from fusedce.kernels.cuda.logit_transform import Full
from fusedce.kernels.cuda.reduce import block_sum
from fusedce.kernels.cuda.rows import scale_of
from fusedce.kernels.scalar import INLINED, scalar, where
from fusedce.kernels.vector import lanes_as, vector_of


class Whole(NamedTuple):
    """Type tag: labels are integers, of which some may be ignored and some none at all."""


class Given(NamedTuple):
    """Type tag: labels are used as they are."""


class Mixed(NamedTuple):
    """Type tag: labels are usually 0 or 1; a thread that meets others goes the long way.

    As with ``Sure``, factors are larger than 0 and no curvature is wanted.
    """


class Reduced(NamedTuple):
    """Type tag: losses are added up and not stored."""


class Tags(NamedTuple):
    """What a kernel is made for."""

    dtype: Any
    targets: Any
    link: Any
    labels: Any
    extra: Any
    numbers: Any


class Evaluation(NamedTuple):
    """What all elements of a kernel have in common."""

    args: Any
    params: Any
    pos_factor: float
    neg_factor: float
    scale: float
    count: Any  # of a thread's chunks


@scalar
def unchecked(args, N, dtype, label, words, found):
    """Labels that are used as they are."""
    return found


@scalar
def counted(N, ignored, fine, found):
    """Nothing where a label is ignored, NaN where it is none."""
    bad = where(fine, N(1), N(np.nan))
    return (
        where(ignored, N(0), found[0] * bad),
        where(ignored, N(0), found[1] * bad),
        where(ignored, N(0), found[2] * bad),
    )


@scalar
def checked(args, N, dtype, label, words, found):
    """Losses and derivatives by labels that are integers."""
    fine = equal(N, dtype, words, args.lowest) | equal(N, dtype, words, np.int64(1))
    return counted(N, equal(N, dtype, words, args.ignore_index), fine, found)


@scalar
def checked_numbers(args, N, dtype, label, words, found):
    """Losses and derivatives by labels that are numbers."""
    ignored = label == N(float_of(lanes_as(label), args.ignore_value))
    return counted(N, ignored, is_label(args, label), found)


@scalar
def never(args):
    """No label is ignored, and 0 and 1 are labels."""
    return False


@scalar
def special(args):
    """Whether 0 or 1 may be ignored, or 0 be no label."""
    return args.lowest != 0 or args.ignore_index == 0 or args.ignore_index == 1


@scalar
def stored(tags, shared, found):
    """Losses that are stored."""
    return found


@scalar
def summed(tags, shared, found):
    """The sum of losses instead: in each branch, so that a product and its addition are one."""
    return chunks_total(tags.dtype, shared.count, found[0]), found[1], found[2]


def losses_of(Labels: type, Check: type, Out: type | None) -> Any:
    """The function of (tags, shared, z, label, words) by the kind of labels.

    (losses, gradients, curvatures) of stored logits, and labels as floats and as words; of losses
    that are not stored (``Out`` is Reduced) the sum.
    """
    finished = summed if Out is Reduced else stored
    valid: Any = unchecked if Check is Given else checked_numbers if Check is Numbers else checked
    unusual = never if Check in (Given, Numbers) else special
    known = SURE if Labels is Mixed else Labels()

    @scalar
    def soft(tags, shared, z, label, words):
        args, params, up, down, scale, count = shared
        y = outcome(SOFT, args, label)
        found = evaluated(
            tags.numbers, SOFT, tags.extra, tags.link, args, params, z, y, up, down, scale
        )
        return finished(tags, shared, valid(args, type(z), tags.targets, label, words, found))

    @scalar
    def hard(tags, shared, z, label, words):
        args, params, up, down, scale, count = shared
        y = above_zero(type(z), tags.targets, words)
        found = evaluated(
            tags.numbers, known, tags.extra, tags.link, args, params, z, y, up, down, scale
        )
        return finished(tags, shared, valid(args, type(z), tags.targets, label, words, found))

    if Labels is not Mixed:
        return soft if Labels is Soft else hard
    usual, rare = losses_of(Sure, Given, Out), soft if Check in (Given, Numbers) else hard

    @scalar
    def either(tags, shared, z, label, words):
        if zeros_or_ones(type(z), tags.targets, words) and not unusual(shared.args):
            return usual(tags, shared, z, label, words)
        loss, first, second = rare(tags, shared, z, label, words)
        return pinned(loss), first, second  # else LLVM adds up behind the branches

    return either


SURE, SOFT = Sure(), Soft()


class ThreadChunks(NamedTuple):
    """The chunks of a thread: every threads()-th of its block."""

    first: Any
    number: Any


@scalar
def chunks_among(total, args):
    """Where they are, of so many chunks."""
    start = np.int64(block()) * args.span
    left = np.int32(min(total - start, args.span))
    count = np.int32(np.int32(np.int32(left - 1 - thread()) >> np.int32(args.group)) + 1)
    return ThreadChunks(start + thread(), count)


@scalar
def place_of(dtype, like, array, first):
    """(address of a chunk, bytes to the next one of this thread) of an array beside another."""
    size = np.int32(per_chunk(like) * itemsize(dtype))
    return array + first * np.int64(size), np.int32(size * threads())


@scalar
def put(dtype, like, array, chunks, x):
    """Store numbers beside the chunks of another array."""
    here, step = place_of(dtype, like, array, chunks.first)
    write_beside(dtype, like, here, np.int64(step), chunks.number, x)


def put_losses(out, dtype, args, chunks, loss):
    """Store losses, if any are."""
    raise NotImplementedError("compiled code only")


@overload(put_losses, jit_options=INLINED)
def _put_losses(out, dtype, args, chunks, loss):
    if out.instance_class is Reduced:
        return lambda out, dtype, args, chunks, loss: None
    return lambda out, dtype, args, chunks, loss: put(out, dtype, args.loss, chunks, loss)


def put_curvatures(extra, dtype, args, chunks, hess):
    """Store curvatures, if the kernel is one for them and they are wanted."""
    raise NotImplementedError("compiled code only")


@overload(put_curvatures, jit_options=INLINED)
def _put_curvatures(extra, dtype, args, chunks, hess):
    if extra.instance_class is not Full:
        return lambda extra, dtype, args, chunks, hess: None

    def put_them(extra, dtype, args, chunks, hess):
        if args.hess != 0:
            put(dtype, dtype, args.hess, chunks, hess)

    return put_them


@scalar
def put_all(args, dtype, out, extra, chunks, loss, grad, hess):
    """Store what is wanted of whole chunks."""
    if args.grad != 0:
        put(dtype, dtype, args.grad, chunks, grad)
    put_curvatures(extra, dtype, args, chunks, hess)
    put_losses(out, dtype, args, chunks, loss)


@scalar
def put_one(args, dtype, e, loss, grad, hess):
    """The same of a number behind the last whole chunk."""
    item = np.int64(itemsize(dtype))
    if args.grad != 0:
        put_number(dtype, args.grad + e * item, grad)
    if args.hess != 0:
        put_number(dtype, args.hess + e * item, hess)
    if args.loss != 0:
        any_put(args.loss_dtype, args.loss + e * (8 if args.loss_dtype == 0 else 4), loss)


@scalar
def behind(args, dtype):
    """The number of this thread behind the last whole chunk, of which block 0 takes all; or -1."""
    if block() != np.int32(0):
        return np.int64(-1)
    e = args.classes - args.classes % np.int64(per_chunk(dtype)) + thread()
    return e if e < args.classes else np.int64(-1)


def flat_elements(Params: type, T: Any, Dtype: type, Targets: type, Loss: type, Link: type,
                  Lanes: type, Labels: type, Check: type, Extra: type,
                  Tag: type) -> Any:  # fmt: skip
    """The kernel."""
    losses = losses_of(Labels, Check, Loss)

    def flat_elements(args):
        dtype, targets, out, extra = Dtype(), Targets(), Loss(), Extra()
        tags = Tags(dtype, targets, Link(), Labels(), extra, Tag())
        single = Tags(dtype, targets, Link(), Labels(), extra, SINGLE)
        N = vector_of(T, Lanes())
        params = params_of(args, Params, T)
        scale = scale_of(args, T)
        up, down = float_of(T, args.pos_factor), float_of(T, args.neg_factor)
        # 1. The chunks of this thread, and its number at the end.
        whole = args.classes // np.int64(per_chunk(dtype))
        chunks, e = chunks_among(whole, args), behind(args, dtype)
        if scale == T(0):  # nothing is averaged
            put_all(args, dtype, out, extra, chunks, N(0), N(0), N(0))
            if e >= 0:
                put_one(args, dtype, e, T(0), T(0), T(0))
            if args.partial != 0 and thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, T(0))
            return
        # 2. Logits and labels, read all at once.
        here, step = place_of(dtype, dtype, args.logits, chunks.first)
        z = decoded(N, dtype, read_beside(N, dtype, dtype, here, np.int64(step), chunks.number))
        here, step = place_of(targets, dtype, args.targets, chunks.first)
        words = read_beside(N, targets, dtype, here, np.int64(step), chunks.number)
        # 3. Losses and derivatives.
        shared = Evaluation(args, params, up, down, scale, chunks.number)
        loss, grad, hess = losses(tags, shared, z, decoded(N, targets, words), words)
        put_all(args, dtype, out, extra, chunks, loss, grad, hess)
        total = chunks_total(dtype, chunks.number, loss)
        # 4. The number at the end.
        if e >= 0:
            z1 = number_at(T, dtype, args.logits + e * itemsize(dtype))
            there = args.targets + e * itemsize(targets)
            label, bits = number_at(T, targets, there), bits_at(targets, there)
            loss1, grad1, hess1 = losses(single, shared, z1, label, bits)
            put_one(args, dtype, e, loss1, grad1, hess1)
            total += loss1
        # 5. The sum of the losses of the block.
        if args.partial != 0:
            total = block_sum(total, np.int32(0))
            if thread() == np.int32(0):
                poke(args.partial + np.int64(block()) * 8, total)

    return flat_elements
