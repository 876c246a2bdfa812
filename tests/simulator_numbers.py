"""Numbers of one or several lanes as a simulated kernel sees them.

A single number is np.float32 or np.float64, an integer a Python int, ``Int32`` where it has 32 bits
on the device (arithmetic makes int64 of it there as well). ``Lanes`` stand for a kernel's
``Vector``, ``Mask`` for what comparing them gives.
"""

from __future__ import annotations

import builtins
import functools

import numpy as np
from numba import types

from fusedce.kernels import machine, scalar, vector
from fusedce.kernels.cuda import elementary


class Int32(int):
    """A whole number of 32 bits; a larger one is an error, not the lower half."""

    __slots__ = ()

    def __new__(cls, value=0):
        self = int.__new__(cls, value)
        if not -(2**31) <= self < 2**31:
            raise OverflowError(f"{int(self)} does not fit 32 bits")
        return self


class Int64(int):
    """The same with 64 bits, which is what Python's own stand for."""

    __slots__ = ()

    def __new__(cls, value=0):
        if not -(2**63) <= (whole := int(value)) < 2**63:
            raise OverflowError(f"{whole} does not fit 64 bits")
        return whole


class Undecided(TypeError):
    """What fails to compile: several lanes as one condition."""


class Mask:
    """A yes or no in each lane."""

    __slots__ = ("v",)
    __array_ufunc__ = None  # NumPy's scalars leave operators to this class
    __hash__ = None

    def __init__(self, v):
        self.v = v

    def __bool__(self):
        raise Undecided("a kernel cannot decide an `if`, `and`, `or` or `not` on several lanes")

    def __and__(self, other):
        return Mask(self.v & _yes(other))

    def __or__(self, other):
        return Mask(self.v | _yes(other))

    def __xor__(self, other):
        return Mask(self.v ^ _yes(other))

    def __ne__(self, other):
        return Mask(self.v ^ _yes(other))

    def __eq__(self, other):
        raise TypeError("masks are not compared by == in a kernel")

    def __invert__(self):
        return Mask(~self.v)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__


def _yes(x):
    if isinstance(x, Mask):
        return x.v
    if isinstance(x, bool | np.bool_):
        return x
    raise TypeError(f"{x!r} is no mask")


def _arithmetic(operate):
    """The operator and the same with its operands exchanged."""

    def method(self, other):
        made = object.__new__(type(self))
        made.v = operate(self.v, other.v if type(other) is type(self) else self.raw(other))
        return made

    def reflected(self, other):
        made = object.__new__(type(self))
        made.v = operate(self.raw(other), self.v)
        return made

    return method, reflected


def _comparison(operate):
    def method(self, other):
        return Mask(operate(self.v, other.v if type(other) is type(self) else self.raw(other)))

    return method


class Lanes:
    """Several floats; its subclasses, one for each (dtype, width), are a kernel's number types."""

    __slots__ = ("v",)
    __array_ufunc__ = None
    __hash__ = None
    dtype: type = np.float32
    width: int = 0

    def __init__(self, x):
        self.v = x.v if type(x) is type(self) else np.full(self.width, self.raw(x))

    @classmethod
    def of(cls, v):
        """The lanes of an array."""
        assert v.dtype == cls.dtype, v.dtype
        assert v.shape == (cls.width,), v.shape
        made = object.__new__(cls)
        made.v = v
        return made

    @classmethod
    def raw(cls, x):
        """A number that meets these lanes."""
        if isinstance(x, int | float | np.bool_) and type(x) is not np.float64:
            return cls.dtype(x)
        if type(x) is cls.dtype:
            return x
        raise TypeError(f"{type(x).__name__} meets lanes of {cls.dtype.__name__}: {x!r}")

    __add__, __radd__ = _arithmetic(np.add)
    __sub__, __rsub__ = _arithmetic(np.subtract)
    __mul__, __rmul__ = _arithmetic(np.multiply)
    __truediv__, __rtruediv__ = _arithmetic(lambda a, b: UNITS.quotient(a, b))
    __lt__, __le__ = _comparison(np.less), _comparison(np.less_equal)
    __gt__, __ge__ = _comparison(np.greater), _comparison(np.greater_equal)
    __eq__, __ne__ = _comparison(np.equal), _comparison(np.not_equal)

    def __neg__(self):
        return self.of(-self.v)

    def __pos__(self):
        return self

    def __abs__(self):
        return self.of(np.abs(self.v))

    def __bool__(self):
        raise Undecided("several lanes are no condition")

    def __repr__(self):
        return f"{type(self).__name__}{self.v.tolist()}"


@functools.cache
def lanes(dtype, width):
    """The number type of so many lanes; one lane is a number."""
    if width == 1:
        return dtype
    name = f"Lanes({dtype.__name__}, {width})"
    return type(name, (Lanes,), {"__slots__": (), "dtype": dtype, "width": width})


def dtype_of(T):
    """The type of one lane."""
    return T.dtype if issubclass(T, Lanes) else T


def width_of(T):
    return T.width if issubclass(T, Lanes) else 1


def number(T, values):
    """A number of type T from an array with its lanes."""
    return T.of(values) if issubclass(T, Lanes) else values[0]


def values_of(x):
    """An array of the lanes of a number."""
    return x.v if isinstance(x, Lanes) else np.full(1, x)


def paired(a, b):
    """Two numbers as one type."""
    if isinstance(a, Lanes):
        return a, b if type(a) is type(b) else type(a)(b)
    return (type(b)(a), b) if isinstance(b, Lanes) else (a, b)


def _each(operate):
    """A function of arrays as one of numbers, in their own type."""

    def twin(*args):
        first = next((a for a in args if isinstance(a, Lanes)), None)
        if first is None:
            return args[0].dtype.type(operate(*args))
        made = operate(*(a.v if type(a) is type(first) else first.raw(a) for a in args))
        return first.of(made.astype(first.dtype, copy=False))

    return twin


# ----------------------------------------------------------------------------- Python's built-ins


def _extreme(name, beyond, single):
    """Min or max: of lanes the first unless the second is beyond it; of floats the one no NaN."""
    usual = getattr(builtins, name)

    def twin(*args):
        if len(args) != 2:
            return usual(*args)
        a, b = paired(*args)
        if isinstance(a, Lanes):
            return a.of(np.where(beyond(b.v, a.v), b.v, a.v))
        return single(a, b) if isinstance(a, np.floating) else usual(a, b)

    return twin


BUILTINS = {
    "min": _extreme("min", np.less, np.fmin),  # numba-cuda calls libdevice's fmin and fmax
    "max": _extreme("max", np.greater, np.fmax),
}


# ------------------------------------------------------------------------- choices, sums, rounding


def select(condition, a, b):
    """a or b by lanes, or by a single condition."""
    if isinstance(condition, Mask):
        T = next((type(x) for x in (a, b) if isinstance(x, Lanes)), None)
        T = T or lanes(type(a), len(condition.v))
        return T.of(np.where(condition.v, T(a).v, T(b).v))
    if not isinstance(condition, bool | np.bool_):
        raise TypeError(f"{condition!r} is no condition")
    a, b = paired(a, b)
    if isinstance(a, np.floating) != isinstance(b, np.floating) or (
        isinstance(a, np.floating) and type(a) is not type(b)
    ):
        raise TypeError(f"a choice between {type(a).__name__} and {type(b).__name__}")
    return a if condition else b


def _fused(a, b, c):
    """a * b + c: float64's products keep 64 digits of 106, float32's all."""
    wide = np.float64 if a.dtype == np.float32 else np.longdouble
    return (np.multiply(a, b, dtype=wide) + c).astype(a.dtype)


def _folded(combine):
    """Halves combined until one lane is left, as on the device; an odd lane waits for its turn."""

    def twin(x):
        if not isinstance(x, Lanes):
            return x
        v = x.v
        while len(v) > 1:
            half = len(v) // 2
            pairs = combine(v[:half], v[half : 2 * half])
            v = np.concatenate([pairs, v[2 * half :]]) if len(v) % 2 else pairs
        return v[0]

    return twin


def count(condition):
    """The lanes that say yes."""
    return int(np.count_nonzero(condition.v if isinstance(condition, Mask) else condition))


def converted(dtype, x):
    """The lanes as another float type."""
    if isinstance(x, Lanes):
        return lanes(dtype, x.width).of(x.v.astype(dtype))
    return dtype(x)


def _numbers(tag, dtype):
    wide = isinstance(tag, vector.Wide)
    return lanes(dtype, vector.BYTES // dtype().itemsize) if wide else dtype


# ------------------------------------------------------------------------ bits, and powers of two


def _scaled(x, n):
    return np.where(np.isnan(n), x, np.ldexp(x, np.where(np.isnan(n), 0, n).astype(np.int32)))


def split(x):
    """(f, k, 2**-k) with x = f * 2**k, f in [sqrt(1/2), sqrt(2))."""
    T, v = type(x), values_of(x)
    f, k = np.frexp(np.where(np.isfinite(v), v, 1))
    low = f < np.sqrt(0.5)
    f, k = np.where(low, 2 * f, f), np.where(low, k - 1, k)
    parts = (f, k, np.ldexp(1.0, -k))
    return tuple(number(T, part.astype(dtype_of(T))) for part in parts)


class Units:
    """The float32 units of the device: exact, or as bad as they are documented to be.

    How far a result is off follows from the operands: a device does not change its mind.
    """

    def __init__(self, seed=None):
        self.seed = seed

    def _off(self, *operands):
        """Of each result: -1, -1/2, 0, 1/2 or 1 times the bound."""
        mixed = np.uint32(2654435761 * (self.seed + 1) % 2**32)
        for x in operands:
            mixed = (np.atleast_1d(np.float32(x)).view(np.uint32) ^ mixed) * np.uint32(2246822519)
            mixed = mixed ^ mixed >> np.uint32(15)
        return (mixed % np.uint32(5)).astype(np.float64) / 2 - 1

    def quotient(self, x, y):
        """x / y; div.approx: 2 ulp, and 0 for y beyond 2**126."""
        exact = x / y
        if self.seed is None or exact.dtype != np.float32:
            return exact
        off = exact + (2 * self._off(*np.broadcast_arrays(x, y)) * np.spacing(exact))
        off = np.where(np.isfinite(exact) & (exact != 0), off, exact)
        large = (np.abs(y) > 2.0**126) & np.isfinite(y)
        return np.where(large, np.where(np.isinf(x), np.nan, 0), off).astype(np.float32)

    def power_of_two(self, x, flushes=True):
        """2**x; ex2.approx: to 2**-22, exactly 1 at 0; with .ftz subnormals are flushed."""
        wide = np.exp2(x.astype(np.float64))
        if self.seed is not None:
            off = wide * (1 + 2.0**-22 * self._off(x).reshape(wide.shape))
            wide = np.where(np.abs(x) < 2.0**-126, 1, off)
        return np.where(flushes & (wide < 2.0**-126), 0, wide).astype(np.float32)


UNITS = Units()


def set_units(seed):
    """From here on: exact (None), or perturbed by that seed."""
    UNITS.__init__(seed)


# By the function or intrinsic they stand for. The elementary functions of float32 are NumPy's while
# units are exact, else the device's own code.
ELEMENTARY = {
    getattr(scalar, name): _each(np_function)
    for name, np_function in {
        "exp": np.exp, "exp_down": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p,
        "log1p_unit": np.log1p, "log1p_up": np.log1p, "tanh": np.tanh,
    }.items()
}  # fmt: skip
TWINS = {
    scalar.choose: select,
    scalar.fma: _each(_fused),
    machine.select: select,
    machine.fused: _each(_fused),
    machine.round_even: _each(np.rint),
    machine.scale_by_power: _each(_scaled),
    machine.scaled_down: _each(_scaled),
    machine.split: split,
    elementary.power_of_two: _each(lambda x: UNITS.power_of_two(x)),
    elementary.power_of_two_whole: _each(lambda x: UNITS.power_of_two(x, False)),
    vector.lanes: lambda dtype: lanes(dtype, vector.BYTES // dtype().itemsize),
    vector.numbers: _numbers,
    vector.lanes_as: lambda x: dtype_of(type(x)),
    vector.vector_of: lambda dtype, tag: lanes(dtype, type(tag).lanes),
    vector.width: width_of,
    vector.itemsize: lambda T: dtype_of(T)().itemsize,
    vector.total: _folded(np.add),
    vector.largest: _folded(lambda a, b: np.where(a > b, a, b)),
    vector.widened: lambda x: converted(np.float64, x),
    vector.narrowed: lambda T, x: converted(dtype_of(T), x),
    vector.count: count,
}

_SINGLE = {
    np.float32: types.float32, np.float64: types.float64, np.bool_: types.boolean,
    bool: types.boolean, int: types.int64, Int64: types.int64, Int32: types.int32,
}  # fmt: skip


def type_of(x):
    """The type that numba gives a number, or a tuple of them."""
    if isinstance(x, Lanes):
        return vector.Vector(_SINGLE[x.dtype], x.width)
    if isinstance(x, Mask):
        return vector.Mask(len(x.v))
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return types.NamedTuple(list(map(type_of, x)), type(x))
    if isinstance(x, type):
        return types.NumberClass(class_type(x))
    return _SINGLE[type(x)] if type(x) in _SINGLE else x.numba_type()


def class_type(T):
    """The numba type of a number class."""
    return vector.Vector(_SINGLE[T.dtype], T.width) if issubclass(T, Lanes) else _SINGLE[T]


def number_class(ty):
    """The same backwards."""
    if isinstance(ty, vector.Vector):
        return lanes(number_class(ty.dtype), ty.width)
    return next((T for T, known in _SINGLE.items() if known == ty), None)
