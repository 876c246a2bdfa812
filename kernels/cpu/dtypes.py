"""How numbers are stored: loads and stores of lanes of any dtype, as vectors of T.

float16 and bfloat16 travel as the bits they are stored in: int16 stands for float16, uint16 for
bfloat16 (``_FORMS`` in packing.py). Bytes and integers become floats, exactly where they fit.
"""

from typing import NamedTuple

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


class Plain(NamedTuple):
    """Type tag: a number stored as itself."""


class Half(NamedTuple):
    """Type tag: float16 in the bits of an int16."""


class Bfloat(NamedTuple):
    """Type tag: bfloat16 in the bits of a uint16."""


def _spread(element, count, value):
    return ir.Constant(ir.VectorType(element, count), [ir.Constant(element, value)] * count)


def _element(stored):
    """The LLVM type of a stored value."""
    return FLOAT.get(stored) or ir.IntType(stored.bitwidth)


def _resized(builder, x, number):
    """float32 to float64 or back, lane by lane."""
    wide = ir.VectorType(FLOAT[number.dtype], number.width)
    if x.type == wide:
        return x
    return (builder.fpext if number.dtype == types.float64 else builder.fptrunc)(x, wide)


def _decode(builder, form, stored, number, bits):
    """Vectors of stored values as numbers."""
    n = number.width
    if form is Half:
        return _resized(
            builder, builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), n)),
                                   ir.VectorType(ir.FloatType(), n)), number)  # fmt: skip
    if form is Bfloat:
        wide = builder.shl(builder.zext(bits, ir.VectorType(I32, n)), _spread(I32, n, 16))
        return _resized(builder, builder.bitcast(wide, ir.VectorType(ir.FloatType(), n)), number)
    if isinstance(stored, types.Float):
        return _resized(builder, bits, number)
    convert = builder.sitofp if stored.signed else builder.uitofp
    return convert(bits, ir.VectorType(FLOAT[number.dtype], n))


def _round_bfloat(builder, x):
    """The bits of the nearest bfloat16, ties to even; NaN stays NaN."""
    n = x.type.count
    bits = builder.bitcast(x, ir.VectorType(I32, n))
    odd = builder.and_(builder.lshr(bits, _spread(I32, n, 16)), _spread(I32, n, 1))
    rounded = builder.add(bits, builder.add(odd, _spread(I32, n, 0x7FFF)))
    quiet = builder.or_(bits, _spread(I32, n, 0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", x, x), quiet, rounded)
    fmax = builder.lshr(chosen, _spread(I32, n, 16))
    return builder.trunc(fmax, ir.VectorType(ir.IntType(16), n))


def _encode(builder, form, stored, number, x):
    """Vectors of numbers as stored values."""
    n = number.width
    if form is not Plain and number.dtype == types.float64:
        x = builder.fptrunc(x, ir.VectorType(ir.FloatType(), n))
    if form is Half:
        half = builder.fptrunc(x, ir.VectorType(ir.HalfType(), n))
        return builder.bitcast(half, ir.VectorType(ir.IntType(16), n))
    if form is Bfloat:
        return _round_bfloat(builder, x)
    wide = ir.VectorType(FLOAT[stored], n)
    if x.type == wide:
        return x
    return (builder.fpext if stored == types.float64 else builder.fptrunc)(x, wide)


def read_lanes(builder, form, stored, number, address, count):
    """The first ``count`` stored values from an address as numbers, zeros in the other lanes.

    All of them, and no mask, if ``count`` is None.
    """
    vector = ir.VectorType(_element(stored), number.width)
    place = builder.inttoptr(address, vector.as_pointer())
    align = stored.bitwidth // 8
    if count is None:
        return _decode(builder, form, stored, number, builder.load(place, align=align))
    mask = first_lanes(builder, count, number.width)
    bits = llvm_masked_load(builder, place, mask, ir.Constant(vector, None), align)
    return _decode(builder, form, stored, number, bits)


def write_lanes(builder, form, stored, number, address, count, x):
    """Store the first ``count`` lanes of numbers, or all."""
    bits = _encode(builder, form, stored, number, x)
    place = builder.inttoptr(address, bits.type.as_pointer())
    align = stored.bitwidth // 8
    if count is None:
        builder.store(bits, place, align=align)
    else:
        mask = first_lanes(builder, count, number.width)
        llvm_masked_store(builder, bits, place, mask, align)


def widen(form, x):
    """The number of a stored value."""
    raise NotImplementedError("compiled code only")


def narrow(form, x):
    """The stored value of a number."""
    raise NotImplementedError("compiled code only")


@overload(widen, jit_options=INLINED)
def _widen(form, x):
    if form.instance_class is Half:
        return lambda form, x: half_to_single(x)
    if form.instance_class is Bfloat:
        return lambda form, x: bfloat_to_single(x)
    return lambda form, x: x


@overload(narrow, jit_options=INLINED)
def _narrow(form, x):
    if form.instance_class is Half:
        return lambda form, x: single_to_half(np.float32(x))
    if form.instance_class is Bfloat:
        return lambda form, x: single_to_bfloat(np.float32(x))
    return lambda form, x: x


def _stored(ty):
    return ty.dtype if hasattr(ty, "dtype") else ty.instance_type


def _count(ty, value):
    """How many lanes, None for all."""
    return None if isinstance(ty, types.NoneType) else value


@intrinsic
def load_as(typingctx, form, stored, number, address, count):
    """The first ``count`` stored values from an address as numbers; None: all."""
    kind, element, N = form.instance_class, _stored(stored), number.instance_type

    def codegen(context, builder, sig, args):
        return read_lanes(builder, kind, element, N, args[3], _count(count, args[4]))

    return N(form, stored, number, types.int64, _whole_or(count)), codegen


@intrinsic
def store_as(typingctx, form, stored, address, count, x):
    """Store the first ``count`` lanes; None: all."""
    kind, element = form.instance_class, _stored(stored)

    def codegen(context, builder, sig, args):
        write_lanes(builder, kind, element, x, args[2], _count(count, args[3]), args[4])
        return context.get_dummy_value()

    return types.void(form, stored, types.int64, _whole_or(count), x), codegen


def _whole_or(count):
    return types.none if isinstance(count, types.NoneType) else types.int64


def _shuffle(builder, a, b, picks):
    constant = ir.Constant(ir.VectorType(I32, len(picks)), [ir.Constant(I32, k) for k in picks])
    return builder.shuffle_vector(a, b, constant)


def _transposed(builder, rows):
    """The columns of a square of vectors: at each step blocks of half the size change places."""
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
    """``count`` for the rows there are, 0 for the others."""
    there = builder.icmp_signed("<", ir.Constant(I64, index), limit)
    return builder.select(there, count, ir.Constant(I64, 0))


def _strided(builder, address, step, k):
    return builder.add(address, builder.mul(step, ir.Constant(I64, k)))


@intrinsic
def load_square(typingctx, form, stored, number, source, step, rows, columns, target, pitch):
    """target[j, i] <- source[i, j] for up to as many rows and columns as a vector has lanes.

    ``step`` and ``pitch`` are the bytes between rows of the source and of the target.
    """
    kind, element, N = form.instance_class, _stored(stored), number.instance_type

    def codegen(context, builder, sig, args):
        source, step, rows, columns, target, pitch = args[3:]
        lines = [
            read_lanes(builder, kind, element, N, _strided(builder, source, step, k),
                       _limit(builder, k, rows, columns))
            for k in range(N.width)
        ]  # fmt: skip
        for k, x in enumerate(_transposed(builder, lines)):
            count = _limit(builder, k, columns, rows)
            write_lanes(builder, Plain, N.dtype, N, _strided(builder, target, pitch, k), count, x)
        return context.get_dummy_value()

    return types.void(form, stored, number, *[types.int64] * 6), codegen


@intrinsic
def store_square(typingctx, form, stored, number, source, pitch, rows, columns, target, step):
    """target[j, i] <- source[i, j], the other way round: numbers become stored values."""
    kind, element, N = form.instance_class, _stored(stored), number.instance_type

    def codegen(context, builder, sig, args):
        source, pitch, rows, columns, target, step = args[3:]
        lines = [
            read_lanes(builder, Plain, N.dtype, N, _strided(builder, source, pitch, k),
                       _limit(builder, k, rows, columns))
            for k in range(N.width)
        ]  # fmt: skip
        for k, x in enumerate(_transposed(builder, lines)):
            count = _limit(builder, k, columns, rows)
            write_lanes(builder, kind, element, N, _strided(builder, target, step, k), count, x)
        return context.get_dummy_value()

    return types.void(form, stored, number, *[types.int64] * 6), codegen


@intrinsic
def load_full_square(typingctx, form, stored, number, source, step, columns, target, pitch):
    """The same without masks: whole vectors are read, ``columns`` of them written.

    Reads beyond ``columns`` where that is less than a vector: the next row must be there.
    """
    kind, element, N = form.instance_class, _stored(stored), number.instance_type

    def codegen(context, builder, sig, args):
        source, step, columns, target, pitch = args[3:]
        lines = [
            read_lanes(builder, kind, element, N, _strided(builder, source, step, k), None)
            for k in range(N.width)
        ]
        for k, x in enumerate(_transposed(builder, lines)):
            with builder.if_then(builder.icmp_signed("<", ir.Constant(I64, k), columns)):
                place = _strided(builder, target, pitch, k)
                write_lanes(builder, Plain, N.dtype, N, place, None, x)
        return context.get_dummy_value()

    return types.void(form, stored, number, *[types.int64] * 5), codegen


@intrinsic
def store_full_square(typingctx, form, stored, number, source, pitch, rows, target, step):
    """The same without masks: whole vectors are written, in rising order.

    Writes beyond ``rows`` where that is less than a vector: what is there must be written later.
    A masked store would be slower by far: it waits for its line to come from memory.
    """
    kind, element, N = form.instance_class, _stored(stored), number.instance_type

    def codegen(context, builder, sig, args):
        source, pitch, rows, target, step = args[3:]
        last = builder.sub(rows, ir.Constant(I64, 1))
        lines = []
        for k in range(N.width):
            index = ir.Constant(I64, k)
            index = builder.select(builder.icmp_signed("<", index, last), index, last)
            place = builder.add(source, builder.mul(pitch, index))
            lines.append(read_lanes(builder, Plain, N.dtype, N, place, None))
        for k, x in enumerate(_transposed(builder, lines)):
            write_lanes(builder, kind, element, N, _strided(builder, target, step, k), None, x)
        return context.get_dummy_value()

    return types.void(form, stored, number, *[types.int64] * 5), codegen


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
def load_interleaved(typingctx, form, stored, number, classes, source, target, pitch):
    """target[j, r] <- source[r, j] for a vector of rows of a few classes, known beforehand."""
    kind, element, N, C = (
        form.instance_class, _stored(stored), number.instance_type, len(classes.types),
    )  # fmt: skip
    size = element.bitwidth // 8 * N.width

    def codegen(context, builder, sig, args):
        source, target, pitch = args[4:]
        vectors = [
            read_lanes(builder, kind, element, N, builder.add(source, ir.Constant(I64, k * size)),
                       None)
            for k in range(C)
        ]  # fmt: skip
        for j in range(C):
            x = _picked(builder, vectors, N.width, lambda r, j=j: r * C + j)
            write_lanes(builder, Plain, N.dtype, N, _strided(builder, target, pitch, j), None, x)
        return context.get_dummy_value()

    return types.void(form, stored, number, classes, *[types.int64] * 3), codegen


@intrinsic
def store_interleaved(typingctx, form, stored, number, classes, source, pitch, target):
    """target[r, j] <- source[j, r], the other way round."""
    kind, element, N, C = (
        form.instance_class, _stored(stored), number.instance_type, len(classes.types),
    )  # fmt: skip
    size = element.bitwidth // 8 * N.width

    def codegen(context, builder, sig, args):
        source, pitch, target = args[4:]
        vectors = [
            read_lanes(builder, Plain, N.dtype, N, _strided(builder, source, pitch, j), None)
            for j in range(C)
        ]
        for k in range(C):

            def place(r, k=k):
                row, cls = divmod(k * N.width + r, C)
                return cls * N.width + row

            x = _picked(builder, vectors, N.width, place)
            there = builder.add(target, ir.Constant(I64, k * size))
            write_lanes(builder, kind, element, N, there, None, x)
        return context.get_dummy_value()

    return types.void(form, stored, number, classes, *[types.int64] * 3), codegen
