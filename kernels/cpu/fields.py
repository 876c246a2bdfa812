"""What a plan says of arrays: how their numbers are stored, how far apart they lie."""

import functools
from typing import Any

import ml_dtypes
import numpy as np

from fusedce.kernels import launch
from fusedce.kernels.cpu import formats, movers
from fusedce.kernels.cpu.compile import mover
from fusedce.kernels.cpu.driver import Launch
from fusedce.kernels.cpu.plan import PRESENT, packed

_FORMS: dict[Any, tuple[type, type]] = {
    np.dtype(np.float16): (formats.Half, np.int16),
    np.dtype(ml_dtypes.bfloat16): (formats.Bfloat, np.uint16),
    np.dtype(bool): (formats.Plain, np.uint8),
}


def form(dtype: np.dtype[Any]) -> tuple[type, type]:
    """(how a dtype is stored, the NumPy type of its bits)."""
    return _FORMS.get(dtype) or (formats.Plain, dtype.type)


@functools.cache
def _load_mover(dtype: np.dtype[Any], number: type) -> int:
    if number is np.int64:
        return mover(movers.load_indices, dtype.type)
    return mover(movers.loads, *form(dtype), number)


@functools.cache
def _store_mover(dtype: np.dtype[Any], number: type) -> int:
    return mover(movers.stores, *form(dtype), number)


def load(array: np.ndarray, number: type) -> int:
    """The mover that reads an array."""
    return _load_mover(array.dtype, number)


def store(array: np.ndarray, number: type) -> int:
    """The mover that writes an array."""
    return _store_mover(array.dtype, number)


def view(array: np.ndarray) -> tuple[int, int, int, int]:
    """(PRESENT, strides) of an array of three axes; an axis of length 1 stands still."""
    outer, cls, inner = array.strides
    a, b, c = array.shape
    return PRESENT, outer if a > 1 else 0, cls if b > 1 else 0, inner if c > 1 else 0


class Plan:
    """The fields of a plan record, but for addresses: see ``driver.Program``."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}

    def set(self, **fields: Any) -> None:
        """Fill in fields by name."""
        self.record.update(fields)

    def launch(self, made: Any, blocks: int, size: int) -> Launch:
        """A kernel over the blocks of this plan."""
        parallel = blocks > 1 and size >= launch.SERIAL_BELOW
        return Launch(made, packed(self.record), blocks, parallel)
