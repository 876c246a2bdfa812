"""Objectives for XGBoost, LightGBM and CatBoost, with init scores, probabilities and metrics.

An objective is one object that all three libraries accept: ``objective=`` of the scikit-learn
classes of XGBoost and LightGBM, ``obj=`` of ``xgboost.train``, ``params["objective"]`` of
``lightgbm.train``, ``loss_function=`` of CatBoost, which needs an ``eval_metric=`` with it. None of
them is imported here.

With f the rule, l = log p of the label's class t and u_j = [j = t] - p_j, a row has the loss f(l),
the gradient f' u_j and the Hessian f'' u_j**2 - f' p_j (1 - p_j), each times its weights and not
divided by the number of rows. Where f'' < 0, which for focal loss is the case of confident wrong
predictions, the Hessian is negative, and the libraries divide by sums of it:

- ``hessian="psd"``, the default, replaces f'' by max(f'', 0). Every term is then >= 0, and the
  Hessian is never smaller than the exact one and equal to it where f is convex.
  ``benchmarks/boosting.py`` compares it with two others.
- ``hessian="exact"`` does not replace it.

Under softmax the Hessian is multiplied as the library's own objective does: by 2 in XGBoost, by
C / (C - 1) in LightGBM, by 1 in CatBoost. Raw scores tell the first two apart: float32 is XGBoost,
float64 LightGBM. ``hessian_factor`` replaces the number.

The libraries ignore ``scale_pos_weight`` and ``is_unbalance`` for a custom objective, and some of
their metrics compute with raw scores as if they were probabilities: an objective warns if it finds
such parameters in the call that uses it.

The libraries compute no initial score for a custom objective: it is 0, in ``xgboost.train`` 0.5,
unless the result of ``Objective.init_score`` is passed.
"""

from typing import Any

from fusedce import checks
from fusedce.adapters.boosting_objective import Objective
from fusedce.losses.cross_entropy import CrossEntropy as _CrossEntropy
from fusedce.losses.focal import focal_rule

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Objective", "SigmoidFocal", "SoftmaxFocal"]


class BinaryCrossEntropy(Objective):
    """Binary cross-entropy, -log p of the label: ``binary:logistic``, ``binary``, ``Logloss``.

    Unlike the libraries' own objective it has the weights, metrics and init score of this module.
    Parameters as in ``Objective``; the Hessian p (1 - p) is never negative.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedce.adapters.boosting import BinaryCrossEntropy
    >>> grad, hess = BinaryCrossEntropy(pos_weight=3.0)(np.array([1, 0]), np.zeros(2))
    >>> print(grad, hess)
    [-1.5  0.5] [0.75 0.25]
    """

    activation = "sigmoid"
    other = "CrossEntropy"
    hessian = "exact"

    def __init__(
        self, pos_weight: float | None = None, *, hessian_factor: float | None = None
    ) -> None:
        self.pos_weight = pos_weight
        self.hessian_factor = hessian_factor
        self._check()

    def _rule(self) -> Any:
        return _CrossEntropy()


class CrossEntropy(Objective):
    """Softmax cross-entropy, -log p of the label: ``multi:softprob``, ``multiclass``.

    Parameters as in ``Objective``.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedce.adapters.boosting import CrossEntropy
    >>> grad, hess = CrossEntropy(hessian_factor=1)(np.array([2]), np.zeros((1, 4)))
    >>> print(grad, hess)
    [[ 0.25  0.25 -0.75  0.25]] [[0.1875 0.1875 0.1875 0.1875]]
    """

    activation = "softmax"
    other = "BinaryCrossEntropy"
    hessian = "exact"

    def __init__(
        self, n_classes: int | None = None, *, hessian_factor: float | None = None
    ) -> None:
        self.n_classes = n_classes
        self.hessian_factor = hessian_factor
        self._check()

    def _rule(self) -> Any:
        return _CrossEntropy()


class SigmoidFocal(Objective):
    """Focal loss of binary labels, -(1 - p)**gamma log p of the label.

    Parameters
    ----------
    gamma : float >= 0
        0 is ``BinaryCrossEntropy``.
    alpha : float in [0, 1], optional
        Weight of positive labels, 1 - alpha of negative ones.
    pos_weight, hessian, hessian_factor
        As in ``Objective``.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedce.adapters.boosting import SigmoidFocal
    >>> grad, hess = SigmoidFocal(gamma=2.0)(np.array([1, 0, 1]), np.array([0.0, 0.0, -5.0]))
    >>> print(grad.round(4), hess.round(4))
    [-0.2983  0.2983 -1.0462] [0.3991 0.3991 0.007 ]
    """

    activation = "sigmoid"
    other = "SoftmaxFocal"

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = None,
        *,
        pos_weight: float | None = None,
        hessian: str = "psd",
        hessian_factor: float | None = None,
    ) -> None:
        self.gamma = gamma
        self.alpha = alpha
        self.pos_weight = pos_weight
        self.hessian = hessian
        self.hessian_factor = hessian_factor
        self._check()

    def _check(self) -> None:
        if self.alpha is not None:
            checks.number("alpha", self.alpha, 0, 1, allowed="None or in [0, 1]")
        super()._check()

    def _rule(self) -> Any:
        return focal_rule(_gamma(self.gamma), False)


class SoftmaxFocal(Objective):
    """Focal loss of one of C classes, -(1 - p)**gamma log p of the label.

    Parameters
    ----------
    gamma : float >= 0
        0 is ``CrossEntropy``.
    n_classes, hessian, hessian_factor
        As in ``Objective``.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedce.adapters.boosting import SoftmaxFocal
    >>> grad, hess = SoftmaxFocal(gamma=2.0)(np.array([0]), np.zeros((1, 2), np.float32))
    >>> print(grad.round(4), hess.round(4))  # twice that of the sigmoid, as XGBoost's own
    [[-0.2983  0.2983]] [[0.7983 0.7983]]
    """

    activation = "softmax"
    other = "SigmoidFocal"

    def __init__(
        self,
        gamma: float = 2.0,
        n_classes: int | None = None,
        *,
        hessian: str = "psd",
        hessian_factor: float | None = None,
    ) -> None:
        self.gamma = gamma
        self.n_classes = n_classes
        self.hessian = hessian
        self.hessian_factor = hessian_factor
        self._check()

    def _rule(self) -> Any:
        return focal_rule(_gamma(self.gamma), False)


def _gamma(value: Any) -> float:
    return checks.number("gamma", value, 0, allowed="a finite number >= 0")
