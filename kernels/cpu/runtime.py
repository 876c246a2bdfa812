"""Run the kernels of a call: in this thread, or spread over Numba's threads.

One compiled entry serves every loss, since it calls kernels by address. It reads the labels, knows
then what the mean divides by, and writes losses and gradients: a small call is one step out of
Python and back. The blocks and the order of their sums do not depend on the number of threads, so
neither do the bits of the result.

Numba's workqueue layer aborts when two threads enter it at once, and GNU OpenMP when a forked
child does: whoever finds the threads taken, or was forked, works alone.
"""

import functools
import logging
import os
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic
from numba.np.ufunc import parallel as layer

from fusedce.kernels.cache import ours
from fusedce.kernels.compiling import compiling, njit
from fusedce.kernels.cpu.compile import _Cache
from fusedce.kernels.cpu.kernel_args import SLOT, SLOTS
from fusedce.kernels.inline import IR_ONLY
from fusedce.kernels.intrinsics import call3, peek, poke, take_number

# Blocks are handed out in so many tasks a thread, to whoever is free: on a shared machine halves
# fixed beforehand took 45 ms for 65536 rows of 1000 classes, tasks 24 to 29.
TASKS_PER_THREAD = 16

# The address of an array's first element stands in the array object, right after what every
# object begins with. Asked through ndarray.ctypes it takes 900 ns, read by compiled code none.
DATA = object.__basicsize__
LOGITS, TARGETS, LOSS = SLOT["logits"], SLOT["targets"], SLOT["loss"]
GRAD, HESS, SAMPLE_WEIGHT = SLOT["grad"], SLOT["hess"], SLOT["sample_weight"]
WEIGHT, UP, DOWN = SLOT["weight"], SLOT["pos_factor"], SLOT["neg_factor"]
SCALE, PARTIAL, COUNT, BAD = SLOT["scale"], SLOT["partial"], SLOT["count"], SLOT["bad"]
Z_LOSS = SLOT["z_loss"]
IGNORING, PLAIN, LOAD = SLOT["may_ignore"], SLOT["uniform"], SLOT["load_targets"]
PLAIN_KEPT, LOAD_KEPT = SLOT["uniform_if_none_ignored"], SLOT["load_targets_if_none_ignored"]
HEAD, STAGE = 3 * 8, (3 + SLOTS) * 8  # bytes before the launches of a program, and of each

inner = njit(error_model="numpy", **IR_ONLY)
_taken = np.zeros(1, np.int64)  # 1: the threads are at work, or are not there (after a fork)


def _mark_forked() -> None:
    _taken[0] = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def _forked_beside_openmp() -> bool:
    """Whether this process was forked, before fusedce was imported, with GNU OpenMP in memory.

    If the parent had started OpenMP's threads (Numba and LightGBM share one library), a parallel
    loop would end this process or wait for ever. Nobody keeps the number of the process that did.
    But logging, which Numba imports, knows how long ago it was loaded: a fork is younger.
    """
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
        forked = 1000 * age < logging.makeLogRecord({}).relativeCreated
        return forked and "/libgomp.so" in Path("/proc/self/maps").read_text()
    except (OSError, AttributeError):  # not Linux, where OpenMP is not GNU's, or has no fork
        return False


if _forked_beside_openmp():
    _mark_forked()


@intrinsic
def _swap(typingctx, address, value):
    """The int64 at an address, replaced in the same instant."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("xchg", place, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@inner
def _data(array):
    """The address of the first element of the NumPy array that is the object at an address."""
    return peek(array + DATA, np.int64)


@inner
def _bind(memory, slot, array):
    """Point a field that is in use at an array: until then it holds PRESENT."""
    if memory[slot] != 0:
        memory[slot] = _data(array)


@inner
def _bound(kernel_args, blocks):
    """A copy of a plan for this call, with room for what its blocks find and for a counter."""
    memory = np.zeros(SLOTS + 3 * blocks + 1, np.int64)
    for k in range(SLOTS):
        memory[k] = peek(kernel_args + 8 * k, np.int64)
    here = np.int64(memory.ctypes.data)
    memory[PARTIAL] = here + 8 * SLOTS
    memory[COUNT] = here + 8 * (SLOTS + blocks)
    memory[BAD] = here + 8 * (SLOTS + 2 * blocks)
    memory[SLOTS + 2 * blocks : SLOTS + 3 * blocks] = -1
    return memory


@inner
def _found(memory, blocks):
    """(sum of the partial sums, sum of the counts, first bad label or -1).

    What each addition loses is summed apart (Neumaier); none of it counts once that overflows.
    """
    partial = memory[PARTIAL]
    total, lost = 0.0, 0.0
    count, bad = 0, -1
    for b in range(blocks):
        x = peek(partial + 8 * b, np.float64)
        above = total + x
        lost += (total - above) + x if abs(total) >= abs(x) else (x - above) + total
        total = above
        count += memory[SLOTS + blocks + b]
        if bad < 0:
            bad = memory[SLOTS + 2 * blocks + b]
    return total + lost if lost - lost == 0.0 else total, count, bad


def _spread(kernel, kernel_args, blocks, threads, taken):
    counter = kernel_args + 8 * (SLOTS + 3 * blocks)  # see _bound
    if _swap(taken, 1) == 0:
        tasks = min(blocks, TASKS_PER_THREAD * threads)
        for _ in prange(threads):
            task = take_number(counter)
            while task < tasks:
                call3(kernel, kernel_args, task * blocks // tasks, (task + 1) * blocks // tasks)
                task = take_number(counter)
        # No interrupt comes between the two swaps: Python looks for them between its own steps.
        _swap(taken, 0)
    else:
        call3(kernel, kernel_args, 0, blocks)


_spread = njit(parallel=True, nogil=True)(_spread)


@inner
def _over(kernel, kernel_args, blocks, parallel, threads, taken):
    """All blocks; without threads what spreads them is not even compiled."""
    if threads is None:
        call3(kernel, kernel_args, 0, blocks)
    elif parallel:
        _spread(kernel, kernel_args, blocks, threads, taken)
    else:
        call3(kernel, kernel_args, 0, blocks)


@inner
def _none_ignored(memory):
    """What a plan may leave out once every label is known to count."""
    memory[IGNORING] = 0
    memory[PLAIN] = memory[PLAIN_KEPT]
    if memory[LOAD_KEPT] != 0:
        memory[LOAD] = memory[LOAD_KEPT]


@inner
def _stage(here):
    """(kernel, blocks, whether they may be spread, plan) of a packed launch."""
    wide = peek(here + 16, np.int64)
    return peek(here, np.int64), peek(here + 8, np.int64), wide != 0, here + 24


def _call(
    program, labels, logits, targets, sample_weight, weight, pos_factor, neg_factor, loss, grad,
    hess, given, threads, taken,
):  # fmt: skip
    """(reduced loss, what it is divided by, first bad label or -1); see ``Plan``."""
    here = _data(program)
    divisor, elements = peek(here, np.float64), peek(here + 8, np.float64)
    kept, bad, rows = 0, -1, 0.0
    # 1. Labels are read, where there is something to find out before anything is written.
    kernel, blocks, parallel, kernel_args = _stage(here + HEAD)
    if kernel != 0:
        memory = _bound(kernel_args, blocks)
        _bind(memory, TARGETS, labels)
        _bind(memory, WEIGHT, weight)
        _over(kernel, np.int64(memory.ctypes.data), blocks, parallel, threads, taken)
        weights, kept, bad = _found(memory, blocks)
        divisor, rows = kept * elements, 0.0
        if elements < 0.0:
            divisor, rows = weights, np.float64(kept)
    unseen = kernel == 0 and given == 0.0
    if given != 0.0:
        divisor, rows = given, 0.0
    # 2. Losses and gradients. Where numbers to be ignored are found only now, all once more, with
    #    what the mean divides by then.
    total, again = 0.0, True
    kernel, blocks, parallel, kernel_args = _stage(here + HEAD + STAGE)
    while again and kernel != 0 and bad < 0 and divisor != 0.0:
        memory = _bound(kernel_args, blocks)
        _bind(memory, LOGITS, logits)
        _bind(memory, TARGETS, targets)
        _bind(memory, SAMPLE_WEIGHT, sample_weight)
        _bind(memory, WEIGHT, weight)
        _bind(memory, UP, pos_factor)
        _bind(memory, DOWN, neg_factor)
        _bind(memory, LOSS, loss)
        _bind(memory, GRAD, grad)
        _bind(memory, HESS, hess)
        where = np.int64(memory.ctypes.data)
        poke(where + 8 * SCALE, 1.0 / divisor)
        if rows > 0.0:
            # The mean of the z-loss is over rows, whatever weights the classes have. The plan is a
            # copy of this pass, so that its factor is multiplied once.
            poke(where + 8 * Z_LOSS, peek(where + 8 * Z_LOSS, np.float64) * (divisor / rows))
        if kept == peek(here + 16, np.int64):
            _none_ignored(memory)
        _over(kernel, where, blocks, parallel, threads, taken)
        total, ignored, bad = _found(memory, blocks)
        again = ignored > 0 and unseen
        divisor, unseen = divisor - (ignored if again else 0), False
        total /= divisor
    return total, divisor, bad


@functools.cache
def _entry(parallel: bool) -> Any:
    """The compiled call, which takes its threads as None or as a number."""
    entry = njit(nogil=True, error_model="numpy")(_call)
    if ours():
        entry._cache = _Cache(_call)
    threads = types.int64 if parallel else types.none
    with compiling():
        entry.compile((types.int64,) * 11 + (types.float64, threads, types.int64))
    return entry


class Launch(NamedTuple):
    """A kernel over the blocks of a plan that lacks the addresses of arrays."""

    kernel: CFunc
    kernel_args: bytes  # see ``kernel_args.packed``
    blocks: int
    parallel: bool


class Plan:
    """The one or two launches of a call, for any arrays that fit."""

    def __init__(
        self, survey: Launch | None, losses: Launch | None, count: float, elements: float = 1.0,
        labels: int = -1,
    ) -> None:  # fmt: skip
        """Set down what the mean divides by.

        That is ``count`` without a survey; else ``elements`` a label that is kept, or, with
        ``elements`` below 0, the sum of their weights. ``labels``: how many the survey reads.
        """
        self._launches = (survey, losses)
        head = struct.pack("ddq", count, elements, labels)
        self._memory = np.frombuffer(head + _packed(survey) + _packed(losses), np.int64)
        self._where = id(self._memory)
        self.parallel = any(x is not None and x.parallel for x in self._launches)

    def run(
        self, labels: np.ndarray | None, arrays: tuple[np.ndarray | None, ...], given: float
    ) -> tuple[float, float, int]:
        """(reduced loss, what it is divided by, first bad label or -1).

        ``arrays``: logits, targets, sample_weight, weight, up, down, loss, grad, hess, None for
        those the plans do without. ``given`` replaces the divisor unless it is 0. With a bad label
        or a divisor of 0 nothing is written.
        """
        threads, taken = None, 0
        if self.parallel and not _taken[0]:
            threads, taken = _number_of_threads(), _taken.ctypes.data
        return _entry(threads is not None)(  # type: ignore[no-any-return]
            self._where, id(labels), *map(id, arrays), given, threads, taken
        )


def _number_of_threads() -> int:
    """numba.get_num_threads(), without the lock of it that all processes of a fork share.

    An interrupt, or a forked child that is killed, can leave that lock taken, and the next call of
    another thread would wait for ever. Once Numba's threads are there, their number takes no lock.
    """
    return int(getattr(layer, "_get_num_threads", numba.get_num_threads)())


def _packed(launch: Launch | None) -> bytes:
    """A launch as ``_stage`` reads it."""
    if launch is None:
        return bytes(STAGE)
    return (
        struct.pack("qqq", launch.kernel.address, launch.blocks, launch.parallel)
        + launch.kernel_args
    )
