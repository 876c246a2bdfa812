"""Run the kernels of a call in this thread, or on Numba's threads.

One compiled entry serves every loss, since it calls kernels by address. It reads the labels, which
gives the denominator of the mean, and then computes losses and gradients: a small call leaves
Python only once. The blocks and the order of their sums do not depend on the number of threads, so
neither do the bits of the result.

Numba's workqueue layer aborts when two threads enter it at once, and GNU OpenMP when a forked
child does. A call that finds the threads in use, or runs in a forked child, uses its own thread.
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

# Blocks are divided into this many tasks a thread, taken by whichever thread is free: on
# a shared machine two fixed halves took 45 ms for 65536 rows of 1000 classes, tasks 24 to 29.
TASKS_PER_THREAD = 16

# The address of an array's first element is in the array object, right behind the fields that
# every object has. Through ndarray.ctypes it takes 900 ns, read by compiled code almost nothing.
DATA = object.__basicsize__
LOGITS, TARGETS_SLOT, LOSS = SLOT["logits"], SLOT["targets"], SLOT["loss"]
GRAD, HESS, SAMPLE_WEIGHT = SLOT["grad"], SLOT["hess"], SLOT["sample_weight"]
WEIGHT, POS_FACTOR, NEG_FACTOR = SLOT["weight"], SLOT["pos_factor"], SLOT["neg_factor"]
SCALE_SLOT, PARTIAL, COUNT, BAD_SLOT = SLOT["scale"], SLOT["partial"], SLOT["count"], SLOT["bad"]
Z_LOSS = SLOT["z_loss"]
MAY_IGNORE, UNIFORM, LOAD = SLOT["may_ignore"], SLOT["uniform"], SLOT["load_targets"]
UNIFORM_UNIGNORED, LOAD_UNIGNORED = (
    SLOT["uniform_if_none_ignored"],
    SLOT["load_targets_if_none_ignored"],
)
HEAD, STAGE = 3 * 8, (3 + SLOTS) * 8  # bytes before the launches of a plan, and of each launch

inlined = njit(error_model="numpy", **IR_ONLY)
_taken = np.zeros(1, np.int64)  # 1: the threads are in use, or do not exist (after a fork)


def _mark_forked() -> None:
    _taken[0] = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def _forked_beside_openmp() -> bool:
    """Whether this process was forked, before fusedce was imported, with GNU OpenMP in memory.

    If the parent had started OpenMP's threads (Numba and LightGBM share one library), a parallel
    loop would end this process or never return. No record of the parent is kept,
    but logging, which Numba imports, knows how long ago it was loaded: a fork is younger.
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
    """The int64 at an address, exchanged atomically for a value."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("xchg", place, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@inlined
def _data_address(array):
    """The address of the first element of the NumPy array that is the object at an address."""
    return peek(array + DATA, np.int64)


@inlined
def _bind_array(memory, slot, array):
    """The address field of a view that is in use <- the address of an array; it held PRESENT."""
    if memory[slot] != 0:
        memory[slot] = _data_address(array)


@inlined
def _copy_args(kernel_args, blocks):
    """A copy of a kernel's arguments for this call, then the results of its blocks, a counter."""
    memory = np.zeros(SLOTS + 3 * blocks + 1, np.int64)
    for k in range(SLOTS):
        memory[k] = peek(kernel_args + 8 * k, np.int64)
    here = np.int64(memory.ctypes.data)
    memory[PARTIAL] = here + 8 * SLOTS
    memory[COUNT] = here + 8 * (SLOTS + blocks)
    memory[BAD_SLOT] = here + 8 * (SLOTS + 2 * blocks)
    memory[SLOTS + 2 * blocks : SLOTS + 3 * blocks] = -1
    return memory


@inlined
def _sum_blocks(memory, blocks):
    """(sum of the partial sums, sum of the counts, first invalid label or -1).

    The rounding errors are summed apart (Neumaier), and left out if that sum is not finite.
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


def _run_on_threads(kernel, kernel_args, blocks, threads, taken):
    counter = kernel_args + 8 * (SLOTS + 3 * blocks)  # see _copy_args
    if _swap(taken, 1) == 0:
        tasks = min(blocks, TASKS_PER_THREAD * threads)
        for _ in prange(threads):
            task = take_number(counter)
            while task < tasks:
                call3(kernel, kernel_args, task * blocks // tasks, (task + 1) * blocks // tasks)
                task = take_number(counter)
        # No KeyboardInterrupt can come between the two swaps: Python raises it between bytecodes.
        _swap(taken, 0)
    else:
        call3(kernel, kernel_args, 0, blocks)


_run_on_threads = njit(parallel=True, nogil=True)(_run_on_threads)


@inlined
def _run_blocks(kernel, kernel_args, blocks, parallel, threads, taken):
    """Run all blocks; where ``threads`` is None the parallel loop is not compiled."""
    if threads is None:
        call3(kernel, kernel_args, 0, blocks)
    elif parallel:
        _run_on_threads(kernel, kernel_args, blocks, threads, taken)
    else:
        call3(kernel, kernel_args, 0, blocks)


@inlined
def _none_ignored(memory):
    """Choose the faster loops, once the label pass has found no ignored label."""
    memory[MAY_IGNORE] = 0
    memory[UNIFORM] = memory[UNIFORM_UNIGNORED]
    if memory[LOAD_UNIGNORED] != 0:
        memory[LOAD] = memory[LOAD_UNIGNORED]


@inlined
def _launch_at(here):
    """(kernel, blocks, whether they may run in parallel, its arguments) of a packed launch."""
    wide = peek(here + 16, np.int64)
    return peek(here, np.int64), peek(here + 8, np.int64), wide != 0, here + 24


def _run_plan(
    program, labels, logits, targets, sample_weight, weight, pos_factor, neg_factor, loss, grad,
    hess, user_denominator, threads, taken,
):  # fmt: skip
    """(reduced loss, denominator, first invalid label or -1); see ``Plan``."""
    here = _data_address(program)
    divisor, elements = peek(here, np.float64), peek(here + 8, np.float64)
    kept, bad, rows = 0, -1, 0.0
    # 1. The label pass, if there is one: validity, number and weights, before anything is written.
    kernel, blocks, parallel, kernel_args = _launch_at(here + HEAD)
    if kernel != 0:
        memory = _copy_args(kernel_args, blocks)
        _bind_array(memory, TARGETS_SLOT, labels)
        _bind_array(memory, WEIGHT, weight)
        _run_blocks(kernel, np.int64(memory.ctypes.data), blocks, parallel, threads, taken)
        weights, kept, bad = _sum_blocks(memory, blocks)
        divisor, rows = kept * elements, 0.0
        if elements < 0.0:
            divisor, rows = weights, np.float64(kept)
    unseen = kernel == 0 and user_denominator == 0.0
    if user_denominator != 0.0:
        divisor, rows = user_denominator, 0.0
    # 2. Losses and gradients. If ignored numbers are found only here, once more with the
    #    denominator that results.
    total, again = 0.0, True
    kernel, blocks, parallel, kernel_args = _launch_at(here + HEAD + STAGE)
    while again and kernel != 0 and bad < 0 and divisor != 0.0:
        memory = _copy_args(kernel_args, blocks)
        _bind_array(memory, LOGITS, logits)
        _bind_array(memory, TARGETS_SLOT, targets)
        _bind_array(memory, SAMPLE_WEIGHT, sample_weight)
        _bind_array(memory, WEIGHT, weight)
        _bind_array(memory, POS_FACTOR, pos_factor)
        _bind_array(memory, NEG_FACTOR, neg_factor)
        _bind_array(memory, LOSS, loss)
        _bind_array(memory, GRAD, grad)
        _bind_array(memory, HESS, hess)
        where = np.int64(memory.ctypes.data)
        poke(where + 8 * SCALE_SLOT, 1.0 / divisor)
        if rows > 0.0:
            # The mean of the z-loss is over rows, without class weights. The arguments are a copy
            # for this pass, so that the factor is applied once.
            poke(where + 8 * Z_LOSS, peek(where + 8 * Z_LOSS, np.float64) * (divisor / rows))
        if kept == peek(here + 16, np.int64):
            _none_ignored(memory)
        _run_blocks(kernel, where, blocks, parallel, threads, taken)
        total, ignored, bad = _sum_blocks(memory, blocks)
        again = ignored > 0 and unseen
        divisor, unseen = divisor - (ignored if again else 0), False
        total /= divisor
    return total, divisor, bad


@functools.cache
def _entry(parallel: bool) -> Any:
    """The compiled call, which takes its threads as None or as a number."""
    entry = njit(nogil=True, error_model="numpy")(_run_plan)
    if ours():
        entry._cache = _Cache(_run_plan)
    threads = types.int64 if parallel else types.none
    with compiling():
        entry.compile((types.int64,) * 11 + (types.float64, threads, types.int64))
    return entry


class Launch(NamedTuple):
    """A kernel, its arguments without the addresses of arrays, and its number of blocks."""

    kernel: CFunc
    kernel_args: bytes  # see ``kernel_args.packed``
    blocks: int
    parallel: bool


class Plan:
    """The one or two launches of a call, for any arrays of the same shapes and strides."""

    def __init__(
        self, label_pass: Launch | None, losses: Launch | None, count: float, elements: float = 1.0,
        labels: int = -1,
    ) -> None:  # fmt: skip
        """Store how the denominator of the mean follows from the label pass.

        That is ``count`` without a label pass; else ``elements`` a label that is kept, or, with
        ``elements`` below 0, the sum of their weights. ``labels``: how many the label pass reads.
        """
        self._launches = (label_pass, losses)
        head = struct.pack("ddq", count, elements, labels)
        self._memory = np.frombuffer(head + _packed(label_pass) + _packed(losses), np.int64)
        self._where = id(self._memory)
        self.parallel = any(x is not None and x.parallel for x in self._launches)

    def run(
        self,
        labels: np.ndarray | None,
        arrays: tuple[np.ndarray | None, ...],
        user_denominator: float,
    ) -> tuple[float, float, int]:
        """(reduced loss, denominator, first invalid label or -1).

        ``arrays``: logits, targets, sample_weight, weight, pos_factor, neg_factor, loss, grad,
        hess; None for those that no launch uses. ``user_denominator`` replaces the denominator
        unless it is 0. With an invalid label or a denominator of 0 nothing is written.
        """
        threads, taken = None, 0
        if self.parallel and not _taken[0]:
            threads, taken = _number_of_threads(), _taken.ctypes.data
        return _entry(threads is not None)(  # type: ignore[no-any-return]
            self._where, id(labels), *map(id, arrays), user_denominator, threads, taken
        )


def _number_of_threads() -> int:
    """numba.get_num_threads(), without the lock of it that all processes of a fork share.

    An interrupt, or a forked child that is killed, can leave that lock taken, and the next call of
    another thread would never return. Once Numba's threads run, reading their number takes no lock.
    """
    return int(getattr(layer, "_get_num_threads", numba.get_num_threads)())


def _packed(launch: Launch | None) -> bytes:
    """A launch as ``_launch_at`` reads it."""
    if launch is None:
        return bytes(STAGE)
    return (
        struct.pack("qqq", launch.kernel.address, launch.blocks, launch.parallel)
        + launch.kernel_args
    )
