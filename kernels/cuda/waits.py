"""Where a row waits between the reduction and the gradient.

In registers (``Held``: one visit; ``Kept``: its exponentials), in shared memory (``Staged``,
``Fetched``), or where it came from (``Again``). Each lane finds there what it has put there itself.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.device import thread, threads
from fusedce.kernels.cuda.memory import (
    copied,
    copy_chunk,
    get_words,
    no_words,
    put_words,
    read_logits,
    renewed,
)
from fusedce.kernels.scalar import INLINED, scalar


class Held(NamedTuple):
    """Type tag: the row waits in registers."""


class Kept(NamedTuple):
    """Type tag: the exponentials wait in registers, each lane's below its own maximum."""


class Staged(NamedTuple):
    """Type tag: the row waits in shared memory."""


class Fetched(NamedTuple):
    """Type tag: the same, brought there past the registers, all at once."""


class Again(NamedTuple):
    """Type tag: the row is read again."""


def visits(way, count, per_visit):
    """Chunks that the visits of a lane go through; a row that is held takes one visit."""
    raise NotImplementedError("compiled code only")


@overload(visits, jit_options=INLINED)
def _visits(way, count, per_visit):
    if way.instance_class in (Held, Kept):
        return lambda way, count, per_visit: per_visit
    return lambda way, count, per_visit: count


@scalar
def place_of(plan, k):
    """Where a lane's k-th chunk waits in shared memory."""
    return np.int32(plan.staged + (np.int64(k) * threads() + thread()) * 16)


def fetch(way, plan, address, span):
    """Bring a row to where it waits, before the first visit."""
    raise NotImplementedError("compiled code only")


@overload(fetch, jit_options=INLINED)
def _fetch(way, plan, address, span):
    if way.instance_class is not Fetched:
        return lambda way, plan, address, span: None

    def fetched(way, plan, address, span):
        k, here = np.int32(0), address + span.first
        while k < span.chunks:
            copy_chunk(place_of(plan, k), here)
            here += span.step
            k = np.int32(k + 1)
        copied()

    return fetched


def nothing(way, N, form):
    """What waits of a row that has not been read."""
    raise NotImplementedError("compiled code only")


@overload(nothing, jit_options=INLINED)
def _nothing(way, N, form):
    if way.instance_class is Kept:
        return lambda way, N, form: N(0)
    return lambda way, N, form: no_words(N, form)


def waiting(way, words, e):
    """What waits of a visit: its words or its exponentials."""
    raise NotImplementedError("compiled code only")


@overload(waiting, jit_options=INLINED)
def _waiting(way, words, e):
    if way.instance_class is Kept:
        return lambda way, words, e: e
    return lambda way, words, e: words


def read(way, plan, N, form, address, span, k):
    """The chunks from the k-th on, which go to where they wait."""
    raise NotImplementedError("compiled code only")


@overload(read, jit_options=INLINED)
def _read(way, plan, N, form, address, span, k):
    if way.instance_class is Fetched:
        return lambda way, plan, N, form, address, span, k: get_words(
            N, form, place_of(plan, k), np.int32(threads() * 16), span.chunks - k
        )
    if way.instance_class is not Staged:
        return lambda way, plan, N, form, address, span, k: read_logits(
            N, form, address + span.first + np.int64(k) * span.step, span.step, span.chunks - k
        )

    def staged(way, plan, N, form, address, span, k):
        here = address + span.first + np.int64(k) * span.step
        words = read_logits(N, form, here, span.step, span.chunks - k)
        put_words(place_of(plan, k), np.int32(threads() * 16), span.chunks - k, words)
        return words

    return staged


def recall(way, plan, N, form, address, span, k, words):
    """The same chunks once more; ``words``: of the last visit."""
    raise NotImplementedError("compiled code only")


@overload(recall, jit_options=INLINED)
def _recall(way, plan, N, form, address, span, k, words):
    if way.instance_class is Held:
        return lambda way, plan, N, form, address, span, k, words: renewed(words)
    if way.instance_class in (Staged, Fetched):
        return lambda way, plan, N, form, address, span, k, words: get_words(
            N, form, place_of(plan, k), np.int32(threads() * 16), span.chunks - k
        )
    return lambda way, plan, N, form, address, span, k, words: read_logits(
        N, form, address + span.first + np.int64(k) * span.step, span.step, span.chunks - k
    )
