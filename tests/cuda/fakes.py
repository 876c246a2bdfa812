"""Fake GPU libraries, whose arrays are in NumPy's memory; no tests."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fusedce.backends import array_libraries, cpu_replay
from fusedce.backends.array_libraries import Layout
from fusedce.kernels import cuda
from fusedce.kernels.cuda.kernel_args import ARRAYS, STATS_BAD_LABEL, Facts, Plan


class Array:
    """The parts of a GPU array that are needed; ``memory`` is what a kernel would see."""

    def __init__(self, memory, library, device=0, stream=None):
        self.memory, self.library, self.device, self.stream = memory, library, device, stream

    shape = property(lambda self: self.memory.shape)

    def reshape(self, shape):
        return Array(self.memory.reshape(shape, copy=False), self.library, self.device)

    def __array__(self, *_args, **_options):
        raise TypeError("this waits for the GPU")


class Library:
    """A library with its own devices, which records its operations in ``done``."""

    def __init__(self):
        self.done, self.streams = [], {}

    maker = property(lambda self: self)

    def array(self, memory, device=0, stream=None):
        return Array(np.asarray(memory), self, device, stream)

    def owns(self, x):
        return isinstance(x, Array) and x.library is self

    def layout(self, x):
        a = x.memory
        address, writeable = a.ctypes.data, a.flags.writeable
        return Layout(address, a.shape, a.strides, a.dtype, x.device, writeable, x.stream)

    def empty(self, shape, dtype, strides, device):
        self.done.append(("empty", shape, np.dtype(dtype), device))
        count, item = int(np.prod(shape)), np.dtype(dtype).itemsize
        room = np.zeros(count * item + 64, np.uint8)
        start = -room.ctypes.data % 64
        flat = room[start : start + count * item].view(dtype)
        strides = array_libraries.contiguous(shape, item) if strides is None else strides
        return Array(np.lib.stride_tricks.as_strided(flat, shape, strides), self, device)

    def fill(self, x, value):
        self.done.append(("fill", value))
        x.memory[...] = value

    def packed(self, x, seen):
        self.done.append(("packed", seen.shape))
        assert x.memory.ctypes.data == seen.ctypes.data
        view = np.lib.stride_tricks.as_strided(x.memory, seen.shape, seen.strides)
        return Array(view.copy(), self, x.device)

    def assign(self, x, source):
        self.done.append(("assign", source.memory.shape))
        x.memory[...] = source.memory.reshape(x.memory.shape)

    def stream(self, device):
        return self.streams.get(device, 0)


class Gpu:
    """Records what reaches the kernels: problems, launches, streams to wait for."""

    def __init__(self):
        self.library, self.other = Library(), Library()
        self.problems, self.options, self.launches, self.waits, self.bad = [], [], [], [], -1
        self.reads = 0

    def array(self, memory, **where):
        return self.library.array(memory, **where)

    def plan(self, problem, **options):
        self.problems.append(problem)
        self.options.append(options)
        before = ("label_pass",) if options["divisor"] is None or options["validate"] else ()
        return Plan(before, ("losses",), 64 * bool(before))

    def activation(self, name, source, target, compute, facts):
        self.problems.append((name, source, target, compute))
        return Plan((), (name,), 0)

    def launch(self, library, launches, addresses, device, stream):
        assert len(addresses) == len(ARRAYS)
        where = SimpleNamespace(**dict(zip(ARRAYS, addresses, strict=True)))
        self.launches.append((library, tuple(launches), where, device, stream))
        if "label_pass" in launches:
            ctypes.c_int64.from_address(where.scratch + STATS_BAD_LABEL).value = self.bad

    def read(self, address, dtype, device, stream):
        self.reads += 1
        return np.ctypeslib.as_ctypes_type(dtype).from_address(address).value

    def wait(self, stream, other, device):
        if stream != other:
            self.waits.append((stream, other, device))

    @property
    def where(self):
        """The addresses of the last launch."""
        return self.launches[-1][2]


@pytest.fixture(name="gpu")
def fake_gpu(monkeypatch):
    """Fixture: two fake libraries, and kernels that only record their arguments."""
    gpu = Gpu()
    monkeypatch.setattr(
        array_libraries, "LIBRARIES", (gpu.library, gpu.other, *array_libraries.LIBRARIES)
    )
    for name in ("launch", "read", "wait"):
        monkeypatch.setattr(array_libraries, name, getattr(gpu, name))
    monkeypatch.setattr(array_libraries, "facts", lambda device: Facts())
    dispatch = SimpleNamespace(plan=gpu.plan, activation=gpu.activation)
    monkeypatch.setitem(sys.modules, "fusedce.kernels.cuda.dispatch", dispatch)
    monkeypatch.setattr(cuda, "dispatch", dispatch, raising=False)
    monkeypatch.setattr(cpu_replay, "_PREPARED", {})
    monkeypatch.setattr(cpu_replay, "lookup", cpu_replay._PREPARED.get)
    return gpu
