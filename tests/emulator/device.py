"""An emulated GPU: the arrays of a small array library, and kernels run by the emulator.

``Emulated`` has fusedce's public functions, NumPy arrays in and out, like ``tests.cuda.gpu.OnGpu``.
In between, a call does what it does on a device, except that the launches are emulated. The
emulator knows every element of each array: it is a fault to access a gap between rows, or to leave
an element of an output unwritten.
"""

from __future__ import annotations

import contextlib
import ctypes

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

from fusedce.backends import array_libraries, cpu_replay
from fusedce.kernels import tuning
from fusedce.kernels.cuda.kernel_args import ARRAYS, Facts
from tests.cuda.gpu import OnGpu
from tests.emulator import machine

WRITTEN = ("loss", "grad", "hess", "total", "scratch")


class Array:
    """An array on the device; its bytes are in the memory of this process."""

    def __init__(self, host):
        self.host = host

    def reshape(self, shape):
        return Array(self.host.reshape(shape, copy=False))


class Library:
    """The operations that fusedce needs from an array library."""

    def __init__(self):
        self.maker = self
        self.arrays = []  # of the current call

    def owns(self, x):
        return isinstance(x, Array)

    def layout(self, x):
        a = x.host
        return array_libraries.Layout(
            a.__array_interface__["data"][0], a.shape, a.strides, a.dtype, 0
        )

    def made(self, host):
        """An array that launches may access."""
        self.arrays.append(Array(host))
        return self.arrays[-1]

    def empty(self, shape, dtype, strides, device):
        """New memory on a multiple of 256 bytes, as allocators of GPU memory give it."""
        dtype = np.dtype(dtype)
        steps = array_libraries.contiguous(shape, dtype.itemsize) if strides is None else strides
        raw = np.full(dtype.itemsize * int(np.prod(shape, dtype=int)) + 256, 0xA5, np.uint8)
        offset = -raw.ctypes.data % 256
        return self.made(np.ndarray(shape, dtype, raw, offset, steps))

    def fill(self, x, value):
        x.host[...] = value

    def packed(self, x, seen):
        return self.made(np.array(seen.view(np.ndarray), order="C"))

    def assign(self, x, source):
        x.host[...] = source.host.reshape(x.host.shape)

    def stream(self, device):
        return 0


def read(address, dtype, device, stream):
    """Read one number from the memory of the device."""
    return np.frombuffer(ctypes.string_at(address, np.dtype(dtype).itemsize), dtype)[0]


class Emulated(OnGpu):
    """Public functions whose kernels are emulated; ``memory`` counts their accesses."""

    def __init__(self, order="forward", facts=None, seed=0, sizes=None, **always):
        super().__init__(None, **always)
        self.sizes = sizes or {}  # new values for names in kernels/tuning.py
        self.order, self.facts, self.seed = order, facts or Facts(), seed
        self.library, self.memory, self.launched = Library(), machine.Memory(), []

    def call(self, function, args, options):
        with self.installed():
            self.library.arrays.clear()
            self.memory, self.launched = machine.Memory(), []
            result = super().call(function, args, options)
            self.memory.complete()
        return result

    @contextlib.contextmanager
    def installed(self):
        """Make fusedce use this device instead of any other."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(array_libraries, "LIBRARIES", (self.library,))
            patch.setattr(array_libraries, "facts", lambda device: self.facts)
            patch.setattr(array_libraries, "launch", self.launch)
            patch.setattr(array_libraries, "read", read)
            patch.setattr(array_libraries, "wait", lambda stream, other, device: None)
            for name, value in self.sizes.items():
                patch.setattr(tuning, name, value)
            patch.setattr(cpu_replay, "lookup", lambda key: None)
            patch.setattr(cpu_replay, "store", lambda key, prepared: None)
            yield

    def launch(self, library, launches, addresses, device, stream):
        for name, address in zip(ARRAYS, addresses, strict=True):
            for array in self.library.arrays:
                if address and address == array.host.__array_interface__["data"][0]:
                    self.memory.add(name, array.host, written=name not in WRITTEN,
                                    output=name in WRITTEN, required=name != "scratch")  # fmt: skip
        self.launched += launches
        turns = machine.Turns(self.order, self.seed)
        machine.run(launches, addresses, self.memory, self.facts, turns)

    def put(self, a):
        """A copy on the device, with the same strides and offset from a multiple of 16 bytes."""
        if a.size == 0:
            return self.library.made(np.empty(a.shape, a.dtype))
        low, high = byte_bounds(a)
        raw = np.full(high - low + 32, 0xA5, np.uint8)
        phase = (low - raw.ctypes.data) % 16
        there = np.ndarray(a.shape, a.dtype, raw, phase + a.ctypes.data - low, a.strides)
        there[...] = a
        return self.library.made(there)

    def get(self, b):
        assert isinstance(b, Array)
        return np.array(b.host, order="K")

    def fetch_into(self, a, b):
        a[...] = b.host
