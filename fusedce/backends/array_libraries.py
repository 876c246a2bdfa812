"""GPU arrays of any library: where they lie, new ones beside them, whose stream is current.

Libraries are looked for among the modules that are loaded; none is imported to find out.
"""

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fusedce import checks
from fusedce.arrays import BFLOAT16


class Layout(NamedTuple):
    """What there is to know of a GPU array."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes
    dtype: np.dtype[Any]
    device: int
    writeable: bool = True
    stream: int | None = None  # whose work has to be done before the array is touched


class Shadow(np.ndarray):
    """A GPU array as NumPy sees its layout. What lies at its address cannot be read here."""

    __array_ufunc__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<GPU array of shape {self.shape} and dtype {self.dtype}>"

    __str__ = __repr__

    def tolist(self) -> Any:
        """Itself, for messages."""
        return self


class _Address:
    """What NumPy asks about memory."""

    __slots__ = ("__array_interface__",)

    def __init__(self, layout: Layout, typestr: str) -> None:
        self.__array_interface__ = {
            "data": (layout.address, not layout.writeable), "shape": layout.shape,
            "strides": layout.strides, "typestr": typestr, "version": 3,
        }  # fmt: skip


def shadow(layout: Layout) -> Shadow:
    """A layout as an array."""
    pun = layout.dtype == BFLOAT16
    try:
        array = np.asarray(_Address(layout, "<u2" if pun else layout.dtype.str))
    except TypeError:  # the float8 of ml_dtypes
        raise checks.unread("an array", layout.dtype) from None
    return (array.view(BFLOAT16) if pun else array).view(Shadow)


def contiguous(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Strides of a C-contiguous array."""
    strides, step = [], item
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def strides_like(array: np.ndarray) -> tuple[int, ...]:
    """The strides of ``np.empty_like(array)``: axes in the order they have in memory, no gaps."""
    order = sorted(range(array.ndim), key=lambda k: -abs(array.strides[k]))
    if array.flags.c_contiguous:
        order = list(range(array.ndim))
    elif array.flags.f_contiguous:
        order = list(reversed(range(array.ndim)))
    strides, step = [0] * array.ndim, array.itemsize
    for k in reversed(order):
        strides[k] = step
        step *= array.shape[k]
    return tuple(strides)


class Cupy:
    """CuPy, whose current stream and arrays also serve arrays of nobody."""

    @property
    def maker(self) -> Any:
        """The library of results."""
        return self

    def owns(self, x: Any) -> bool:
        """Whether x is one of its arrays on a GPU."""
        return isinstance(x, getattr(sys.modules.get("cupy"), "ndarray", ()))

    def layout(self, x: Any) -> Layout:
        """Where x lies. The attributes take 0.3 us, the interface 10."""
        data = x.data
        return Layout(data.ptr, x.shape, x.strides, x.dtype, data.device_id)

    def empty(
        self, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None, device: int
    ) -> Any:
        """A new array on a device, for its current stream; strides None: C-contiguous."""
        cupy = _cupy()
        if cupy.cuda.runtime.getDevice() == device:
            return cupy.ndarray(shape, dtype, strides=strides)
        with cupy.cuda.Device(device):
            return cupy.ndarray(shape, dtype, strides=strides)

    def fill(self, x: Any, value: Any) -> None:
        """Every element of x <- value."""
        with _on(x.data.device_id):
            x.fill(value)

    def packed(self, x: Any, seen: np.ndarray) -> Any:
        """What ``seen`` shows of x, C-contiguous and aligned, in new memory."""
        aligned = seen.flags.aligned
        item = seen.itemsize if aligned else 1  # else byte by byte
        more, steps = ((), ()) if aligned else ((seen.itemsize,), (1,))
        layout = self.layout(x)._replace(
            shape=seen.shape + more, strides=seen.strides + steps, dtype=np.dtype(f"u{item}")
        )
        with _on(layout.device):
            copy = _cupy().array(foreign_view(layout, x), order="C")
        return copy.view(seen.dtype).reshape(seen.shape)

    def assign(self, x: Any, source: Any) -> None:
        """Every element of x <- those of source, in C order."""
        with _on(x.data.device_id):
            x[...] = source.reshape(x.shape)

    def stream(self, device: int) -> int:
        """The handle of its current stream on a device."""
        return int(_cupy().cuda.get_current_stream(device).ptr)


class Torch:
    """PyTorch, whose bfloat16 calls itself float16 in the interface."""

    @property
    def maker(self) -> Any:
        """The library of results."""
        return self

    def owns(self, x: Any) -> bool:
        """Whether x is one of its arrays on a GPU."""
        tensor: Any = getattr(sys.modules.get("torch"), "Tensor", ())
        return isinstance(x, tensor) and bool(x.is_cuda)

    def layout(self, x: Any) -> Layout:
        """Where x lies."""
        if x.requires_grad:
            raise checks.part_of_a_graph(x)
        dtype = _from_torch(x.dtype)
        strides = tuple(s * dtype.itemsize for s in x.stride())
        return Layout(x.data_ptr(), tuple(x.shape), strides, dtype, x.device.index)

    def empty(
        self, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None, device: int
    ) -> Any:
        """A new array on a device, for its current stream; strides None: C-contiguous."""
        torch, dtype = sys.modules["torch"], np.dtype(dtype)
        steps = contiguous(shape, dtype.itemsize) if strides is None else strides
        steps = tuple(s // dtype.itemsize for s in steps)
        kind = getattr(torch, dtype.name)
        return torch.empty_strided(shape, steps, dtype=kind, device=torch.device("cuda", device))

    def fill(self, x: Any, value: Any) -> None:
        """Every element of x <- value."""
        x.fill_(value)

    def packed(self, x: Any, seen: np.ndarray) -> Any:
        """What ``seen`` shows of x, C-contiguous and aligned, in new memory."""
        if not seen.flags.aligned:
            raise checks.unaligned("a tensor", seen)
        return x.as_strided(seen.shape, tuple(s // seen.itemsize for s in seen.strides)).clone(
            memory_format=sys.modules["torch"].contiguous_format
        )

    def assign(self, x: Any, source: Any) -> None:
        """Every element of x <- those of source, in C order."""
        x.copy_(source.reshape(x.shape))

    def stream(self, device: int) -> int:
        """The handle of its current stream on a device."""
        return int(sys.modules["torch"].cuda.current_stream(device).cuda_stream)


class Foreign(Cupy):
    """Any object with ``__cuda_array_interface__``: its results are CuPy's."""

    @property
    def maker(self) -> Any:
        """The library of results."""
        return CUPY

    def owns(self, x: Any) -> bool:
        """Whether x is an array on a GPU."""
        return hasattr(type(x), "__cuda_array_interface__") and _offers(x)

    def layout(self, x: Any) -> Layout:
        """Where x lies, as it says itself; the driver knows on which device."""
        said = x.__cuda_array_interface__
        if said.get("mask") is not None:
            raise checks.masked(x)
        (address, locked), dtype = said["data"], np.dtype(said["typestr"])
        shape, strides = tuple(said["shape"]), said.get("strides")
        strides = contiguous(shape, dtype.itemsize) if strides is None else tuple(strides)
        device = self.device(x, address)
        return Layout(address, shape, strides, dtype, device, not locked, said.get("stream"))

    def device(self, x: Any, address: int) -> int:
        """The device of an address."""
        return int(_cupy().cuda.runtime.pointerGetAttributes(address).device) if address else 0

    def packed(self, x: Any, seen: np.ndarray) -> Any:
        """What ``seen`` shows of x, C-contiguous and aligned, in new memory."""
        return CUPY.packed(foreign_view(self.layout(x), x), seen)

    def fill(self, x: Any, value: Any) -> None:
        """Every element of x <- value."""
        CUPY.fill(foreign_view(self.layout(x), x), value)

    def assign(self, x: Any, source: Any) -> None:
        """Every element of x <- those of source, in C order."""
        source = foreign_view(owner_of(source).layout(source), source)
        CUPY.assign(foreign_view(self.layout(x), x), source)


class Numba(Foreign):
    """numba.cuda, which has no current stream: CuPy's is taken, else the default stream."""

    @property
    def maker(self) -> Any:
        """The library of results."""
        return self

    def owns(self, x: Any) -> bool:
        """Whether x is one of its arrays on a GPU."""
        return bool(getattr(type(x), "__cuda_ndarray__", False)) and "numba.cuda" in sys.modules

    def layout(self, x: Any) -> Layout:
        """Where x lies."""
        stream = int(x.stream) or None
        address = x.device_ctypes_pointer.value or 0
        return Layout(address, x.shape, x.strides, x.dtype, self.device(x, address), True, stream)

    def device(self, x: Any, address: int) -> int:
        """The device of the array's context."""
        return int(x.gpu_data.context.device.id)

    def empty(
        self, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None, device: int
    ) -> Any:
        """A new array on a device; strides None: C-contiguous."""
        cuda = sys.modules["numba.cuda"]
        with cuda.gpus[device]:
            return cuda.device_array(shape, dtype, strides)

    def fill(self, x: Any, value: Any) -> None:
        """Every element of x <- value."""
        x.copy_to_device(np.full(x.shape, value, x.dtype))

    def stream(self, device: int) -> int:
        """CuPy's current stream, or the default one."""
        return super().stream(device) if "cupy" in sys.modules else 0


CUPY = Cupy()
LIBRARIES: tuple[Any, ...] = (CUPY, Torch(), Numba(), Foreign())
_HOST = frozenset({np.ndarray, float, int, bool, str, list, tuple, type(None)})


def owner_of(x: Any) -> Any:
    """The library whose GPU array x is; None if it is no GPU array."""
    if type(x) in _HOST:
        return None
    for library in LIBRARIES:
        if library.owns(x):
            return library
    return None


def _offers(x: Any) -> bool:
    try:
        return getattr(x, "__cuda_array_interface__", None) is not None
    except Exception:  # a CPU tensor of a library that has GPU tensors too raises here
        return False


@contextmanager
def _on(device: int) -> Iterator[None]:
    """CuPy computes on the current device."""
    with _cupy().cuda.Device(device):
        yield


def _cupy() -> Any:
    """CuPy, imported where an array has no library that could allocate another."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        return cupy
    try:
        return importlib.import_module("cupy")
    except ImportError:
        raise checks.no_cupy() from None


def foreign_view(layout: Layout, x: Any) -> Any:
    """The memory of x as CuPy's, without a copy and without waiting."""
    cuda, (address, shape, strides, dtype, device, *_) = _cupy().cuda, layout
    memory = cuda.UnownedMemory(address, dtype.itemsize, x, device)
    return _cupy().ndarray(shape, dtype, cuda.MemoryPointer(memory, 0), strides)


@functools.cache
def _from_torch(dtype: Any) -> np.dtype[Any]:
    name = str(dtype).removeprefix("torch.")
    try:
        return BFLOAT16 if name == "bfloat16" else np.dtype(name)
    except TypeError:
        raise checks.unread("a tensor", dtype) from None


def launch(
    library: Any, launches: tuple[Any, ...], addresses: list[int], device: int, stream: int
) -> bool | None:
    """Start kernels; whether a CUDA graph has them now. ``library`` is that of the logits."""
    from fusedce.kernels.cuda import runtime

    return runtime.run(launches, addresses, device, stream)


# What graphs go on writing to: nobody says when a graph ends.
CAPTURED: list[Any] = []


def facts(device: int) -> Any:
    """What launches depend on."""
    from fusedce.kernels.cuda import runtime

    return runtime.facts(device)


def read(address: int, dtype: Any, device: int, stream: int) -> Any:
    """A number in a device's memory, once a stream is done."""
    from fusedce.kernels.cuda import runtime

    return runtime.read(address, dtype, device, stream)


def wait(stream: int, other: int, device: int) -> None:
    """What comes next on a stream waits for what another one holds."""
    from fusedce.kernels.cuda import runtime

    runtime.wait(stream, other, device)
