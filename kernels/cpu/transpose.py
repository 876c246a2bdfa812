"""Transposed loads and stores: squares of vectors, and rows of very few classes.

Stored values of any dtype on one side, numbers of T in scratch memory on the other.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fusedce.kernels.cpu.dtypes import Native, bits_type_of, emit_load, emit_store
from fusedce.kernels.vector import I32, I64


class Lines(NamedTuple):
    """Rows of an array: the address of the first, and the bytes from one to the next."""

    address: int
    stride: int


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
    Tag, element, N = tag.instance_class, bits_type_of(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, rows, columns, out = args[3:]
        (source, step), (target, pitch) = _unpacked(builder, lines, out)
        vectors = [
            emit_load(builder, Tag, element, N, _strided(builder, source, step, k),
                       _limit(builder, k, rows, columns))
            for k in range(N.width)
        ]  # fmt: skip
        for k, x in enumerate(_transposed(builder, vectors)):
            count = _limit(builder, k, columns, rows)
            emit_store(builder, Native, N.dtype, N, _strided(builder, target, pitch, k), count, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, source, types.int64, types.int64, target), codegen


@intrinsic
def store_square(typingctx, tag, bits_type, number, source, rows, columns, target):
    """target[j, i] <- source[i, j]: numbers are stored, the reverse of ``load_square``."""
    Tag, element, N = tag.instance_class, bits_type_of(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, rows, columns, out = args[3:]
        (source, pitch), (target, step) = _unpacked(builder, lines, out)
        vectors = [
            emit_load(builder, Native, N.dtype, N, _strided(builder, source, pitch, k),
                       _limit(builder, k, rows, columns))
            for k in range(N.width)
        ]  # fmt: skip
        for k, x in enumerate(_transposed(builder, vectors)):
            count = _limit(builder, k, columns, rows)
            emit_store(builder, Tag, element, N, _strided(builder, target, step, k), count, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, source, types.int64, types.int64, target), codegen


@intrinsic
def load_full_square(typingctx, tag, bits_type, number, source, columns, target):
    """``load_square`` without masks: whole vectors are read, ``columns`` of them written.

    Reads beyond ``columns`` where that is less than a vector: there must be a next row.
    """
    Tag, element, N = tag.instance_class, bits_type_of(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, columns, out = args[3:]
        (source, step), (target, pitch) = _unpacked(builder, lines, out)
        vectors = [
            emit_load(builder, Tag, element, N, _strided(builder, source, step, k), None)
            for k in range(N.width)
        ]
        for k, x in enumerate(_transposed(builder, vectors)):
            with builder.if_then(builder.icmp_signed("<", ir.Constant(I64, k), columns)):
                place = _strided(builder, target, pitch, k)
                emit_store(builder, Native, N.dtype, N, place, None, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, source, types.int64, target), codegen


@intrinsic
def store_full_square(typingctx, tag, bits_type, number, source, rows, target):
    """``store_square`` without masks: whole vectors are written, in rising order of addresses.

    Writes beyond ``rows`` where that is less than a vector: what is there must be written later.
    A masked store is much slower: it first reads its cache line from memory.
    """
    Tag, element, N = tag.instance_class, bits_type_of(bits_type), number.instance_type

    def codegen(context, builder, sig, args):
        lines, rows, out = args[3:]
        (source, pitch), (target, step) = _unpacked(builder, lines, out)
        last = builder.sub(rows, ir.Constant(I64, 1))
        vectors = []
        for k in range(N.width):
            index = ir.Constant(I64, k)
            index = builder.select(builder.icmp_signed("<", index, last), index, last)
            place = builder.add(source, builder.mul(pitch, index))
            vectors.append(emit_load(builder, Native, N.dtype, N, place, None))
        for k, x in enumerate(_transposed(builder, vectors)):
            emit_store(builder, Tag, element, N, _strided(builder, target, step, k), None, x)
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
        tag.instance_class, bits_type_of(bits_type), number.instance_type, len(classes.types),
    )  # fmt: skip
    size = element.bitwidth // 8 * N.width

    def codegen(context, builder, sig, args):
        source, target, pitch = args[4:]
        vectors = [
            emit_load(builder, Tag, element, N, builder.add(source, ir.Constant(I64, k * size)),
                       None)
            for k in range(C)
        ]  # fmt: skip
        for j in range(C):
            x = _picked(builder, vectors, N.width, lambda r, j=j: r * C + j)
            emit_store(builder, Native, N.dtype, N, _strided(builder, target, pitch, j), None, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, classes, *[types.int64] * 3), codegen


@intrinsic
def store_interleaved(typingctx, tag, bits_type, number, classes, source, pitch, target):
    """target[r, j] <- source[j, r], the other way round."""
    Tag, element, N, C = (
        tag.instance_class, bits_type_of(bits_type), number.instance_type, len(classes.types),
    )  # fmt: skip
    size = element.bitwidth // 8 * N.width

    def codegen(context, builder, sig, args):
        source, pitch, target = args[4:]
        vectors = [
            emit_load(builder, Native, N.dtype, N, _strided(builder, source, pitch, j), None)
            for j in range(C)
        ]
        for k in range(C):

            def place(r, k=k):
                row, cls = divmod(k * N.width + r, C)
                return cls * N.width + row

            x = _picked(builder, vectors, N.width, place)
            there = builder.add(target, ir.Constant(I64, k * size))
            emit_store(builder, Tag, element, N, there, None, x)
        return context.get_dummy_value()

    return types.void(tag, bits_type, number, classes, *[types.int64] * 3), codegen
