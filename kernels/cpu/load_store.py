"""Load and store numbers of one lane or more at an address.

Addresses need no alignment. The last vector of a row is loaded and stored with a mask.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fusedce.kernels.vector import BYTES, I32, I64, Vector, lane_of, splat


def _place(context, builder, address, number):
    return builder.inttoptr(address, context.get_value_type(number).as_pointer())


def _align(number):
    return lane_of(number).bitwidth // 8


@intrinsic
def load(typingctx, number, address):
    """The number (of one lane or more) at an address."""
    ty = number.instance_type

    def codegen(context, builder, sig, args):
        return builder.load(_place(context, builder, args[1], ty), align=_align(ty))

    return ty(number, types.int64), codegen


@intrinsic
def store(typingctx, address, x):
    """Store a number of one lane or more."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], _place(context, builder, args[0], x), align=_align(x))
        return context.get_dummy_value()

    return types.void(types.int64, x), codegen


@intrinsic
def stream_store(typingctx, address, x):
    """Store a vector at a multiple of 64 bytes, non-temporal: its cache line is not read first."""

    def codegen(context, builder, sig, args):
        put = builder.store(args[1], _place(context, builder, args[0], x), align=BYTES)
        put.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, x), codegen


@intrinsic
def prefetch(typingctx, address):
    """Prefetch the cache line of an address, which need not be valid."""

    def codegen(context, builder, sig, args):
        place = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        fnty = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
        name = "llvm.prefetch.p0"
        fn = builder.module.globals.get(name) or ir.Function(builder.module, fnty, name)
        builder.call(fn, [place, *(ir.Constant(I32, k) for k in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def llvm_first_lanes(builder, count, width):
    """The mask of the first ``count`` lanes."""
    index = ir.Constant(ir.VectorType(I32, width), [ir.Constant(I32, k) for k in range(width)])
    full = ir.Constant(I64, width)
    fewer = builder.select(builder.icmp_signed("<", count, full), count, full)
    return builder.icmp_signed("<", index, splat(builder, builder.trunc(fewer, I32), width))


def llvm_masked_load(builder, place, mask, fill, align):
    """The lanes of a mask from memory, ``fill`` in the others, whose memory is not read."""
    element = fill.type.element
    fnty = ir.FunctionType(fill.type, [place.type, I32, mask.type, fill.type])
    name = f"llvm.masked.load.v{fill.type.count}{element.intrinsic_name}.p0"
    fn = builder.module.globals.get(name) or ir.Function(builder.module, fnty, name)
    return builder.call(fn, [place, ir.Constant(I32, align), mask, fill])


def llvm_masked_store(builder, value, place, mask, align):
    """Store the lanes of a mask."""
    fnty = ir.FunctionType(ir.VoidType(), [value.type, place.type, I32, mask.type])
    name = f"llvm.masked.store.v{value.type.count}{value.type.element.intrinsic_name}.p0"
    fn = builder.module.globals.get(name) or ir.Function(builder.module, fnty, name)
    builder.call(fn, [value, place, ir.Constant(I32, align), mask])


@intrinsic
def masked_load(typingctx, address, count, fill):
    """The first ``count`` lanes from an address, ``fill`` in the others."""

    def codegen(context, builder, sig, args):
        address, count, filled = args
        place = _place(context, builder, address, fill)
        if not isinstance(fill, Vector):
            return builder.load(place)
        return llvm_masked_load(
            builder, place, llvm_first_lanes(builder, count, fill.width), filled, _align(fill)
        )

    return fill(types.int64, types.int64, fill), codegen


@intrinsic
def masked_store(typingctx, address, count, x):
    """Store the first ``count`` lanes."""

    def codegen(context, builder, sig, args):
        address, count, value = args
        place = _place(context, builder, address, x)
        if isinstance(x, Vector):
            llvm_masked_store(
                builder, value, place, llvm_first_lanes(builder, count, x.width), _align(x)
            )
        else:
            builder.store(value, place)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, x), codegen
