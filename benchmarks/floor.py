"""A lower bound for the time: loops that move the bytes of a case and do nothing else.

Everything is moved as 64-bit words, for every dtype; each thread has a fixed share. Of several ways
the fastest is the bound: the C library's copy uses non-temporal stores, a plain loop does not.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from benchmarks.data import Array, Problem

Words = NDArray[np.uint64]
Move = Callable[[], object]
CHUNK = 1 << 12  # words (32 KB) after which the copy and the reading of the targets alternate


@njit(cache=True)
def _copy(source, target):  # type: ignore[no-untyped-def]
    for i in range(source.size):
        target[i] = source[i]


@njit(cache=True)
def _add(source, other, target):  # type: ignore[no-untyped-def]
    for i in range(source.size):
        target[i] = source[i] + other[i]


@njit(cache=True)
def _read(source):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for i in range(source.size):
        total += source[i]
    return total


@njit(cache=True)
def _copy_and_read(source, other, target):  # type: ignore[no-untyped-def]
    chunks, total = max(1, source.size // CHUNK), np.uint64(0)
    for k in range(chunks):
        a, b = k * source.size // chunks, (k + 1) * source.size // chunks
        _copy(source[a:b], target[a:b])
        total += _read(other[k * other.size // chunks : (k + 1) * other.size // chunks])
    return total


@njit(parallel=True, cache=True)
def plain_copy(source, target, threads):  # type: ignore[no-untyped-def]
    """One read and one write."""
    for k in prange(threads):
        a, b = k * source.size // threads, (k + 1) * source.size // threads
        _copy(source[a:b], target[a:b])


@njit(parallel=True, cache=True)
def plain_add(source, other, target, threads):  # type: ignore[no-untyped-def]
    """Two reads of one length and one write."""
    for k in prange(threads):
        a, b = k * source.size // threads, (k + 1) * source.size // threads
        _add(source[a:b], other[a:b], target[a:b])


@njit(parallel=True, cache=True)
def plain_copy_and_read(source, other, target, threads):  # type: ignore[no-untyped-def]
    """A copy, and a read of another length."""
    total = np.uint64(0)
    for k in prange(threads):
        a, b = k * source.size // threads, (k + 1) * source.size // threads
        c, d = k * other.size // threads, (k + 1) * other.size // threads
        total += _copy_and_read(source[a:b], other[c:d], target[a:b])
    return total


@njit(parallel=True, cache=True)
def plain_read(source, threads):  # type: ignore[no-untyped-def]
    """One read."""
    total = np.uint64(0)
    for k in prange(threads):
        total += _read(source[k * source.size // threads : (k + 1) * source.size // threads])
    return total


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def library_copy(source: Words, target: Words, threads: int) -> None:
    """NumPy's copy, which is the C library's, of one share in each thread."""
    shares = zip(np.array_split(source, threads), np.array_split(target, threads), strict=True)
    list(_pool(threads).map(lambda share: np.copyto(share[1], share[0]), shares))


def words(a: Array) -> Words:
    """The bytes of an array in memory order as 64-bit words, without the last incomplete one."""
    flat = a.reshape(-1) if a.flags.c_contiguous else a.ravel(order="K")
    raw = flat.view(np.uint8)
    return raw[: raw.size // 8 * 8].view(np.uint64)


def copies(problem: Problem) -> dict[str, Move]:
    """Ways to read the logits and write the gradient."""
    source, target, n = words(problem.logits), words(problem.grad), numba.get_num_threads()
    return {
        "plain loop": lambda: plain_copy(source, target, n),
        "library copy": lambda: library_copy(source, target, n),
    }


def moves(problem: Problem) -> dict[str, Move]:
    """Ways to do the reads and writes of the case."""
    case = problem.case
    if (case.reads, case.writes) == (1, 1):
        return copies(problem)
    source, n = words(problem.logits), numba.get_num_threads()
    if not case.writes:
        return {"plain loop": lambda: plain_read(source, n)}
    other, target = words(problem.targets), words(problem.grad)
    found: dict[str, Move] = {
        "copy and read": lambda: plain_copy_and_read(source, other, target, n)
    }
    if other.size == source.size:
        found["plain sum"] = lambda: plain_add(source, other, target, n)
    return found
