"""Where a row waits between the reduction and the gradient.

In registers (``Held``: one visit; ``Kept``: its exponentials), in shared memory (``Staged``,
``Fetched``), or where it came from (``Again``). Each lane finds there what it has put there itself.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.async_copy import copied, copy_chunk, get_whole, put_lowest
from fusedce.kernels.cuda.device import thread, threads
from fusedce.kernels.cuda.load_store import (
    chunks_of,
    get_words,
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


def fetch(way, plan, N, form, address, span, many):
    """Bring a row to where it waits, before the first visit.

    Behind its chunks lies -inf, as far as visits to ``many`` chunks read: they ask no more whether
    a chunk is there. Of a row that does not count there is nothing else.
    """
    raise NotImplementedError("compiled code only")


@overload(fetch, jit_options=INLINED)
def _fetch(way, plan, N, form, address, span, many):
    if way.instance_class is not Fetched:
        return lambda way, plan, N, form, address, span, many: None

    def fetched(way, plan, N, form, address, span, many):
        k, here = np.int32(0), address + span.first
        while k < span.chunks:
            copy_chunk(place_of(plan, k), here)
            here += span.step
            k = np.int32(k + 1)
        visit = chunks_of(N, form)
        end = np.int32(np.int32(np.int32(many + visit - 1) // visit) * visit)
        while k < end:
            put_lowest(form, place_of(plan, k))
            k = np.int32(k + 1)
        copied()

    return fetched


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
        return lambda way, plan, N, form, address, span, k: get_whole(
            N, form, place_of(plan, k), np.int32(threads() * 16)
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
    if way.instance_class is Fetched:
        return lambda way, plan, N, form, address, span, k, words: get_whole(
            N, form, place_of(plan, k), np.int32(threads() * 16)
        )
    if way.instance_class is Staged:
        return lambda way, plan, N, form, address, span, k, words: get_words(
            N, form, place_of(plan, k), np.int32(threads() * 16), span.chunks - k
        )
    return lambda way, plan, N, form, address, span, k, words: read_logits(
        N, form, address + span.first + np.int64(k) * span.step, span.step, span.chunks - k
    )
