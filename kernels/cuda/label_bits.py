"""Labels looked at as they are stored, without making numbers of them."""

import functools

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, I64
from fusedce.kernels.cuda.dtypes import (
    BYTES,
    Bfloat16,
    Float16,
    Float32,
    Float64,
    OldBfloat16,
    OldFloat16,
    Uint64,
)
from fusedce.kernels.cuda.load_store import Words, pieces
from fusedce.kernels.cuda.load_store_scalar import DEVICE, constant
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import Mask, Vector, elementwise, gathered


def _unsigned(dtype):
    return dtype.__name__.startswith("U")


def _raw(builder, number, dtype, words):
    """The bits of each lane's label."""
    width = getattr(number, "width", 1)
    count = words.type.count
    found = pieces(builder, dtype, [builder.extract_element(words, constant(k))
                                   for k in range(count)])  # fmt: skip
    return found[:width]


def _whole_words(builder, dtype, words):
    """The words of 32 bits, or of 64 where a label has as many."""
    found = [builder.extract_element(words, constant(k)) for k in range(words.type.count)]
    return pieces(builder, dtype, found) if BYTES[dtype] == 8 else found


def _mask(number):
    return Mask(number.width) if isinstance(number, Vector) else types.boolean


def _answer(builder, number, answers):
    return gathered(builder, answers) if isinstance(number, Vector) else answers[0]


# The bits of 1.0.
_ONE = {
    Float64: 1023 << 52, Float32: 127 << 23, Float16: 15 << 10, OldFloat16: 15 << 10,
    Bfloat16: 127 << 7, OldBfloat16: 127 << 7,
}  # fmt: skip


def _odd_float(builder, word):
    """y y - y of a float32, which is 0 for 0 and 1 alone."""
    y = builder.bitcast(word, ir.FloatType())
    less = builder.fsub(ir.Constant(y.type, -0.0), y)
    return builder.bitcast(elementwise(builder, "llvm.fma", y, y, less), I32)


def _odd_halves(kind):
    """The same of both halves of a word."""

    def odd(builder, word):
        text = f"{{ .reg .b32 less; neg.{kind} less, $1; fma.rn.{kind} $0, $1, $1, less; }}"
        return builder.call(ir.InlineAsm(ir.FunctionType(I32, [I32]), text, "=r,r"), [word])

    return odd


def _odd_bits(dtype):
    """The same in whole numbers, where -0.0 is none of the two.

    1.0 is its lowest bit that is set times a factor.
    """
    bit, factor = {Float64: (1 << 52, 1023), OldBfloat16: (1 << 7, 127)}.get(dtype, (1, 1))
    bits = sum(bit << 8 * BYTES[dtype] * k for k in range(max(1, 4 // BYTES[dtype])))

    def odd(builder, word):
        one = builder.and_(word, ir.Constant(word.type, bits))
        one = one if factor == 1 else builder.mul(one, ir.Constant(word.type, factor))
        return builder.xor(word, one)

    return odd


_ODD = {
    Float32: _odd_float, Float16: _odd_halves("f16x2"), OldFloat16: _odd_halves("f16x2"),
    Bfloat16: _odd_halves("bf16x2"),
}  # fmt: skip


@intrinsic
def zeros_or_ones(typingctx, number, dtype, words):
    """Whether every label is 0 or 1; several of less than 32 bits are looked at together."""
    tag = dtype.instance_class
    odd = _ODD.get(tag) or _odd_bits(tag)

    def codegen(context, builder, sig, args):
        each = [odd(builder, word) for word in _whole_words(builder, tag, args[2])]
        found = functools.reduce(builder.or_, each)
        return builder.icmp_unsigned("==", found, ir.Constant(found.type, 0))

    return types.boolean(number, dtype, words), codegen


@intrinsic
def above_zero(typingctx, number, dtype, words):
    """Which labels are larger than 0; of floats, which are all 0.0 or 1.0."""
    N, tag = number.instance_type, dtype.instance_class
    size = BYTES[tag]

    def codegen(context, builder, sig, args):
        if tag not in _ONE and not _unsigned(tag):
            found = _raw(builder, N, tag, args[2])
            return _answer(
                builder, N, [builder.icmp_signed(">", b, ir.Constant(b.type, 0)) for b in found]
            )
        # Bits of a label are looked at where they lie in its word: one instruction.
        bits = _ONE.get(tag, (1 << 8 * size) - 1)
        raw = _whole_words(builder, tag, args[2])
        found = [
            builder.and_(word, ir.Constant(word.type, bits << 8 * size * k))
            for word in raw for k in range(max(1, 4 // size))
        ]  # fmt: skip
        found = found[: getattr(N, "width", 1)]
        return _answer(
            builder, N, [builder.icmp_unsigned("!=", b, ir.Constant(b.type, 0)) for b in found]
        )

    return _mask(N)(number, dtype, words), codegen


@intrinsic
def equal(typingctx, number, dtype, words, value):
    """Which labels are a whole number; compared in 32 bits if they are stored in no more."""
    N, tag = number.instance_type, dtype.instance_class

    def codegen(context, builder, sig, args):
        extend = builder.zext if _unsigned(tag) else builder.sext
        value = args[3]
        fits = builder.icmp_signed(">=", value, ir.Constant(I64, 0 if tag is Uint64 else -(2**63)))
        if BYTES[tag] < 8:
            value = builder.trunc(args[3], I32)
            back = (builder.zext if BYTES[tag] == 4 and _unsigned(tag) else builder.sext)(
                value, I64
            )
            fits = builder.icmp_signed("==", back, args[3])
        found = []
        for b in _raw(builder, N, tag, args[2]):
            label = extend(b, I32) if BYTES[tag] < 4 else b
            found.append(builder.and_(fits, builder.icmp_signed("==", label, value)))
        return _answer(builder, N, found)

    return _mask(N)(number, dtype, words, types.int64), codegen


@intrinsic
def bits_at(typingctx, dtype, address):
    """The stored number at an address, as words."""
    size = BYTES[dtype.instance_class]

    def codegen(context, builder, sig, args):
        whole = ir.IntType(8 * size)
        place = builder.inttoptr(args[1], whole.as_pointer(DEVICE))
        bits = builder.load(place, align=size)
        if size < 8:
            return gathered(builder, [bits if size == 4 else builder.zext(bits, I32)])
        high = builder.trunc(builder.lshr(bits, ir.Constant(I64, 32)), I32)
        return gathered(builder, [builder.trunc(bits, I32), high])

    return Words(max(1, size // 4))(dtype, types.int64), codegen
