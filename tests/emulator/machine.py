"""The emulator in place of the driver: launches run on the CPU of this machine.

``Memory`` says which bytes kernels may access, and ``run`` takes the place of
``fusedce.kernels.cuda.runtime.run``. An error that a device would not report, or that would make it
crash, raises ``Fault``; runtime.c lists what is checked.
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
WATCHED = 1 << 22  # bytes of all arrays together, above which races are not looked for
LOCK = threading.RLock()


class Fault(RuntimeError):
    """An error that a device would not have reported, or that would have made it crash."""


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
    """Bytes from ``start`` to ``end``; ``state`` holds the flags of each: READABLE, STORED, ..."""

    def __init__(self, name: str, start: int, end: int, state: np.ndarray | None):
        self.name, self.start, self.end, self.state = name, start, end, state
        self.counts = np.zeros((2, 6), np.uint64)  # reads and writes of 1, 2, 4, 8, 16, 32 bytes
        self.asked = np.zeros(0, bool)  # bytes that have to be written

    def missing(self) -> int:
        """The first byte of an output that no thread has written, or -1."""
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
    """The bytes that the kernels of a call may access, and counts of their accesses."""

    def __init__(self):
        self.regions: list[Region] = []
        self.known = {}  # (name, id) -> array, of those already added; keeps them alive

    def allow(self, name: str, low: int, high: int) -> None:
        """Let kernels read and write a span without checks of its bytes."""
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
        """A new region for this span, merged with all regions that overlap it."""
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
        """(reads, writes): the number of accesses of each size in bytes."""
        counts = sum((r.counts for r in self.named(name)), np.zeros((2, 6), np.uint64))
        reads, writes = ({1 << k: int(n) for k, n in enumerate(row) if n} for row in counts)
        return reads, writes

    def touched(self, name: str) -> tuple[int, int]:
        """(bytes read, bytes written) of an array."""
        reads, writes = (sum(size * n for size, n in found.items()) for found in self.sizes(name))
        return reads, writes

    def complete(self) -> None:
        """Raise ``Fault`` if a byte of an output has not been written."""
        for region in self.regions:
            if (k := region.missing()) >= 0:
                raise Fault(f"byte {k} of {region.name} has never been written")


class Turns(NamedTuple):
    """The order in which threads run."""

    order: str = "forward"
    seed: int = 0


class Grid(NamedTuple):
    """The numbers of blocks and threads, the bytes of shared memory and the cluster size."""

    blocks: int
    threads: int
    shared: int = 0
    cluster: int = 1


def run(launches, addresses, memory: Memory, facts: Facts, turns: Turns) -> None:
    """Run all launches in order; ``addresses`` are in the order of ``kernel_args.ARRAYS``."""
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
    """Raise ``Fault`` for a launch that a driver refuses."""
    if not 1 <= launch.threads <= 1024 or not 1 <= launch.cluster <= 16:
        raise Fault(f"{launch.threads} threads a block, {launch.cluster} blocks a cluster")
    if launch.blocks % launch.cluster or launch.blocks < 1:
        raise Fault(f"{launch.blocks} blocks in clusters of {launch.cluster}")
    if launch.shared > facts.shared:
        raise Fault(f"{launch.shared} bytes of shared memory, of {facts.shared}")


def marks_of(region: Region) -> np.ndarray:
    """Two empty marks for each byte: its last writer and its last reader."""
    return np.zeros(2 * (region.end - region.start), np.uint64)


def execute(kernel, parameters, regions, marks, grid: Grid, turns: Turns) -> str:
    """Run one grid; the error message, or an empty string."""
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
    """Make the approximate float32 units exact (0), or err within their bounds as seeded."""
    ctypes.c_uint64.in_dll(runtime(), "unit_seed").value = seed


@contextlib.contextmanager
def units(seed: int):
    """``set_units(seed)`` within a ``with`` block; then they are exact again."""
    set_units(seed)
    try:
        yield
    finally:
        set_units(0)
