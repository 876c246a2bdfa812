"""Elements of arrays that lie alike from end to end, with the same factors everywhere."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.element_cells import SINGLE, Soft, Sure, evaluated, outcome
from fusedce.kernels.cuda.folds import chunks_total, pinned
from fusedce.kernels.cuda.label_words import above_zero, bits_at, equal, zeros_or_ones
from fusedce.kernels.cuda.memory import (
    decoded,
    per_chunk,
    read_beside,
    write_beside,
)
from fusedce.kernels.cuda.numba_cuda import types
from fusedce.kernels.cuda.params import params_of
from fusedce.kernels.cuda.rows import scale_of
from fusedce.kernels.cuda.seen import Full
from fusedce.kernels.cuda.stored import any_put, float_of, itemsize, number_at, poke, put_number
from fusedce.kernels.cuda.teams import block_sum
from fusedce.kernels.scalar import INLINED, choose, scalar
from fusedce.kernels.vector import vector_of


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


class Sums(NamedTuple):
    """How a thread adds up its losses, if they are not stored.

    That is done in each branch of the code, so that a product and its addition are one instruction.
    """

    out: Any
    form: Any
    count: Any  # of chunks


class Evaluation(NamedTuple):
    """What all elements of a kernel have in common."""

    plan: Any
    params: Any
    up: float
    down: float
    scale: float
    sums: Any  # or None


def checked(check, plan, N, form, words, loss, first, second):
    """Nothing where a label is ignored, NaN where it is neither yes nor no."""
    raise NotImplementedError("compiled code only")


@overload(checked, jit_options=INLINED)
def _checked(check, plan, N, form, words, loss, first, second):
    if check.instance_class is Given:
        return lambda check, plan, N, form, words, loss, first, second: (loss, first, second)

    def of_integers(check, plan, N, form, words, loss, first, second):
        fine = equal(N, form, words, plan.lowest) | equal(N, form, words, np.int64(1))
        ignored = equal(N, form, words, plan.ignore_index)
        bad = choose(fine, N(1), N(np.nan))
        return (
            choose(ignored, N(0), loss * bad),
            choose(ignored, N(0), first * bad),
            choose(ignored, N(0), second * bad),
        )

    return of_integers


def losses_of(tag, labels, check, extra, link, form, shared, z, label, words):
    """(losses, gradients, curvatures) of stored logits, and labels as floats and as words.

    Of losses that are not stored the sum: see ``Sums``.
    """
    raise NotImplementedError("compiled code only")


@overload(losses_of, jit_options=INLINED)
def _losses_of(tag, labels, check, extra, link, form, shared, z, label, words):
    def soft(tag, labels, check, extra, link, form, shared, z, label, words):
        plan, params, up, down, scale, sums = shared
        y = outcome(SOFT, plan, label)
        found = evaluated(tag, SOFT, extra, link, plan, params, z, y, up, down, scale)
        found = checked(check, plan, type(z), form, words, found[0], found[1], found[2])
        return wanted(sums, found[0]), found[1], found[2]

    def hard(tag, labels, check, extra, link, form, shared, z, label, words):
        plan, params, up, down, scale, sums = shared
        y = above_zero(type(z), form, words)
        found = evaluated(tag, labels, extra, link, plan, params, z, y, up, down, scale)
        found = checked(check, plan, type(z), form, words, found[0], found[1], found[2])
        return wanted(sums, found[0]), found[1], found[2]

    if labels.instance_class is not Mixed:
        return soft if labels.instance_class is Soft else hard
    rare = scalar(soft if check.instance_class is Given else hard)

    def either(tag, labels, check, extra, link, form, shared, z, label, words):
        plan, params, up, down, scale, sums = shared
        if zeros_or_ones(type(z), form, words) and not special(check, plan):
            y = above_zero(type(z), form, words)
            loss, first, second = evaluated(
                tag, SURE, extra, link, plan, params, z, y, up, down, scale
            )
            return wanted(sums, loss), first, second
        loss, first, second = rare(tag, SURE, check, extra, link, form, shared, z, label, words)
        return pinned(loss), first, second  # else LLVM adds up behind the branches

    return either


def wanted(sums, loss):
    """The losses, or their sum: see ``Sums``."""
    raise NotImplementedError("compiled code only")


@overload(wanted, jit_options=INLINED)
def _wanted(sums, loss):
    if isinstance(sums, types.NoneType) or sums.types[0].instance_class is not Reduced:
        return lambda sums, loss: loss
    return lambda sums, loss: chunks_total(sums.form, sums.count, loss)


def special(check, plan):
    """Whether 0 or 1 may be ignored, or 0 be no label."""
    raise NotImplementedError("compiled code only")


@overload(special, jit_options=INLINED)
def _special(check, plan):
    if check.instance_class is Given:
        return lambda check, plan: False
    return lambda check, plan: plan.lowest != 0 or plan.ignore_index == 0 or plan.ignore_index == 1


SURE, SOFT = Sure(), Soft()


class ThreadChunks(NamedTuple):
    """The chunks of a thread: every threads()-th of its block."""

    first: Any
    number: Any


@scalar
def chunks_among(total, plan):
    """Where they are, of so many chunks."""
    start = np.int64(block()) * plan.span
    left = np.int32(min(total - start, plan.span))
    count = np.int32(np.int32(np.int32(left - 1 - thread()) >> np.int32(plan.team)) + 1)
    return ThreadChunks(start + thread(), count)


@scalar
def place_of(form, like, array, first):
    """(address of a chunk, bytes to the next one of this thread) of an array beside another."""
    size = np.int32(per_chunk(like) * itemsize(form))
    return array + first * np.int64(size), np.int32(size * threads())


@scalar
def put(form, like, array, chunks, x):
    """Store numbers beside the chunks of another array."""
    here, step = place_of(form, like, array, chunks.first)
    write_beside(form, like, here, np.int64(step), chunks.number, x)


def put_losses(out, form, plan, chunks, loss):
    """Store losses, if any are."""
    raise NotImplementedError("compiled code only")


@overload(put_losses, jit_options=INLINED)
def _put_losses(out, form, plan, chunks, loss):
    if out.instance_class is Reduced:
        return lambda out, form, plan, chunks, loss: None
    return lambda out, form, plan, chunks, loss: put(out, form, plan.loss, chunks, loss)


def put_curvatures(extra, form, plan, chunks, hess):
    """Store curvatures, if the kernel is one for them and they are wanted."""
    raise NotImplementedError("compiled code only")


@overload(put_curvatures, jit_options=INLINED)
def _put_curvatures(extra, form, plan, chunks, hess):
    if extra.instance_class is not Full:
        return lambda extra, form, plan, chunks, hess: None

    def put_them(extra, form, plan, chunks, hess):
        if plan.hess != 0:
            put(form, form, plan.hess, chunks, hess)

    return put_them


@scalar
def put_all(plan, form, out, extra, chunks, loss, grad, hess):
    """Store what is wanted of whole chunks."""
    if plan.grad != 0:
        put(form, form, plan.grad, chunks, grad)
    put_curvatures(extra, form, plan, chunks, hess)
    put_losses(out, form, plan, chunks, loss)


@scalar
def put_one(plan, form, e, loss, grad, hess):
    """The same of a number behind the last whole chunk."""
    item = np.int64(itemsize(form))
    if plan.grad != 0:
        put_number(form, plan.grad + e * item, grad)
    if plan.hess != 0:
        put_number(form, plan.hess + e * item, hess)
    if plan.loss != 0:
        any_put(plan.loss_kind, plan.loss + e * (8 if plan.loss_kind == 0 else 4), loss)


@scalar
def behind(plan, form):
    """The number of this thread behind the last whole chunk, of which block 0 takes all; or -1."""
    if block() != np.int32(0):
        return np.int64(-1)
    e = plan.classes - plan.classes % np.int64(per_chunk(form)) + thread()
    return e if e < plan.classes else np.int64(-1)


def flat_elements(Params: type, T: Any, Form: type, Targets: type, Loss: type, Link: type,
                  Lanes: type, Labels: type, Check: type, Extra: type,
                  Tag: type) -> Any:  # fmt: skip
    """The kernel."""

    def flat_elements(plan):
        form, targets, out = Form(), Targets(), Loss()
        tag, labels, check, extra, link = Tag(), Labels(), Check(), Extra(), Link()
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        scale, up, down = scale_of(plan, T), float_of(T, plan.up), float_of(T, plan.down)
        # 1. The chunks of this thread, and its number at the end.
        whole = plan.classes // np.int64(per_chunk(form))
        chunks, e = chunks_among(whole, plan), behind(plan, form)
        if scale == T(0):  # nothing is averaged
            put_all(plan, form, out, extra, chunks, N(0), N(0), N(0))
            if e >= 0:
                put_one(plan, form, e, T(0), T(0), T(0))
            if plan.partial != 0 and thread() == np.int32(0):
                poke(plan.partial + np.int64(block()) * 8, T(0))
            return
        # 2. Logits and labels, read all at once.
        here, step = place_of(form, form, plan.logits, chunks.first)
        z = decoded(N, form, read_beside(N, form, form, here, np.int64(step), chunks.number))
        here, step = place_of(targets, form, plan.targets, chunks.first)
        words = read_beside(N, targets, form, here, np.int64(step), chunks.number)
        # 3. Losses and derivatives.
        sums = Sums(out, form, chunks.number)
        shared = Evaluation(plan, params, up, down, scale, sums)
        y = decoded(N, targets, words)
        loss, grad, hess = losses_of(tag, labels, check, extra, link, targets, shared, z, y, words)
        put_all(plan, form, out, extra, chunks, loss, grad, hess)
        total = chunks_total(form, chunks.number, loss)
        # 4. The number at the end.
        if e >= 0:
            z1 = number_at(T, form, plan.logits + e * itemsize(form))
            there = plan.targets + e * itemsize(targets)
            label, bits = number_at(T, targets, there), bits_at(targets, there)
            loss1, grad1, hess1 = losses_of(
                SINGLE, labels, check, extra, link, targets, shared, z1, label, bits
            )
            put_one(plan, form, e, loss1, grad1, hess1)
            total += loss1
        # 5. The sum of the losses of the block.
        if plan.partial != 0:
            total = block_sum(total, np.int32(0))
            if thread() == np.int32(0):
                poke(plan.partial + np.int64(block()) * 8, total)

    return flat_elements
