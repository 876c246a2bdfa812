"""The words of a call: what every loss takes, and what a loss adds."""

from typing import Any, NamedTuple, TypedDict


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
