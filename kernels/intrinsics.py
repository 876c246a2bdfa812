"""LLVM instructions that Python has no syntax for: bit patterns, rounding, raw addresses.

Each piece of bit arithmetic is one intrinsic, because Numba promotes int32 + int32 to int64, which
halves the lanes. Additions that rely on rounding carry no fast-math flag, so that no caller's
``reassoc`` can undo them.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fusedce.kernels.vector import FLOAT, Mask, Vector, call_intrinsic, common_vector_type, on_gpu

INT = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}
MANTISSA = {types.float32: 23, types.float64: 52}
BIAS = {types.float32: 127, types.float64: 1023}
LIFT = {types.float32: 64, types.float64: 512}
SQRT_HALF_BITS = {types.float32: 0x3F3504F3, types.float64: 0x3FE6A09E667F3BCD}
ONE_BITS = {types.float32: 0x3F800000, types.float64: 0x3FF0000000000000}


def _of(table, ty):
    """The entry of a table for a float type, or for the lanes of a vector type."""
    return table[ty.dtype if isinstance(ty, Vector) else ty]


def _wide(element, ty):
    """An LLVM type, or a vector of it for a vector type."""
    return ir.VectorType(element, ty.width) if isinstance(ty, Vector) else element


def _spread(ty, constant):
    """A constant, or the same in every lane."""
    if isinstance(ty, Vector):
        return ir.Constant(_wide(constant.type, ty), [constant] * ty.width)
    return constant


def _float(ty):
    return _wide(_of(FLOAT, ty), ty)


def _int(ty):
    return _wide(_of(INT, ty), ty)


def _const(ty, value: int):
    return _spread(ty, ir.Constant(_of(INT, ty), value))


def _real(ty, value: float):
    return _spread(ty, ir.Constant(_of(FLOAT, ty), value))


def _field_to_power(builder, ty, field):
    """The float 2**(field - bias), from its exponent field."""
    return builder.bitcast(builder.shl(field, _const(ty, _of(MANTISSA, ty))), _float(ty))


@intrinsic
def round_even(typingctx, x):
    """The nearest whole number, ties to even."""

    def codegen(context, builder, signature, args):
        return call_intrinsic(builder, "llvm.rint", *args)

    return x(x), codegen


@intrinsic
def fused(typingctx, a, b, c):
    """a * b + c with one rounding."""

    def codegen(context, builder, signature, args):
        return call_intrinsic(builder, "llvm.fma", *args)

    ty = common_vector_type((a, b, c)) or a
    return ty(ty, ty, ty), codegen


@intrinsic
def select(typingctx, condition, a, b):
    """a or b, both of one type, without a branch."""

    def codegen(context, builder, signature, args):
        return builder.select(*args)

    if isinstance(condition, Mask):
        result = common_vector_type((a, b)) or Vector(a, condition.width)
        return result(condition, result, result), codegen
    result = common_vector_type((a, b)) or (a if a == b else None)
    return (result(types.boolean, result, result), codegen) if result else None


@intrinsic
def scale_by_power(typingctx, x, n):
    """x * 2**n for a whole number n as a float, |n| < 2 * bias; NaN in n gives any scale.

    In two steps, so that subnormal results and 2**128 come out right. The integer is read off the
    bits of n + 1.5 * 2**mantissa: a conversion instruction would be undefined for NaN.
    """

    def codegen(context, builder, signature, args):
        ty = signature.args[0]
        magic = 1.5 * 2.0 ** _of(MANTISSA, ty)
        shifted = builder.fadd(args[1], _real(ty, magic))
        whole = builder.sub(
            builder.bitcast(shifted, _int(ty)),
            builder.bitcast(_real(ty, magic), _int(ty)),
        )
        field = builder.add(whole, _const(ty, 2 * _of(BIAS, ty)))
        first = builder.lshr(field, _const(ty, 1))
        second = builder.sub(field, first)
        half = builder.fmul(args[0], _field_to_power(builder, ty, first))
        return builder.fmul(half, _field_to_power(builder, ty, second))

    ty = common_vector_type((x, n)) or x
    return ty(ty, ty), codegen


@intrinsic
def scaled_down(typingctx, x, n):
    """x * 2**n for a whole n <= 0 as a float, n + LIFT > -bias; NaN in x stays NaN.

    One instruction where the machine has it; else a power of two that is normal, and one constant
    that lets the product underflow.
    """

    def codegen(context, builder, signature, args):
        ty = signature.args[0]
        if isinstance(ty, Vector) and _has_scalef(context, builder):
            return _scalef(builder, ty, *args)
        # The lowest bits of n + LIFT + 1.5 * 2**mantissa + bias are the exponent field.
        magic = 1.5 * 2.0 ** _of(MANTISSA, ty) + _of(BIAS, ty) + _of(LIFT, ty)
        shifted = builder.fadd(args[1], _real(ty, magic))
        power = _field_to_power(builder, ty, builder.bitcast(shifted, _int(ty)))
        return builder.fmul(builder.fmul(args[0], power), _real(ty, 2.0 ** -_of(LIFT, ty)))

    return x(x, x), codegen


def _has_scalef(context, builder):
    return not on_gpu(builder) and "+avx512f" in context.codegen()._tm_features


def _scalef(builder, ty, x, n):
    """AVX-512's x * 2**floor(n), on vectors of 64 bytes."""
    name = "llvm.x86.avx512.mask.scalef." + ("ps.512" if ty.dtype == types.float32 else "pd.512")
    mask, i32 = ir.IntType(ty.width), ir.IntType(32)
    fnty = ir.FunctionType(x.type, [x.type, x.type, x.type, mask, i32])
    fn = builder.module.globals.get(name) or ir.Function(builder.module, fnty, name)
    return builder.call(fn, [x, n, x, ir.Constant(mask, -1), ir.Constant(i32, 4)])


@intrinsic
def split(typingctx, x):
    """(f, k, 2**-k) with x = f * 2**k and f in [sqrt(1/2), sqrt(2)); for positive normal x."""

    def codegen(context, builder, signature, args):
        ty = signature.args[0]
        mantissa = _const(ty, _of(MANTISSA, ty))
        bits = builder.bitcast(args[0], _int(ty))
        moved = builder.add(bits, _const(ty, _of(ONE_BITS, ty) - _of(SQRT_HALF_BITS, ty)))
        field = builder.lshr(moved, mantissa)
        fraction = builder.and_(moved, _const(ty, (1 << _of(MANTISSA, ty)) - 1))
        f = builder.bitcast(builder.add(fraction, _const(ty, _of(SQRT_HALF_BITS, ty))), _float(ty))
        k = builder.sitofp(builder.sub(field, _const(ty, _of(BIAS, ty))), _float(ty))
        inverse = _field_to_power(builder, ty, builder.sub(_const(ty, 2 * _of(BIAS, ty)), field))
        return context.make_tuple(builder, signature.return_type, (f, k, inverse))

    return types.UniTuple(x, 3)(x), codegen


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
    """The int64 at an address, incremented atomically: no two threads get the same number."""

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        place = builder.inttoptr(args[0], i64.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(i64, 1), "monotonic")

    return types.int64(types.int64), codegen


def _call_address(builder, address, args):
    """Call the C function void(int64, ...) at an address."""
    fn = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(args))
    builder.call(builder.inttoptr(address, fn.as_pointer()), args)


@intrinsic
def call3(typingctx, address, a, b, c):
    """Call a kernel: void(args, first, last)."""

    def codegen(context, builder, signature, args):
        _call_address(builder, args[0], args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def call7(typingctx, f, a, b, c, d, e, g, h):
    """Call a packing function: void(address, stride, stride, rows, columns, scratch, extra)."""

    def codegen(context, builder, signature, args):
        _call_address(builder, args[0], args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen
