"""A loss is a function of one number: l = log p of the true outcome.

``@rule(Params)`` registers the scalar function of a loss under the type of its parameters, and
``evaluate`` looks it up by that type at compile time: one loop serves every loss, as fast as a
loop written for it, and the compiled loop can be kept on disk (closures over jitted functions
cannot).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from numba.extending import overload

from fusedce.kernels.scalar import INLINED, scalar, where

MAX_PARAMETERS = 8


class Rule(NamedTuple):
    """The compiled scalar functions of one loss."""

    positive: Any  # (logp, logq, p, q, params) -> f, f', f'' for the outcome of probability p
    negative: Any  # the same for the outcome "no" of a sigmoid, where it is another function
    soft: Any  # (logp, logq, p, q, y, params) -> loss, its derivatives by the logit, or None
    by_logit: Any = None  # (logp, logq, p, q, params) -> f, q f', or None


RULES: dict[type, Rule] = {}


class Registration:
    """The functions of a rule, kept as an attribute of its class. Creating one registers the class.

    cloudpickle, which joblib and dask use, sends a class of a script or of a function by value: its
    attributes are made anew in the other process, this one too, and so the rule is known there.
    """

    def __init__(self, params: type, *functions: Callable[..., Any] | None) -> None:
        self.arguments = params, *functions
        if params not in RULES:  # a rule that is registered already is compiled
            RULES[params] = Rule(*(None if fn is None else scalar(fn) for fn in functions))

    def __reduce__(self) -> Any:
        return Registration, self.arguments


def rule(
    params: Any,
    *,
    negative: Callable[..., Any] | None = None,
    soft: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a loss function of your own; ``fusedce.apply`` computes it.

    The decorated function is the rule: the loss f of an outcome with probability p, as a function
    of log(p), with its two derivatives by log(p)::

        @fusedce.rule(Params)
        def name(logp, logq, p, q, params):
            return f, df/dlogp, d2f/dlogp2

    Its arguments are scalars of one float dtype: logp = log(p), logq = log(q), p, q = 1 - p, each
    accurate relative to its own size. ``params`` is the instance of the class that was passed to
    ``fusedce.apply``. The function is compiled by Numba. It keeps the dtype of its arguments if
    constants are written as ``type(p)(2)`` instead of ``2.0``.

    Parameters
    ----------
    params : NamedTuple class
        The parameters of the loss: at most 8 fields, which are floats.
    negative : function, optional
        Rule for the negative outcome of a sigmoid, with the same arguments; there p is the
        probability of the negative outcome. Without it the rule is the same for both outcomes. A
        loss that has it cannot be computed with softmax.
    soft : function, optional
        Loss of a label y between 0 and 1 (sigmoid). It takes ``(logp, logq, p, q, y, params)`` and
        returns the loss and its two derivatives by the logit. Without it the loss is
        y * f(log(p)) + (1 - y) * f(log(1 - p)). A loss that has it cannot be computed from
        probabilities and labels of elements (``activation=None``).

    Returns
    -------
    function
        A decorator, which returns the function unchanged.

    Raises
    ------
    TypeError
        If ``params`` is no NamedTuple class, or has more than 8 fields.

    Examples
    --------
    The Brier score (1 - p)**2 of the true outcome:

    >>> from typing import NamedTuple
    >>> import numpy as np, fusedce
    >>> class Brier(NamedTuple):
    ...     scale: float = 1.0
    >>> @fusedce.rule(Brier)
    ... def brier(logp, logq, p, q, params):
    ...     a = type(p)(2) * params.scale
    ...     return params.scale * q * q, -a * p * q, a * p * (p - q)
    >>> loss, grad = fusedce.apply(Brier(), np.zeros((1, 2)), np.array([1]))
    >>> print(f"{loss:.4f}", grad)
    0.2500 [[ 0.25 -0.25]]
    """
    fields = getattr(params, "_fields", None)
    if fields is None or not isinstance(params, type):
        raise TypeError(f"rule() takes a NamedTuple class, got {params!r}")
    if len(fields) > MAX_PARAMETERS:
        raise TypeError(f"{params.__name__} has {len(fields)} fields, at most {MAX_PARAMETERS}")

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        RULES.pop(params, None)
        params._rule = Registration(params, fn, negative, soft)  # type: ignore[attr-defined]
        return fn

    return register


def by_logit(params: type) -> Callable[..., Any]:
    """Add to a rule that is the same for both outcomes a function that returns f and q f'.

    That is the gradient by the logit of a sigmoid; it pays where it takes fewer steps than f, f'
    and their product with q. The function takes ``(logp, logq, p, q, params)``. GPU kernels without
    a Hessian use it; on the CPU a gradient has the same bits with a Hessian beside it.
    """
    assert RULES[params].negative is None

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        RULES[params] = RULES[params]._replace(by_logit=scalar(fn))
        return fn

    return register


def evaluate(logp, logq, p, q, params):
    """f, f', f'' of the rule at log p."""
    return RULES[type(params)].positive(logp, logq, p, q, params)


def evaluate_outcome(positive, logp, logq, p, q, params):
    """f, f', f'' for a positive or negative outcome of probability p."""
    found = RULES[type(params)]
    use = found.positive if positive or found.negative is None else found.negative
    return use(logp, logq, p, q, params)


@overload(evaluate, jit_options=INLINED)
def _evaluate(logp, logq, p, q, params):
    fn = RULES[params.instance_class].positive

    def body(logp, logq, p, q, params):
        T = type(p)
        f, f1, f2 = fn(logp, logq, p, q, params)
        return T(f), T(f1), T(f2)

    return body


@overload(evaluate_outcome, jit_options=INLINED)
def _evaluate_outcome(positive, logp, logq, p, q, params):
    found = RULES[params.instance_class]
    if found.negative is None:
        return lambda positive, logp, logq, p, q, params: evaluate(logp, logq, p, q, params)
    fn = found.negative

    def both(positive, logp, logq, p, q, params):
        T = type(p)
        f, f1, f2 = evaluate(logp, logq, p, q, params)
        g, g1, g2 = fn(logp, logq, p, q, params)
        return where(positive, f, T(g)), where(positive, f1, T(g1)), where(positive, f2, T(g2))

    return both
