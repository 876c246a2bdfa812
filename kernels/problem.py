"""A call after its checks, as kernels take it: views of three axes and numbers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(slots=True)
class Problem:
    """One call. Arrays are views (outer, class, inner); an axis that one lacks has extent 1."""

    params: Any  # the rule's NamedTuple
    activation: str | None  # "softmax", "sigmoid" or None
    compute: type[np.floating[Any]]  # np.float32 or np.float64
    logits: np.ndarray  # (outer, C, inner)
    targets: np.ndarray  # (outer, C, inner), or (outer, 1, inner) class indices
    sparse_targets: bool  # targets are class indices
    weight: np.ndarray | None  # (C,) in the compute type; on the GPU as the caller has it
    pos_factor: np.ndarray  # (1,) or (C,) in the compute type: factor of positive outcomes
    neg_factor: np.ndarray  # (1,) or (C,) in the compute type: factor of negative outcomes
    sample_weight: np.ndarray | None  # (outer, 1 or C, inner)
    ignore_index: int
    may_ignore: bool  # integer labels, of which some may be ignored
    # Targets that may be equal to ignore_index or out of range and are no integer labels: a
    # distribution, whose rows are ignored as a whole, or float labels of elements, which are in
    # [0, 1], or -1 and 1 if lowest is -1.
    real_targets: bool
    lowest: int  # valid: lowest <= label < highest and label != forbidden_label
    highest: int
    forbidden_label: int
    label_factor: float  # y = label * factor + shift
    label_shift: float
    normalize: bool
    # Options that kernels read as floats, by the names of the fields of the kernels' arguments:
    # z_loss, softcap (0: none), logit_scale; declared in fusedce/options.py.
    scalars: dict[str, float]
    transforms_logits: bool  # one of them changes the logits before the activation
    loss: np.ndarray | None  # (outer, 1 or C, inner): unreduced losses, if wanted
    grad: np.ndarray | None  # (outer, C, inner)
    hess: np.ndarray | None  # (outer, C, inner)
    # On the CPU pos_factor and neg_factor contain these, GPU kernels multiply by them:
    pos_weight: np.ndarray | None = None  # (C,) or () as the caller has it
    pos_scale: float = 1.0  # a weight of all positive outcomes
    alpha: float | None = None  # positive outcomes weigh alpha, negative ones 1 - alpha

    @property
    def ignore_value(self) -> float:
        """The float target that is ignored: ignore_index, if the compute type holds it exactly.

        NaN, which is equal to no number, if there is none.
        """
        if not self.real_targets:
            return math.nan
        value = float(self.compute(self.ignore_index))
        return value if value == self.ignore_index else math.nan
