"""Losses of single elements on a GPU, and their derivatives with respect to the stored logits.

Used by the three element-wise kernels (``elementwise``, ``elementwise_flat``,
``elementwise_rows``). z: stored logits; y: their labels, as booleans or as numbers in [0, 1]. Both
are scalars, or vectors of as many lanes as a thread evaluates at once.
"""

from typing import Any, NamedTuple

from fusedce.kernels.cuda.elementary import half_sigmoid, mul_sign
from fusedce.kernels.cuda.load_store_scalar import float_of
from fusedce.kernels.cuda.logit_transform import Full, chain_transform, transform_logits
from fusedce.kernels.cuda.unroll import unrolled
from fusedce.kernels.link import SIGMOIDS, hard_cell, logistic, plain_cell, soft_cell
from fusedce.kernels.rule import RULES, evaluate_outcome
from fusedce.kernels.scalar import fma, generated, scalar, where
from fusedce.kernels.vector import Single, lane, lanes_as, sum_of_lanes, with_lane


class HardLabels(NamedTuple):
    """Type tag: every label is 0 or 1, given as a boolean."""


class HardLabelsNoHess(NamedTuple):
    """Type tag: every label is 0 or 1, factors are positive, and no Hessian is written."""


class SoftLabels(NamedTuple):
    """Type tag: labels are numbers in [0, 1]."""


class HalfSigmoid(NamedTuple):
    """Type tag: a sigmoid whose gradient is stored in half precision."""


SIGMOIDS[HalfSigmoid] = half_sigmoid


class ElementTags(NamedTuple):
    """The type tags that a kernel is compiled for."""

    dtype: Any  # of logits, gradients and Hessians
    targets: Any  # dtype of the labels, None where it is looked up at run time
    link: Any  # Sigmoid, HalfSigmoid, or Identity for probabilities
    labels: Any
    extra: Any  # Plain or Full, see logit_transform.py
    numbers: Any  # Wide: rules are evaluated on vectors; Single: lane by lane


class LossArgs(NamedTuple):
    """What the loss of an element depends on, besides its logit and its label."""

    args: Any  # KernelArgs
    params: Any  # of the loss, such as gamma: the NamedTuple that selects the rule
    pos_factor: Any  # factor of the loss of a positive outcome, a scalar or a vector
    neg_factor: Any  # factor of the loss of a negative outcome
    scale: Any  # factor of the derivatives: 1 / denominator


@scalar
def all_hard(y):
    """Whether every label is 0 or 1: y (y - 1) is 0."""
    return sum_of_lanes(abs(fma(y, y, -y))) == lanes_as(y)(0)


@scalar
def hard_loss(link, z, positive, pos_factor, neg_factor, params, scale):
    """(loss, gradient, curvature) of labels that are 0 or 1, the derivatives times ``scale``."""
    loss, first, second = hard_cell(link, z, positive, pos_factor, neg_factor, params)
    return loss, first * scale, second * scale


def value_and_slope(rule: Any) -> Any:
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


@generated
def hard_loss_no_hess(link, z, positive, pos_factor, neg_factor, params, scale):
    """(loss, gradient, unused) of labels that are 0 or 1, where factors are positive."""
    if link.instance_class not in SIGMOIDS:

        def probability(link, z, positive, pos_factor, neg_factor, params, scale):
            loss, first = plain_cell(link, z, positive, pos_factor, neg_factor, params, scale)
            return loss, first, first

        return probability
    evaluate = value_and_slope(RULES[params.instance_class])

    def sigmoid(link, z, positive, pos_factor, neg_factor, params, scale):
        # The factor carries the sign of the outcome: no lane keeps a predicate register for long.
        factor = where(positive, pos_factor, -neg_factor)
        logp, logq, p, q = logistic(link, mul_sign(z, factor))
        f, slope = evaluate(factor > type(z)(0), logp, logq, p, q, params)
        first = factor * scale * slope
        return abs(factor) * f, first, first

    return sigmoid


@scalar
def soft_loss(link, z, y, pos_factor, neg_factor, params, scale):
    """(loss, gradient, curvature) of labels in [0, 1], the derivatives times ``scale``."""
    loss, first, second = soft_cell(link, z, y, pos_factor, neg_factor, params)
    return loss, first * scale, second * scale


@scalar
def soft_or_hard_loss(link, z, y, pos_factor, neg_factor, params, scale):
    """As ``soft_loss``, in half the time where every label of the thread is 0 or 1."""
    if all_hard(y):
        return hard_loss(link, z, y > type(y)(0.5), pos_factor, neg_factor, params, scale)
    return soft_loss(link, z, y, pos_factor, neg_factor, params, scale)


LOSS_BY_LABELS = {
    HardLabels: hard_loss,
    HardLabelsNoHess: hard_loss_no_hess,
    SoftLabels: soft_or_hard_loss,
}


@scalar
def shared_factor(factor, k):
    """Lane k of a factor that is the same for all lanes."""
    return factor


@generated
def loss_by_labels(numbers, labels, link, z, y, shared):
    """(loss, gradient, curvature) by logits; a rule that takes no vectors goes lane by lane."""
    loss = LOSS_BY_LABELS[labels.instance_class]
    if numbers.instance_class is not Single or not hasattr(z, "width"):
        return lambda numbers, labels, link, z, y, shared: loss(
            link, z, y, shared.pos_factor, shared.neg_factor, shared.params, shared.scale
        )

    factors = shared.types[LossArgs._fields.index("pos_factor")]
    factor_of = lane if hasattr(factors, "width") else shared_factor

    @scalar
    def one_lane(k, found, link, z, y, shared):
        pos, neg = factor_of(shared.pos_factor, k), factor_of(shared.neg_factor, k)
        f, f1, f2 = loss(link, lane(z, k), lane(y, k), pos, neg, shared.params, shared.scale)
        losses, first, second = found
        return with_lane(losses, k, f), with_lane(first, k, f1), with_lane(second, k, f2)

    every_lane = unrolled(one_lane, z.width)
    return lambda numbers, labels, link, z, y, shared: every_lane((z, z, z), link, z, y, shared)


@generated
def chain_rule(extra, args, z, x, first, second):
    """Derivatives with respect to the stored logits z, from those with respect to x.

    x: the logits after logit scale and softcap.
    """
    if extra.instance_class is not Full:  # the second is not used, so it is not computed
        return lambda extra, args, z, x, first, second: (first, first)
    return lambda extra, args, z, x, first, second: chain_transform(args, z, x, first, second)


@generated
def label_value(labels, args, label):
    """The outcome that a stored label stands for: a boolean, or a number in [0, 1]."""

    def number(labels, args, label):
        T = lanes_as(label)
        return label * float_of(T, args.label_factor) + float_of(T, args.label_shift)

    if labels.instance_class is SoftLabels:
        return number
    value = scalar(number)
    return lambda labels, args, label: value(labels, args, label) > type(label)(0.5)


@scalar
def evaluate_elements(tags, labels, shared, z, y):
    """(losses, gradients, curvatures) of stored logits z with outcomes y.

    ``labels`` says which outcomes they are, HardLabels or SoftLabels: ``tags.labels`` or a part
    of it.
    """
    x = transform_logits(tags.extra, shared.args, z, True)
    loss, first, second = loss_by_labels(tags.numbers, labels, tags.link, x, y, shared)
    first, second = chain_rule(tags.extra, shared.args, z, x, first, second)
    return loss, first, second


HARD_NO_HESS, SOFT, SINGLE = HardLabelsNoHess(), SoftLabels(), Single()
