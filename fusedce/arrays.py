"""NumPy arrays: dtypes, shapes, views of three axes, overlaps."""

import sys
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)


def type_name(x: Any) -> str:
    """The name of a type with its top-level package, for messages."""
    return f"{type(x).__module__.split('.')[0]}.{type(x).__qualname__}"


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype holds real numbers or booleans."""
    return dtype.kind in "biuf" or dtype == BFLOAT16


def is_masked(x: Any) -> bool:
    """Whether x is a numpy.ma array or a list with one; numpy.ma is not imported to find out."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    return isinstance(x, masked) or (
        isinstance(x, list | tuple) and any(isinstance(part, masked) for part in x)
    )


def native(array: np.ndarray) -> np.ndarray:
    """The array, or a copy, in native byte order, aligned and of at most 64 bits a number."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


def compute_type(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The type of all arithmetic: float64 for float64, else float32."""
    return np.float64 if dtype == np.float64 else np.float32


def loss_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a loss: that of the logits, or float32 for half precision."""
    return np.dtype(compute_type(dtype))


def split_shape(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """(outer, class, inner): the extents before an axis, of it and after it."""
    outer = inner = 1
    for n in shape[:axis]:
        outer *= n
    for n in shape[axis + 1 :]:
        inner *= n
    return outer, shape[axis], inner


def view3(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An input as (outer, class, inner): a view where strides allow, else a copy."""
    return array.reshape(shape)


def out3(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An output as (outer, class, inner): a view where strides allow, else scratch.

    ``copy_back`` copies from that scratch.
    """
    try:
        return array.reshape(shape, copy=False)
    except ValueError:
        return np.empty(shape, array.dtype)


def copy_back(array: np.ndarray, view: np.ndarray) -> None:
    """Copy results into an output for which ``out3`` had to allocate scratch."""
    if not np.may_share_memory(array, view):
        array[...] = view.reshape(array.shape)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays share an element; True as well if that takes too long to find out."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same_elements(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same address, shape, strides and dtype."""
    return (
        a.ctypes.data == b.ctypes.data
        and a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def unravel(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of an element, given its position in C order."""
    return tuple(int(k) for k in np.unravel_index(position, shape))
