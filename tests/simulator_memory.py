"""Memory as a simulated kernel sees it: what may be touched, what has been written, who touched it.

Addresses are those of NumPy arrays of this process. An access must lie within the elements of one
array, on a multiple of its own size; what nobody has written cannot be read, what is input cannot
be written. Who touched what is written down and looked at when threads meet: two threads at one
byte, one of them writing, with no barrier between them, are a race.
"""

from __future__ import annotations

import collections
import ctypes
import struct

import ml_dtypes
import numpy as np

from fusedce.kernels.cuda import forms
from tests.simulator_numbers import Int32, Int64, Lanes, Mask, dtype_of, number

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FORMAT = {np.float32: "<f", np.float64: "<d", Int32: "<i", Int64: "<q", int: "<q"}
STORED = {
    forms.Float64: np.float64, forms.Float32: np.float32, forms.Float16: np.float16,
    forms.Bfloat16: BFLOAT16, forms.OldFloat16: np.float16, forms.OldBfloat16: BFLOAT16,
    forms.Int8: np.int8, forms.Int16: np.int16, forms.Int32: np.int32, forms.Int64: np.int64,
    forms.Uint8: np.uint8, forms.Uint16: np.uint16, forms.Uint32: np.uint32,
    forms.Uint64: np.uint64,
}  # fmt: skip
STORED = {tag: np.dtype(dtype) for tag, dtype in STORED.items()}

# An access as one number: buffer, offset, thread, bytes, whether it writes.
OFFSET, THREAD, SIZE = 16, 6, 1
BUFFER = 52


class Fault(RuntimeError):
    """What a device would have done silently, or crashed over."""


class Buffer:
    """Some memory; ``readable`` and ``writable`` have a byte for each of its bytes."""

    def __init__(self, name, start, size, number, data=None):
        self.name, self.start, self.end, self.code = name, start, start + size, number << BUFFER
        self.data = data if data is not None else memoryview(bytearray(size))
        self.readable, self.writable = bytearray(size), bytearray(size)
        self.asked, self.stored = bytearray(size), bytearray(size)  # to be written, and written

    def _spot(self, address, size, allowed, why):
        k = address - self.start
        if k < 0 or address + size > self.end:
            raise Fault(f"{size} bytes at {self.where(k)} lie outside")
        if address % size:
            raise Fault(f"{size} bytes at {self.where(k)} are not aligned")
        bad = allowed.find(0, k, k + size)
        if bad >= 0:
            raise Fault(f"{self.where(bad)} {why}")
        return k

    def where(self, offset):
        """For messages."""
        return f"byte {offset} of {self.name}"

    def read(self, thread, address, size):
        """The bytes at an address."""
        k = self._spot(address, size, self.readable, "is read and has never been written")
        thread.log.append(self.code | k << OFFSET | thread.code | size << SIZE)
        return bytes(self.data[k : k + size])

    def write(self, thread, address, data):
        """Store bytes."""
        size = len(data)
        k = self._spot(address, size, self.writable, "is written, which is none of an output")
        thread.log.append(self.code | k << OFFSET | thread.code | size << SIZE | 1)
        self.data[k : k + size] = data
        self.readable[k : k + size] = self.stored[k : k + size] = b"\1" * size

    def missing(self):
        """The first byte of an output that nobody has written, or -1."""
        left = np.frombuffer(self.asked, bool) & ~np.frombuffer(self.stored, bool)
        return int(left.argmax()) if left.any() else -1


def _span(array):
    """(address, bytes) from the first to the last byte of an array's elements."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return (low, high - low) if array.size else (low, 0)


def _elements(array, start, size):
    """A byte for each byte of a span: whether it belongs to an element."""
    found = np.zeros(size, np.uint8)
    offset = array.ctypes.data - start
    item = array.itemsize
    view = np.lib.stride_tricks.as_strided(
        found[offset:], (*array.shape, item), (*array.strides, 1)
    ) if array.size else found[:0]  # fmt: skip
    view[...] = 1
    return found


class Memory:
    """The arrays that kernels may touch, and a count of how they did."""

    def __init__(self):
        self.buffers = []
        self.known, self.made = {}, 0
        self.reads, self.writes = collections.Counter(), collections.Counter()  # (name, size)

    def add(self, name, array, *, written=False, output=False, required=True):
        """Let kernels read an array (``written``), write it (``output``), or both."""
        if array is None or array.size == 0 or (name, id(array)) in self.known:
            return
        self.known[name, id(array)] = array
        start, size = _span(array)
        buffer = self._buffer(name, start, size)
        mine = np.zeros(buffer.end - buffer.start, np.uint8)
        mine[start - buffer.start :][:size] = _elements(array, start, size)
        for marks, wanted in (
            (buffer.readable, written), (buffer.writable, output),
            (buffer.asked, output and required),
        ):  # fmt: skip
            if wanted:
                np.frombuffer(marks, np.uint8)[:] |= mine

    def _buffer(self, name, start, size):
        """A buffer that holds a span, those that it overlaps made one with it."""
        over = [b for b in self.buffers if b.start < start + size and start < b.end]
        low = min([start, *(b.start for b in over)])
        high = max([start + size, *(b.end for b in over)])
        data = memoryview((ctypes.c_ubyte * (high - low)).from_address(low)).cast("B")
        names = "/".join(dict.fromkeys([*(b.name for b in over), name]))
        self.made += 1
        made = Buffer(names, low, high - low, self.made, data)
        for old in over:
            k = old.start - low
            for field in ("readable", "writable", "asked", "stored"):
                getattr(made, field)[k : k + old.end - old.start] = getattr(old, field)
            self.buffers.remove(old)
        self.buffers.append(made)
        return made

    def at(self, address):
        """The buffer around an address."""
        for buffer in self.buffers:
            if buffer.start <= address < buffer.end:
                return buffer
        raise Fault(f"address {address:#x} is in no array")

    def read(self, thread, address, size):
        return self.at(address).read(thread, address, size)

    def write(self, thread, address, data):
        self.at(address).write(thread, address, data)

    def complete(self):
        """Every byte of the outputs has been written."""
        for buffer in self.buffers:
            if (k := buffer.missing()) >= 0:
                raise Fault(f"{buffer.where(k)} has never been written")

    def touched(self, name):
        """(bytes read, bytes written) of an array."""
        return tuple(
            sum(size * n for (who, size), n in counter.items() if who == name)
            for counter in (self.reads, self.writes)
        )

    def counted(self, codes):
        """Add the accesses of a launch to the counts."""
        names = {b.code >> BUFFER: b.name for b in self.buffers}
        parts = (codes >> BUFFER) << SIZE + 6 | codes & (1 << THREAD) - 1
        for part, times in zip(*np.unique(parts, return_counts=True), strict=True):
            name = names.get(int(part) >> SIZE + 6, "shared")
            counter = self.writes if part & 1 else self.reads
            counter[name, (int(part) & (1 << THREAD) - 1) >> SIZE] += int(times)


# ---------------------------------------------------------------------------------- who met whom


def collision(codes, actors):
    """(place, actor, actor) of a byte that two touch and one writes, or None."""
    if len(codes) == 0:
        return None
    size = codes >> SIZE & 31
    unit = int(size.min())  # accesses lie on multiples of their own size
    times = size // unit
    first = np.repeat((codes >> OFFSET) // unit, times)
    ends = np.cumsum(times)
    place = first + (np.arange(len(first)) - np.repeat(ends - times, times))
    who, writes = np.repeat(actors, times), np.repeat(codes & 1, times)
    order = np.argsort(place, kind="stable")
    place, who, writes = place[order], who[order], writes[order]
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    low, high = np.minimum.reduceat(who, starts), np.maximum.reduceat(who, starts)
    bad = np.flatnonzero((low != high) & np.logical_or.reduceat(writes == 1, starts))
    if len(bad) == 0:
        return None
    return int(place[starts[bad[0]]]) * unit, int(low[bad[0]]), int(high[bad[0]])


# --------------------------------------------------------------------------------- stored numbers


def unpacked(dtype, data):
    """A number of a NumPy or integer type."""
    return dtype(struct.unpack(FORMAT[dtype], data)[0])


def packed(x):
    if isinstance(x, Lanes | Mask):
        raise TypeError("one number at a time")
    if isinstance(x, bool | np.bool_):
        raise TypeError("a bool is not stored")
    if isinstance(x, np.integer):
        raise TypeError(f"{type(x).__name__} is no number of a kernel")
    return (
        np.asarray(x).tobytes() if isinstance(x, np.floating) else struct.pack(FORMAT[type(x)], x)
    )


def size_of(dtype):
    return struct.calcsize(FORMAT[dtype])


def decoded(T, tag, data):
    """A number whose lanes are stored."""
    return number(T, floats(dtype_of(T), tag, data))


def floats(dtype, tag, data):
    """Stored numbers as floats."""
    values = np.frombuffer(data, STORED[tag])
    if tag is forms.Float64 and dtype is np.float32:
        values = values.astype(np.float32)
        values = np.where(np.abs(values) < 2.0**-126, np.copysign(np.float32(0), values), values)
    return values.astype(dtype)


def encoded(tag, x):
    """The bytes that store a number; half precision is rounded from float32, as on the device."""
    dtype = STORED[tag]
    values = x.v if isinstance(x, Lanes) else np.full(1, x)
    if values.dtype.kind != "f":
        raise TypeError(f"{type(x).__name__} is no float")
    if dtype.itemsize == 2:
        values = values.astype(np.float32)
    return values.astype(dtype).tobytes()


def integer(tag, data):
    """A stored integer."""
    return min(int(np.frombuffer(data, STORED[tag])[0]), 2**63 - 1)


def filled(tag, low):
    """A chunk of -inf, or of zeros."""
    if not low:
        return bytes(16)
    return np.full(16 // STORED[tag].itemsize, -np.inf).astype(STORED[tag]).tobytes()


def first_lanes(T, n):
    """Which lanes are among the first n."""
    if not issubclass(T, Lanes):
        return n > 0
    return Mask(np.arange(T.width) < n)
