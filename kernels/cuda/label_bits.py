"""Tests of labels on their stored bits, without decoding them.

``words``: the labels of a thread, packed into words of 32 bits (``Words``).
"""

import functools

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, I64
from fusedce.kernels.cuda.dtypes import INFO, SIZE, Uint64
from fusedce.kernels.cuda.load_store import Words, stored_bits
from fusedce.kernels.cuda.load_store_scalar import GLOBAL_SPACE, constant
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import Mask, Vector, call_intrinsic, gathered


def _unsigned(dtype):
    return INFO[dtype].kind == "u"


def _label_bits(builder, number, dtype, words):
    """The bits of each lane's label."""
    width = getattr(number, "width", 1)
    count = words.type.count
    found = stored_bits(builder, dtype, [builder.extract_element(words, constant(k))
                                   for k in range(count)])  # fmt: skip
    return found[:width]


def _label_words(builder, dtype, words):
    """Words of 32 bits; of 64 bits where each holds one label."""
    found = [builder.extract_element(words, constant(k)) for k in range(words.type.count)]
    return stored_bits(builder, dtype, found) if SIZE[dtype] == 8 else found


def _mask(number):
    return Mask(number.width) if isinstance(number, Vector) else types.boolean


def _per_lane(builder, number, values):
    return gathered(builder, values) if isinstance(number, Vector) else values[0]


# Tests for labels 0 and 1: each returns a word that is 0 if all labels of a word are 0 or 1.


def _float_test(builder, word):
    """y y - y of a float32, which is 0 only for 0 and 1."""
    y = builder.bitcast(word, ir.FloatType())
    less = builder.fsub(ir.Constant(y.type, -0.0), y)
    return builder.bitcast(call_intrinsic(builder, "llvm.fma", y, y, less), I32)


def _pair_test(kind):
    """The same of both halves of a word."""

    def test(builder, word):
        text = f"{{ .reg .b32 less; neg.{kind} less, $1; fma.rn.{kind} $0, $1, $1, less; }}"
        return builder.call(ir.InlineAsm(ir.FunctionType(I32, [I32]), text, "=r,r"), [word])

    return test


def _integer_test(dtype):
    """The same in integer arithmetic, by which -0.0 is neither 0 nor 1.

    The bits of 1 are their lowest set bit times a factor.
    """
    size, one = INFO[dtype].size, INFO[dtype].one
    bit = one & -one
    bits, factor = sum(bit << 8 * size * k for k in range(max(1, 4 // size))), one // bit

    def test(builder, word):
        ones = builder.and_(word, ir.Constant(word.type, bits))
        ones = ones if factor == 1 else builder.mul(ones, ir.Constant(word.type, factor))
        return builder.xor(word, ones)

    return test


def _zero_or_one_test(dtype):
    kind = INFO[dtype].fma
    if kind is None:
        return _integer_test(dtype)
    return _float_test if kind == "f32" else _pair_test(kind)


@intrinsic
def zeros_or_ones(typingctx, number, dtype, words):
    """Whether every label is 0 or 1; labels of fewer than 32 bits are tested several at once."""
    tag = dtype.instance_class
    test = _zero_or_one_test(tag)

    def codegen(context, builder, sig, args):
        each = [test(builder, word) for word in _label_words(builder, tag, args[2])]
        found = functools.reduce(builder.or_, each)
        return builder.icmp_unsigned("==", found, ir.Constant(found.type, 0))

    return types.boolean(number, dtype, words), codegen


@intrinsic
def above_zero(typingctx, number, dtype, words):
    """Which labels are positive. Floats must all be 0.0 or 1.0."""
    N, tag = number.instance_type, dtype.instance_class
    size = SIZE[tag]

    def codegen(context, builder, sig, args):
        if INFO[tag].kind == "i":
            found = _label_bits(builder, N, tag, args[2])
            return _per_lane(
                builder, N, [builder.icmp_signed(">", b, ir.Constant(b.type, 0)) for b in found]
            )
        # The bits of a label are tested within its word: one instruction.
        bits = INFO[tag].one if INFO[tag].kind == "f" else (1 << 8 * size) - 1
        raw = _label_words(builder, tag, args[2])
        found = [
            builder.and_(word, ir.Constant(word.type, bits << 8 * size * k))
            for word in raw for k in range(max(1, 4 // size))
        ]  # fmt: skip
        found = found[: getattr(N, "width", 1)]
        return _per_lane(
            builder, N, [builder.icmp_unsigned("!=", b, ir.Constant(b.type, 0)) for b in found]
        )

    return _mask(N)(number, dtype, words), codegen


@intrinsic
def equal(typingctx, number, dtype, words, value):
    """Which labels are equal to an int64; compared in 32 bits if they have no more."""
    N, tag = number.instance_type, dtype.instance_class

    def codegen(context, builder, sig, args):
        extend = builder.zext if _unsigned(tag) else builder.sext
        value = args[3]
        fits = builder.icmp_signed(">=", value, ir.Constant(I64, 0 if tag is Uint64 else -(2**63)))
        if SIZE[tag] < 8:
            value = builder.trunc(args[3], I32)
            back = (builder.zext if SIZE[tag] == 4 and _unsigned(tag) else builder.sext)(value, I64)
            fits = builder.icmp_signed("==", back, args[3])
        found = []
        for b in _label_bits(builder, N, tag, args[2]):
            label = extend(b, I32) if SIZE[tag] < 4 else b
            found.append(builder.and_(fits, builder.icmp_signed("==", label, value)))
        return _per_lane(builder, N, found)

    return _mask(N)(number, dtype, words, types.int64), codegen


@intrinsic
def bits_at(typingctx, dtype, address):
    """The bits of a number in memory, as words."""
    size = SIZE[dtype.instance_class]

    def codegen(context, builder, sig, args):
        whole = ir.IntType(8 * size)
        pointer = builder.inttoptr(args[1], whole.as_pointer(GLOBAL_SPACE))
        bits = builder.load(pointer, align=size)
        if size < 8:
            return gathered(builder, [bits if size == 4 else builder.zext(bits, I32)])
        high = builder.trunc(builder.lshr(bits, ir.Constant(I64, 32)), I32)
        return gathered(builder, [builder.trunc(bits, I32), high])

    return Words(max(1, size // 4))(dtype, types.int64), codegen
