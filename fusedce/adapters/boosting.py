"""XGBoost, LightGBM and CatBoost: the losses as objectives, with initial scores and metrics.

All three libraries accept the same object, ``objective``, and this module imports none of them:

- XGBoost: ``XGBClassifier(objective=objective)`` or ``xgboost.train(..., obj=objective)``;
- LightGBM: ``LGBMClassifier(objective=objective)`` or ``params["objective"] = objective`` for
  ``lightgbm.train``;
- CatBoost: ``loss_function=objective``, together with an ``eval_metric``, which CatBoost requires.

A rule f is a function of log(p_t), with t the class of the label. A row has::

    loss   = f(log(p_t))
    grad_j = f' * ([j == t] - p_j)
    hess_j = f'' * ([j == t] - p_j)**2 - f' * p_j * (1 - p_j)

Each is multiplied by the weights of the row, and not divided by the number of rows. The Hessian can
be negative where ``f'' < 0``, which for focal loss is the case for confident wrong predictions. The
libraries divide by sums of Hessians, so there are two forms of it:

- ``hessian="psd"``, the default: ``f''`` is replaced by ``max(f'', 0)``. The Hessian is then never
  negative, never smaller than the exact one, and equal to it where ``f'' >= 0``.
- ``hessian="exact"``: the formula above.

With softmax the Hessian is multiplied by a factor, which is that of the library's own objective: 2
in XGBoost, C / (C - 1) in LightGBM, 1 in CatBoost. The dtype of the raw scores tells XGBoost, which
has float32, from LightGBM, which has float64. ``hessian_factor`` replaces the factor.

For a custom objective the libraries ignore ``scale_pos_weight`` and ``is_unbalance``, and some of
their metrics use raw scores as if they were probabilities. An objective warns if it finds such
parameters in the call that uses it. The libraries compute no initial score for a custom objective
either: it is 0, in ``xgboost.train`` 0.5, unless the result of ``Objective.init_score`` is passed.
"""

from typing import Any

from fusedce import checks
from fusedce.adapters.boosting_objective import Objective
from fusedce.losses.cross_entropy import CrossEntropy as _CrossEntropy
from fusedce.losses.focal import focal_rule

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Objective", "SigmoidFocal", "SoftmaxFocal"]


class BinaryCrossEntropy(Objective):
    """Binary cross-entropy: the objective ``binary:logistic``, ``binary`` or ``Logloss``.

    With p = 1 / (1 + exp(-z)) for the raw score z, and a label y of 0 or 1::

        loss = -y * log(p) - (1 - y) * log(1 - p)
        grad = p - y
        hess = p * (1 - p)

    The methods are those of ``Objective``.

    Parameters
    ----------
    pos_weight, hessian_factor
        As in ``Objective``.

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
    """Softmax cross-entropy: the objective ``multi:softprob``, ``multiclass`` or ``MultiClass``.

    With p = softmax(z) for the raw scores z of a row, and the class t of its label::

        loss   = -log(p_t)
        grad_j = p_j - [j == t]
        hess_j = p_j * (1 - p_j), times the factor of the library

    The methods are those of ``Objective``.

    Parameters
    ----------
    n_classes, hessian_factor
        As in ``Objective``.

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
    """Focal loss of binary labels.

    With p = 1 / (1 + exp(-z)) for the raw score z::

        label 1:  loss = -(1 - p)**gamma * log(p)
        label 0:  loss = -p**gamma * log(1 - p)

    The methods are those of ``Objective``.

    Parameters
    ----------
    gamma : float >= 0, default 2
        Exponent. With 0 it is ``BinaryCrossEntropy``.
    alpha : float in [0, 1], optional
        Weight of positive labels; that of negative labels is 1 - alpha.
    pos_weight, hessian, hessian_factor
        As in ``Objective``.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedce.adapters.boosting import SigmoidFocal
    >>> objective = SigmoidFocal(gamma=2.0)
    >>> grad, hess = objective(np.array([1, 0, 1]), np.array([0.0, 0.0, -5.0]))
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
    """Focal loss of one of C classes.

    With p = softmax(z) for the raw scores z of a row, and the class t of its label::

        loss = -(1 - p_t)**gamma * log(p_t)

    The methods are those of ``Objective``.

    Parameters
    ----------
    gamma : float >= 0, default 2
        Exponent. With 0 it is ``CrossEntropy``.
    n_classes, hessian, hessian_factor
        As in ``Objective``.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedce.adapters.boosting import SoftmaxFocal
    >>> raw = np.zeros((1, 2), np.float32)  # float32: the Hessian has XGBoost's factor 2
    >>> grad, hess = SoftmaxFocal(gamma=2.0)(np.array([0]), raw)
    >>> print(grad.round(4), hess.round(4))
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
