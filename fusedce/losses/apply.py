"""``apply``: any registered rule, also one that is not part of the package."""

from typing import Any

from fusedce import checks
from fusedce.call import run
from fusedce.kernels.rule import RULES
from fusedce.options import Traits, with_options


@with_options
def apply(rule: Any, logits: Any, targets: Any, **options: Any) -> Any:
    """Loss and gradient of a rule, such as one registered with ``fusedce.rule``.

    A rule is a function f of log(p), the logarithm of the probability p of an outcome. The loss of
    a row (softmax) or of an element (sigmoid) is::

        class index t:    loss = f(log(p_t))
        distribution y:   loss = sum_j y_j * f(log(p_j))
        label y, sigmoid: loss = y * f(log(p)) + (1 - y) * f(log(1 - p))

    If the rule has another function for the negative outcome, it replaces f in the last term.

    Parameters
    ----------
    rule : NamedTuple of a class registered with ``fusedce.rule``
        The parameters of the rule: finite numbers. Its class determines f.
    logits, targets
        As in ``cross_entropy``.

    {options}

    Raises
    ------
    TypeError, ValueError, IndexError
        As in ``cross_entropy``. A TypeError also for a class that is not registered.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> from fusedce.losses.cross_entropy import CrossEntropy
    >>> loss, grad = fusedce.apply(CrossEntropy(), np.zeros((1, 2)), np.array([1]))
    >>> print(f"{loss:.4f}", grad)
    0.6931 [[ 0.5 -0.5]]
    """
    if type(rule) not in RULES:
        raise TypeError(
            f"rule must be an instance of a class registered with fusedce.rule, got {rule!r}"
        )
    for name, value in zip(rule._fields, rule, strict=True):
        checks.number(f"{type(rule).__name__}.{name}", value)
    registered = RULES[type(rule)]
    traits = Traits(
        "apply", sigmoid_only=registered.negative is not None, soft=registered.soft is not None
    )
    return run(rule, traits, logits, targets, **options)
