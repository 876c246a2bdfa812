"""Where a row's logits stay between the softmax reduction and the gradient pass.

In registers (``Registers``: the words of one iteration; ``RegisterExps``: its exponentials), in
shared memory (``Smem``, ``SmemAsync``), or nowhere: they are loaded from global memory again
(``Reload``). Each thread reads back only what it wrote itself. rows.py explains the arguments.
"""

from typing import NamedTuple

import numpy as np

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
from fusedce.kernels.cuda.tags import tag_class
from fusedce.kernels.scalar import generated, scalar


class Registers(NamedTuple):
    """Type tag: the logits stay in registers."""


class RegisterExps(NamedTuple):
    """Type tag: the exponentials stay in registers, relative to each thread's own maximum."""


class Smem(NamedTuple):
    """Type tag: the logits are copied to shared memory through registers."""


class SmemAsync(NamedTuple):
    """Type tag: the logits are copied to shared memory by asynchronous copies (sm_80)."""


class Reload(NamedTuple):
    """Type tag: the logits are loaded from global memory again."""


@generated
def chunk_loop_end(tags, chunks, per_iteration):
    """Where a thread's loop over its chunks ends: after one iteration if they fit in registers."""
    if tag_class(tags, "residency") in (Registers, RegisterExps):
        return lambda tags, chunks, per_iteration: per_iteration
    return lambda tags, chunks, per_iteration: chunks


@scalar
def smem_chunk_address(args, k):
    """The shared memory address of a thread's k-th chunk."""
    return np.int32(args.staged + (np.int64(k) * threads() + thread()) * 16)


@generated
def prefetch_row(tags, args, N, source, part, chunks):
    """SmemAsync: copy all chunks of a thread to shared memory; else nothing.

    The chunks behind them are filled with -inf up to the end of the last iteration over ``chunks``
    chunks, so that no load needs a mask. For a row that does not count, all are.
    """
    if tag_class(tags, "residency") is not SmemAsync:
        return lambda tags, args, N, source, part, chunks: None

    def copy_async(tags, args, N, source, part, chunks):
        k, address = np.int32(0), source + part.first
        while k < part.chunks:
            async_copy_chunk(smem_chunk_address(args, k), address)
            address += part.step
            k = np.int32(k + 1)
        per = chunks_of(N, tags.dtype)
        end = np.int32(np.int32(np.int32(chunks + per - 1) // per) * per)
        while k < end:
            put_neg_inf(tags.dtype, smem_chunk_address(args, k))
            k = np.int32(k + 1)
        wait_async_copies()

    return copy_async


@generated
def values_to_keep(tags, words, e):
    """What is kept of an iteration in registers: its words (raw bits) or its exponentials."""
    if tag_class(tags, "residency") is RegisterExps:
        return lambda tags, words, e: e
    return lambda tags, words, e: words


@generated
def load_chunks(tags, args, N, source, part, k):
    """First pass: the words of the chunks from the k-th on; Smem: also stored in shared memory."""
    residency = tag_class(tags, "residency")
    if residency is SmemAsync:
        return lambda tags, args, N, source, part, k: get_chunks(
            N, tags.dtype, smem_chunk_address(args, k), np.int32(threads() * 16)
        )
    if residency is not Smem:
        return lambda tags, args, N, source, part, k: read_logits(
            N, tags.dtype, source + part.first + np.int64(k) * part.step, part.step, part.chunks - k
        )

    def staged(tags, args, N, source, part, k):
        address = source + part.first + np.int64(k) * part.step
        words = read_logits(N, tags.dtype, address, part.step, part.chunks - k)
        put_words(smem_chunk_address(args, k), np.int32(threads() * 16), part.chunks - k, words)
        return words

    return staged


@generated
def reload_chunks(tags, args, N, source, part, k, words):
    """A later pass: the words of the same chunks; ``words``: those of the last iteration."""
    residency = tag_class(tags, "residency")
    if residency is Registers:
        return lambda tags, args, N, source, part, k, words: optimization_barrier(words)
    if residency is SmemAsync:
        return lambda tags, args, N, source, part, k, words: get_chunks(
            N, tags.dtype, smem_chunk_address(args, k), np.int32(threads() * 16)
        )
    if residency is Smem:
        return lambda tags, args, N, source, part, k, words: get_words(
            N, tags.dtype, smem_chunk_address(args, k), np.int32(threads() * 16), part.chunks - k
        )
    return lambda tags, args, N, source, part, k, words: read_logits(
        N, tags.dtype, source + part.first + np.int64(k) * part.step, part.step, part.chunks - k
    )
