"""What each loss states about itself: tests, benchmarks, warmup and README follow from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

Definition = Callable[..., Any]


class Loss(NamedTuple):
    """A listed loss.

    Parameters
    ----------
    function
        The public function.
    reference
        The loss of an outcome of probability p, as ``reference(p, xp, **own options)``, which the
        tests compare with. p is a NumPy array, or a number type of the tests that finds the
        derivatives and computes ``1 - p``, ``1 - p**q`` and logarithms without cancellation; use
        ``+ - * / **`` and ``xp.log``, ``xp.exp``, ``xp.maximum(x, number)``. No code of the kernels
        may be used.
    negative
        The same for a label 0, p being the probability of 0, where it is another function
        (then softmax is not possible).
    soft
        ``soft(p, y, xp, **own options)``: what ``soft_labels="torchvision"`` computes.
    activations : tuple of "softmax", "sigmoid", None
        Those that it is mostly used with, the default first: warmup compiles them and the first is
        benchmarked.
    options
        Own options that every test runs with, at least one set for each class of parameters. The
        first is benchmarked.
    more_options
        More of them for the tests of accuracy.
    exponents
        Own options that are exponents: the bar of float32 is wider where they are not integers.
    alias_of
        The listed loss that this is another name of: the results are compared bit for bit, and
        nothing else is tested.
    summary, source
        One line and the paper, for README.
    """

    function: Callable[..., Any]
    reference: Definition | None = None
    negative: Definition | None = None
    soft: Definition | None = None
    activations: tuple[str | None, ...] = ("softmax", "sigmoid")
    options: tuple[dict[str, Any], ...] = ({},)
    more_options: tuple[dict[str, Any], ...] = ()
    exponents: tuple[str, ...] = ()
    alias_of: str | None = None
    summary: str = ""
    source: str = ""

    @property
    def name(self) -> str:
        """The name of the public function."""
        return self.function.__name__

    @property
    def any_activation(self) -> bool:
        """Whether softmax is possible: the loss does not depend on whether the label is 0 or 1."""
        return self.negative is None


LOSSES: dict[str, Loss] = {}  # by name, in the order of the imports in fusedce/losses/__init__.py


def declare(loss: Loss) -> None:
    """Add a loss to the list."""
    LOSSES[loss.name] = loss
