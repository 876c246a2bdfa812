"""Loads and stores of single numbers, by the type tags and codes of dtypes.py.

An address is that of a byte in global memory, as an int64.
"""

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, I64
from fusedce.kernels.cuda.dtypes import (
    CODE,
    INFO,
    SIZE,
    Bfloat16,
    Float16,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
)
from fusedce.kernels.cuda.kernel_args import SLOT
from fusedce.kernels.cuda.toolchain import cgutils, intrinsic, types
from fusedce.kernels.scalar import scalar
from fusedce.kernels.vector import FLOAT

GLOBAL_SPACE = 1  # NVVM's number of the address space
I16 = ir.IntType(16)


def constant(value):
    """An int32 constant in LLVM IR."""
    return ir.Constant(I32, value)


def _pointer(builder, address, ty):
    return builder.inttoptr(address, ty.as_pointer(GLOBAL_SPACE))


@intrinsic
def peek(typingctx, address, number):
    """Load a number of a NumPy type."""
    T = number.instance_type

    def codegen(context, builder, sig, args):
        return builder.load(
            _pointer(builder, args[0], context.get_value_type(T)), align=T.bitwidth // 8
        )

    return T(types.int64, number), codegen


@intrinsic
def poke(typingctx, address, x):
    """Store a number of a NumPy type."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], _pointer(builder, args[0], args[1].type), align=x.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.int64, x), codegen


@intrinsic
def float_of(typingctx, number, bits):
    """The float of a type whose bits a field of KernelArgs holds."""
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


def _float32_from_float64(builder, bits):
    """The float32 nearest to a float64, in integer arithmetic; 0 where it would be subnormal.

    A float32 kernel has no float64 instructions: on most devices they are 32 or 64 times slower.
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
    """The float of type T that is stored as some bits."""
    info = INFO[dtype]
    if info.kind != "f":
        convert = builder.uitofp if info.kind == "u" else builder.sitofp
        return convert(bits, FLOAT[T])
    if dtype is Float64:
        if types.float32 == T:
            return _float32_from_float64(builder, bits)
        return builder.bitcast(bits, FLOAT[types.float64])
    if info.decode is None:
        if info.size == 2:
            bits = builder.shl(builder.zext(bits, I32), constant(16))
        return _from_float32(builder, builder.bitcast(bits, FLOAT[types.float32]), T)
    asm = ir.InlineAsm(ir.FunctionType(FLOAT[types.float32], [I16]), info.decode, "=f,h")
    return _from_float32(builder, builder.call(asm, [bits]), T)


def _upper_half(builder, x):
    """The upper 16 bits of a float32, rounded to nearest even; a NaN stays NaN."""
    bits = builder.bitcast(x, I32)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    near = builder.add(bits, builder.add(odd, constant(0x7FFF)))
    quiet = builder.or_(bits, constant(0x400000))
    chosen = builder.select(builder.fcmp_unordered("uno", x, x), quiet, near)
    return builder.trunc(builder.lshr(chosen, constant(16)), I16)


def to_bits(builder, dtype, T, x):
    """The bits that store a float of type T."""
    if dtype is Float64:
        wide = x if types.float64 == T else builder.fpext(x, FLOAT[types.float64])
        return builder.bitcast(wide, I64)
    x = to_float32(builder, x, T)
    if dtype is Float32:
        return builder.bitcast(x, I32)
    if INFO[dtype].encode is None:
        return _upper_half(builder, x)
    text = INFO[dtype].encode
    asm = ir.InlineAsm(ir.FunctionType(I16, [FLOAT[types.float32]]), text, "=h,f")
    return builder.call(asm, [x])


def _bits_type(dtype):
    return ir.IntType(8 * SIZE[dtype])


@intrinsic
def number_at(typingctx, number, dtype, address):
    """Load a number as a float of type ``number``."""
    T, tag = number.instance_type, dtype.instance_class

    def codegen(context, builder, sig, args):
        bits = builder.load(_pointer(builder, args[2], _bits_type(tag)), align=SIZE[tag])
        return from_bits(builder, tag, T, bits)

    return T(number, dtype, types.int64), codegen


@intrinsic
def put_number(typingctx, dtype, address, x):
    """Store a float as a number of a dtype."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        bits = to_bits(builder, tag, x, args[2])
        builder.store(bits, _pointer(builder, args[1], bits.type), align=SIZE[tag])
        return context.get_dummy_value()

    return types.void(dtype, types.int64, x), codegen


@intrinsic
def integer_at(typingctx, dtype, address):
    """Load an integer as int64; from 2**63 on, the largest int64."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        bits = builder.load(_pointer(builder, args[1], _bits_type(tag)), align=SIZE[tag])
        if tag is Uint64:
            most = ir.Constant(I64, 2**63 - 1)
            return builder.select(builder.icmp_signed("<", bits, ir.Constant(I64, 0)), most, bits)
        if bits.type == I64:
            return bits
        unsigned = INFO[tag].kind == "u"
        return builder.zext(bits, I64) if unsigned else builder.sext(bits, I64)

    return types.int64(dtype, types.int64), codegen


@intrinsic
def itemsize(typingctx, dtype):
    """Bytes of a stored number."""
    value = SIZE[dtype.instance_class]
    return types.int32(dtype), lambda context, builder, sig, args: ir.Constant(I32, value)


# The codes that an array's ``_dtype`` field holds.
FLOAT64, FLOAT32, FLOAT16, BFLOAT16 = (CODE[t] for t in (Float64, Float32, Float16, Bfloat16))
INT8, INT16, INT32, INT64 = (CODE[t] for t in (Int8, Int16, Int32, Int64))
UINT8, UINT16, UINT32, UINT64 = (CODE[t] for t in (Uint8, Uint16, Uint32, Uint64))

# The type tags as values.
_F64, _F32, _F16, _BF16 = Float64(), Float32(), Float16(), Bfloat16()
_I8, _I16, _I32, _I64 = Int8(), Int16(), Int32(), Int64()
_U8, _U16, _U32, _U64 = Uint8(), Uint16(), Uint32(), Uint64()


@scalar
def any_number(T, dtype_code, address):
    """As ``number_at``, with the dtype looked up at run time."""
    if dtype_code == FLOAT64:
        return number_at(T, _F64, address)
    if dtype_code == FLOAT32:
        return number_at(T, _F32, address)
    if dtype_code == FLOAT16:
        return number_at(T, _F16, address)
    if dtype_code == BFLOAT16:
        return number_at(T, _BF16, address)
    if dtype_code == UINT64:
        return number_at(T, _U64, address)
    return T(any_integer(dtype_code, address))


@scalar
def any_integer(dtype_code, address):
    """As ``integer_at``, with the dtype looked up at run time."""
    if dtype_code == INT8:
        return integer_at(_I8, address)
    if dtype_code == INT16:
        return integer_at(_I16, address)
    if dtype_code == INT32:
        return integer_at(_I32, address)
    if dtype_code == INT64:
        return integer_at(_I64, address)
    if dtype_code == UINT8:
        return integer_at(_U8, address)
    if dtype_code == UINT16:
        return integer_at(_U16, address)
    if dtype_code == UINT32:
        return integer_at(_U32, address)
    return integer_at(_U64, address)


@scalar
def any_put(dtype_code, address, x):
    """Store a float as float64 or float32, by the code of the dtype."""
    if dtype_code == FLOAT64:
        put_number(_F64, address, x)
    else:
        put_number(_F32, address, x)


@intrinsic
def params_of(typingctx, args, cls, number):
    """The parameters of the loss: a NamedTuple ``cls`` of floats, whose type selects the rule."""
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
