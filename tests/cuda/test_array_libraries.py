"""The adapters of the GPU libraries, each with a fake module: layouts, new arrays, streams."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusedce
from fusedce.backends import array_libraries
from tests.core.test_errors import K, Z, dense
from tests.cuda.fake_libraries import (
    BFLOAT16,
    Foreign,
    NumbaArray,
    fake_cupy,
    fake_numba,
    fake_torch,
)
from tests.cuda.fakes import fake_gpu

__all__ = ["fake_gpu"]  # the fixture
ROOT = Path(__file__).resolve().parents[2]
MEMORY = {
    "C": Z(),
    "F": Z().T.copy().T,
    "sliced": np.zeros((8, 9), np.float16)[::2, ::3],
    "bfloat16": np.zeros((4, 3), BFLOAT16),
    "double": np.zeros((4, 3)),
}
each_memory = pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)


@pytest.fixture(name="cupy")
def cupy_of_ours(monkeypatch):
    module = fake_cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture(name="torch")
def torch_of_ours(monkeypatch):
    module = fake_torch()
    monkeypatch.setitem(sys.modules, "torch", module)
    array_libraries._from_torch.cache_clear()
    return module


@pytest.fixture(name="numba")
def numba_of_ours(monkeypatch):
    module = fake_numba()
    monkeypatch.setitem(sys.modules, "numba.cuda", module)
    return module


@pytest.fixture(name="none")
def no_library(monkeypatch):
    """No GPU library is loaded."""
    for name in ("cupy", "torch", "numba.cuda"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def same_place(shadow, memory):
    return (shadow.ctypes.data, shadow.strides[0], shadow.dtype) == (
        memory.ctypes.data, memory.strides[0], memory.dtype)  # fmt: skip


@each_memory
def test_cupy(memory, cupy, gpu):
    """CuPy arrays are read by their attributes; work is on the logits' device, current or not."""
    cupy.streams = {0: 3, 1: 4}
    for device in (0, 1):
        for _ in range(2):
            z, t = cupy.wrap(memory, device), cupy.wrap(K(), device)
            loss, grad = fusedce.cross_entropy(z, t)
            assert same_place(gpu.problems[-1].logits, memory)
            assert gpu.launches[-1][3:] == (device, cupy.streams[device])
            for a in (loss, grad):
                assert type(a) is cupy.ndarray
                assert a.data.device_id == device
            assert (grad.dtype, grad.shape) == (memory.dtype, memory.shape)
            assert grad.strides == np.empty_like(memory).strides
            assert gpu.where.grad == grad.data.ptr
            assert gpu.where.total == loss.data.ptr
    assert cupy.current == cupy.copies == 0
    assert len(gpu.problems) == 2


@each_memory
def test_torch(memory, torch, gpu):
    """Tensors: the dtype is that of the tensor, strides count elements, the stream is torch's."""
    torch.streams = {1: 40}
    for _ in range(2):
        z, t = torch.Tensor(memory, 1), torch.Tensor(K(), 1)
        loss, grad = fusedce.cross_entropy(z, t)
        assert same_place(gpu.problems[-1].logits, memory)
        assert gpu.launches[-1][3:] == (1, 40)
        assert type(loss) is type(grad) is torch.Tensor
        assert grad.dtype is z.dtype
        assert grad.memory.strides == np.empty_like(memory).strides
        assert loss.dtype is (torch.float64 if memory.dtype == float else torch.float32)
        assert (loss.device.index, grad.device.index) == (1, 1)
        assert gpu.where.grad == grad.data_ptr()
    assert len(gpu.problems) == 1


def test_torch_that_requires_grad(torch, gpu):
    z, t = torch.Tensor(Z()), torch.Tensor(K())
    held = torch.Tensor(Z(), requires_grad=True)
    for args, options in (((held, t), {}), ((z, t), {"grad_out": held}), ((z, held), {})):
        with pytest.raises(TypeError, match=r"requires grad.*pass x\.detach\(\)"):
            fusedce.cross_entropy(*args, **options)
    with pytest.raises(TypeError, match=r"x\.detach\(\)"):
        fusedce.softmax(held)
    z.is_cuda = False
    assert (
        array_libraries.owner_of(z) is None
        or type(array_libraries.owner_of(z)) is array_libraries.Foreign
    )
    assert not gpu.launches


def test_torch_dtypes_nobody_reads(torch, gpu):
    t = torch.Tensor(K())
    odd = torch.Tensor(Z())
    type(odd).dtype = property(lambda self: torch.float8_e5m2)
    with pytest.raises(TypeError, match="has dtype float8_e5m2, which is not read on a GPU"):
        fusedce.cross_entropy(odd, t)


@each_memory
def test_numba(memory, none, numba, gpu):
    """Without CuPy, the results are Numba's arrays, computed on the default stream."""
    for _ in range(2):
        z, t = NumbaArray(memory, 1), NumbaArray(K(), 1, stream=9)
        loss, grad = fusedce.cross_entropy(z, t)
        assert same_place(gpu.problems[-1].logits, memory)
        assert gpu.launches[-1][3:] == (1, 0)
        assert (0, 9, 1) in gpu.waits
        assert type(loss) is type(grad) is NumbaArray
        assert (grad.dtype, grad.gpu_data.context.device.id) == (memory.dtype, 1)
        assert grad.strides == np.empty_like(memory).strides
        assert gpu.where.grad == grad.memory.ctypes.data
    empty, _ = fusedce.cross_entropy(
        NumbaArray(np.zeros((0, 3))), NumbaArray(np.zeros(0, np.int64)), reduction="sum"
    )
    assert empty.memory == 0.0
    assert "cupy" not in sys.modules


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16"])
def test_real_torch(name):
    """Real PyTorch tensors, on the CPU: all but their memory is as on a GPU."""
    torch = pytest.importorskip("torch")
    (library,) = (x for x in array_libraries.LIBRARIES if isinstance(x, array_libraries.Torch))
    array_libraries._from_torch.cache_clear()
    x = torch.arange(24, dtype=getattr(torch, name)).reshape(4, 6)[:, ::2]
    layout = library.layout(x)
    assert (layout.address, layout.shape) == (x.data_ptr(), (4, 3))
    assert layout.dtype == (BFLOAT16 if name == "bfloat16" else np.dtype(name))
    assert layout.strides == (6 * x.element_size(), 2 * x.element_size())
    seen = np.broadcast_to(array_libraries.device_view(layout)[:, None], (4, 2, 3))
    copy = library.packed(x, seen)
    assert copy.is_contiguous()
    assert torch.equal(copy, x[:, None].expand(4, 2, 3))
    library.assign(x, torch.ones(2, 6, dtype=x.dtype))
    assert (x == 1).all()
    library.fill(x, 3)
    assert (x == 3).all()
    with pytest.raises(TypeError, match=r"a torch\.Tensor that requires grad .* pass x\.detach"):
        library.layout(x.requires_grad_())
    assert array_libraries.owner_of(x.detach()) is None


def test_numba_beside_cupy(numba, cupy, gpu):
    """With CuPy: its current stream, and CuPy copies arrays that cannot be viewed as three axes."""
    cupy.streams = {0: 6}
    crop = np.arange(210, dtype=np.float32).reshape(2, 3, 5, 7)[:, :, :4, :5]
    z, t = NumbaArray(crop), NumbaArray(np.zeros((2, 4, 5), np.int64))
    fusedce.cross_entropy(z, t, axis=1)
    assert gpu.launches[-1][3:] == (0, 6)
    assert cupy.copies == 1
    assert gpu.problems[-1].logits.shape == (2, 3, 20)
    fusedce.cross_entropy(NumbaArray(crop.copy()), t, axis=1, grad_out=z)
    assert gpu.where.grad != crop.ctypes.data


@each_memory
def test_foreign(memory, none, cupy, gpu):
    """Objects with the interface: results are CuPy's, on the device that the driver reports."""
    if memory.dtype == BFLOAT16:
        return
    cupy.places[memory.ctypes.data] = 2
    labels = K()
    cupy.places[labels.ctypes.data] = 2
    cupy.streams = {2: 11}
    for _ in range(2):
        loss, grad = fusedce.cross_entropy(Foreign(memory), Foreign(labels))
        assert same_place(gpu.problems[-1].logits, memory)
        assert gpu.launches[-1][3:] == (2, 11)
        assert type(loss) is type(grad) is cupy.ndarray
        assert (grad.dtype, grad.data.device_id) == (memory.dtype, 2)
        assert grad.strides == np.empty_like(memory).strides
    assert len(gpu.problems) == 1


def test_what_foreign_arrays_say(none, cupy, gpu):
    """Read-only memory, a mask, a stream to wait for, and a wrong byte order."""
    t, locked = Foreign(K()), Z()
    locked.flags.writeable = False
    fusedce.cross_entropy(Foreign(locked), t)
    with pytest.raises(ValueError, match="grad_out must be writeable, got a read-only array"):
        fusedce.cross_entropy(Foreign(Z()), t, grad_out=Foreign(locked))
    masked = Foreign(Z(), said={"mask": Foreign(Z() > 0)})
    with pytest.raises(TypeError, match=r"a tests\.Foreign with a mask is not read"):
        fusedce.cross_entropy(masked, t)
    gpu.waits.clear()
    fusedce.cross_entropy(Foreign(Z(), said={"stream": 2}), t)
    assert set(gpu.waits) == {(0, 2, 0)}
    buffer = Foreign(Z())
    for _ in range(2):
        assert fusedce.cross_entropy(Foreign(Z()), t, grad_out=buffer)[1] is buffer
        assert gpu.where.grad == buffer.memory.ctypes.data
    swapped = Foreign(Z(">f4"))
    with pytest.raises(TypeError, match="logits has dtype >f4, which is not read on a GPU"):
        fusedce.cross_entropy(swapped, t)
    single = Foreign(np.array(0.5))
    assert fusedce.focal(single, Foreign(np.array(1.0)))[1].shape == ()


def test_foreign_without_cupy(none, gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # it is not installed
    with pytest.raises(ImportError) as caught:
        fusedce.cross_entropy(Foreign(Z()), Foreign(K()))
    assert str(caught.value) == (
        "results for objects with __cuda_array_interface__ are CuPy arrays, and CuPy is not "
        "installed: pip install cupy-cuda12x or cupy-cuda13x"
    )


@pytest.mark.parametrize("unaligned", [False, True])
def test_copies_by_cupy(unaligned, cupy, gpu):
    """A packed copy has the same numbers, for any strides, offset and device."""
    count = 2 * 3 * 5 * 7
    room = np.zeros(4 * count + 4, np.uint8)
    start = -room.ctypes.data % 4 + unaligned
    whole = room[start : start + 4 * count].view(np.float32).reshape(2, 3, 5, 7)
    whole[...] = np.arange(count).reshape(whole.shape)
    crop = whole[:, :, ::-2, 1:5]
    assert crop.flags.aligned is not unaligned
    x = cupy.wrap(crop, 1)
    copy = array_libraries.CUPY.packed(
        x, array_libraries.device_view(array_libraries.CUPY.layout(x))
    )
    np.testing.assert_array_equal(copy.memory, crop)
    assert copy.memory.flags.c_contiguous
    assert copy.memory.flags.aligned
    assert copy.data.device_id == 1
    home = cupy.wrap(np.zeros((2, 9, 12), np.float32)[:, :, ::3], 1)
    source = cupy.wrap(np.arange(72, dtype=np.float32).reshape(2, 36), 1)
    array_libraries.CUPY.assign(home, source)
    np.testing.assert_array_equal(home.memory.ravel(), source.memory.ravel())
    half = cupy.wrap(np.ones((6, 4), BFLOAT16)[::2], 0)
    spread = np.lib.stride_tricks.as_strided(
        array_libraries.device_view(array_libraries.CUPY.layout(half)), (3, 2, 4), (16, 0, 2)
    )
    assert array_libraries.CUPY.packed(half, spread).memory.shape == (3, 2, 4)


def test_copies_by_torch(torch):
    (library,) = (x for x in array_libraries.LIBRARIES if isinstance(x, array_libraries.Torch))
    x = torch.Tensor(np.arange(24.0).reshape(4, 6)[:, ::2])
    seen = array_libraries.device_view(library.layout(x))
    copy = library.packed(x, np.broadcast_to(seen[:, None], (4, 5, 3)))
    np.testing.assert_array_equal(copy.memory, np.broadcast_to(x.memory[:, None], (4, 5, 3)))
    odd = np.zeros(9, np.uint8)[1:].view(np.float64)
    with pytest.raises(ValueError, match="a tensor must lie at a multiple of 8 bytes"):
        library.packed(
            torch.Tensor(odd), array_libraries.device_view(library.layout(torch.Tensor(odd)))
        )
    library.assign(x, torch.Tensor(np.ones(12)))
    assert (x.memory == 1).all()


def test_libraries_together(torch, cupy, gpu):
    """Labels and logits of different libraries: the results are of the logits' library."""
    loss, _ = fusedce.cross_entropy(torch.Tensor(Z()), cupy.wrap(K()))
    assert type(loss) is torch.Tensor
    loss, _ = fusedce.focal(cupy.wrap(Z()), torch.Tensor(dense().astype(BFLOAT16)))
    assert type(loss) is cupy.ndarray
    assert gpu.problems[-1].targets.dtype == BFLOAT16


def test_shadows_are_not_read():
    """The NumPy view of a device array describes its layout; computing with it is a TypeError."""
    layout = array_libraries.Layout(0x10000000, (4, 3), (12, 4), np.dtype(np.float32), 0)
    shadow = array_libraries.device_view(layout)
    assert repr(shadow) == str(shadow) == "<GPU array of shape (4, 3) and dtype float32>"
    assert f"{shadow.tolist()!r}" == repr(shadow)
    for touch in (lambda: shadow + 1, lambda: shadow == 0, lambda: np.exp(shadow)):
        with pytest.raises(TypeError, match="does not support ufuncs"):
            touch()
    locked = array_libraries.device_view(
        layout._replace(writeable=False, dtype=BFLOAT16, strides=(6, 2))
    )
    assert (locked.dtype, locked.flags.writeable) == (BFLOAT16, False)
    assert array_libraries.device_view(layout._replace(address=0, shape=(0, 3))).size == 0


REAL = """
import sys, timeit
import numpy as np, cupy
from types import SimpleNamespace
import fusedce
from fusedce.backends import array_libraries
from fusedce.kernels import cuda
from fusedce.kernels.cuda.kernel_args import Facts, Plan

def wrap(a):
    memory = cupy.cuda.UnownedMemory(a.ctypes.data, a.nbytes, a, 0)
    return cupy.ndarray(a.shape, a.dtype, cupy.cuda.MemoryPointer(memory, 0), a.strides)

room = np.zeros(1 << 16, np.uint8)
memory = cupy.cuda.UnownedMemory(-(-room.ctypes.data // 64) * 64, 1 << 15, room, 0)
cupy.cuda.set_allocator(lambda size: cupy.cuda.MemoryPointer(memory, 0))
cupy.cuda.runtime.getDevice = lambda: 0
cupy.cuda.get_current_stream = lambda device: SimpleNamespace(ptr=7)
seen = []
array_libraries.launch = lambda *launch: seen.append(launch)
array_libraries.facts = lambda device: Facts()
dispatch = SimpleNamespace(plan=lambda problem, **_: Plan(("label_pass",), ("losses",), 64))
sys.modules["fusedce.kernels.cuda.dispatch"] = cuda.dispatch = dispatch
for a in (np.zeros((64, 10), np.float32), np.zeros((10, 64), array_libraries.BFLOAT16).T):
    z, t = wrap(a), wrap(np.zeros(64, np.int64))
    loss, grad = fusedce.cross_entropy(z, t)
    assert type(loss) is type(grad) is cupy.ndarray
    assert (grad.dtype, grad.strides) == (a.dtype, np.empty_like(a).strides)
    assert seen[-1][2][0] == a.ctypes.data and seen[-1][3:] == (0, 7)
array_libraries.launch = lambda *launch: None
times = [min(timeit.repeat(f, number=200, repeat=50)) for f in (
    lambda: fusedce.cross_entropy(z, t), lambda: cupy.ndarray((64, 10), np.float32))]
print(times[0] / times[1])
"""


@pytest.mark.skipif(not importlib.util.find_spec("cupy"), reason="CuPy is not installed")
def test_real_cupy_arrays():
    """Real CuPy arrays over NumPy's memory, without a driver.

    A call takes 10 us, as long as CuPy needs to create 11 arrays: load does not change this ratio.
    """
    done = subprocess.run(
        [sys.executable, "-c", REAL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 25


def test_nothing_is_imported():
    """A call with arrays of one GPU library imports no other."""
    code = """
import sys
from types import SimpleNamespace
import numpy as np, fusedce
from fusedce.backends import array_libraries
from fusedce.kernels import cuda
from fusedce.kernels.cuda.kernel_args import Facts, Plan
from tests.cuda.fake_libraries import fake_torch
torch = sys.modules["torch"] = fake_torch()
array_libraries.launch, array_libraries.facts = lambda *launch: None, lambda device: Facts()
dispatch = SimpleNamespace(plan=lambda problem, **_: Plan((), ("losses",), 64))
sys.modules["fusedce.kernels.cuda.dispatch"] = cuda.dispatch = dispatch
z, t = torch.Tensor(np.zeros((4, 3), np.float32)), torch.Tensor(np.zeros(4, np.int64))
assert type(fusedce.cross_entropy(z, t)[1]) is torch.Tensor
found = {name.split(".")[0] for name in sys.modules} & {"cupy", "numba_cuda", "jax", "cuda"}
assert not found, found
assert "numba.cuda" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
