"""Run a kernel over its blocks: in this thread, or spread over Numba's threads.

One ``@njit(parallel=True)`` loop serves every kernel, since it calls them by address: threads are
compiled once, not once a loss. The blocks and their partial sums do not depend on the number of
threads, so neither do the bits of the result.

Numba's workqueue layer aborts when two threads enter it at once, and GNU OpenMP when a forked
child does: whoever finds the threads taken, or was forked, works alone.
"""

import functools
import os
import threading
from typing import Any

import numba
import numpy as np
from numba import njit, prange

from fusedce.kernels.cpu.compile import _Cache
from fusedce.kernels.cpu.machine import call3, take_number

# Blocks are handed out in so many tasks a thread, to whoever is free: on a shared machine halves
# fixed beforehand took 45 ms for 65536 rows of 1000 classes, tasks 24 to 29.
TASKS_PER_THREAD = 16

_threads_free = threading.Lock()
_forked = False


def _mark_forked() -> None:
    global _forked, _threads_free
    _forked = True
    _threads_free = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def _parallel(kernel, plan, blocks, tasks, threads, counter):
    for _ in prange(threads):
        task = take_number(counter)
        while task < tasks:
            call3(kernel, plan, task * blocks // tasks, (task + 1) * blocks // tasks)
            task = take_number(counter)


@functools.cache
def _compiled_parallel() -> Any:
    driver = njit(parallel=True, nogil=True)(_parallel)
    driver._cache = _Cache(_parallel)
    driver.compile("void(int64, int64, int64, int64, int64, int64)")
    return driver


def run(kernel: Any, plan: int, blocks: int, *, parallel: bool) -> None:
    """Run ``kernel`` (a CFunc) over ``blocks`` blocks of the plan at an address."""
    if parallel and blocks > 1 and not _forked and _threads_free.acquire(blocking=False):
        try:
            threads = numba.get_num_threads()
            tasks = min(blocks, TASKS_PER_THREAD * threads)
            counter = np.zeros(1, np.int64)
            _compiled_parallel()(kernel.address, plan, blocks, tasks, threads, counter.ctypes.data)
        finally:
            _threads_free.release()
    else:
        kernel.ctypes(plan, 0, blocks)
