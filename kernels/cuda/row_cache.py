"""Where a row's logits stay between the softmax reduction and the gradient pass.

In registers (``Registers``: one visit; ``RegisterExps``: its exponentials), in shared memory
(``Smem``, ``SmemAsync``), or in global memory, from where they are loaded again (``Reload``). Each
lane reads back only what it wrote.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.async_copy import (
    async_copy_chunk,
    get_chunks,
    put_neg_inf,
    wait_async_copies,
)
from fusedce.kernels.cuda.device import thread, threads
from fusedce.kernels.cuda.load_store import (
    chunks_of,
    get_words,
    optimization_barrier,
    put_words,
    read_logits,
)
from fusedce.kernels.scalar import INLINED, scalar


class Registers(NamedTuple):
    """Type tag: the row waits in registers."""


class RegisterExps(NamedTuple):
    """Type tag: the exponentials wait in registers, each lane's below its own maximum."""


class Smem(NamedTuple):
    """Type tag: the row waits in shared memory."""


class SmemAsync(NamedTuple):
    """Type tag: the same, brought there past the registers, all at once."""


class Reload(NamedTuple):
    """Type tag: the row is read again."""


def visits(residency, count, per_visit):
    """Chunks that the visits of a lane go through; a row that is held takes one visit."""
    raise NotImplementedError("compiled code only")


@overload(visits, jit_options=INLINED)
def _visits(residency, count, per_visit):
    if residency.instance_class in (Registers, RegisterExps):
        return lambda residency, count, per_visit: per_visit
    return lambda residency, count, per_visit: count


@scalar
def place_of(args, k):
    """Where a lane's k-th chunk waits in shared memory."""
    return np.int32(args.staged + (np.int64(k) * threads() + thread()) * 16)


def fetch(residency, args, N, dtype, address, span, many):
    """Bring a row to where it waits, before the first visit.

    Behind its chunks lies -inf, as far as visits to ``many`` chunks read: they ask no more whether
    a chunk is there. Of a row that does not count there is nothing else.
    """
    raise NotImplementedError("compiled code only")


@overload(fetch, jit_options=INLINED)
def _fetch(residency, args, N, dtype, address, span, many):
    if residency.instance_class is not SmemAsync:
        return lambda residency, args, N, dtype, address, span, many: None

    def fetched(residency, args, N, dtype, address, span, many):
        k, here = np.int32(0), address + span.first
        while k < span.chunks:
            async_copy_chunk(place_of(args, k), here)
            here += span.step
            k = np.int32(k + 1)
        visit = chunks_of(N, dtype)
        end = np.int32(np.int32(np.int32(many + visit - 1) // visit) * visit)
        while k < end:
            put_neg_inf(dtype, place_of(args, k))
            k = np.int32(k + 1)
        wait_async_copies()

    return fetched


def waiting(residency, words, e):
    """What waits of a visit: its words or its exponentials."""
    raise NotImplementedError("compiled code only")


@overload(waiting, jit_options=INLINED)
def _waiting(residency, words, e):
    if residency.instance_class is RegisterExps:
        return lambda residency, words, e: e
    return lambda residency, words, e: words


def read(residency, args, N, dtype, address, span, k):
    """The chunks from the k-th on, which go to where they wait."""
    raise NotImplementedError("compiled code only")


@overload(read, jit_options=INLINED)
def _read(residency, args, N, dtype, address, span, k):
    if residency.instance_class is SmemAsync:
        return lambda residency, args, N, dtype, address, span, k: get_chunks(
            N, dtype, place_of(args, k), np.int32(threads() * 16)
        )
    if residency.instance_class is not Smem:
        return lambda residency, args, N, dtype, address, span, k: read_logits(
            N, dtype, address + span.first + np.int64(k) * span.step, span.step, span.chunks - k
        )

    def staged(residency, args, N, dtype, address, span, k):
        here = address + span.first + np.int64(k) * span.step
        words = read_logits(N, dtype, here, span.step, span.chunks - k)
        put_words(place_of(args, k), np.int32(threads() * 16), span.chunks - k, words)
        return words

    return staged


def recall(residency, args, N, dtype, address, span, k, words):
    """The same chunks once more; ``words``: of the last visit."""
    raise NotImplementedError("compiled code only")


@overload(recall, jit_options=INLINED)
def _recall(residency, args, N, dtype, address, span, k, words):
    if residency.instance_class is Registers:
        return lambda residency, args, N, dtype, address, span, k, words: optimization_barrier(
            words
        )
    if residency.instance_class is SmemAsync:
        return lambda residency, args, N, dtype, address, span, k, words: get_chunks(
            N, dtype, place_of(args, k), np.int32(threads() * 16)
        )
    if residency.instance_class is Smem:
        return lambda residency, args, N, dtype, address, span, k, words: get_words(
            N, dtype, place_of(args, k), np.int32(threads() * 16), span.chunks - k
        )
    return lambda residency, args, N, dtype, address, span, k, words: read_logits(
        N, dtype, address + span.first + np.int64(k) * span.step, span.step, span.chunks - k
    )
