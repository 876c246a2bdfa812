"""The slow oracle: every loss, gradient and Hessian diagonal, written to be easy to read.

The loss of an outcome of probability p is the ``reference=`` of a listed loss (fusedce/losses); its
derivatives come from `tests.taylor`. There are two ways to compute a result, which share nothing
else:

* `reference` computes whole calls with NumPy in `REAL` (float64 or wider), and does not compute
  1 - p by subtraction where that loses digits.
* `exact_row`, `exact_element` compute one softmax row or one sigmoid (or probability) element with
  mpmath, with so many digits that the subtraction 1 - p may lose some.

A rule is described as ("focal", {"gamma": 2.0}): its name and all of its parameters, as floats.
Notation: l = log p of an outcome, u = 1 - p, m = the mass (weight times target) on an outcome.
"""

from __future__ import annotations

import inspect
from functools import partial

import mpmath
import numpy as np

from fusedce.losses import LOSSES
from tests.taylor import JETS, TERMS, Jet, Terms, jet_exp, jet_log

REAL = np.longdouble


# --------------------------------------------------------------------- rules


def stated(function, arguments, own, number):
    """Call a definition with those of the loss's own options that it has parameters for."""
    named = inspect.signature(function).parameters
    return function(*arguments, **{k: number(v) for k, v in own.items() if k in named})


def definition(rule, p, xp, negative=False, number=REAL):
    """The loss's own definition for an outcome of probability p; ``negative``: the label is 0."""
    loss = LOSSES[rule[0]]
    function = loss.negative if negative and loss.negative is not None else loss.reference
    return stated(function, (p, xp), rule[1], number)


def by_probability(rule, p, u, negative=False):
    """F(p), F'(p), F''(p), with u = 1 - p; and their scales (the sums of absolute terms)."""
    p, u = np.asarray(p, REAL), np.asarray(u, REAL)
    one = np.ones_like(p)
    outcome = Terms([p, one, 0 * p])
    outcome.complement = Terms([u, -one, 0 * p], complement=outcome)
    found = definition(rule, outcome, TERMS, negative)
    return found.values, found.scales


def by_log_probability(rule, logp, p, u, negative=False):
    """f(l), f'(l) and u^2 f''(l); and their scales. (u^2 f'' stays finite where f'' does not.)

    Taylor arithmetic runs along the logit of p: the derivative of l is u, and that of u is -p u.
    """
    logp, p, u = (np.asarray(a, REAL) for a in (logp, p, u))
    outcome = Terms([p, p * u, p * u**2], logarithm=Terms([logp, u, 0 * u]))
    outcome.complement = Terms([u, -p * u, -p * u**2], complement=outcome)
    found = definition(rule, outcome, TERMS, negative)
    return [[a[0], np.where(u == 0, 0, a[1] / u), a[2]] for a in (found.values, found.scales)]


# --------------------------------------------------------------------- activations
# Each function takes arrays of shape (N, C), and returns [loss, grad, hess], [their scales]; the
# losses of ``softmax_rows`` are (N, 1). A mass of zero contributes exactly zero.


def weighed(mass, evaluate, *arrays):
    """Mass times what ``evaluate`` returns: values, scales.

    ``evaluate`` gets only the elements whose mass is not 0; the others are 0.
    """
    has = mass != 0
    evaluated = evaluate(*(a[has] for a in arrays))
    found = []
    for factor, terms in zip((mass, abs(mass)), evaluated, strict=True):
        places = [np.zeros_like(mass) for _ in terms]
        for place, term in zip(places, terms, strict=True):
            place[has] = factor[has] * term
        found.append(places)
    return found


def without_own(a):
    """For each element the sum of all others of its row, computed without a subtraction."""
    before, after = np.zeros_like(a), np.zeros_like(a)
    before[:, 1:] = np.cumsum(a, axis=1)[:, :-1]
    after[:, :-1] = np.cumsum(a[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return before + after


def total(a):
    """The sum of each row, (N, 1)."""
    return a.sum(axis=1, keepdims=True)


def softmax_rows(rule, x, mass, z_loss):
    """sum_k m_k f(l_k) + z_loss lse^2 of each row, where l_k = x_k - lse; the losses are (N, 1).

    dl_k/dx_j = [j=k] - p_j ;  d2l_k/dx_j2 = -p_j u_j ;  |dl_k/dx_j| <= u_k.
    """
    largest = np.arange(x.shape[1]) == np.argmax(x, axis=1)[:, None]
    top = np.max(x, axis=1, keepdims=True)
    e = np.exp(x - top)
    others = total(np.where(largest, 0 * e, e))  # NaN where +inf - inf is
    p = e / (1 + others)
    smallest_u = others / (1 + others)
    u = np.where(largest, smallest_u, 1 - p)
    logp, lse = (x - top) - np.log1p(others), top + np.log1p(others)

    def slope(f1, sign):
        return f1 * u + sign * p * without_own(f1)

    def bend(f2):
        """Sum over k of f2_k (dl_k/dx_j / u_k)^2; only u of the largest p of a row may be small."""
        rest = np.where(largest, 0, f2 / np.where(u == 0, 1, u) ** 2)
        ratio = np.where(largest, 0, p / np.where(smallest_u == 0, 1, smallest_u))
        ratio = np.where(smallest_u == 0, 0 * ratio, ratio)
        of_largest = total(np.where(largest, f2, 0))
        return np.where(u == 0, 0 * f2, f2) + p**2 * without_own(rest) + of_largest * ratio**2

    (f, f1, f2), (sf, sf1, sf2) = weighed(mass, partial(by_log_probability, rule), logp, p, u)
    values = [total(f), slope(f1, -1), bend(f2) - total(f1) * p * u]
    scales = [total(sf), slope(sf1, 1), bend(sf2) + total(sf1) * p * u]
    if z_loss:
        extra = [z_loss * lse**2, 2 * z_loss * lse * p, 2 * z_loss * (p**2 + lse * p * u)]
        scale = [extra[0], abs(extra[1]), 2 * z_loss * (p**2 + abs(lse) * p * u)]
        values, scales = add(values, extra), add(scales, scale)
    return values, scales


def sigmoids(rule, x, pos, neg, y=None):
    """Pos f(log p) + neg f(log(1-p)) per element, p = sigmoid(x); d log p/dx = u, d2 = -p u.

    With y given, (pos + neg) times the loss's own definition for a soft label y (``soft=``).
    """
    e = np.exp(-abs(x))
    p, u = np.where(x < 0, e, 1) / (1 + e), np.where(x < 0, 1, e) / (1 + e)  # NaN stays NaN
    logp, logu = np.minimum(x, 0) - np.log1p(e), np.minimum(-x, 0) - np.log1p(e)
    if y is not None:
        return weighed(pos + neg, partial(soft_sigmoids, rule), p, u, logp, logu, y)
    found = [0, 0, 0], [0, 0, 0]
    for mass, lo, po, uo, sign in ((pos, logp, p, u, 1), (neg, logu, u, p, -1)):
        evaluate = partial(by_log_probability, rule, negative=sign < 0)
        (f, f1, f2), (sf, sf1, sf2) = weighed(mass, evaluate, lo, po, uo)
        values, scales = [f, sign * f1 * uo, f2 - f1 * po * uo], [sf, sf1 * uo, sf2 + sf1 * po * uo]
        found = add(found[0], values), add(found[1], scales)
    return found


def soft_sigmoids(rule, p, u, logp, logu, y):
    """The loss's definition for soft labels, and its scales; derivatives by the logit: p' = p u."""
    bend = p * u * (u - p)
    outcome = Terms([p, p * u, bend], logarithm=Terms([logp, u, -p * u]))
    log_other = Terms([logu, -p, -p * u])
    outcome.complement = Terms([u, -p * u, -bend], complement=outcome, logarithm=log_other)
    found = stated(LOSSES[rule[0]].soft, (outcome, y, TERMS), rule[1], REAL)
    return found.values, found.scales


def probabilities(rule, p, pos, neg):
    """Pos F(p) + neg F(1-p) per element, derivatives by p itself."""
    found = [0, 0, 0], [0, 0, 0]
    for mass, po, uo, sign in ((pos, p, 1 - p, 1), (neg, 1 - p, p, -1)):
        evaluate = partial(by_probability, rule, negative=sign < 0)
        (f, f1, f2), scales = weighed(mass, evaluate, po, uo)
        found = add(found[0], [f, sign * f1, f2]), add(found[1], scales)
    return found


def add(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]


# --------------------------------------------------------------------- one whole call


def cap(z, softcap, logit_scale):
    """x = softcap tanh(logit_scale z / softcap), dx/dz, d2x/dz2."""
    if softcap is None:
        return REAL(logit_scale) * z, np.full_like(z, logit_scale), np.zeros_like(z)
    th = np.tanh(logit_scale * z / softcap)
    sech2 = 1 / np.cosh(logit_scale * z / softcap) ** 2
    return softcap * th, logit_scale * sech2, -2 * REAL(logit_scale) ** 2 / softcap * th * sech2


def chain(triple, dx, d2x):  # derivatives by x -> by z
    loss, grad, hess = triple
    return [loss, grad * dx, hess * dx**2 + np.where(d2x == 0, 0, grad * d2x)]


def spread(sample_weight, loss_shape, row_shape, axis):
    """Sample_weight as (rows, 1) or (rows, C): trailing 1-axes are appended, then it broadcasts."""
    s = np.asarray(1.0 if sample_weight is None else sample_weight, REAL)
    if s.shape == row_shape != loss_shape:
        s = np.expand_dims(s, axis)
    s = np.broadcast_to(s.reshape(s.shape + (1,) * (len(loss_shape) - s.ndim)), loss_shape)
    return s.reshape(-1, 1) if loss_shape == row_shape else rows(s, axis)


def rows(a, axis):
    """The array as (rows, classes)."""
    a = np.moveaxis(np.atleast_1d(a), axis, -1)
    return a.reshape(-1, a.shape[-1])


@np.errstate(all="ignore")
def reference(rule, logits, targets, *, activation, weight=None, pos_weight=None, alpha=None,
              sample_weight=None, ignore_index=-100, label_smoothing=0.0, normalize_targets=False,
              neg_label=0, z_loss=0.0, softcap=None, logit_scale=1.0, reduction="mean",
              denominator=None, axis=-1, soft_labels="split", scales=False):  # fmt: skip
    """(loss, grad, hess) in float64; with scales=True: (those three, the scales of the three)."""
    logits, targets = np.asarray(logits), np.asarray(targets)
    shape, dense = logits.shape, targets.shape == logits.shape
    full = shape or (1,)
    row_shape, C = tuple(np.delete(full, axis)), full[axis]
    z = rows(logits.astype(np.float64).astype(REAL), axis)
    t = rows(targets, axis) if dense else targets.ravel() if targets.size else np.zeros(0, int)
    one_loss = activation == "softmax" or (activation is None and not dense)  # per row

    s = spread(sample_weight, row_shape if one_loss else full, row_shape, axis)
    w = np.ones(C, REAL) if weight is None else np.asarray(weight, REAL)
    pw = REAL(1) if pos_weight is None else np.asarray(pos_weight, REAL)
    a1, a0 = (w * pw, w) if alpha is None else (w * pw * alpha, w * (1 - REAL(alpha)))
    eps = REAL(label_smoothing)

    # 1. What is not ignored, (N, 1) or (N, C); the targets of each class, (N, C).
    y = (t if dense else np.arange(C) == t[:, None]).astype(np.float64).astype(REAL)
    ignored = t == ignore_index if dense else (t == ignore_index)[:, None]
    live = ~(ignored.all(axis=1, keepdims=True) if one_loss else np.broadcast_to(ignored, z.shape))
    if normalize_targets:
        M = np.count_nonzero(y, axis=1, keepdims=True)
        live &= M > 0
        y = y / np.maximum(M, 1)
    # Ignored logits may be NaN or infinite, which long doubles multiply 30 times slower.
    z, y = np.where(live, z, 0), np.where(live, y, 0)
    x, dx, d2x = cap(z, softcap, logit_scale)
    zeta = REAL(z_loss)
    if dense or not one_loss:
        count = REAL(live.sum())  # the denominator of the mean
    else:
        kept = live[:, 0]
        count = w[t[kept]].sum()
        if reduction == "mean" and denominator is None:
            zeta *= count / max(1, kept.sum())  # the mean of the z-loss is over rows

    # 2. The loss and its derivatives, each with its scale.
    if one_loss:
        mass = w * ((1 - eps) * y + eps / C)
        if activation == "softmax":
            values, bounds = softmax_rows(rule, x, mass, zeta)
        else:
            values, bounds = probabilities(rule, x, mass, 0 * mass)
            values[0], bounds[0] = total(values[0]), total(bounds[0])
    else:
        y = (y + 1) / 2 if neg_label == -1 else y
        y = y * (1 - eps) + eps / 2
        pos, neg = a1 * y, a0 * (1 - y)
        if activation == "sigmoid":
            other = y if soft_labels == "torchvision" else None
            values, bounds = sigmoids(rule, x, pos, neg, other)
        else:
            values, bounds = probabilities(rule, x, pos, neg)
    values = [s * a for a in chain(values, dx, d2x)]
    bounds = [abs(s) * a for a in chain(bounds, abs(dx), abs(d2x))]
    out = [np.where(live, a, 0) for a in values + bounds]

    # 3. The reduction, and the shapes of the arguments.
    if reduction == "mean":
        divisor = count if denominator is None else REAL(denominator)
        out = [a / divisor if divisor else np.zeros_like(a) for a in out]
    out = [np.moveaxis(a.reshape(*row_shape, a.shape[-1]), -1, axis) for a in out]
    if reduction == "none":
        out[::3] = [a.squeeze(axis) if one_loss else a for a in out[::3]]
    else:
        out[::3] = [a.sum() for a in out[::3]]
        if reduction == "mean" and not divisor:
            out[0] = REAL(np.nan)
    out = [np.asarray(a if shape else np.squeeze(a), np.float64)[()] for a in out]
    return (tuple(out[:3]), tuple(abs(a) for a in out[3:])) if scales else tuple(out[:3])


# --------------------------------------------------------------------- mpmath, 50 digits


def exact(number):
    """A parameter as an mpmath number."""
    return mpmath.mpf(float(number))


def digits(values, softcap, logit_scale):
    """The number of decimal digits with which 1 - p has 50 correct digits."""
    finite = [abs(float(logit_scale) * float(v)) for v in values if np.isfinite(float(v))] or [0.0]
    return 80 + int(0.9 * max(finite) * (1 + (2 / softcap if softcap else 0)))


def capped(x, softcap, logit_scale):
    """The logit after logit_scale and softcap."""
    x = x * float(logit_scale)
    if softcap is None:
        return x
    e = jet_exp(x * 2 / float(softcap))
    return (e - 1) / (e + 1) * float(softcap)


def exact_row(rule, z, mass, *, z_loss=0.0, softcap=None, logit_scale=1.0, scale=1.0):
    """scale * (sum_k mass_k f(log softmax(z)_k) + z_loss lse^2): loss, [gradient], [Hessian]."""
    with mpmath.workdps(digits(z, softcap, logit_scale)):
        along = []
        for j in range(len(z)):
            x = [capped(Jet(float(v), k == j), softcap, logit_scale) for k, v in enumerate(z)]
            e = [jet_exp(v) for v in x]
            total = sum(e, Jet(0))
            loss = jet_log(total) ** 2 * float(z_loss) if z_loss else Jet(0)
            for v, m in zip(e, mass, strict=True):
                loss += definition(rule, v / total, JETS, number=exact) * float(m) if m else Jet(0)
            along.append(loss * float(scale))
        return along[0].v, [r.d for r in along], [r.s for r in along]


def exact_element(rule, x, pos, neg, *, activation="sigmoid", softcap=None, logit_scale=1.0,
                  scale=1.0, torchvision_y=None):  # fmt: skip
    """scale * (pos f(log p) + neg f(log(1-p))): loss, derivative, second derivative by x.

    p is sigmoid(x), or x itself with activation=None. With torchvision_y, a soft label y: scale *
    (pos + neg) times the loss's own definition for it (``soft=``).
    """
    size = x if activation else np.log(max(float(x), 1e-308))
    with mpmath.workdps(digits([size], softcap, logit_scale)):
        p = Jet(float(x), 1)
        if activation == "sigmoid":
            p = (jet_exp(-capped(p, softcap, logit_scale)) + 1) ** -1
        q = 1 - p
        if torchvision_y is None:
            loss = definition(rule, p, JETS, number=exact) * float(pos) if pos else Jet(0)
            loss += definition(rule, q, JETS, True, exact) * float(neg) if neg else Jet(0)
        else:
            y = mpmath.mpf(float(torchvision_y))
            loss = stated(LOSSES[rule[0]].soft, (p, y, JETS), rule[1], exact)
            loss *= float(pos) + float(neg)
        loss = loss * float(scale)
        return loss.v, loss.d, loss.s
