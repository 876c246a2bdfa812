"""The words of a call: what every loss takes, and what a loss adds."""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np


class Options(TypedDict, total=False):
    """The keyword arguments every loss takes; see the README for each."""

    activation: str | None
    weight: Any
    pos_weight: Any
    sample_weight: Any
    ignore_index: int
    label_smoothing: float
    normalize_targets: bool
    neg_label: int
    z_loss: float
    softcap: float | None
    logit_scale: float
    reduction: str
    denominator: Any
    axis: int
    return_grad: bool
    return_hessian: bool
    loss_out: Any
    grad_out: Any
    hess_out: Any
    validate: bool | None


class Traits(NamedTuple):
    """What a loss adds to the options of all."""

    name: str  # of the public function, for messages
    alpha: float | None = None
    sigmoid_only: bool = False  # the rule tells positive outcomes from negative ones
    mixed: str | None = None  # the option that makes it a function of both outcomes at once


@dataclass(slots=True)
class Call:
    """The arguments of a call after their checks."""

    activation: str | None
    logits: np.ndarray
    targets: np.ndarray
    one_hot: bool
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
        return self.activation == "softmax" or (self.activation is None and self.one_hot)

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        return self.rows if self.by_row else self.logits.shape

    @property
    def has_labels(self) -> bool:
        """Whether targets are integers that must name a class, or say yes or no."""
        return self.one_hot or (self.targets.dtype.kind in "iu" and not self.by_row)

    @property
    def allowed(self) -> str:
        """Which labels are, in words."""
        if not self.one_hot:
            return f"a label is {self.neg_label} or 1"
        if self.activation == "sigmoid":
            return f"0 <= target <= {self.classes} ({self.classes}: background)"
        return f"0 <= target < {self.classes}"
