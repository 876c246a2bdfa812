"""The table of dtypes: how each is stored, decoded and encoded by a kernel.

float16 and bfloat16 are decoded to float32 in registers and rounded once, to nearest even, when
they are stored; no arithmetic is done in them. A kernel is compiled for the dtype of its logits,
given as a type tag. An array that is read once a row or once an element is read by the code of its
dtype, which is looked up at run time (``any_number`` in load_store_scalar.py).
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


class Float16PreSm80(NamedTuple):
    """Type tag: float16 on a device that cannot round two numbers in one instruction."""


class Bfloat16(NamedTuple):
    """Type tag: bfloat16."""


class Bfloat16PreSm80(NamedTuple):
    """Type tag: bfloat16 on a device without an instruction that rounds to it."""


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


class Dtype(NamedTuple):
    """A row of the table. Texts are PTX instructions on one number, or on a pair of them."""

    tag: type
    numpy: Any  # NumPy's name of the dtype
    kind: str  # f: float, i: signed integer, u: unsigned integer
    size: int  # bytes
    one: int = 1  # the bits of 1
    negative_infinity: int = 0  # the bits of -inf
    # To float32; None: the bits are the upper bits of a float32.
    decode: str | None = None
    # From float32; None: the same, rounded in integer arithmetic.
    encode: str | None = None
    # From two float32 to the 32 bits of two numbers; None: one after the other.
    encode_pair: str | None = None
    # The type of a fused multiply-add on 32 bits of numbers; None: labels are tested as integers.
    fma: str | None = None


_FLOAT16 = Dtype(
    Float16, np.float16, "f", 2, 0x3C00, 0xFC00, "cvt.f32.f16 $0, $1;", "cvt.rn.f16.f32 $0, $1;",
    "cvt.rn.f16x2.f32 $0, $2, $1;", "f16x2",
)  # fmt: skip
_BFLOAT16 = Dtype(
    Bfloat16, ml_dtypes.bfloat16, "f", 2, 0x3F80, 0xFF80, None, "cvt.rn.bf16.f32 $0, $1;",
    "cvt.rn.bf16x2.f32 $0, $2, $1;", "bf16x2",
)  # fmt: skip
# The code of a dtype is its position in this table.
DTYPES = (
    Dtype(Float64, np.float64, "f", 8, 0x3FF << 52, 0xFFF << 52),
    Dtype(Float32, np.float32, "f", 4, 0x3F800000, 0xFF800000, fma="f32"),
    _FLOAT16, _BFLOAT16,
    Dtype(Int8, np.int8, "i", 1), Dtype(Int16, np.int16, "i", 2),
    Dtype(Int32, np.int32, "i", 4), Dtype(Int64, np.int64, "i", 8),
    Dtype(Uint8, np.uint8, "u", 1), Dtype(Uint16, np.uint16, "u", 2),
    Dtype(Uint32, np.uint32, "u", 4), Dtype(Uint64, np.uint64, "u", 8),
)  # fmt: skip
PRE_SM80 = {
    Float16: _FLOAT16._replace(tag=Float16PreSm80, encode_pair=None),
    Bfloat16: _BFLOAT16._replace(tag=Bfloat16PreSm80, encode=None, encode_pair=None, fma=None),
}

INFO: dict[type, Dtype] = {row.tag: row for row in (*DTYPES, *PRE_SM80.values())}
SIZE: dict[type, int] = {tag: row.size for tag, row in INFO.items()}
CODE: dict[type, int] = {row.tag: k for k, row in enumerate(DTYPES)}
_TAG: dict[Any, type] = {np.dtype(row.numpy): row.tag for row in DTYPES} | {np.dtype(bool): Uint8}


def dtype_tag(dtype: np.dtype[Any], capability: tuple[int, int] = (9, 0)) -> type:
    """The type tag of a dtype, on a device of this compute capability."""
    tag = _TAG[np.dtype(dtype)]
    return PRE_SM80[tag].tag if capability < (8, 0) and tag in PRE_SM80 else tag


def dtype_code(dtype: np.dtype[Any]) -> int:
    """The code of a dtype, for arrays whose dtype is looked up at run time."""
    return CODE[_TAG[np.dtype(dtype)]]


def fill_words(tag: type, value: str) -> tuple[int, int]:
    """The words of 32 bits, at even and at odd positions, of an array filled with -inf or 0."""
    row = INFO[tag]
    bits = row.negative_infinity if value == "-inf" else 0
    if row.size == 8:
        return bits & 0xFFFFFFFF, bits >> 32
    return (sum(bits << 8 * row.size * k for k in range(4 // row.size)),) * 2


class _Lanes(NamedTuple):
    """Type tag: how many numbers a thread computes at once, ``lanes``."""


def _lanes_tag(number: int) -> type:
    return type(f"Lanes{number}", (_Lanes,), {"lanes": number, "__module__": __name__})


LANES = {n: _lanes_tag(n) for n in range(1, 65)}
