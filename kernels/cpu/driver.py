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
from numba import njit, prange

from fusedce.kernels.cpu.compile import _Cache
from fusedce.kernels.cpu.machine import call3

TASKS_PER_THREAD = 8  # small enough that a thread held up elsewhere does not hold up the call

_threads_free = threading.Lock()
_forked = False


def _mark_forked() -> None:
    global _forked, _threads_free
    _forked = True
    _threads_free = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def _parallel(kernel, plan, blocks, tasks):
    for task in prange(tasks):
        call3(kernel, plan, task * blocks // tasks, (task + 1) * blocks // tasks)


@functools.cache
def _compiled_parallel() -> Any:
    driver = njit(parallel=True, nogil=True)(_parallel)
    driver._cache = _Cache(_parallel)
    driver.compile("void(int64, int64, int64, int64)")
    return driver


def run(kernel: Any, plan: int, blocks: int, *, parallel: bool) -> None:
    """Run ``kernel`` (a CFunc) over ``blocks`` blocks of the plan at an address."""
    if parallel and blocks > 1 and not _forked and _threads_free.acquire(blocking=False):
        try:
            tasks = min(blocks, TASKS_PER_THREAD * numba.get_num_threads())
            _compiled_parallel()(kernel.address, plan, blocks, tasks)
        finally:
            _threads_free.release()
    else:
        kernel.ctypes(plan, 0, blocks)
