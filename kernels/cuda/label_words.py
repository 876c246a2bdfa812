"""Labels looked at as they are stored, without making numbers of them."""

import functools

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, I64
from fusedce.kernels.cuda.forms import (
    BYTES,
    Bfloat16,
    Float16,
    Float32,
    Float64,
    OldBfloat16,
    OldFloat16,
    Uint64,
)
from fusedce.kernels.cuda.memory import Words, pieces
from fusedce.kernels.cuda.numba_cuda import intrinsic, types
from fusedce.kernels.cuda.stored import DEVICE, constant
from fusedce.kernels.vector import Mask, Vector, gathered


def _unsigned(form):
    return form.__name__.startswith("U")


def _raw(builder, number, form, words):
    """The bits of each lane's label."""
    width = getattr(number, "width", 1)
    count = words.type.count
    found = pieces(builder, form, [builder.extract_element(words, constant(k))
                                   for k in range(count)])  # fmt: skip
    return found[:width]


def _mask(number):
    return Mask(number.width) if isinstance(number, Vector) else types.boolean


def _answer(builder, number, answers):
    return gathered(builder, answers) if isinstance(number, Vector) else answers[0]


# Of floats: the lowest bit of 1.0 that is set, and by what it is multiplied to give 1.0.
_ONE = {
    Float64: (1 << 52, 1023), Float32: (1 << 23, 127), Float16: (1 << 10, 15),
    OldFloat16: (1 << 10, 15), Bfloat16: (1 << 7, 127), OldBfloat16: (1 << 7, 127),
}  # fmt: skip


def _ones(form):
    """(bit, factor): all bits of a label that is 0 or 1 are this one of its bits times that."""
    return _ONE.get(form, (1, 1))


@intrinsic
def zeros_or_ones(typingctx, number, form, words):
    """Whether every label is 0 or 1; several of less than 32 bits are looked at together."""
    tag = form.instance_class
    size, (bit, factor) = BYTES[tag], _ones(tag)

    def codegen(context, builder, sig, args):
        raw = [builder.extract_element(args[2], constant(k)) for k in range(words.width)]
        bits, odd = sum(bit << 8 * size * k for k in range(max(1, 4 // size))), []
        for word in pieces(builder, tag, raw) if size == 8 else raw:
            one = builder.and_(word, ir.Constant(word.type, bits))
            one = one if factor == 1 else builder.mul(one, ir.Constant(word.type, factor))
            odd.append(builder.xor(word, one))
        found = functools.reduce(builder.or_, odd)
        return builder.icmp_unsigned("==", found, ir.Constant(found.type, 0))

    return types.boolean(number, form, words), codegen


@intrinsic
def above_zero(typingctx, number, form, words):
    """Which labels are larger than 0; of floats, which are all 0.0 or 1.0."""
    N, tag = number.instance_type, form.instance_class

    def codegen(context, builder, sig, args):
        compare = builder.icmp_signed
        found = _raw(builder, N, tag, args[2])
        if tag in _ONE or _unsigned(tag):
            compare = builder.icmp_unsigned
            bit = _ones(tag)[0] if tag in _ONE else -1
            found = [builder.and_(b, ir.Constant(b.type, bit)) for b in found]
        return _answer(builder, N, [compare(">", b, ir.Constant(b.type, 0)) for b in found])

    return _mask(N)(number, form, words), codegen


@intrinsic
def equal(typingctx, number, form, words, value):
    """Which labels are a whole number; compared in 32 bits if they are stored in no more."""
    N, tag = number.instance_type, form.instance_class

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

    return _mask(N)(number, form, words, types.int64), codegen


@intrinsic
def bits_at(typingctx, form, address):
    """The stored number at an address, as words."""
    size = BYTES[form.instance_class]

    def codegen(context, builder, sig, args):
        whole = ir.IntType(8 * size)
        place = builder.inttoptr(args[1], whole.as_pointer(DEVICE))
        bits = builder.load(place, align=size)
        if size < 8:
            return gathered(builder, [bits if size == 4 else builder.zext(bits, I32)])
        high = builder.trunc(builder.lshr(bits, ir.Constant(I64, 32)), I32)
        return gathered(builder, [builder.trunc(bits, I32), high])

    return Words(max(1, size // 4))(form, types.int64), codegen
