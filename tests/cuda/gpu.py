"""What the tests on a GPU share; no tests. CuPy is imported only where there is a device."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys

import numpy as np
import pytest
from numpy.lib.array_utils import byte_bounds

import fusedce
from fusedce.arrays import native
from tests.core.test_losses import make

INPUTS = ("weight", "pos_weight", "sample_weight", "denominator")
OUTPUTS = ("loss_out", "grad_out", "hess_out", "out")
WATCHED = 1 << 20  # bytes up to which inputs are compared again after a call


def missing():
    """Why no GPU test can run here, or None; asks the driver and imports no library."""
    if importlib.util.find_spec("cupy") is None:
        return "no GPU: CuPy is not installed"
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no GPU: no driver"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no GPU"
    return None


@pytest.fixture(scope="session", name="cupy")
def imported_cupy():
    """CuPy, where there is a device."""
    return importlib.import_module("cupy")


def readable(a):
    """The array in native byte order and at most 64 bits, aligned or not."""
    return a if a.dtype.isnative and a.dtype.itemsize <= 8 else native(a)


class OnGpu:
    """The public functions of fusedce: NumPy arrays in and out, all work on the device.

    The device arrays have the strides and the alignment of the arrays that were passed, gaps
    included; outputs are copied back with their gaps; no input may be changed. An unaligned output
    becomes an aligned one.
    """

    def __init__(self, cupy, **always):
        self.cupy = cupy
        self.always = always  # options of every call

    def __getattr__(self, name):
        function = getattr(fusedce, name)
        if name in ("rule", "prior_bias"):
            return function

        def call(*args, **options):
            return self.call(function, args, self.always | options)

        return call

    def call(self, function, args, options):
        """One call on copies of the arrays; the results on the host."""
        there = {}  # id of a host array -> the array, its twin
        outputs = {id(options[name]) for name in OUTPUTS if options.get(name) is not None}

        def twin(a):
            a = np.asarray(a)
            if id(a) not in there:
                there[id(a)] = a, self.put(native(a) if id(a) in outputs else a)
            return there[id(a)][1]

        rule = args[:1] if function is fusedce.apply else ()
        moved = [*rule, *(twin(a) for a in args[len(rule) :])]
        kept = dict(options)
        for name in (*INPUTS, *OUTPUTS):
            value = options.get(name)
            if isinstance(value, (np.ndarray, list, tuple)):
                kept[name] = twin(value)
        result = function(*moved, **kept)
        for key, (a, b) in there.items():
            if key in outputs:
                self.fetch_into(a, b)
            elif a.nbytes <= WATCHED:
                assert self.get(b).tobytes() == readable(a).tobytes(), "an input was changed"
        back = {id(b): a for key, (a, b) in there.items() if key in outputs}
        many = result if isinstance(result, tuple) else (result,)
        found = [back[id(b)] if id(b) in back else self.get(b)[()] for b in many]
        return tuple(found) if isinstance(result, tuple) else found[0]

    def put(self, a):
        """A copy on the device, with the same strides and offset from a multiple of 16 bytes."""
        cupy, a = self.cupy, readable(a)
        if a.size == 0:
            return cupy.empty(a.shape, a.dtype)
        low, high = byte_bounds(a)
        phase = low % 16
        memory = cupy.cuda.alloc(high - low + 16) + phase
        cupy.cuda.runtime.memcpy(memory.ptr, low, high - low, 1)  # host to device
        start = memory + (a.__array_interface__["data"][0] - low)
        return cupy.ndarray(a.shape, a.dtype, start, a.strides)

    def get(self, b):
        """A copy of a device array on the host, in the same order."""
        assert isinstance(b, self.cupy.ndarray)
        if b.size == 0:
            return np.empty(b.shape, b.dtype)
        steps = [(n - 1) * step for n, step in zip(b.shape, b.strides, strict=True)]
        low = sum(min(0, step) for step in steps)
        size = sum(map(abs, steps)) + b.dtype.itemsize
        raw = np.empty(size, np.uint8)
        self.fetch(raw.ctypes.data, b.data.ptr + low, size)
        view = np.ndarray(b.shape, b.dtype, raw, -low, b.strides)
        return np.array(view, order="K")

    def fetch_into(self, a, b):
        """Copy an output, gaps included, back to the host array that it was made from."""
        if a.size:
            low, high = byte_bounds(a)
            start = b.data.ptr - (a.__array_interface__["data"][0] - low)
            self.fetch(low, start, high - low)

    def fetch(self, host, device, size):
        """Copy from device to host, after all work of the stream."""
        self.cupy.cuda.get_current_stream().synchronize()
        self.cupy.cuda.runtime.memcpy(host, device, size, 2)


@pytest.fixture(name="gpu")
def on_the_gpu(cupy):
    """``put`` and ``get`` of arrays, and fusedce on NumPy arrays by way of the device."""
    return OnGpu(cupy)


def case(shape=(257, 1023), dtype="float32", seed=0):
    """Logits and class indices on the host."""
    return make("softmax", "index", dtype, shape, np.random.default_rng(seed))


def same_bits(gpu, a, b):
    for x, y in zip(a, b, strict=True):
        assert gpu.get(x).tobytes() == gpu.get(y).tobytes()
