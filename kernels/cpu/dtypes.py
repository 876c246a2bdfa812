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
from numba.extending import intrinsic, overload

from fusedce.kernels.cpu.load_store import first_lanes, llvm_masked_load, llvm_masked_store
from fusedce.kernels.intrinsics import (
    bfloat_to_single,
    half_to_single,
    single_to_bfloat,
    single_to_half,
)
from fusedce.kernels.scalar import INLINED
from fusedce.kernels.vector import FLOAT, I32, I64


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


class Lines(NamedTuple):
    """Rows of an array: the address of the first, and the bytes from one to the next."""

    address: int
    stride: int


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


def read_lanes(builder, tag, bits_type, number, address, count):
    """The first ``count`` stored values at an address as numbers, zeros in the other lanes.

    All lanes, without a mask, if ``count`` is None.
    """
    vector = ir.VectorType(_element(bits_type), number.width)
    place = builder.inttoptr(address, vector.as_pointer())
    align = bits_type.bitwidth // 8
    if count is None:
        return _decode(builder, tag, bits_type, number, builder.load(place, align=align))
    mask = first_lanes(builder, count, number.width)
    bits = llvm_masked_load(builder, place, mask, ir.Constant(vector, None), align)
    return _decode(builder, tag, bits_type, number, bits)


def write_lanes(builder, tag, bits_type, number, address, count, x):
    """Store the first ``count`` lanes of numbers, or all."""
    bits = _encode(builder, tag, bits_type, number, x)
    place = builder.inttoptr(address, bits.type.as_pointer())
    align = bits_type.bitwidth // 8
    if count is None:
        builder.store(bits, place, align=align)
    else:
        mask = first_lanes(builder, count, number.width)
        llvm_masked_store(builder, bits, place, mask, align)


def decode_one(tag, x):
    """The number of a stored value."""
    raise NotImplementedError("compiled code only")


def encode_one(tag, x):
    """The stored value of a number."""
    raise NotImplementedError("compiled code only")


@overload(decode_one, jit_options=INLINED)
def _decode_one(tag, x):
    if tag.instance_class in CODECS:
        convert = CODECS[tag.instance_class].decode_one
        return lambda tag, x: convert(x)
    return lambda tag, x: x


@overload(encode_one, jit_options=INLINED)
def _encode_one(tag, x):
    if tag.instance_class in CODECS:
        convert = CODECS[tag.instance_class].encode_one
        return lambda tag, x: convert(np.float32(x))
    return lambda tag, x: x


def _bits(ty):
    return ty.dtype if hasattr(ty, "dtype") else ty.instance_type


def _count(ty, value):
    """How many lanes, None for all."""
    return None if isinstance(ty, types.NoneType) else value


@intrinsic
def load_as(typingctx, tag, bits_type, number, address, count):
    """The first ``count`` stored values from an address as numbers; None: all."""
    Tag, element, N = tag.instance_class, _bits(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        return read_lanes(builder, Tag, element, N, args[3], _count(count, args[4]))

    return N(tag, bits_type, number, types.int64, _whole_or(count)), codegen


@intrinsic
def store_as(typingctx, tag, bits_type, address, count, x):
    """Store the first ``count`` lanes; None: all."""
    Tag, element = tag.instance_class, _bits(bits_type)

    def codegen(context, builder, sig, args):
        write_lanes(builder, Tag, element, x, args[2], _count(count, args[3]), args[4])
        return context.get_dummy_value()

    return types.void(tag, bits_type, types.int64, _whole_or(count), x), codegen


def _whole_or(count):
    return types.none if isinstance(count, types.NoneType) else types.int64


def _shuffle(builder, a, b, picks):
    constant = ir.Constant(ir.VectorType(I32, len(picks)), [ir.Constant(I32, k) for k in picks])
    return builder.shuffle_vector(a, b, constant)


def _transposed(builder, rows):
    """The columns of a square of vectors: each step exchanges blocks of half the size."""
    n, half = len(rows), len(rows) // 2
    while half:
        out = list(rows)
        low = [k if not k & half else n + (k ^ half) for k in range(n)]
        high = [(k ^ half) if not k & half else n + k for k in range(n)]
        for i in range(n):
            if not i & half:
                out[i] = _shuffle(builder, rows[i], rows[i + half], low)
                out[i + half] = _shuffle(builder, rows[i], rows[i + half], high)
        rows, half = out, half // 2
    return rows


def _limit(builder, index, limit, count):
    """``count`` for an index below ``limit``, else 0."""
    there = builder.icmp_signed("<", ir.Constant(I64, index), limit)
    return builder.select(there, count, ir.Constant(I64, 0))


def _strided(builder, address, step, k):
    return builder.add(address, builder.mul(step, ir.Constant(I64, k)))


def _unpacked(builder, *lines):
    """(address, stride) of each of some ``Lines``."""
    return [tuple(builder.extract_value(x, k) for k in range(2)) for x in lines]


@intrinsic
def load_square(typingctx, tag, bits_type, number, source, rows, columns, target):
    """target[j, i] <- source[i, j] for up to as many rows and columns as a vector has lanes.

    source: ``Lines`` of stored values; target: ``Lines`` of numbers.
    """
    Tag, element, N = tag.instance_class, _bits(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, rows, columns, out = args[3:]
        (source, step), (target, pitch) = _unpacked(builder, lines, out)
        vectors = [
            read_lanes(builder, Tag, element, N, _strided(builder, source, step, k),
                       _limit(builder, k, rows, columns))
            for k in range(N.width)
        ]  # fmt: skip
        for k, x in enumerate(_transposed(builder, vectors)):
            count = _limit(builder, k, columns, rows)
            write_lanes(builder, Native, N.dtype, N, _strided(builder, target, pitch, k), count, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, source, types.int64, types.int64, target), codegen


@intrinsic
def store_square(typingctx, tag, bits_type, number, source, rows, columns, target):
    """target[j, i] <- source[i, j]: numbers are stored, the reverse of ``load_square``."""
    Tag, element, N = tag.instance_class, _bits(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, rows, columns, out = args[3:]
        (source, pitch), (target, step) = _unpacked(builder, lines, out)
        vectors = [
            read_lanes(builder, Native, N.dtype, N, _strided(builder, source, pitch, k),
                       _limit(builder, k, rows, columns))
            for k in range(N.width)
        ]  # fmt: skip
        for k, x in enumerate(_transposed(builder, vectors)):
            count = _limit(builder, k, columns, rows)
            write_lanes(builder, Tag, element, N, _strided(builder, target, step, k), count, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, source, types.int64, types.int64, target), codegen


@intrinsic
def load_full_square(typingctx, tag, bits_type, number, source, columns, target):
    """``load_square`` without masks: whole vectors are read, ``columns`` of them written.

    Reads beyond ``columns`` where that is less than a vector: there must be a next row.
    """
    Tag, element, N = tag.instance_class, _bits(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, columns, out = args[3:]
        (source, step), (target, pitch) = _unpacked(builder, lines, out)
        vectors = [
            read_lanes(builder, Tag, element, N, _strided(builder, source, step, k), None)
            for k in range(N.width)
        ]
        for k, x in enumerate(_transposed(builder, vectors)):
            with builder.if_then(builder.icmp_signed("<", ir.Constant(I64, k), columns)):
                place = _strided(builder, target, pitch, k)
                write_lanes(builder, Native, N.dtype, N, place, None, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, source, types.int64, target), codegen


@intrinsic
def store_full_square(typingctx, tag, bits_type, number, source, rows, target):
    """``store_square`` without masks: whole vectors are written, in rising order of addresses.

    Writes beyond ``rows`` where that is less than a vector: what is there must be written later.
    A masked store is much slower: it first reads its cache line from memory.
    """
    Tag, element, N = tag.instance_class, _bits(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, rows, out = args[3:]
        (source, pitch), (target, step) = _unpacked(builder, lines, out)
        last = builder.sub(rows, ir.Constant(I64, 1))
        vectors = []
        for k in range(N.width):
            index = ir.Constant(I64, k)
            index = builder.select(builder.icmp_signed("<", index, last), index, last)
            place = builder.add(source, builder.mul(pitch, index))
            vectors.append(read_lanes(builder, Native, N.dtype, N, place, None))
        for k, x in enumerate(_transposed(builder, vectors)):
            write_lanes(builder, Tag, element, N, _strided(builder, target, step, k), None, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, source, types.int64, target), codegen


def _picked(builder, vectors, n, place):
    """The vector whose lane r is lane place(r) % n of vector place(r) // n."""
    out = vectors[0]
    for v in range(1, len(vectors)):
        picks = []
        for r in range(n):
            source, lane = divmod(place(r), n)
            picks.append(n + lane if source == v else lane if v == 1 else r)
        out = _shuffle(builder, out, vectors[v], picks)
    return out


@intrinsic
def load_interleaved(typingctx, tag, bits_type, number, classes, source, target, pitch):
    """target[j, r] <- source[r, j] for a vector of rows of len(classes) contiguous classes."""
    Tag, element, N, C = (
        tag.instance_class, _bits(bits_type), number.instance_type, len(classes.types),
    )  # fmt: skip
    size = element.bitwidth // 8 * N.width

    def codegen(context, builder, sig, args):
        source, target, pitch = args[4:]
        vectors = [
            read_lanes(builder, Tag, element, N, builder.add(source, ir.Constant(I64, k * size)),
                       None)
            for k in range(C)
        ]  # fmt: skip
        for j in range(C):
            x = _picked(builder, vectors, N.width, lambda r, j=j: r * C + j)
            write_lanes(builder, Native, N.dtype, N, _strided(builder, target, pitch, j), None, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, classes, *[types.int64] * 3), codegen


@intrinsic
def store_interleaved(typingctx, tag, bits_type, number, classes, source, pitch, target):
    """target[r, j] <- source[j, r], the other way round."""
    Tag, element, N, C = (
        tag.instance_class, _bits(bits_type), number.instance_type, len(classes.types),
    )  # fmt: skip
    size = element.bitwidth // 8 * N.width

    def codegen(context, builder, sig, args):
        source, pitch, target = args[4:]
        vectors = [
            read_lanes(builder, Native, N.dtype, N, _strided(builder, source, pitch, j), None)
            for j in range(C)
        ]
        for k in range(C):

            def place(r, k=k):
                row, cls = divmod(k * N.width + r, C)
                return cls * N.width + row

            x = _picked(builder, vectors, N.width, place)
            there = builder.add(target, ir.Constant(I64, k * size))
            write_lanes(builder, Tag, element, N, there, None, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, classes, *[types.int64] * 3), codegen
