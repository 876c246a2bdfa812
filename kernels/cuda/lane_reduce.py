"""Reductions over the lanes of a vector, in an order with few dependent instructions."""

import functools

from llvmlite import ir

from fusedce.kernels.cuda.device import I32
from fusedce.kernels.cuda.load_store import chunk_lanes
from fusedce.kernels.cuda.load_store_scalar import constant
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import Vector, call_intrinsic, gathered, lane_of


def _lanes(builder, x):
    if not isinstance(x.type, ir.VectorType):
        return [x]
    return [builder.extract_element(x, constant(k)) for k in range(x.type.count)]


def _tree(builder, parts):
    """The sum of numbers, in pairs."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        odd = parts[len(parts) // 2 * 2 :]
        parts = [builder.fadd(a, b) for a, b in pairs] + odd
    return parts[0]


def _chain(builder, parts):
    """The sum of numbers, one after the other: adding a product takes one instruction."""
    return functools.reduce(builder.fadd, parts)


@intrinsic
def sum_of_chunks(typingctx, dtype, count, x):
    """The sum of the lanes of the first ``count`` chunks of a vector; a scalar itself."""
    if not isinstance(x, Vector):
        return x(dtype, types.int32, x), lambda context, builder, sig, args: args[2]
    per = chunk_lanes(dtype.instance_class)

    def codegen(context, builder, sig, args):
        _, count, value = args
        lanes, sums = _lanes(builder, value), []
        for k in range(len(lanes) // per):
            present = builder.icmp_signed("<", constant(k), count)
            some = lanes[per * k : per * k + per]
            part = _tree(builder, [_chain(builder, some[0::2]), _chain(builder, some[1::2])])
            sums.append(builder.select(present, part, ir.Constant(part.type, 0.0)))
        return _tree(builder, sums)

    return lane_of(x)(dtype, types.int32, x), codegen


@intrinsic
def sum_of_products(typingctx, x, y):
    """The sum of the products of lanes: four independent sums, one instruction a lane."""

    def codegen(context, builder, sig, args):
        a, b = (_lanes(builder, v) for v in args)
        sums = [builder.fmul(*pair) for pair in zip(a[:4], b[:4], strict=True)]
        for k in range(4, len(a)):
            sums[k % 4] = call_intrinsic(builder, "llvm.fma", a[k], b[k], sums[k % 4])
        return _tree(builder, sums)

    return lane_of(x)(x, y), codegen


@intrinsic
def count_ones(typingctx, x):
    """The sum of lanes that are 0 or 1, up to 256 lanes.

    For float32 their bits are added, three numbers an instruction: the bits of 1.0 are
    127 * 2**23, and 383 is the inverse of 127 modulo 2**9.
    """
    single = lane_of(x) == types.float32

    def codegen(context, builder, sig, args):
        lanes = _lanes(builder, args[0])
        if not single:
            return _tree(builder, lanes)
        sums = [builder.bitcast(v, I32) for v in lanes]
        bits = functools.reduce(builder.add, sums)
        count = builder.mul(builder.lshr(bits, constant(23)), constant(383))
        return builder.uitofp(builder.and_(count, constant(511)), lanes[0].type)

    return lane_of(x)(x), codegen


@intrinsic
def max_last(typingctx, x):
    """The same lanes in another order, the largest last; NaN is last if one is NaN (sm_80)."""

    def codegen(context, builder, sig, args):
        def select(name, a, b):
            text = f"{name}.NaN.f32 $0, $1, $2;"
            asm = ir.InlineAsm(ir.FunctionType(a.type, [a.type] * 2), text, "=f,f,f")
            return builder.call(asm, (a, b))

        left, out = _lanes(builder, args[0]), []
        while len(left) > 1:
            pairs = list(zip(left[::2], left[1::2], strict=False))
            out += [select("min", a, b) for a, b in pairs]
            left = [select("max", a, b) for a, b in pairs] + left[2 * len(pairs) :]
        return gathered(builder, out + left)

    return x(x), codegen
