"""The parts of CuPy, PyTorch and numba.cuda that fusedce uses, on NumPy's memory; no tests.

Each fake replaces the module of its name. Operations that would wait for a GPU raise.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from types import SimpleNamespace

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def seen(address, shape, strides, dtype):
    """A NumPy view of the memory at an address."""
    dtype = np.dtype(dtype)
    if 0 in shape:
        return np.empty(shape, dtype)
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    low = sum(min(0, s) for s in steps)
    size = sum(abs(s) for s in steps) + dtype.itemsize
    room = np.frombuffer((ctypes.c_char * size).from_address(address + low), np.uint8)
    return np.lib.stride_tricks.as_strided(
        room[-low : -low + dtype.itemsize].view(dtype), shape, strides
    )


def fake_cupy():
    """A module like cupy; ``current``: its device, ``streams``: the current stream of each."""

    class Ndarray:
        def __init__(self, shape, dtype=float, memptr=None, strides=None, device=None):
            dtype = np.dtype(dtype)
            if memptr is None:
                device = module.current if device is None else device
                owner = np.zeros(int(np.prod(shape)) * dtype.itemsize + 64, np.uint8)
                memptr = SimpleNamespace(ptr=-(-owner.ctypes.data // 64) * 64, device_id=device,
                                         owner=owner)  # fmt: skip
            self.data, self.shape, self.dtype = memptr, tuple(shape), dtype
            self.strides = strides or np.empty(shape, dtype).strides

        @property
        def memory(self):
            return seen(self.data.ptr, self.shape, self.strides, self.dtype)

        def fill(self, value):
            assert module.current == self.data.device_id
            self.memory[...] = value

        def view(self, dtype):
            return wrap(self.memory.view(dtype), self.data.device_id, self)

        def reshape(self, *shape):
            return wrap(self.memory.reshape(*shape), self.data.device_id, self)

        def __setitem__(self, key, value):
            assert module.current == self.data.device_id
            self.memory[key] = value.memory

        @property
        def __cuda_array_interface__(self):
            raise AssertionError("slow: its attributes say the same")

        def __array__(self, *_args, **_options):
            raise AssertionError("this waits for the GPU")

    def wrap(memory, device=0, owner=None):
        held = SimpleNamespace(ptr=memory.ctypes.data, device_id=device, owner=(memory, owner))
        return Ndarray(memory.shape, memory.dtype, held, memory.strides)

    def array(x, order):
        assert (order, module.current) == ("C", x.data.device_id)
        module.copies += 1
        return wrap(np.array(x.memory, order="C"), x.data.device_id)

    @contextmanager
    def device(k):
        before, module.current = module.current, k
        yield
        module.current = before

    def unowned(address, size, owner, device):
        return SimpleNamespace(ptr=address, device_id=device, owner=owner)

    runtime = SimpleNamespace(
        getDevice=lambda: module.current,
        pointerGetAttributes=lambda address: SimpleNamespace(device=module.places.get(address, 0)),
    )
    cuda = SimpleNamespace(
        Device=device, UnownedMemory=unowned, MemoryPointer=lambda memory, offset: memory,
        runtime=runtime,
        get_current_stream=lambda k: SimpleNamespace(ptr=module.streams.get(k, 0)),
    )  # fmt: skip
    module = SimpleNamespace(ndarray=Ndarray, array=array, cuda=cuda, wrap=wrap)
    module.current, module.copies, module.streams, module.places = 0, 0, {}, {}
    return module


class Dtype:
    """torch.float32 and its like."""

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"torch.{self.name}"


def fake_torch():
    """A module like torch: strides count elements, and bfloat16 says it is float16."""

    class Tensor:
        def __init__(self, memory, device=0, requires_grad=False):
            self.memory, self.requires_grad, self.is_cuda = memory, requires_grad, True
            self.device = SimpleNamespace(index=device)

        shape = property(lambda self: self.memory.shape)
        dtype = property(lambda self: getattr(module, self.memory.dtype.name))

        def stride(self):
            return tuple(s // self.memory.itemsize for s in self.memory.strides)

        def data_ptr(self):
            return self.memory.ctypes.data

        def as_strided(self, shape, strides):
            steps = [s * self.memory.itemsize for s in strides]
            return Tensor(np.lib.stride_tricks.as_strided(self.memory, shape, steps))

        def clone(self, memory_format):
            assert memory_format == "contiguous"
            return Tensor(self.memory.copy("C"))

        def reshape(self, shape):
            return Tensor(self.memory.reshape(shape), self.device.index)

        def copy_(self, other):
            self.memory[...] = other.memory

        def fill_(self, value):
            self.memory[...] = value

        @property
        def __cuda_array_interface__(self):
            if self.requires_grad:
                raise RuntimeError("use var.detach()")
            pun = "<f2" if self.memory.dtype == BFLOAT16 else self.memory.dtype.str
            return {"shape": self.shape, "typestr": pun, "data": (self.data_ptr(), False)}

        def __array__(self, *_args, **_options):
            raise AssertionError("this waits for the GPU")

    def empty_strided(shape, strides, dtype, device):
        kind = BFLOAT16 if dtype.name == "bfloat16" else np.dtype(dtype.name)
        room = np.zeros(int(np.prod(shape)) * kind.itemsize + 64, np.uint8)
        start = -room.ctypes.data % 64
        flat = room[start : start + int(np.prod(shape)) * kind.itemsize].view(kind)
        steps = [s * kind.itemsize for s in strides]
        return Tensor(np.lib.stride_tricks.as_strided(flat, shape, steps), device[1])

    names = ("bfloat16", "float16", "float32", "float64", "int64", "int32", "uint8", "bool",
             "complex64", "float8_e5m2")  # fmt: skip
    module = SimpleNamespace(**{name: Dtype(name) for name in names})
    module.Tensor, module.empty_strided, module.streams = Tensor, empty_strided, {}
    module.contiguous_format, module.device = "contiguous", lambda kind, k: (kind, k)
    module.cuda = SimpleNamespace(
        current_stream=lambda k: SimpleNamespace(cuda_stream=module.streams.get(k, 0))
    )
    return module


class NumbaArray:
    """A numba.cuda device array."""

    __cuda_ndarray__ = True

    def __init__(self, memory, device=0, stream=0):
        self.memory, self.stream = memory, stream
        self.shape, self.strides, self.dtype = memory.shape, memory.strides, memory.dtype
        self.device_ctypes_pointer = SimpleNamespace(value=memory.ctypes.data or None)
        where = SimpleNamespace(device=SimpleNamespace(id=device))
        self.gpu_data = SimpleNamespace(context=where)

    def copy_to_device(self, value):
        self.memory[...] = value

    @property
    def __cuda_array_interface__(self):
        raise AssertionError("slow: its attributes say the same")


def fake_numba():
    """A module like numba.cuda; a new array is on the current device."""

    class Gpus:
        @contextmanager
        def __getitem__(self, k):
            module.current = k
            yield
            module.current = 0

    def device_array(shape, dtype, strides):
        memory = np.zeros(shape, dtype)
        if strides is not None:
            memory = np.lib.stride_tricks.as_strided(memory, shape, strides)
        return NumbaArray(memory, module.current)

    module = SimpleNamespace(gpus=Gpus(), device_array=device_array, current=0)
    return module


class Foreign:
    """An object of no known library that has ``__cuda_array_interface__``."""

    def __init__(self, memory, **more):
        self.memory = memory
        self.__dict__.update(more)

    @property
    def __cuda_array_interface__(self):
        a = self.memory
        return {
            "shape": a.shape, "typestr": a.dtype.str, "version": 3,
            "data": (a.ctypes.data, not a.flags.writeable),
            "strides": None if a.flags.c_contiguous else a.strides, **vars(self).get("said", {}),
        }  # fmt: skip
