"""exp and its relatives on a GPU.

float32 exponentials use the unit ex2.approx (2 ulp) with what the rounding of its argument loses
put back in; everything else is the polynomials of kernels/elementary.py, and float64 is theirs
altogether: there is no unit for it.
"""

import numpy as np
from llvmlite import ir

from fusedce.kernels import elementary
from fusedce.kernels import scalar as stubs
from fusedce.kernels.cuda.numba_cuda import intrinsic, overload
from fusedce.kernels.machine import fused, select
from fusedce.kernels.scalar import INLINED, scalar
from fusedce.kernels.vector import lane_by_lane


def _unit(builder, text, x):
    single = ir.FloatType()
    unit = ir.InlineAsm(ir.FunctionType(single, [single]), f"{text} $0, $1;", "=f,f")
    return lane_by_lane(builder, lambda v: builder.call(unit, (v,)), x)


@intrinsic
def power_of_two(typingctx, x):
    """2**x by the approximate unit: to 2**-22, subnormals flushed to 0."""

    def codegen(context, builder, sig, args):
        return _unit(builder, "ex2.approx.ftz.f32", args[0])

    return x(x), codegen


@intrinsic
def power_of_two_whole(typingctx, x):
    """The same with subnormals, for three instructions more."""

    def codegen(context, builder, sig, args):
        return _unit(builder, "ex2.approx.f32", args[0])

    return x(x), codegen


@scalar
def _reduced(x):
    """(t, less): x / log 2 = t - less, t rounded."""
    T = np.float32
    t = x * T(1.44269502)
    less = fused(x, T(-1.44269502), t)
    return t, fused(x, T(-1.92596299e-8), less)


@scalar
def exp_down32(x):
    """e**x = 2**t (1 - log(2) less) for x <= 0; NaN passes the clamp.

    Not flushed: multiples of subnormals may be normal numbers.
    """
    T = np.float32
    t, less = _reduced(select(x < T(-104.0), T(-104.0), x))
    e = power_of_two_whole(t)
    return fused(e * T(-0.693147181), less, e)


@scalar
def exp32(x):
    """The same for any x, as a square: 2**t may be out of range where e**x is not."""
    T = np.float32
    x = select(x < T(-104.0), T(-104.0), x)
    t, less = _reduced(select(x > T(90.0), T(90.0), x))
    root = power_of_two(t * T(0.5))
    root = fused(root * T(-0.34657359), less, root)
    return root * root


@scalar
def exp_coarse(x):
    """e**x for x <= 0 to 4e-6, the cheapest: for what is rounded to half precision next."""
    return power_of_two(x * type(x)(1.44269502))


@scalar
def exp_rough(x):
    """e**x for x <= 0 to 5e-6 at x = -87, less above: with the rounding of x, what softmax allows.

    A square, so that no number is flushed that a weight could make a normal one.
    """
    root = power_of_two(x * type(x)(0.72134752))
    return root * root


def _both(stub, single, double):
    elementary.both(stub, single, double, register=overload, target="cuda")


_both(stubs.exp, exp32, elementary.exp64)
_both(stubs.exp_down, exp_down32, elementary.exp_down64)
_both(stubs.expm1, elementary.expm1_32, elementary.expm1_64)
_both(stubs.log, elementary.log32, elementary.log64)
_both(stubs.log1p, elementary.log1p32, elementary.log1p64)
_both(stubs.log1p_unit, elementary.log1p_unit32, elementary.log1p_unit64)
_both(stubs.log1p_up, elementary.log1p_up32, elementary.log1p_up64)
_both(stubs.tanh, elementary.tanh32, elementary.tanh64)


@overload(stubs.fma, target="cuda", jit_options=INLINED)
def _fma(a, b, c):
    return lambda a, b, c: fused(a, b, c)


@overload(stubs.choose, target="cuda", jit_options=INLINED)
def _choose(condition, a, b):
    return lambda condition, a, b: select(condition, a, b)
