"""Arrays of NumPy: dtypes, shapes, views of three axes, overlaps."""

import sys
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)


def kind(x: Any) -> str:
    """The name of an array's type, for messages."""
    return f"{type(x).__module__.split('.')[0]}.{type(x).__qualname__}"


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether these are numbers, or yes and no."""
    return dtype.kind in "biuf" or dtype == BFLOAT16


def is_masked(x: Any) -> bool:
    """Whether x is an array of numpy.ma, or a list of some; that module is not imported for it."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    return isinstance(x, masked) or (
        isinstance(x, list | tuple) and any(isinstance(part, masked) for part in x)
    )


def native(array: np.ndarray) -> np.ndarray:
    """The array itself if kernels can read it, else a copy: native, aligned, at most 64 bits."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


def compute_type(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The type of all arithmetic: float64 for float64, else float32."""
    return np.float64 if dtype == np.float64 else np.float32


def loss_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a loss: the logits', float32 for half precision."""
    return np.dtype(compute_type(dtype))


def split_shape(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """(outer, class, inner) sizes around an axis."""
    outer = inner = 1
    for n in shape[:axis]:
        outer *= n
    for n in shape[axis + 1 :]:
        inner *= n
    return outer, shape[axis], inner


def view3(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An input as three axes: a view where strides allow, else a copy."""
    return array.reshape(shape)


def out3(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An output as three axes: a view where strides allow, else scratch (see ``written``)."""
    try:
        return array.reshape(shape, copy=False)
    except ValueError:
        return np.empty(shape, array.dtype)


def written(array: np.ndarray, view: np.ndarray) -> None:
    """Bring results from scratch home, where ``out3`` had to take some."""
    if not np.may_share_memory(array, view):
        array[...] = view.reshape(array.shape)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have an element in common; a doubt that takes long to settle is a yes."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are element by element the same memory."""
    return (
        a.ctypes.data == b.ctypes.data
        and a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def place(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where the so manieth element is."""
    return tuple(int(k) for k in np.unravel_index(position, shape))
