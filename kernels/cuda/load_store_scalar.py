"""Stored numbers, one at a time: at an address, and as floats.

They are told apart by the type tags of forms.py.
"""

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, I64
from fusedce.kernels.cuda.dtypes import (
    BYTES,
    DTYPE_CODES,
    Bfloat16,
    Float16,
    Float32,
    Float64,
    OldBfloat16,
    OldFloat16,
    Uint64,
)
from fusedce.kernels.cuda.kernel_args import SLOT
from fusedce.kernels.cuda.toolchain import cgutils, intrinsic, types
from fusedce.kernels.scalar import scalar
from fusedce.kernels.vector import FLOAT

DEVICE = 1  # NVVM's address space
I16 = ir.IntType(16)


def constant(value):
    """A whole number of 32 bits."""
    return ir.Constant(I32, value)


def _place(builder, address, ty):
    return builder.inttoptr(address, ty.as_pointer(DEVICE))


@intrinsic
def peek(typingctx, address, number):
    """The number of a NumPy type at an address."""
    T = number.instance_type

    def codegen(context, builder, sig, args):
        return builder.load(
            _place(builder, args[0], context.get_value_type(T)), align=T.bitwidth // 8
        )

    return T(types.int64, number), codegen


@intrinsic
def poke(typingctx, address, x):
    """Store a number of a NumPy type."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], _place(builder, args[0], args[1].type), align=x.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.int64, x), codegen


@intrinsic
def float_of(typingctx, number, bits):
    """The float of a type whose bits a field of the plan holds."""
    T = number.instance_type

    def codegen(context, builder, sig, args):
        word = builder.trunc(args[1], I32) if T.bitwidth == 32 else args[1]
        return builder.bitcast(word, context.get_value_type(T))

    return T(number, types.int64), codegen


def _from_float32(builder, x, T):
    """A float32 as a float of type T."""
    return x if types.float32 == T else builder.fpext(x, FLOAT[T])


def to_float32(builder, x, T):
    """A float of type T as a float32."""
    return x if types.float32 == T else builder.fptrunc(x, FLOAT[types.float32])


def _single_of_double(builder, bits):
    """The float32 nearest to a float64's bits, by whole numbers; 0 where it would be subnormal.

    A float32 kernel has no float64 instruction: most devices do those 32 or 64 times slower.
    """

    def wide(value):
        return ir.Constant(I64, value)

    size = builder.and_(bits, wide(2**63 - 1))
    odd = builder.and_(builder.lshr(size, wide(29)), wide(1))
    near = builder.lshr(builder.add(size, builder.add(odd, wide(2**28 - 1))), wide(29))
    word = builder.trunc(builder.sub(near, wide(896 << 23)), I32)  # 896: between the biases
    word = builder.select(builder.icmp_unsigned("<", size, wide(897 << 52)), constant(0), word)
    high = builder.icmp_unsigned(">=", size, wide(1151 << 52))
    word = builder.select(high, constant(0x7F800000), word)
    nan = builder.icmp_unsigned(">", size, wide(2047 << 52))
    word = builder.select(nan, constant(0x7FC00000), word)
    sign = builder.and_(builder.trunc(builder.lshr(bits, wide(32)), I32), constant(1 << 31))
    return builder.bitcast(builder.or_(word, sign), FLOAT[types.float32])


def from_bits(builder, dtype, T, bits):
    """The float that some bits stand for."""
    if dtype is Float64:
        if types.float32 == T:
            return _single_of_double(builder, bits)
        return builder.bitcast(bits, FLOAT[types.float64])
    if dtype is Float32:
        return _from_float32(builder, builder.bitcast(bits, FLOAT[types.float32]), T)
    if dtype in (Float16, OldFloat16):
        text = "cvt.f32.f16 $0, $1;"
        asm = ir.InlineAsm(ir.FunctionType(FLOAT[types.float32], [I16]), text, "=f,h")
        return _from_float32(builder, builder.call(asm, [bits]), T)
    if dtype in (Bfloat16, OldBfloat16):
        wide = builder.shl(builder.zext(bits, I32), constant(16))
        return _from_float32(builder, builder.bitcast(wide, FLOAT[types.float32]), T)
    convert = builder.uitofp if dtype.__name__.startswith("U") else builder.sitofp
    return convert(bits, FLOAT[T])


def _rounded(builder, x):
    """The upper half of a float32, rounded to even; a NaN stays one."""
    bits = builder.bitcast(x, I32)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    near = builder.add(bits, builder.add(odd, constant(0x7FFF)))
    quiet = builder.or_(bits, constant(0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", x, x), quiet, near)
    return builder.trunc(builder.lshr(chosen, constant(16)), I16)


def to_bits(builder, dtype, T, x):
    """The bits that store a float."""
    if dtype is Float64:
        wide = x if types.float64 == T else builder.fpext(x, FLOAT[types.float64])
        return builder.bitcast(wide, I64)
    x = to_float32(builder, x, T)
    if dtype is Float32:
        return builder.bitcast(x, I32)
    if dtype is OldBfloat16:
        return _rounded(builder, x)
    text = "cvt.rn.f16.f32 $0, $1;" if dtype in (Float16, OldFloat16) else "cvt.rn.bf16.f32 $0, $1;"
    asm = ir.InlineAsm(ir.FunctionType(I16, [FLOAT[types.float32]]), text, "=h,f")
    return builder.call(asm, [x])


def _bits_type(dtype):
    return ir.IntType(8 * BYTES[dtype])


@intrinsic
def number_at(typingctx, number, dtype, address):
    """The stored number at an address, as a float."""
    T, tag = number.instance_type, dtype.instance_class

    def codegen(context, builder, sig, args):
        bits = builder.load(_place(builder, args[2], _bits_type(tag)), align=BYTES[tag])
        return from_bits(builder, tag, T, bits)

    return T(number, dtype, types.int64), codegen


@intrinsic
def put_number(typingctx, dtype, address, x):
    """Store a float."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        bits = to_bits(builder, tag, x, args[2])
        builder.store(bits, _place(builder, args[1], bits.type), align=BYTES[tag])
        return context.get_dummy_value()

    return types.void(dtype, types.int64, x), codegen


@intrinsic
def integer_at(typingctx, dtype, address):
    """The stored integer at an address; from 2**63 on, the largest int64."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        bits = builder.load(_place(builder, args[1], _bits_type(tag)), align=BYTES[tag])
        if tag is Uint64:
            most = ir.Constant(I64, 2**63 - 1)
            return builder.select(builder.icmp_signed("<", bits, ir.Constant(I64, 0)), most, bits)
        if bits.type == I64:
            return bits
        unsigned = tag.__name__.startswith("U")
        return builder.zext(bits, I64) if unsigned else builder.sext(bits, I64)

    return types.int64(dtype, types.int64), codegen


@intrinsic
def itemsize(typingctx, dtype):
    """Bytes of a stored number."""
    value = BYTES[dtype.instance_class]
    return types.int32(dtype), lambda context, builder, sig, args: ir.Constant(I32, value)


F64, F32, F16, BF16, I8, IN16, IN32, IN64, U8, U16, U32, U64 = (tag() for tag in DTYPE_CODES)


@scalar
def any_number(T, dtype_code, address):
    """The same where the form is looked up."""
    if dtype_code == 0:
        return number_at(T, F64, address)
    if dtype_code == 1:
        return number_at(T, F32, address)
    if dtype_code == 2:
        return number_at(T, F16, address)
    if dtype_code == 3:
        return number_at(T, BF16, address)
    if dtype_code == 11:
        return number_at(T, U64, address)
    return T(any_integer(dtype_code, address))


@scalar
def any_integer(dtype_code, address):
    """The same of integers."""
    if dtype_code == 4:
        return integer_at(I8, address)
    if dtype_code == 5:
        return integer_at(IN16, address)
    if dtype_code == 6:
        return integer_at(IN32, address)
    if dtype_code == 7:
        return integer_at(IN64, address)
    if dtype_code == 8:
        return integer_at(U8, address)
    if dtype_code == 9:
        return integer_at(U16, address)
    if dtype_code == 10:
        return integer_at(U32, address)
    return integer_at(U64, address)


@scalar
def any_put(dtype_code, address, x):
    """Store a float as float64 or float32, as a number says."""
    if dtype_code == 0:
        put_number(F64, address, x)
    else:
        put_number(F32, address, x)


@intrinsic
def params_of(typingctx, args, cls, number):
    """The NamedTuple of floats that selects the rule."""
    T = number.instance_type
    names = cls.instance_class._fields
    params = types.BaseTuple.from_types((T,) * len(names), cls.instance_class)

    def codegen(context, builder, sig, args):
        fields = cgutils.unpack_tuple(builder, args[0])
        values = []
        for k in range(len(names)):
            bits = fields[SLOT["p0"] + k]
            if T.bitwidth == 32:
                bits = builder.trunc(bits, ir.IntType(32))
            values.append(builder.bitcast(bits, context.get_value_type(T)))
        return context.make_tuple(builder, sig.return_type, values)

    return params(args, cls, number), codegen
