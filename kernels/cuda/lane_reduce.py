"""Lanes of a number folded in an order that suits a GPU."""

import functools

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, assembly
from fusedce.kernels.cuda.load_store import lanes_of
from fusedce.kernels.cuda.load_store_scalar import constant
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import Vector, elementwise, gathered, lane_by_lane, lane_of


def _lanes(builder, x):
    if not isinstance(x.type, ir.VectorType):
        return [x]
    return [builder.extract_element(x, constant(k)) for k in range(x.type.count)]


def _tree(builder, parts):
    """Their sum."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        odd = parts[len(parts) // 2 * 2 :]
        parts = [builder.fadd(a, b) for a, b in pairs] + odd
    return parts[0]


def _chain(builder, parts):
    """Their sum, one after the other: of products, each is one instruction."""
    return functools.reduce(builder.fadd, parts)


@intrinsic
def chunks_total(typingctx, dtype, count, x):
    """The sum of the lanes of the first ``count`` chunks; of one number, itself."""
    if not isinstance(x, Vector):
        return x(dtype, types.int32, x), lambda context, builder, sig, args: args[2]
    per = lanes_of(dtype.instance_class)

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
def product_total(typingctx, x, y):
    """The sum of the products of lanes: four sums side by side, one instruction a lane."""

    def codegen(context, builder, sig, args):
        a, b = (_lanes(builder, v) for v in args)
        sums = [builder.fmul(*pair) for pair in zip(a[:4], b[:4], strict=True)]
        for k in range(4, len(a)):
            sums[k % 4] = elementwise(builder, "llvm.fma", a[k], b[k], sums[k % 4])
        return _tree(builder, sums)

    return lane_of(x)(x, y), codegen


@intrinsic
def ones(typingctx, x):
    """The sum of lanes that are 0 or 1, up to 256 of them.

    Of float32 their bits are added up, three numbers an instruction: 1.0 is 127 * 2**23, and 383
    undoes 127 in whole numbers of 9 bits.
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
def largest_last(typingctx, x):
    """The same lanes in another order, the largest last; only NaN if one is (sm_80)."""

    def codegen(context, builder, sig, args):
        def outcome(name, a, b):
            text = f"{name}.NaN.f32 $0, $1, $2;"
            asm = ir.InlineAsm(ir.FunctionType(a.type, [a.type] * 2), text, "=f,f,f")
            return builder.call(asm, (a, b))

        playing, out = _lanes(builder, args[0]), []
        while len(playing) > 1:
            pairs = list(zip(playing[::2], playing[1::2], strict=False))
            out += [outcome("min", a, b) for a, b in pairs]
            playing = [outcome("max", a, b) for a, b in pairs] + playing[2 * len(pairs) :]
        return gathered(builder, out + playing)

    return x(x), codegen


@intrinsic
def pinned(typingctx, x):
    """The same number, which the compiler neither makes ahead of a branch nor makes again."""
    mark = {types.float32: "f", types.float64: "d", types.int64: "l"}[lane_of(x)]

    def codegen(context, builder, sig, args):
        def keep(v):
            return assembly(builder, "", v.type, f"={mark},0", (v,))

        return lane_by_lane(builder, keep, args[0])

    return x(x), codegen
