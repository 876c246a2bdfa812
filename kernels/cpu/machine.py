"""What Python cannot say: bit patterns, rounding and raw addresses, as LLVM instructions.

Bit arithmetic stands in one intrinsic each because Numba promotes int32 + int32 to int64, which
halves the lanes. Additions that rely on rounding carry no fast-math flag, so that no caller's
``reassoc`` can undo them.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

FLOAT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
INT = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}
MANTISSA = {types.float32: 23, types.float64: 52}
BIAS = {types.float32: 127, types.float64: 1023}
LIFT = {types.float32: 64, types.float64: 512}
SQRT_HALF_BITS = {types.float32: 0x3F3504F3, types.float64: 0x3FE6A09E667F3BCD}
ONE_BITS = {types.float32: 0x3F800000, types.float64: 0x3FF0000000000000}


def _const(ty, value: int):
    return ir.Constant(INT[ty], value)


def _field_to_power(builder, ty, field):
    """The float 2**(field - bias), from its exponent field."""
    return builder.bitcast(builder.shl(field, _const(ty, MANTISSA[ty])), FLOAT[ty])


@intrinsic
def round_even(typingctx, x):
    """The nearest whole number, ties to even."""

    def codegen(context, builder, signature, args):
        ty = FLOAT[signature.args[0]]
        fn = builder.module.declare_intrinsic("llvm.rint", [ty], ir.FunctionType(ty, [ty]))
        return builder.call(fn, args)

    return x(x), codegen


@intrinsic
def fused(typingctx, a, b, c):
    """a * b + c with one rounding."""

    def codegen(context, builder, signature, args):
        ty = FLOAT[signature.args[0]]
        fn = builder.module.declare_intrinsic("llvm.fma", [ty], ir.FunctionType(ty, [ty] * 3))
        return builder.call(fn, args)

    return a(a, a, a), codegen


@intrinsic
def select(typingctx, condition, a, b):
    """a or b, both of one type, without a branch."""

    def codegen(context, builder, signature, args):
        return builder.select(args[0], args[1], args[2])

    return (a(types.boolean, a, a), codegen) if a == b else None


@intrinsic
def scale_by_power(typingctx, x, n):
    """x * 2**n for a whole number n as a float, |n| < 2 * bias; NaN in n gives any scale.

    In two steps, so that subnormal results and 2**128 come out right. The integer is read off the
    bits of n + 1.5 * 2**mantissa: a conversion instruction would be undefined for NaN.
    """

    def codegen(context, builder, signature, args):
        ty = signature.args[0]
        magic = 1.5 * 2.0 ** MANTISSA[ty]
        shifted = builder.fadd(args[1], ir.Constant(FLOAT[ty], magic))
        whole = builder.sub(
            builder.bitcast(shifted, INT[ty]),
            builder.bitcast(ir.Constant(FLOAT[ty], magic), INT[ty]),
        )
        field = builder.add(whole, _const(ty, 2 * BIAS[ty]))
        first = builder.lshr(field, _const(ty, 1))
        second = builder.sub(field, first)
        half = builder.fmul(args[0], _field_to_power(builder, ty, first))
        return builder.fmul(half, _field_to_power(builder, ty, second))

    return x(x, x), codegen


@intrinsic
def lifted_power(typingctx, n):
    """2**(n + LIFT) for a whole n <= 0 as a float, n + LIFT > -bias; NaN gives any number."""

    def codegen(context, builder, signature, args):
        ty = signature.args[0]
        # The lowest bits of n + LIFT + 1.5 * 2**mantissa + bias are the exponent field.
        magic = 1.5 * 2.0 ** MANTISSA[ty] + BIAS[ty] + LIFT[ty]
        shifted = builder.fadd(args[0], ir.Constant(FLOAT[ty], magic))
        return _field_to_power(builder, ty, builder.bitcast(shifted, INT[ty]))

    return n(n), codegen


@intrinsic
def split(typingctx, x):
    """(f, k, 2**-k) with x = f * 2**k and f in [sqrt(1/2), sqrt(2)); for positive normal x."""

    def codegen(context, builder, signature, args):
        ty = signature.args[0]
        mantissa = _const(ty, MANTISSA[ty])
        bits = builder.bitcast(args[0], INT[ty])
        moved = builder.add(bits, _const(ty, ONE_BITS[ty] - SQRT_HALF_BITS[ty]))
        field = builder.lshr(moved, mantissa)
        fraction = builder.and_(moved, _const(ty, (1 << MANTISSA[ty]) - 1))
        f = builder.bitcast(builder.add(fraction, _const(ty, SQRT_HALF_BITS[ty])), FLOAT[ty])
        k = builder.sitofp(builder.sub(field, _const(ty, BIAS[ty])), FLOAT[ty])
        inverse = _field_to_power(builder, ty, builder.sub(_const(ty, 2 * BIAS[ty]), field))
        return context.make_tuple(builder, signature.return_type, (f, k, inverse))

    return types.UniTuple(x, 3)(x), codegen


def _order_bits(builder, ty, bits):
    """Float order as signed integer order; its own inverse."""
    sign = builder.ashr(bits, _const(ty, INT[ty].width - 1))
    mask = builder.and_(sign, _const(ty, (1 << (INT[ty].width - 1)) - 1))
    return builder.xor(bits, mask)


@intrinsic
def order_key(typingctx, x):
    """An integer that sorts as the float does: an integer maximum vectorises, a float one not."""

    def codegen(context, builder, signature, args):
        ty = signature.args[0]
        return _order_bits(builder, ty, builder.bitcast(args[0], INT[ty]))

    return (types.int32 if x == types.float32 else types.int64)(x), codegen


@intrinsic
def from_order_key(typingctx, key):
    """The float of an order_key."""
    x = types.float32 if key == types.int32 else types.float64

    def codegen(context, builder, signature, args):
        return builder.bitcast(_order_bits(builder, x, args[0]), FLOAT[x])

    return x(key), codegen


@intrinsic
def larger(typingctx, a, b):
    """The larger of two integers of one type, without promotion."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.icmp_signed(">", args[0], args[1]), args[0], args[1])

    return a(a, a), codegen


@intrinsic
def half_to_single(typingctx, bits):
    """The float32 of a float16's bits (int16)."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), codegen


@intrinsic
def single_to_half(typingctx, x):
    """The bits of the float16 nearest to a float32, ties to even."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), codegen


@intrinsic
def bfloat_to_single(typingctx, bits):
    """The float32 of a bfloat16's bits (uint16): its upper half."""

    def codegen(context, builder, signature, args):
        wide = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def single_to_bfloat(typingctx, x):
    """The bits of the bfloat16 nearest to a float32, ties to even; NaN stays NaN."""

    def codegen(context, builder, signature, args):
        i32 = ir.IntType(32)
        bits = builder.bitcast(args[0], i32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(i32, 16)), ir.Constant(i32, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(i32, 0x7FFF)))
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        chosen = builder.select(is_nan, builder.or_(bits, ir.Constant(i32, 0x400000)), rounded)
        return builder.trunc(builder.lshr(chosen, ir.Constant(i32, 16)), ir.IntType(16))

    return types.uint16(types.float32), codegen


@intrinsic
def pointer(typingctx, address, dtype):
    """A typed pointer to an address, for numba.carray."""
    element = dtype.dtype if hasattr(dtype, "dtype") else dtype.instance_type

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(element)(types.int64, dtype), codegen


@intrinsic
def peek(typingctx, address, dtype):
    """The element of a type at an address."""
    element = dtype.dtype if hasattr(dtype, "dtype") else dtype.instance_type

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], context.get_value_type(element).as_pointer())
        return builder.load(place)

    return element(types.int64, dtype), codegen


@intrinsic
def poke(typingctx, address, x):
    """Store an element at an address."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], args[1].type.as_pointer())
        builder.store(args[1], place)
        return context.get_dummy_value()

    return types.void(types.int64, x), codegen


@intrinsic
def take_number(typingctx, address):
    """The int64 at an address, which goes up by one: no two threads get the same."""

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        place = builder.inttoptr(args[0], i64.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(i64, 1), "monotonic")

    return types.int64(types.int64), codegen


def _call(builder, address, args):
    """Call the C function void(int64, ...) at an address."""
    fn = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(args))
    builder.call(builder.inttoptr(address, fn.as_pointer()), args)


@intrinsic
def call3(typingctx, address, a, b, c):
    """Call a block kernel: void(plan, first, last)."""

    def codegen(context, builder, signature, args):
        _call(builder, args[0], args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def call7(typingctx, f, a, b, c, d, e, g, h):
    """Call a mover: void(source, stride, stride, rows, columns, target, extra)."""

    def codegen(context, builder, signature, args):
        _call(builder, args[0], args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen
