"""How the CPU stores each dtype: loads and stores of vectors of numbers of any dtype.

``storage`` says how a NumPy dtype is stored: by a type tag, and the type of its bits in memory,
which is an integer for floats that Numba has no type for (float16 as int16, bfloat16 as uint16).
``CODECS`` holds the conversions of these to float32 and back. Loads give vectors of T, float32 or
float64, and convert integers to the nearest T.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fusedce.kernels.cpu.load_store import llvm_first_lanes, llvm_masked_load, llvm_masked_store
from fusedce.kernels.intrinsics import (
    bfloat_to_single,
    half_to_single,
    single_to_bfloat,
    single_to_half,
)
from fusedce.kernels.scalar import generated
from fusedce.kernels.vector import FLOAT, I32


class Native(NamedTuple):
    """Type tag: bool, integers, float32 and float64, whose bits have a type of Numba's."""


class Float16(NamedTuple):
    """Type tag: float16, in the bits of an int16."""


class Bfloat16(NamedTuple):
    """Type tag: bfloat16, in the bits of a uint16."""


class Storage(NamedTuple):
    """How a dtype is stored."""

    tag: type
    bits_type: type  # the NumPy type of its bits


_STORAGE: dict[Any, Storage] = {
    np.dtype(np.float16): Storage(Float16, np.int16),
    np.dtype(ml_dtypes.bfloat16): Storage(Bfloat16, np.uint16),
    np.dtype(bool): Storage(Native, np.uint8),
}


def storage(dtype: np.dtype[Any]) -> Storage:
    """How a NumPy dtype is stored."""
    return _STORAGE.get(dtype) or Storage(Native, dtype.type)


def _constant_vector(element, count, value):
    return ir.Constant(ir.VectorType(element, count), [ir.Constant(element, value)] * count)


def _decode_half(builder, bits):
    n = bits.type.count
    half = builder.bitcast(bits, ir.VectorType(ir.HalfType(), n))
    return builder.fpext(half, ir.VectorType(ir.FloatType(), n))


def _encode_half(builder, x):
    n = x.type.count
    half = builder.fptrunc(x, ir.VectorType(ir.HalfType(), n))
    return builder.bitcast(half, ir.VectorType(ir.IntType(16), n))


def _decode_bfloat(builder, bits):
    n = bits.type.count
    wide = builder.zext(bits, ir.VectorType(I32, n))
    shifted = builder.shl(wide, _constant_vector(I32, n, 16))
    return builder.bitcast(shifted, ir.VectorType(ir.FloatType(), n))


def _encode_bfloat(builder, x):
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    n = x.type.count
    bits = builder.bitcast(x, ir.VectorType(I32, n))
    odd = builder.and_(
        builder.lshr(bits, _constant_vector(I32, n, 16)), _constant_vector(I32, n, 1)
    )
    rounded = builder.add(bits, builder.add(odd, _constant_vector(I32, n, 0x7FFF)))
    quiet = builder.or_(bits, _constant_vector(I32, n, 0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", x, x), quiet, rounded)
    upper = builder.lshr(chosen, _constant_vector(I32, n, 16))
    return builder.trunc(upper, ir.VectorType(ir.IntType(16), n))


class Codec(NamedTuple):
    """The conversions of a dtype to float32 and back."""

    decode: Callable[..., Any]  # (builder, vector of bits) -> vector of float32, in LLVM
    encode: Callable[..., Any]  # (builder, vector of float32) -> vector of bits, in LLVM
    decode_one: Any  # bits -> float32, compiled
    encode_one: Any  # float32 -> bits, compiled


CODECS: dict[type, Codec] = {
    Float16: Codec(_decode_half, _encode_half, half_to_single, single_to_half),
    Bfloat16: Codec(_decode_bfloat, _encode_bfloat, bfloat_to_single, single_to_bfloat),
}


def _element(bits_type):
    """The LLVM type of a stored value."""
    return FLOAT.get(bits_type) or ir.IntType(bits_type.bitwidth)


def _resized(builder, x, number):
    """float32 to float64 or back, lane by lane."""
    wide = ir.VectorType(FLOAT[number.dtype], number.width)
    if x.type == wide:
        return x
    return (builder.fpext if number.dtype == types.float64 else builder.fptrunc)(x, wide)


def _decode(builder, tag, bits_type, number, bits):
    """Stored values as a vector of numbers."""
    if tag in CODECS:
        return _resized(builder, CODECS[tag].decode(builder, bits), number)
    if isinstance(bits_type, types.Float):
        return _resized(builder, bits, number)
    convert = builder.sitofp if bits_type.signed else builder.uitofp
    return convert(bits, ir.VectorType(FLOAT[number.dtype], number.width))


def _encode(builder, tag, bits_type, number, x):
    """A vector of numbers as stored values."""
    if tag in CODECS:
        if number.dtype == types.float64:
            x = builder.fptrunc(x, ir.VectorType(ir.FloatType(), number.width))
        return CODECS[tag].encode(builder, x)
    wide = ir.VectorType(FLOAT[bits_type], number.width)
    if x.type == wide:
        return x
    return (builder.fpext if bits_type == types.float64 else builder.fptrunc)(x, wide)


def read_vector(builder, tag, bits_type, number, address, count):
    """The first ``count`` stored values at an address as numbers, zeros in the other lanes.

    All lanes, without a mask, if ``count`` is None.
    """
    vector = ir.VectorType(_element(bits_type), number.width)
    place = builder.inttoptr(address, vector.as_pointer())
    align = bits_type.bitwidth // 8
    if count is None:
        return _decode(builder, tag, bits_type, number, builder.load(place, align=align))
    mask = llvm_first_lanes(builder, count, number.width)
    bits = llvm_masked_load(builder, place, mask, ir.Constant(vector, None), align)
    return _decode(builder, tag, bits_type, number, bits)


def write_vector(builder, tag, bits_type, number, address, count, x):
    """Store the first ``count`` lanes of numbers, or all."""
    bits = _encode(builder, tag, bits_type, number, x)
    place = builder.inttoptr(address, bits.type.as_pointer())
    align = bits_type.bitwidth // 8
    if count is None:
        builder.store(bits, place, align=align)
    else:
        mask = llvm_first_lanes(builder, count, number.width)
        llvm_masked_store(builder, bits, place, mask, align)


@generated
def decode_one(tag, x):
    """The number of a stored value."""
    if tag.instance_class in CODECS:
        convert = CODECS[tag.instance_class].decode_one
        return lambda tag, x: convert(x)
    return lambda tag, x: x


@generated
def encode_one(tag, x):
    """The stored value of a number."""
    if tag.instance_class in CODECS:
        convert = CODECS[tag.instance_class].encode_one
        return lambda tag, x: convert(np.float32(x))
    return lambda tag, x: x


def bits_type_of(ty):
    """The Numba type that a type argument of compiled code stands for."""
    return ty.dtype if hasattr(ty, "dtype") else ty.instance_type


def _count(ty, value):
    """How many lanes, None for all."""
    return None if isinstance(ty, types.NoneType) else value


@intrinsic
def load_as(typingctx, tag, bits_type, number, address, count):
    """The first ``count`` stored values from an address as numbers; None: all."""
    Tag, element, N = tag.instance_class, bits_type_of(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        return read_vector(builder, Tag, element, N, args[3], _count(count, args[4]))

    return N(tag, bits_type, number, types.int64, _whole_or(count)), codegen


@intrinsic
def store_as(typingctx, tag, bits_type, address, count, x):
    """Store the first ``count`` lanes; None: all."""
    Tag, element = tag.instance_class, bits_type_of(bits_type)

    def codegen(context, builder, sig, args):
        write_vector(builder, Tag, element, x, args[2], _count(count, args[3]), args[4])
        return context.get_dummy_value()

    return types.void(tag, bits_type, types.int64, _whole_or(count), x), codegen


def _whole_or(count):
    return types.none if isinstance(count, types.NoneType) else types.int64
