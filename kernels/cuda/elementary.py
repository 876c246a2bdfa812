"""exp and its relatives on a GPU.

float32 exponentials use the instruction ex2.approx (2 ulp), corrected for the rounding of its
argument. All else, and all of float64, for which there is no such instruction, uses the
polynomials of kernels/elementary.py.
"""

import numpy as np
from llvmlite import ir

from fusedce.kernels import elementary
from fusedce.kernels import scalar as stubs
from fusedce.kernels.cuda.toolchain import intrinsic, overload
from fusedce.kernels.intrinsics import fused, select
from fusedce.kernels.link import sigmoid_from
from fusedce.kernels.scalar import INLINED, scalar
from fusedce.kernels.vector import (
    call_intrinsic,
    common_vector_type,
    lane_by_lane,
    lane_of,
    lanes_as,
)


def _unit(builder, text, x):
    single = ir.FloatType()
    unit = ir.InlineAsm(ir.FunctionType(single, [single]), f"{text} $0, $1;", "=f,f")
    return lane_by_lane(builder, lambda v: builder.call(unit, (v,)), x)


@intrinsic
def power_of_two(typingctx, x):
    """2**x by the approximate instruction, to 2**-22; subnormals are flushed to 0."""

    def codegen(context, builder, sig, args):
        return _unit(builder, "ex2.approx.ftz.f32", args[0])

    return x(x), codegen


@intrinsic
def power_of_two_whole(typingctx, x):
    """The same with subnormals, for three instructions more."""

    def codegen(context, builder, sig, args):
        return _unit(builder, "ex2.approx.f32", args[0])

    return x(x), codegen


@intrinsic
def largest_of(typingctx, a, b):
    """The larger of two numbers; the other one if one is NaN."""

    def codegen(context, builder, sig, args):
        return call_intrinsic(builder, "llvm.maxnum", *args)

    ty = common_vector_type((a, b)) or a
    return ty(ty, ty), codegen


@intrinsic
def mul_sign(typingctx, x, sign):
    """x times the sign of ``sign``: -x where that is negative, else x."""

    def codegen(context, builder, sig, args):
        def flip(a, b):
            bits, sign = (builder.bitcast(v, word) for v in (a, b))
            moved = builder.and_(sign, ir.Constant(word, 1 << word.width - 1))
            return builder.bitcast(builder.xor(bits, moved), a.type)

        word = ir.IntType(x_type.bitwidth)
        return lane_by_lane(builder, flip, *args)

    ty = common_vector_type((x, sign)) or x
    x_type = lane_of(ty)
    return ty(ty, ty), codegen


@intrinsic
def unit_inverse(typingctx, x):
    """1 / x by the approximate instruction, to 1 ulp; subnormals are flushed to 0."""

    def codegen(context, builder, sig, args):
        return _unit(builder, "rcp.approx.ftz.f32", args[0])

    return x(x), codegen


@scalar
def exp_down32(x):
    """e**x = 2**t (1 - less) for x <= 0: t = x / log 2 rounded, less = log(2) t - x.

    Not flushed, since multiples of subnormals may be normal numbers. Where x is infinite, 2**t is 0
    and less is not a number.
    """
    T = np.float32
    t = x * T(1.442695)
    less = largest_of(fused(t, T(0.6931472), -x), T(-1))
    e = power_of_two_whole(t)
    return fused(e, -less, e)


@scalar
def exp32(x):
    """The same for any x, as a square: 2**t may be out of range where e**x is not."""
    T = np.float32
    x = select(x > T(90.0), T(90.0), x)
    t = x * T(0.7213475)
    less = largest_of(fused(t, T(1.3862944), -x), T(-1))
    root = power_of_two(t)
    return fused(root, -less, root) * root


@scalar
def log1p_unit32(x):
    """log(1 + x) for x in [0, 1]: x times a polynomial that is right to 3e-7."""
    T = np.float32
    w = fused(x, T(-0.008539198), T(0.044089593))
    w = fused(x, w, T(-0.107681654))
    w = fused(x, w, T(0.17745237))
    w = fused(x, w, T(-0.24495462))
    w = fused(x, w, T(0.3327548))
    w = fused(x, w, T(-0.49997404))
    return x * fused(x, w, T(0.9999998))


@scalar
def exp_coarse(x):
    """e**x for x <= 0 to 4e-6, the cheapest: for results that are rounded to half precision."""
    return power_of_two(x * type(x)(1.44269502))


@scalar
def exp_rough(x):
    """e**x for x <= 0: relative error 5e-6 at x = -87, smaller for larger x; for softmax.

    Computed as a square, so that no result is flushed that times a weight would be normal.
    """
    root = power_of_two(x * type(x)(0.72134752))
    return root * root


@scalar
def half_sigmoid(z):
    """As ``link.sigmoid_outcomes``, for logits of half precision.

    Accurate to 1e-5 for gradients, which are rounded to half precision, and to 4e-6 for log p.
    """
    T = lanes_as(z)
    root = power_of_two(-abs(z) * T(0.72134751))
    e = root * root
    w = fused(e, T(0.014141015), T(-0.06640179))
    w = fused(e, w, T(0.14922388))
    w = fused(e, w, T(-0.2350386))
    w = fused(e, w, T(0.3310945))
    w = fused(e, w, T(-0.49986964))
    logp, logq, p, q = sigmoid_from(z, e, e * fused(e, w, T(0.99999875)))
    return logp, logq, p, q


def _both(stub, single, double):
    elementary.both(stub, single, double, register=overload, target="cuda")


_both(stubs.exp, exp32, elementary.exp64)
_both(stubs.exp_down, exp_down32, elementary.exp_down64)
_both(stubs.expm1, elementary.expm1_32, elementary.expm1_64)
_both(stubs.log, elementary.log32, elementary.log64)
_both(stubs.log1p, elementary.log1p32, elementary.log1p64)
_both(stubs.inverse, unit_inverse, elementary.inverse_any)
_both(stubs.log1p_unit, log1p_unit32, elementary.log1p_unit64)
_both(stubs.log1p_up, elementary.log1p_up32, elementary.log1p_up64)
_both(stubs.tanh, elementary.tanh32, elementary.tanh64)


@overload(stubs.fma, target="cuda", jit_options=INLINED)
def _fma(a, b, c):
    return lambda a, b, c: fused(a, b, c)


@overload(stubs.ratio, target="cuda", jit_options=INLINED)
def _ratio(x, y):
    return lambda x, y: x * stubs.inverse(y)


@overload(stubs.where, target="cuda", jit_options=INLINED)
def _where(condition, a, b):
    return lambda condition, a, b: select(condition, a, b)
