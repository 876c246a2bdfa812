"""A pytest plugin that notes which kernels the GPU tests launch, on a machine without a GPU.

``PYTHONOPTIMIZE=1 RECORD=folder python -m pytest --assert=plain -p tests.device.recorder ...``
Arrays have a layout and no memory, launches are recorded and not executed, and every result is
zero. So nothing can be compared: Python skips the assertions of the tests, and functions that
compare are replaced here by ones that do nothing.
"""

from __future__ import annotations

import collections
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from numpy.lib.array_utils import byte_bounds

import fusedce
import tests.cuda.gpu
from fusedce.backends import array_libraries
from fusedce.backends.array_libraries import Layout, device_view
from fusedce.kernels.cuda.kernel_args import Facts
from fusedce.tools.warmup_cuda import Imagined, Nowhere
from tests.device import names

COUNTS: collections.Counter = collections.Counter()  # (kernel, threads of a block) -> launches


class Array(Nowhere):
    """An array without memory that can be sliced and reshaped: NumPy works on its layout alone."""

    def __init__(self, layout, host=None):
        super().__init__(layout)
        self.host = host  # the host array that it was made from
        self.shape, self.dtype, self.ndim = layout.shape, layout.dtype, len(layout.shape)
        self.device = SimpleNamespace(id=0)

    def of(self, seen):
        """The array whose layout is that of ``seen``, a view of this one's layout."""
        return Array(Layout(seen.ctypes.data, seen.shape, seen.strides, seen.dtype, 0))

    @property
    def seen(self):
        return device_view(self.layout)

    def __getitem__(self, key):
        """A view; for an index array, whose values are unknown, a view of the first element."""
        return self.of(self.seen[:1] if isinstance(key, Array) else self.seen[key])

    def __setitem__(self, key, value):
        """Nothing is stored."""

    def __len__(self):
        return self.shape[0]

    def __float__(self):
        return 0.0

    def reshape(self, *shape):
        return self.of(self.seen.reshape(*shape))

    def view(self, dtype):
        return self.of(self.seen.view(dtype))

    def copy(self, *_):
        return LIBRARY.empty(self.shape, self.dtype)

    def fill(self, value):
        """Nothing is stored."""

    set = fill

    def get(self):
        return np.zeros(self.shape, self.dtype)


class Library(Imagined):
    """The array library of such arrays."""

    def empty(self, shape, dtype=float, strides=None, device=0):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        return Array(super().empty(shape, dtype, strides, device).layout)

    def packed(self, x, seen):
        return self.empty(seen.shape, seen.dtype)

    def fill(self, x, value):
        """Nothing is stored."""

    def assign(self, x, source):
        """Nothing is stored."""


LIBRARY = Library()


class Recorded(tests.cuda.gpu.OnGpu):
    """fusedce on NumPy arrays, of which only the layout is passed to the imagined device."""

    def __getattr__(self, name):
        found = getattr(fusedce, name)
        return super().__getattr__(name) if callable(found) else found

    def call(self, function, args, options):
        if any(isinstance(a, Array) for a in args):
            return function(*args, **options)
        return super().call(function, args, options)

    def put(self, a):
        """An array with the same strides and the same offset from a multiple of 16 bytes."""
        a = tests.cuda.gpu.readable(a)
        layout = LIBRARY.empty(a.shape, a.dtype).layout
        if a.size == 0:
            return Array(layout, a)
        low, _ = byte_bounds(a)
        start = a.__array_interface__["data"][0]
        address = layout.address + low % 16 + start - low
        return Array(layout._replace(address=address, strides=a.strides), a)

    def get(self, b):
        """An input is returned as it was; a result is zero."""
        return np.zeros(b.shape, b.dtype) if b.host is None else b.host

    def fetch_into(self, a, b):
        """Nothing is copied back."""


def launch(library, launches, *_):
    """Count the kernels of the launches."""
    for each in launches:
        COUNTS[each.kernel, each.threads] += 1


def cupy():
    """A fake CuPy with the functions that the tests need; anything else is a mock."""
    module = mock.MagicMock()
    module.ndarray, module.empty = Array, LIBRARY.empty
    module.zeros = module.ones = LIBRARY.empty
    module.full = lambda shape, value, dtype: LIBRARY.empty(shape, dtype)
    module.empty_like = lambda a: LIBRARY.empty(a.shape, a.dtype)
    module.asarray = lambda a: Recorded(None).put(np.asarray(a))
    module.cuda.runtime.memGetInfo.return_value = (64 << 30, 80 << 30)
    module.cuda.runtime.getDeviceCount.return_value = 1
    module.__spec__ = SimpleNamespace(name="cupy", loader=None, origin=None)
    return module


def nothing(*_, **__):
    """Takes the place of a comparison and does nothing."""


def nothing_is_compared():
    """Replace functions that compute or compare expected results, which takes most of the tests'
    time: all results are zero. What is not replaced here only makes the recording slower.
    """
    for name in dir(np.testing):
        if name.startswith("assert_"):
            setattr(np.testing, name, nothing)
    tests.cuda.gpu.near = tests.cuda.gpu.same_bits = nothing
    for module, name, instead in (
        ("tests.reference", "reference", expected),
        ("tests.exact", "exact_softmax", nothing),
        ("tests.core.test_losses", "check", called),
        ("tests.core.test_accuracy", "judge", nothing),
        ("tests.core.test_accuracy", "judge_rows", nothing),
        ("tests.core.test_sizes", "compare", nothing),
    ):
        setattr(importlib.import_module(module), name, instead)


def expected(name, logits, targets, *, scales=False, **_):
    """Zeros for loss, gradient and Hessian, and for the bounds of their errors."""
    found = (np.zeros(np.shape(logits)),) * 3
    return (found, found) if scales else found


def called(name, logits, targets, dtype="float64", *, activation, slack=1.0, **options):
    """The call that ``tests.core.test_losses.check`` makes, without its comparison."""
    from tests.core import test_losses

    own = {k: float(np.float32(v)) for k, v in test_losses.RULES[name].items()}
    function = getattr(test_losses.fusedce, name.split()[0])
    return function(logits, targets, activation=activation, return_hessian=True, **own, **options)


def pytest_configure(config):
    sys.modules["cupy"] = cupy()
    array_libraries.LIBRARIES = (LIBRARY,)
    array_libraries.launch, array_libraries.facts = launch, lambda device: Facts()
    array_libraries.read = lambda address, dtype, device, stream: np.dtype(dtype).type(-1)
    array_libraries.wait = nothing
    tests.cuda.gpu.missing, tests.cuda.gpu.OnGpu = (lambda: None), Recorded
    nothing_is_compared()
    if importlib.util.find_spec("torch"):
        from tests.device import recorder_torch

        recorder_torch.install()


def pytest_collection_modifyitems(items):
    """Tests that compare with the CPU also call it: these calls are recorded, not computed."""
    for module in {item.module for item in items if hasattr(item, "module")}:
        module.fusedce = Recorded(None)


def pytest_unconfigure(config):
    """Write the recorded kernels: one file for each process of the tests."""
    found = [(*names.written(*kernel), n) for kernel, n in COUNTS.most_common()]
    path = Path(os.environ["RECORD"], f"{os.getpid()}.jsonl")
    path.write_text("".join(f"{json.dumps(line)}\n" for line in found))
