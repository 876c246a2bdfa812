"""How numbers are stored: type tags, and what decides which one an array has.

float16 and bfloat16 are decoded to float32 in registers and rounded once, to nearest even, when
they are stored; no arithmetic is done in them.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

CHUNK = 16  # bytes of the widest load and store


class Float64(NamedTuple):
    """Type tag: float64."""


class Float32(NamedTuple):
    """Type tag: float32."""


class Float16(NamedTuple):
    """Type tag: float16."""


class OldFloat16(NamedTuple):
    """Type tag: float16 on a device that rounds one number at a time (before sm_80)."""


class Bfloat16(NamedTuple):
    """Type tag: bfloat16."""


class OldBfloat16(NamedTuple):
    """Type tag: bfloat16 on a device that cannot round to it (before sm_80)."""


class Int8(NamedTuple):
    """Type tag: int8."""


class Int16(NamedTuple):
    """Type tag: int16."""


class Int32(NamedTuple):
    """Type tag: int32."""


class Int64(NamedTuple):
    """Type tag: int64."""


class Uint8(NamedTuple):
    """Type tag: uint8, and bool."""


class Uint16(NamedTuple):
    """Type tag: uint16."""


class Uint32(NamedTuple):
    """Type tag: uint32."""


class Uint64(NamedTuple):
    """Type tag: uint64."""


# What ``any_number`` and its like look up while running: the place in this row.
DTYPE_CODES: tuple[type, ...] = (
    Float64, Float32, Float16, Bfloat16,
    Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64,
)  # fmt: skip
_BY_DTYPE: dict[Any, type] = {
    np.dtype(np.float64): Float64,
    np.dtype(np.float32): Float32,
    np.dtype(np.float16): Float16,
    np.dtype(ml_dtypes.bfloat16): Bfloat16,
    np.dtype(bool): Uint8,
    **{
        np.dtype(f"{letter}{size}"): tag
        for letter, tags in (("i", DTYPE_CODES[4:8]), ("u", DTYPE_CODES[8:12]))
        for size, tag in zip((1, 2, 4, 8), tags, strict=True)
    },
}
BYTES: dict[type, int] = {tag: dtype.itemsize for dtype, tag in _BY_DTYPE.items()}
BYTES[OldBfloat16] = BYTES[OldFloat16] = 2
OLD: dict[type, type] = {Float16: OldFloat16, Bfloat16: OldBfloat16}  # before sm_80


def dtype_tag(dtype: np.dtype[Any], capability: tuple[int, int] = (9, 0)) -> type:
    """How a dtype is stored."""
    found = _BY_DTYPE[np.dtype(dtype)]
    return found if capability >= (8, 0) else OLD.get(found, found)


def dtype_code(dtype: np.dtype[Any]) -> int:
    """The same as a number."""
    return DTYPE_CODES.index(_BY_DTYPE[np.dtype(dtype)])


class _Lanes(NamedTuple):
    """Type tag: how many numbers a thread works on at once."""


def _lanes(number: int) -> type:
    return type(f"Lanes{number}", (_Lanes,), {"lanes": number, "__module__": __name__})


LANES = {n: _lanes(n) for n in range(1, 65)}
