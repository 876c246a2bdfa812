"""A stand-in for CuPy 14 whose arrays are in the memory of this process, for emulated kernels.

NumPy does the computation. As in CuPy, implicit conversion to NumPy arrays and mixing with them are
errors. New memory is filled with NaN. Streams are handles only: all work is synchronous.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
import types
import weakref

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

MEMORY = 8 << 30  # bytes that the device reports to have
BLOCKS: dict[int, int] = {}  # start -> end of all memory in use


class Memory:
    """An allocation on the device, aligned to 512 bytes."""

    def __init__(self, size):
        self.raw = np.full(size + 512, 0xFF, np.uint8)  # NaN in every float type
        self.ptr = -(-self.raw.ctypes.data // 512) * 512
        self.size, self.device_id = size, 0
        BLOCKS[self.ptr] = self.ptr + size
        weakref.finalize(self, BLOCKS.pop, self.ptr)


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, 0

    def __add__(self, n):
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + int(n))

    def memset_async(self, value, size, stream=None):
        ctypes.memset(self.ptr, value, size)

    def copy_from_device_async(self, other, size, stream=None):
        ctypes.memmove(self.ptr, other.ptr, size)


def alloc(size):
    return MemoryPointer(Memory(int(size)), 0)


NOWHERE = types.SimpleNamespace(ptr=0, size=0, device_id=0)  # the memory of an empty array


def on_host(pointer, shape, strides, dtype):
    """A NumPy view of device memory, which keeps that memory alive."""
    if 0 in shape:
        return np.empty(shape, dtype)
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    low = sum(min(0, s) for s in steps)
    size = sum(map(abs, steps)) + dtype.itemsize
    room = (ctypes.c_char * size).from_address(pointer.ptr + low)
    room.owner = pointer
    first = np.frombuffer(room, np.uint8)[-low : -low + dtype.itemsize].view(dtype)
    return np.lib.stride_tricks.as_strided(first, shape, strides)


def unwrapped(x):
    """x with its CuPy arrays as NumPy arrays; NumPy arrays in x raise TypeError, as in CuPy."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray) and x.ndim:
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, tuple | list):
        return type(x)(map(unwrapped, x))
    return {k: unwrapped(v) for k, v in x.items()} if isinstance(x, dict) else x


def wrapped(x, parent=None):
    """x with its NumPy arrays as CuPy arrays: views if in the memory of ``parent``, else copies."""
    if isinstance(x, tuple):
        return tuple(wrapped(y, parent) for y in x)
    if not isinstance(x, np.ndarray | np.generic):
        return x
    a = np.asarray(x)
    address = a.__array_interface__["data"][0]
    if parent is not None and a.size and a.base is not None:
        memory = parent.data.mem
        if memory.ptr <= address < memory.ptr + memory.size:
            return ndarray(a.shape, a.dtype, MemoryPointer(memory, address - memory.ptr), a.strides)
    made = ndarray(a.shape, a.dtype, None, np.empty_like(a).strides)
    made.host[...] = a
    return made


class ndarray(NDArrayOperatorsMixin):
    """CuPy's array: a pointer, a shape, strides, a dtype."""

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        self.shape = (int(shape),) if np.ndim(shape) == 0 else tuple(map(int, shape))
        self.dtype = np.dtype(dtype)
        self.ndim, self.size = len(self.shape), int(np.prod(self.shape, dtype=int))
        self.itemsize, self.nbytes = self.dtype.itemsize, self.size * self.dtype.itemsize
        if strides is None:
            like = np.broadcast_to(np.zeros((), self.dtype), self.shape)
            strides = (
                np.empty_like(like, order=order, subok=False).strides if self.size else like.strides
            )
        self.strides = tuple(strides)
        if memptr is None:
            memptr = alloc(self.nbytes) if self.size else NOWHERE
        self.data = memptr
        self.device = types.SimpleNamespace(id=0)

    @property
    def host(self):
        return on_host(self.data, self.shape, self.strides, self.dtype)

    @property
    def flags(self):
        found = self.host.flags
        return types.SimpleNamespace(
            c_contiguous=found.c_contiguous, f_contiguous=found.f_contiguous
        )

    @property
    def __cuda_array_interface__(self):
        kind = "<V2" if self.dtype.name == "bfloat16" else self.dtype.str
        strides = None if self.flags.c_contiguous else self.strides
        return {"shape": self.shape, "typestr": kind, "data": (self.data.ptr, False), "version": 3,
                "strides": strides, "stream": 1}  # fmt: skip

    def __array__(self, *args, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        found = getattr(ufunc, method)(*unwrapped(inputs), **unwrapped(options))
        return options["out"][0] if options.get("out") else wrapped(found)

    def __array_function__(self, function, kinds, args, options):
        parent = next((a for a in args if isinstance(a, ndarray)), None)
        return wrapped(function(*unwrapped(args), **unwrapped(options)), parent)

    def get(self, *args, **options):
        return np.array(self.host, order="K")

    def set(self, a, stream=None):
        assert isinstance(a, np.ndarray)
        assert (a.dtype, a.shape) == (self.dtype, self.shape)
        self.host[...] = a

    def __getitem__(self, key):
        return wrapped(self.host[unwrapped(key)], self)

    def __setitem__(self, key, value):
        self.host[unwrapped(key)] = unwrapped(value)

    def __len__(self):
        return self.shape[0]

    def __float__(self):
        return float(self.host)

    def __int__(self):
        return int(self.host)

    def __bool__(self):
        return bool(self.host)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self.host, name)
        if not callable(found):
            return wrapped(found, self)

        def method(*args, **options):
            return wrapped(getattr(self.host, name)(*unwrapped(args), **unwrapped(options)), self)

        return method

    __hash__ = object.__hash__


class Stream:
    """A handle; ``with`` makes it the current one."""

    made, current = 100, []

    def __init__(self, null=False, non_blocking=False, ptds=False):
        Stream.made += 1
        self.ptr = 0 if null else 2 if ptds else Stream.made

    def __enter__(self):
        Stream.current.append(self)
        return self

    def __exit__(self, *failure):
        Stream.current.pop()

    def synchronize(self):
        """Nothing to wait for: all work is synchronous."""


Stream.null, Stream.ptds = Stream(null=True), Stream(ptds=True)


class Event:
    """An event: the time of this process at which it was recorded."""

    done = True

    def __init__(self, *args, **options):
        self.time = 0.0

    def record(self, stream=None):
        self.time = time.perf_counter()

    def synchronize(self):
        """Nothing to wait for: all work is synchronous."""


class CUDARuntimeError(RuntimeError):
    """The error that CuPy raises."""


def memcpy(to, source, size, kind):
    assert kind in (1, 2)
    ctypes.memmove(to, source, size)


def _cuda():
    """cupy.cuda."""
    runtime = types.SimpleNamespace(
        memcpy=memcpy, getDevice=lambda: 0, getDeviceCount=lambda: 1,
        deviceSynchronize=lambda: None, memGetInfo=lambda: (MEMORY * 3 // 4, MEMORY),
        driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000,
        CUDARuntimeError=CUDARuntimeError,
        pointerGetAttributes=lambda address: types.SimpleNamespace(device=0),
        getDeviceProperties=lambda k: {
            "name": b"Emulated", "totalGlobalMem": MEMORY, "l2CacheSize": 50 << 20,
            "multiProcessorCount": 132, "major": 9, "minor": 0,
        },
    )  # fmt: skip
    return types.SimpleNamespace(
        alloc=alloc, runtime=runtime, Stream=Stream, Event=Event, UnownedMemory=UnownedMemory,
        MemoryPointer=MemoryPointer, Device=lambda k=0: contextlib.nullcontext(),
        set_allocator=lambda allocator=None: None,
        get_elapsed_time=lambda a, b: 1e3 * (b.time - a.time),
        get_current_stream=lambda device=None: (Stream.current or [Stream.null])[-1],
    )  # fmt: skip


class _Pool:
    def used_bytes(self):
        return sum(end - start for start, end in BLOCKS.items())

    total_bytes = used_bytes

    def free_all_blocks(self):
        """Nothing to free: the pool caches no blocks."""


def module():
    """A new module that stands in for ``cupy``."""
    m = types.ModuleType("cupy")
    m.__spec__ = types.SimpleNamespace(
        name="cupy", loader=None, origin=None, submodule_search_locations=None
    )
    m.ndarray, m.cuda, m.get_default_memory_pool = ndarray, _cuda(), _Pool

    def array(a, dtype=None, copy=True, order="K"):
        return wrapped(np.array(unwrapped(a) if isinstance(a, ndarray) else a, dtype, order=order))

    def full(shape, value, dtype=None):
        made = ndarray(shape, np.asarray(value).dtype if dtype is None else dtype)
        made.host[...] = value
        return made

    m.array, m.full = array, full
    m.asarray = lambda a, dtype=None: a if isinstance(a, ndarray) else wrapped(np.asarray(a, dtype))
    m.empty = lambda shape, dtype=float, order="C": ndarray(shape, dtype, order=order)
    m.empty_like = lambda a, dtype=None: ndarray(
        a.shape, dtype or a.dtype, None, np.empty_like(a.host, dtype).strides
    )
    m.zeros = lambda shape, dtype=float: full(shape, 0, dtype)
    m.ones = lambda shape, dtype=float: full(shape, 1, dtype)
    m.from_dlpack = lambda x: wrapped(np.from_dlpack(x))
    m.__getattr__ = _of_numpy
    return m


def _of_numpy(name):
    """NumPy's function of that name, for arrays of this module."""
    if name.startswith("_"):
        raise AttributeError(name)
    found = getattr(np, name)
    if isinstance(found, type) or not callable(found):
        return found

    def function(*args, **options):
        parent = next((x for x in args if isinstance(x, ndarray)), None)
        result = found(*unwrapped(args), **unwrapped(options))
        return options["out"] if options.get("out") is not None else wrapped(result, parent)

    return function
