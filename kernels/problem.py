"""What a backend is asked to compute, after every check: views of three axes and plain numbers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(slots=True)
class Problem:
    """One call. Arrays are seen as (outer, class, inner); an axis they lack has length 1."""

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
    # Numbers, of which some may be ignore_index and some not allowed: a distribution, whose rows
    # are ignored as a whole, or labels of single elements, in [0, 1], or -1 and 1 (lowest -1).
    real_targets: bool
    lowest: int  # allowed labels: lowest <= label < highest, but forbidden_label
    highest: int
    forbidden_label: int
    label_factor: float  # y = label * factor + shift
    label_shift: float
    normalize: bool
    z_loss: float
    softcap: float  # 0: none
    logit_scale: float
    loss: np.ndarray | None  # (outer, 1 or C, inner): unreduced losses, if wanted
    grad: np.ndarray | None  # (outer, C, inner)
    hess: np.ndarray | None  # (outer, C, inner)
    # Of these the CPU makes ``up`` and ``down``, the GPU as it goes:
    pos_weight: np.ndarray | None = None  # (C,) or () as the caller has it
    pos_scale: float = 1.0  # a weight of all positive outcomes
    alpha: float | None = None  # positive outcomes weigh alpha, negative ones 1 - alpha

    @property
    def ignore_value(self) -> float:
        """What stands for an ignored target among numbers; NaN, which equals nothing, if none is.

        That is ignore_index if the compute type holds it exactly.
        """
        if not self.real_targets:
            return math.nan
        value = float(self.compute(self.ignore_index))
        return value if value == self.ignore_index else math.nan
