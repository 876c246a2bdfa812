"""The scalar dialect: one decorator, and the elementary functions by name.

A scalar function takes numbers and returns numbers. It is written once without a signature and
compiled for each device that calls it, so literals are made with ``T = type(x)``, ``T(1)``: a bare
``1.0`` would pull a float32 kernel to float64. The stubs below are plain Python (readable under a
debugger); each device registers its own body with ``@overload(stub, target=...)``.
"""

import math
from collections.abc import Callable
from typing import Any

from numba import njit

# Never nnan, ninf or afn: NaN and infinities carry meaning here.
FASTMATH = {"contract", "nsz"}
# Only for loops that add up: a sum vectorises when its order is free.
FASTMATH_SUM = FASTMATH | {"reassoc"}


def scalar(fn: Callable[..., Any]) -> Any:
    """Compile a function of numbers; error_model="numpy" so that x/0 is inf and SIMD is allowed."""
    return njit(error_model="numpy", fastmath=FASTMATH)(fn)


def exp(x: float) -> float:
    """e**x."""
    return math.exp(x)


def expm1(x: float) -> float:
    """e**x - 1, right to its own size near zero."""
    return math.expm1(x)


def log(x: float) -> float:
    """Natural logarithm; -inf at 0, NaN below."""
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def log1p(x: float) -> float:
    """log(1 + x), right to its own size near zero; -inf at -1, NaN below."""
    return math.log1p(x) if x > -1 else (-math.inf if x == -1 else math.nan)


def tanh(x: float) -> float:
    """Hyperbolic tangent."""
    return math.tanh(x)


def fma(a: float, b: float, c: float) -> float:
    """a * b + c with one rounding."""
    return a * b + c
