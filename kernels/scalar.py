"""Scalar functions: the decorator that compiles them, and the elementary functions they call.

A scalar function takes numbers and returns numbers. It is written once without a signature and
compiled for each device that calls it, so literals are made with ``T = type(x)``, ``T(1)``: a bare
``1.0`` would pull a float32 kernel to float64. The stubs below are plain Python (readable under a
debugger); each device registers its own body with ``@overload(stub, target=...)``.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

from numba.extending import overload

from fusedce.kernels.compiling import njit
from fusedce.kernels.inline import IR_ONLY

# Never nnan, ninf or afn: NaN and infinities carry meaning here.
FASTMATH = {"contract", "nsz"}
# For the bodies registered with @overload, which do not inherit their caller's options.
INLINED = {"error_model": "numpy", "fastmath": FASTMATH, "forceinline": True, **IR_ONLY}


def generated(choose: Callable[..., Any]) -> Any:
    """A function whose body is chosen while its caller is compiled, as by ``numba.generated_jit``.

    ``choose`` is called with the Numba types of the arguments and returns the body: a function, or
    a lambda, with the same parameters. What is not chosen is not compiled.
    """

    @functools.wraps(choose)
    def stub(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{choose.__qualname__} is for compiled code only")

    overload(stub, jit_options=INLINED)(choose)
    return stub


def scalar(fn: Callable[..., Any]) -> Any:
    """Compile a function of numbers; error_model="numpy" so that x/0 is inf and SIMD is allowed.

    forceinline: one call left in a loop keeps it scalar, and LLVM stops inlining by size.
    """
    return njit(**INLINED)(fn)


def exp(x: float) -> float:
    """e**x."""
    return math.exp(x)


def exp_down(x: float) -> float:
    """e**x for x <= 0: cheaper than exp."""
    return math.exp(x)


def expm1(x: float) -> float:
    """e**x - 1, to full relative precision near zero."""
    return math.expm1(x)


def log(x: float) -> float:
    """Natural logarithm; -inf at 0, NaN below."""
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def log1p(x: float) -> float:
    """log(1 + x), to full relative precision near zero; -inf at -1, NaN below."""
    return math.log1p(x) if x > -1 else (-math.inf if x == -1 else math.nan)


def log1p_unit(x: float) -> float:
    """log(1 + x) for x in [0, 1]: cheaper than log1p."""
    return math.log1p(x)


def log1p_up(x: float) -> float:
    """log(1 + x) for x >= 0: cheaper than log1p."""
    return math.log1p(x)


def inverse(x: float) -> float:
    """1 / x for a normal x up to 2**126."""
    return 1.0 / x


def ratio(x: float, y: float) -> float:
    """x / y for a normal y up to 2**126."""
    return x / y


def tanh(x: float) -> float:
    """Hyperbolic tangent."""
    return math.tanh(x)


def where(condition: Any, a: Any, b: Any) -> Any:
    """``a if condition else b`` without a branch, which would prevent vectorising."""
    return a if condition else b


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding."""
    return a * b + c


@scalar
def tiny(x):
    """About the smallest normal number of x's type."""
    T = type(x)
    return where(T(1e-307) == T(0), T(1e-37), T(1e-307))


@scalar
def whole_power(x, n):
    """x**n for n in {0, ..., 7}, by multiplication: conditions are evaluated outside the loop."""
    T = type(x)
    bits = int(n)
    x2 = x * x
    power = where(bits & 1 != 0, x, T(1))
    power = where(bits & 2 != 0, power * x2, power)
    return where(bits & 4 != 0, power * (x2 * x2), power)


@scalar
def real_power(logx, a):
    """x**a = exp(a log x) for x in [0, 1], a > 0, corrected for the rounding of the product."""
    T = type(a)
    product = a * logx
    lost = fma(a, logx, -product)
    return where(logx < T(-1e6), T(0), exp(product) * (T(1) + lost))


@scalar
def fmax(a, b):
    """The larger value; a where b is NaN."""
    return where(b > a, b, a)
