"""One element on a GPU: its label, its loss, and the derivatives by its stored logit."""

from typing import Any, NamedTuple

from numba.extending import overload

from fusedce.kernels.cuda.elementary import flipped, half_sigmoid
from fusedce.kernels.cuda.load_store_scalar import float_of
from fusedce.kernels.cuda.logit_transform import Full, chain_transform, transform_logits
from fusedce.kernels.cuda.unroll import unrolled
from fusedce.kernels.link import SIGMOIDS, hard_cell, logistic, plain_cell, soft_cell
from fusedce.kernels.rule import RULES, evaluate_outcome
from fusedce.kernels.scalar import INLINED, fma, scalar, where
from fusedce.kernels.vector import Single, lane, lanes_as, sum_of_lanes, with_lane


class Yes(NamedTuple):
    """Type tag: every label is yes or no."""


class Sure(NamedTuple):
    """Type tag: every label is yes or no, factors are larger than 0, no curvature is wanted."""


class Soft(NamedTuple):
    """Type tag: labels are numbers in [0, 1]."""


class HalfSigmoid(NamedTuple):
    """Type tag: a sigmoid whose gradient is stored in half precision."""


SIGMOIDS[HalfSigmoid] = half_sigmoid


@scalar
def all_hard(y):
    """Whether every label is 0 or 1: y (y - 1) is 0."""
    return sum_of_lanes(abs(fma(y, y, -y))) == lanes_as(y)(0)


@scalar
def hard(link, z, yes, up, down, params, scale):
    """(loss, gradient, curvature) of yes/no labels, the derivatives times ``scale``."""
    loss, first, second = hard_cell(link, z, yes, up, down, params)
    return loss, first * scale, second * scale


def first_derivative(rule: Any) -> Any:
    """The function of (positive, logp, logq, p, q, params) that returns f and q f'."""
    by_logit = rule.by_logit

    @scalar
    def product(positive, logp, logq, p, q, params):
        f, f1, f2 = evaluate_outcome(positive, logp, logq, p, q, params)
        return f, f1 * q

    @scalar
    def registered(positive, logp, logq, p, q, params):
        T = type(p)
        f, first = by_logit(logp, logq, p, q, params)
        return T(f), T(first)

    return product if by_logit is None else registered


def sure(link, z, yes, up, down, params, scale):
    """(loss, gradient, nothing) of those whose factors are larger than 0."""
    raise NotImplementedError("compiled code only")


@overload(sure, jit_options=INLINED)
def _sure(link, z, yes, up, down, params, scale):
    if link.instance_class not in SIGMOIDS:

        def plain(link, z, yes, up, down, params, scale):
            loss, first = plain_cell(link, z, yes, up, down, params, scale)
            return loss, first, first

        return plain
    evaluate = first_derivative(RULES[params.instance_class])

    def signed(link, z, yes, up, down, params, scale):
        # The factor carries the sign of the outcome, so that no lane keeps a predicate for long.
        factor = where(yes, up, -down)
        logp, logq, p, q = logistic(link, flipped(z, factor))
        f, slope = evaluate(factor > type(z)(0), logp, logq, p, q, params)
        first = factor * scale * slope
        return abs(factor) * f, first, first

    return signed


@scalar
def soft(link, z, y, up, down, params, scale):
    """(loss, gradient, curvature) of labels in [0, 1]."""
    loss, first, second = soft_cell(link, z, y, up, down, params)
    return loss, first * scale, second * scale


@scalar
def hard_or_soft(link, z, y, up, down, params, scale):
    """The same; where all are 0 or 1 it takes half as long."""
    if all_hard(y):
        return hard(link, z, y > type(y)(0.5), up, down, params, scale)
    return soft(link, z, y, up, down, params, scale)


CELLS = {Yes: hard, Sure: sure, Soft: hard_or_soft}


@scalar
def same(factor, k):
    """The factor of all lanes."""
    return factor


def cells(tag, labels, link, z, y, up, down, params, scale):
    """The same by what is known of the labels; a rule that takes no vectors, lane by lane."""
    raise NotImplementedError("compiled code only")


@overload(cells, jit_options=INLINED)
def _cells(tag, labels, link, z, y, up, down, params, scale):
    cell = CELLS[labels.instance_class]
    if tag.instance_class is not Single or not hasattr(z, "width"):
        return lambda tag, labels, link, z, y, up, down, params, scale: cell(
            link, z, y, up, down, params, scale
        )

    factor_of = lane if hasattr(up, "width") else same

    @scalar
    def one(k, found, link, z, y, up, down, params, scale):
        a, b = factor_of(up, k), factor_of(down, k)
        f, f1, f2 = cell(link, lane(z, k), lane(y, k), a, b, params, scale)
        losses, first, second = found
        return with_lane(losses, k, f), with_lane(first, k, f1), with_lane(second, k, f2)

    each = unrolled(one, z.width)
    return lambda tag, labels, link, z, y, up, down, params, scale: each(
        (z, z, z), link, z, y, up, down, params, scale
    )


def chained(extra, args, z, x, first, second):
    """Gradient and curvature by the stored logits z, from those by the logits x as seen."""
    raise NotImplementedError("compiled code only")


@overload(chained, jit_options=INLINED)
def _chained(extra, args, z, x, first, second):
    if extra.instance_class is not Full:  # nobody asks for the second: it is not even computed
        return lambda extra, args, z, x, first, second: (first, first)
    return lambda extra, args, z, x, first, second: chain_transform(args, z, x, first, second)


def outcome(labels, args, label):
    """What a stored label says: yes or no, or a number in [0, 1]."""
    raise NotImplementedError("compiled code only")


@overload(outcome, jit_options=INLINED)
def _outcome(labels, args, label):
    def number(labels, args, label):
        T = lanes_as(label)
        return label * float_of(T, args.label_factor) + float_of(T, args.label_shift)

    if labels.instance_class is Soft:
        return number
    fine = scalar(number)
    return lambda labels, args, label: fine(labels, args, label) > type(label)(0.5)


@scalar
def evaluated(tag, labels, extra, link, args, params, z, y, up, down, scale):
    """(losses, gradients, curvatures) of stored logits and what their labels say."""
    x = transform_logits(extra, args, z, True)
    loss, first, second = cells(tag, labels, link, x, y, up, down, params, scale)
    first, second = chained(extra, args, z, x, first, second)
    return loss, first, second


SINGLE = Single()
