"""Launches run on this machine's processor: the emulator in place of the driver.

``Memory`` says what kernels may touch, ``run`` takes the place of
``fusedce.kernels.cuda.runtime.run``. What a device would do silently, or crash over, is a
``Fault``; runtime.c says what is looked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fusedce.kernels.cuda.kernel_args import Facts, Launch
from tests.emulator.programs import program, runtime

ORDERS = ("forward", "reverse", "random")
READABLE, WRITABLE, STORED = 1, 2, 4
WATCHED = 1 << 22  # bytes of arrays up to which races are looked for
LOCK = threading.RLock()


class Fault(RuntimeError):
    """What a device would have done silently, or crashed over."""


class _Memory(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint64), ("end", ctypes.c_uint64), ("state", ctypes.c_void_p),
        ("marks", ctypes.c_void_p), ("counts", ctypes.c_uint64 * 12), ("name", ctypes.c_char_p),
    )  # fmt: skip


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_void_p), ("parameters", ctypes.c_void_p), ("blocks", ctypes.c_uint32),
        ("threads", ctypes.c_uint32), ("shared", ctypes.c_uint32), ("cluster", ctypes.c_uint32),
        ("order", ctypes.c_uint32), ("seed", ctypes.c_uint64), ("memory", ctypes.c_void_p),
        ("memories", ctypes.c_uint32), ("error_size", ctypes.c_uint32), ("error", ctypes.c_char_p),
    )  # fmt: skip


class Region:
    """Bytes from ``start`` to ``end``; ``state`` says of each what may be done with it."""

    def __init__(self, name: str, start: int, end: int, state: np.ndarray | None):
        self.name, self.start, self.end, self.state = name, start, end, state
        self.counts = np.zeros((2, 6), np.uint64)  # reads and writes of 1, 2, 4, 8, 16, 32 bytes
        self.asked = np.zeros(0, bool)  # bytes that have to be written

    def missing(self) -> int:
        """The first byte of an output that nobody has written, or -1."""
        if self.state is None or not self.asked.size:
            return -1
        left = self.asked & (self.state & STORED == 0)
        return int(left.argmax()) if left.any() else -1


def elements(array: np.ndarray, low: int, high: int) -> np.ndarray:
    """For each byte of a span, whether it belongs to an element of the array."""
    found = np.zeros(high - low, bool)
    if array.size:
        offset = array.__array_interface__["data"][0] - low
        shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
        np.lib.stride_tricks.as_strided(found[offset:], shape, strides)[...] = True
    return found


class Memory:
    """What the kernels of a call may touch, and a count of how they did."""

    def __init__(self):
        self.regions: list[Region] = []
        self.known = {}  # (name, array) that are in already; keeps them alive

    def allow(self, name: str, low: int, high: int) -> None:
        """Let kernels read and write a span as they like."""
        if high > low:
            self.regions.append(Region(name, low, high, None))

    def read_only(self, name: str, low: int, high: int) -> None:
        """Let kernels read a span."""
        small = high - low <= WATCHED
        state = np.full(high - low, READABLE, np.uint8) if small else None
        self.regions.append(Region(name, low, high, state))

    def add(self, name, array, *, written=False, output=False, required=True) -> None:
        """Let kernels read an array's elements (``written``), write them (``output``), or both."""
        if array is None or array.size == 0 or (name, id(array)) in self.known:
            return
        self.known[name, id(array)] = array
        region = self._region(name, *byte_bounds(array))
        mine = elements(array, region.start, region.end)
        region.state[mine] |= READABLE * written | WRITABLE * output
        if output and required:
            region.asked |= mine

    def _region(self, name: str, low: int, high: int) -> Region:
        """One for this span; what overlaps is one region."""
        met = [r for r in self.regions if r.start < high and low < r.end]
        start, end = min([low, *(r.start for r in met)]), max([high, *(r.end for r in met)])
        names = dict.fromkeys([*(n for r in met for n in r.name.split("/")), name])
        found = Region("/".join(names), start, end, np.zeros(end - start, np.uint8))
        found.asked = np.zeros(end - start, bool)
        for r in met:
            part = slice(r.start - start, r.end - start)
            found.state[part] |= r.state
            found.asked[part] |= r.asked
            found.counts += r.counts
            self.regions.remove(r)
        self.regions.append(found)
        return found

    def named(self, name: str) -> list[Region]:
        """The regions of an array."""
        return [r for r in self.regions if name in r.name.split("/")]

    def sizes(self, name: str) -> tuple[dict[int, int], dict[int, int]]:
        """How many reads, and how many writes, of how many bytes each."""
        counts = sum((r.counts for r in self.named(name)), np.zeros((2, 6), np.uint64))
        reads, writes = ({1 << k: int(n) for k, n in enumerate(row) if n} for row in counts)
        return reads, writes

    def touched(self, name: str) -> tuple[int, int]:
        """Bytes of an array that were read and written."""
        reads, writes = (sum(size * n for size, n in found.items()) for found in self.sizes(name))
        return reads, writes

    def complete(self) -> None:
        """Raise where an output has not been written."""
        for region in self.regions:
            if (k := region.missing()) >= 0:
                raise Fault(f"byte {k} of {region.name} has never been written")


class Turns(NamedTuple):
    """In which order threads have their turn."""

    order: str = "forward"
    seed: int = 0


class Grid(NamedTuple):
    """How many threads there are, and what they share."""

    blocks: int
    threads: int
    shared: int = 0
    cluster: int = 1


def run(launches, addresses, memory: Memory, facts: Facts, turns: Turns) -> None:
    """Run all, in order; ``addresses`` stand in the order of ``kernel_args.ARRAYS``."""
    with LOCK:
        watch = sum(r.end - r.start for r in memory.regions) <= WATCHED
        marks = [marks_of(r) if watch else None for r in memory.regions]
        for launch in launches:
            check(launch, facts)
            fields = list(launch.args)
            for slot, k in launch.bound:
                fields[slot] += addresses[k]
            parameters = np.array([f & (2**64 - 1) for f in fields], np.uint64)
            grid = Grid(launch.blocks, launch.threads, launch.shared, launch.cluster)
            kernel = program(launch.kernel, launch.threads, facts.capability).kernel
            if said := execute(kernel, parameters, memory.regions, marks, grid, turns):
                where = f"{launch.blocks} blocks of {launch.threads} threads"
                raise Fault(f"{launch.kernel.name}, {where}: {said}")


def check(launch: Launch, facts: Facts) -> None:
    """Raise for what a driver refuses."""
    if not 1 <= launch.threads <= 1024 or not 1 <= launch.cluster <= 16:
        raise Fault(f"{launch.threads} threads a block, {launch.cluster} blocks a cluster")
    if launch.blocks % launch.cluster or launch.blocks < 1:
        raise Fault(f"{launch.blocks} blocks in clusters of {launch.cluster}")
    if launch.shared > facts.shared:
        raise Fault(f"{launch.shared} bytes of shared memory, of {facts.shared}")


def marks_of(region: Region) -> np.ndarray:
    """For each byte who wrote it, and who read it last: nobody."""
    return np.zeros(2 * (region.end - region.start), np.uint64)


def execute(kernel, parameters, regions, marks, grid: Grid, turns: Turns) -> str:
    """One grid; what went wrong, or nothing."""
    table = (_Memory * max(1, len(regions)))()
    for entry, region, mark in zip(table, regions, marks, strict=False):
        entry.start, entry.end, entry.name = region.start, region.end, region.name.encode()
        entry.state = None if region.state is None else region.state.ctypes.data
        entry.marks = None if mark is None else mark.ctypes.data
    error = ctypes.create_string_buffer(600)
    launch = _Launch(
        ctypes.cast(kernel, ctypes.c_void_p), parameters.ctypes.data, *grid,
        ORDERS.index(turns.order), turns.seed, ctypes.addressof(table), len(regions), len(error),
        ctypes.addressof(error),
    )  # fmt: skip
    runtime().emulate(ctypes.byref(launch))
    for entry, region in zip(table, regions, strict=False):
        region.counts += np.array(entry.counts, np.uint64).reshape(2, 6)
    return error.value.decode()


def set_units(seed: int) -> None:
    """From here on float32 units are exact (0), or off by what is documented, as a seed chooses."""
    ctypes.c_uint64.in_dll(runtime(), "unit_seed").value = seed


@contextlib.contextmanager
def units(seed: int):
    """The same for a while."""
    set_units(seed)
    try:
        yield
    finally:
        set_units(0)
