"""The words of a call: what every loss takes, and what a loss adds."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from fusedce import arrays

Activation = Literal["softmax", "sigmoid"] | None
Reduction = Literal["mean", "sum", "none"]
IGNORE_INDEX = -100  # the default, which acts where it can


class Options(NamedTuple):
    """The keyword arguments every loss takes, with their defaults; see ``fusedce.apply`` for each.

    This is the one declaration of them: the signatures that ``help`` shows, the annotations in
    ``fusedce/__init__.pyi`` and the checks of a call follow it.
    """

    activation: Activation = "softmax"
    weight: Any = None
    pos_weight: Any = None
    sample_weight: Any = None
    ignore_index: int = IGNORE_INDEX
    label_smoothing: float = 0.0
    normalize_targets: bool = False
    neg_label: Literal[0, -1] = 0
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    reduction: Reduction = "mean"
    denominator: Any = None
    axis: int = -1
    return_grad: bool = True
    return_hessian: bool = False
    loss_out: Any = None
    grad_out: Any = None
    hess_out: Any = None
    validate: bool | None = None


Function = TypeVar("Function", bound=Callable[..., Any])
_SHARED = [
    inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=Options._field_defaults[name],
        annotation=annotation,
    )
    for name, annotation in Options.__annotations__.items()
]  # fmt: skip


def with_options(function: Function) -> Function:
    """Let the signature of a public function name the options that ``**options`` stands for.

    A parameter of its own with the name of an option, such as ``activation``, takes its place.
    """
    signature = inspect.signature(function)
    own = signature.parameters
    named = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    named += [p for p in _SHARED if p.name not in own]
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return function


class Traits(NamedTuple):
    """What a loss adds to the options of all."""

    name: str  # of the public function, for messages
    alpha: float | None = None
    sigmoid_only: bool = False  # the rule tells positive outcomes from negative ones
    mixed: str | None = None  # the option that makes it a function of both outcomes at once
    # Labels that are no integers are used as they are: none is ignored, none out of range.
    any_label: bool = False


@dataclass(slots=True)
class Call:
    """The arguments of a call after their checks."""

    activation: str | None
    logits: np.ndarray
    targets: np.ndarray
    sparse_targets: bool
    axis: int
    weight: np.ndarray | None
    pos_weight: np.ndarray | None
    sample_weight: np.ndarray | None
    ignore_index: int
    smoothing: float
    normalize: bool
    neg_label: int
    z_loss: float
    softcap: float
    logit_scale: float
    reduction: str
    denominator: Any  # a number, None, or on a GPU an array of one
    any_label: bool
    inputs: dict[str, Any]  # as the caller passed them, for what may overlap

    @property
    def classes(self) -> int:
        """The length of the class axis."""
        return int(self.logits.shape[self.axis])

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.logits.shape[: self.axis] + self.logits.shape[self.axis + 1 :]

    @property
    def by_row(self) -> bool:
        """Whether a row of classes has one loss, not one an element."""
        return self.activation == "softmax" or (self.activation is None and self.sparse_targets)

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        return self.rows if self.by_row else self.logits.shape

    @property
    def integer_targets(self) -> bool:
        """Whether targets are integers that must name a class, or say yes or no."""
        return self.sparse_targets or (self.targets.dtype.kind in "iu" and not self.by_row)

    @property
    def real_targets(self) -> bool:
        """Whether targets are numbers that may hold ignore_index, or be none that is allowed.

        Those are distributions, and labels of single elements that are floats.
        """
        return not (self.integer_targets or self.any_label or self.targets.dtype == bool)

    @property
    def can_be_ignored(self) -> bool:
        """Whether a target of this dtype may be ignore_index."""
        kind = self.targets.dtype.kind
        if kind == "b" or (self.any_label and not self.integer_targets):
            return False
        if kind in "iu":
            range_ = np.iinfo(self.targets.dtype)
            return range_.min <= self.ignore_index <= range_.max
        read_as = arrays.compute_type(self.logits.dtype) if self.activation else np.float64
        with np.errstate(over="ignore"):
            stored = self.targets.dtype.type(self.ignore_index)
        return float(stored) == float(read_as(self.ignore_index)) == self.ignore_index

    @property
    def allowed(self) -> str:
        """Which labels are, in words."""
        if not self.sparse_targets:
            if self.targets.dtype.kind not in "iu" and self.neg_label == 0:
                return "a label is a number in [0, 1]"
            return f"a label is {self.neg_label} or 1"
        if self.activation == "sigmoid":
            return f"0 <= target <= {self.classes} ({self.classes}: background)"
        return f"0 <= target < {self.classes}"
