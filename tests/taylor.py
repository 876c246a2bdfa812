"""Second-order Taylor arithmetic: numbers that carry their first and second derivative.

The definition of a loss (``reference=`` in its file) is a formula of one probability p. Evaluated
on one of these numbers it gives value, first and second derivative along one direction:

* `Jet`: one mpmath number, with any number of digits.
* `Terms`: arrays, and for each number a scale, the sum of the absolute values of its terms: the
  effect of rounding the terms is proportional to it.

`JETS` and `TERMS` are the ``xp`` of the definition: log, exp and maximum of such numbers. A number
x may hold its complement 1 - x. Then ``1 - x`` returns it, and logarithms near 1 use it, so that
nothing cancels.
"""

from __future__ import annotations

from types import SimpleNamespace

import mpmath
import numpy as np


class Jet:
    """v + d h + (s/2) h^2: a value with its first and second derivative in one direction."""

    def __init__(self, v, d=0, s=0, complement=None):
        self.v, self.d, self.s = mpmath.mpf(v), mpmath.mpf(d), mpmath.mpf(s)
        self.complement = complement

    def through(self, f, f1, f2):
        """A function of this number; the function has value f and derivatives f1, f2 at v."""
        return Jet(f, f1 * self.d, f1 * self.s + f2 * self.d**2)

    def __add__(self, b):
        if isinstance(b, Jet):
            return Jet(self.v + b.v, self.d + b.d, self.s + b.s)
        rest = self.complement
        if rest is not None and b:
            rest = Jet(rest.v - b, rest.d, rest.s)
        return Jet(self.v + b, self.d, self.s, rest)

    def __mul__(self, b):
        if not isinstance(b, Jet):
            return Jet(self.v * b, self.d * b, self.s * b)
        cross = 2 * self.d * b.d
        return Jet(self.v * b.v, self.d * b.v + self.v * b.d, self.s * b.v + cross + self.v * b.s)

    def __neg__(self):
        return self * -1

    def __sub__(self, b):
        return self + -b

    def __rsub__(self, b):
        if b != 1 or self.complement is None:
            return -self + b
        rest = self.complement
        return Jet(rest.v, rest.d, rest.s, self)

    def __truediv__(self, b):
        return self * b**-1 if isinstance(b, Jet) else self * (1 / mpmath.mpf(b))

    def __pow__(self, n):
        if self.v == 0 and n >= 0:  # u is 0 for any logits: C = 1, or all others masked
            return Jet(n == 0)
        v, n = self.v, mpmath.mpf(n)
        found = self.through(v**n, n * v ** (n - 1), n * (n - 1) * v ** (n - 2))
        if self.complement is not None:
            found.complement = -jet_expm1(jet_log(self) * n)
        return found

    __radd__, __rmul__ = __add__, __mul__


def jet_exp(x):
    return x.through(*[mpmath.exp(x.v)] * 3)


def jet_expm1(x):
    e = mpmath.exp(x.v)
    return x.through(mpmath.expm1(x.v), e, e)


def jet_log1p(x):
    return x.through(mpmath.log1p(x.v), 1 / (1 + x.v), -1 / (1 + x.v) ** 2)


def jet_log(x):
    if x.complement is not None and x.v > 0.5:
        return jet_log1p(-x.complement)
    return x.through(mpmath.log(x.v), 1 / x.v, -1 / x.v**2)


def jet_maximum(x, b):
    return x if x.v > b else Jet(b)


JETS = SimpleNamespace(log=jet_log, exp=jet_exp, maximum=jet_maximum)


# --------------------------------------------------------------------- arrays, with their scales


def times(a, b):
    """The product, zero where a factor is zero even if the other is infinite."""
    return np.where((a == 0) | (b == 0), 0, a * b)


class Terms:
    """Value, first and second derivative as arrays, and the scale of each.

    The scale of a sum is the sum of the scales. For a product or a function, the ratio of scale to
    absolute value follows from those of its arguments, to first order.
    """

    __array_ufunc__ = None  # array * Terms is Terms

    def __init__(self, values, scales=None, complement=None, logarithm=None):
        self.values = [np.asarray(a) for a in values]
        self.scales = [abs(a) for a in self.values] if scales is None else scales
        self._complement, self.logarithm = complement, logarithm

    @property
    def complement(self):
        """1 - x where it is known, else None; computed at the first access."""
        if callable(self._complement):
            self._complement = self._complement()
        return self._complement

    @complement.setter
    def complement(self, found):
        self._complement = found

    @property
    def relative(self):
        """The derivatives, their scales and the value's own scale, each divided by the value."""
        v = self.values[0]
        ratios = [np.where(a == 0, 0, a / v) for a in self.values[1:]]
        scales = [np.where(a == 0, 0, a / abs(v)) for a in self.scales[1:]]
        return ratios, scales, self.scales[0] / abs(v)

    def __add__(self, b):
        if isinstance(b, Terms):
            pairs = [
                zip(self.values, b.values, strict=True),
                zip(self.scales, b.scales, strict=True),
            ]
            return Terms(*([x + y for x, y in pair] for pair in pairs))
        if not np.any(b):
            return self
        rest = self.complement
        if rest is not None:
            (v, *d), (V, *D) = rest.values, rest.scales
            rest = Terms([v - b, *d], [V + abs(b), *D])
        (v, *d), (V, *D) = self.values, self.scales
        return Terms([v + b, *d], [V + abs(b), *D], rest)

    def __mul__(self, b):
        if not isinstance(b, Terms):
            return Terms(
                [times(a, b) for a in self.values], [times(a, abs(b)) for a in self.scales]
            )
        orders = ((0, 0),), ((1, 0), (0, 1)), ((2, 0), (1, 1), (1, 1), (0, 2))
        values = [sum(times(self.values[i], b.values[j]) for i, j in pairs) for pairs in orders]
        scales = [sum(self._scale_of_product(b, i, j) for i, j in pairs) for pairs in orders]
        return Terms(values, scales)

    def _scale_of_product(self, b, i, j):
        x, y = abs(self.values[i]), abs(b.values[j])
        return times(x, y) + times(x, b.scales[j] - y) + times(self.scales[i] - x, y)

    def __neg__(self):
        return Terms([-a for a in self.values], self.scales)

    def __sub__(self, b):
        return self + -b

    def __rsub__(self, b):
        if np.ndim(b) or b != 1:
            return -self + b
        rest = -self + b if self.complement is None else self.complement
        return Terms(rest.values, rest.scales, self, rest.logarithm)

    def __truediv__(self, b):
        return self * b**-1 if isinstance(b, Terms) else self * (1 / b)

    @np.errstate(divide="ignore", invalid="ignore")  # where v is 0
    def __pow__(self, n):
        if n == 0:
            return Terms([0 * self.values[0] + 1, 0 * self.values[0], 0 * self.values[0]])
        if n == 1:
            return self
        (v, d, s), m = self.values, n * (n - 1)
        (r1, r2), (R1, R2), A = self.relative
        w = v**2 if n == 2 else v**n  # the general power of a long double is several times slower
        values = [w, w * n * r1, w * (n * r2 + m * r1**2)]
        S = abs(n) * (R2 + (A - 1) * abs(r2)) + abs(m) * (r1**2 * A + 2 * abs(r1) * (R1 - abs(r1)))
        scales = [w * A, w * abs(n) * (R1 + (A - 1) * abs(r1)), w * S]
        zero = v.dtype.type(0)  # where v is not 0, its other powers are not needed
        at_0 = [zero**n, times(n * zero ** (n - 1), d), times(m * zero ** (n - 2), d**2)]
        at_0[2] = at_0[2] + times(n * zero ** (n - 1), s)
        values = [np.where(v == 0, z, a) for z, a in zip(at_0, values, strict=True)]
        scales = [np.where(v == 0, abs(z), a) for z, a in zip(at_0, scales, strict=True)]
        return Terms(values, scales, lambda: self._complement_of_power(n, values, scales))

    def _complement_of_power(self, n, values, scales):
        log = terms_log(self)
        rest = -np.expm1(n * log.values[0])
        excess = log.scales[0] / abs(log.values[0])
        excess = np.where(np.isfinite(excess), excess, 1)
        minus = [-a for a in values[1:]]
        return Terms([rest, *minus], [abs(rest) * excess, *scales[1:]])

    __radd__, __rmul__ = __add__, __mul__


def terms_log(x):
    if x.logarithm is not None:
        return x.logarithm
    v = x.values[0]
    rest = 1 - v if x.complement is None else x.complement.values[0]
    (r1, r2), (R1, R2), A = x.relative
    near_1 = v > 0.5
    log = np.where(near_1, np.log1p(-np.where(near_1, rest, 0)), np.log(v))
    if x.complement is not None:
        amplified = x.complement.scales[0] / abs(rest)
        A = np.where(near_1 & np.isfinite(amplified), np.maximum(A, amplified), A)
    values = [log, r1, r2 - r1**2]
    S = R2 + (A - 1) * abs(r2) + r1**2 * A + 2 * abs(r1) * (R1 - abs(r1))
    return Terms(values, [abs(log) * A, R1 + (A - 1) * abs(r1), S])


def terms_exp(x):
    (v, d, s), (V, D, S) = x.values, x.scales
    e, A = np.exp(v), np.where(v == 0, 1, V / abs(v))
    return Terms([e, e * d, e * (s + d**2)], [e * A, e * A * D, e * A * (S + D**2)])


def terms_maximum(x, b):
    above = x.values[0] > b
    flat = [b, 0, 0]
    values = [np.where(above, a, f) for a, f in zip(x.values, flat, strict=True)]
    scales = [np.where(above, a, abs(f)) for a, f in zip(x.scales, flat, strict=True)]
    if x.complement is None:
        return Terms(values, scales)
    rest, flat = x.complement, [1 - b, 0, 0]
    below = [
        [np.where(above, a, abs(f) if k else f) for a, f in zip(triple, flat, strict=True)]
        for k, triple in enumerate((rest.values, rest.scales))
    ]
    return Terms(values, scales, Terms(*below))


TERMS = SimpleNamespace(log=terms_log, exp=terms_exp, maximum=terms_maximum)
