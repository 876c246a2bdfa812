"""Any rule as an objective of XGBoost, LightGBM and CatBoost; see ``fusedce.adapters.boosting``."""

import copy
import inspect
import sys
from typing import Any, Self

import numpy as np

import fusedce
from fusedce import checks, errors
from fusedce.adapters.boosting_callers import warn_of_ignored
from fusedce.adapters.boosting_inputs import classes as classes_of
from fusedce.adapters.boosting_inputs import is_cupy, one_label_a_row, to_device_of, unpack
from fusedce.adapters.boosting_inputs import labels as labels_of
from fusedce.adapters.boosting_scores import (
    SMALLEST_SHARE,
    LightGBMMetric,
    Metric,
    XGBoostMetric,
    best_row,
    best_score,
    catboost_metric,
)
from fusedce.adapters.rules import bend, convex, derived
from fusedce.call import run
from fusedce.kernels.rule import RULES
from fusedce.options import Traits


class Objective:
    """A rule of your own as an objective of XGBoost, LightGBM and CatBoost.

    The formulas of gradient and Hessian are in ``fusedce.adapters.boosting``.

    Parameters
    ----------
    rule : NamedTuple of a class registered with ``fusedce.rule``
        The parameters of the rule f.
    activation : {"sigmoid", "softmax"}, default "sigmoid"
        "sigmoid": labels 0 and 1, raw scores (n,). "softmax": labels 0 to C - 1, raw scores (n, C).
    n_classes : int >= 2, optional
        C, only with softmax; by default that of the raw scores. The library has its own parameter
        for it: ``num_class`` of ``train`` (XGBoost, LightGBM) or ``classes_count`` (CatBoost).
    pos_weight : float > 0, optional
        Weight of positive labels, only with sigmoid. It is what ``scale_pos_weight`` is for the
        libraries' own objectives.
    hessian : {"psd", "exact"}, default "psd"
        "psd": ``f''`` is replaced by ``max(f'', 0)``, so that no Hessian is negative. "exact": it
        is not replaced.
    hessian_factor : float > 0, optional
        Factor of the Hessian, instead of that of the library's own objective.

    Notes
    -----
    ``copy.deepcopy`` returns the same object, which CatBoost needs. ``sklearn.base.clone`` makes a
    copy.

    Raises
    ------
    TypeError, ValueError
        For invalid parameters; in a call for labels that are no integers or no classes, and for
        wrong shapes. The message contains the argument, its value and what is allowed.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> import numpy as np, fusedce
    >>> from fusedce.adapters.boosting import Objective
    >>> class Brier(NamedTuple):
    ...     scale: float = 1.0
    >>> @fusedce.rule(Brier)
    ... def brier(logp, logq, p, q, params):  # scale * q**2
    ...     a = params.scale * type(p)(2)
    ...     return params.scale * q * q, -a * p * q, a * p * (p - q)
    >>> objective = Objective(Brier(), "sigmoid", hessian="exact")
    >>> raw = np.array([0.0, -2.0], dtype=np.float32)
    >>> grad, hess = objective(np.array([1, 0]), raw)
    >>> print(grad.round(4), hess.round(4))
    [-0.25   0.025] [0.125  0.0411]
    """

    alpha: float | None = None
    n_classes: int | None = None
    pos_weight: float | None = None
    hessian = "psd"
    other: str | None = None  # the name of the class for the other activation
    no_jit = True  # otherwise CatBoost compiles the methods with Numba, which warns

    def __init__(
        self,
        rule: Any,
        activation: str = "sigmoid",
        *,
        n_classes: int | None = None,
        pos_weight: float | None = None,
        hessian: str = "psd",
        hessian_factor: float | None = None,
    ) -> None:
        self.rule = rule
        self.activation = activation
        self.n_classes = n_classes
        self.pos_weight = pos_weight
        self.hessian = hessian
        self.hessian_factor = hessian_factor
        self._check()

    def _rule(self) -> Any:
        if type(self.rule) not in RULES:
            raise TypeError(
                "rule must be an instance of a class registered with fusedce.rule, "
                f"got {self.rule!r}"
            )
        return self.rule

    def _check(self) -> None:
        """Raise for parameters that are invalid or have no meaning with the activation."""
        self._rule()
        checks.choice("activation", self.activation, ("sigmoid", "softmax"))
        checks.choice("hessian", self.hessian, ("psd", "exact"))
        checks.positive("pos_weight", self.pos_weight)
        checks.positive("hessian_factor", self.hessian_factor)
        where = f"activation={self.activation!r}"
        if self.activation == "softmax":
            if self.pos_weight is not None:
                raise errors.meaningless("pos_weight", self.pos_weight, where)
            if self.n_classes is not None and checks.whole("n_classes", self.n_classes) < 2:
                raise ValueError(f"n_classes must be None or >= 2, got {self.n_classes}")
        elif self.n_classes is not None:
            raise errors.meaningless("n_classes", self.n_classes, where)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, as in scikit-learn's estimators."""
        # Nothing for an estimator that asks for nested parameters: XGBoost and LightGBM would pass
        # "objective__gamma" to their boosters, which warn, and set_params of it has no effect.
        if sys._getframe(1).f_code.co_name == "get_params":
            return {}
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change parameters by name; if one of them is invalid, none is changed."""
        unknown = params.keys() - inspect.signature(type(self)).parameters.keys()
        if unknown:
            raise errors.unknown(type(self).__name__, unknown)
        changed = copy.copy(self)
        vars(changed).update(params)
        changed._check()
        vars(self).update(params)
        return self

    def __sklearn_clone__(self) -> Self:
        return copy.copy(self)

    def __deepcopy__(self, memo: Any) -> Self:
        # CatBoost's get_params copies parameters, and scikit-learn's clone compares by identity.
        return self

    def __repr__(self) -> str:
        # Default values too, so that best_params_ of a search shows all parameters of the best.
        params = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"{type(self).__name__}({params})"

    # ------------------------------------------------------------------ XGBoost, LightGBM

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Any, Any]:
        """Gradient and Hessian of each raw score.

        Parameters
        ----------
        y_true : array (n,)
            Labels: integers of any dtype.
        y_pred : array (n,) or (n, C) of float32 or float64
            Raw scores, in any memory order; they are not modified. If they are CuPy arrays, labels
            are copied to the same device. ``xgboost.train`` and ``lightgbm.train`` pass the raw
            scores first and a ``DMatrix`` or ``Dataset`` second, which is accepted too.
        sample_weight : array (n,), optional
            Weight of each row.

        Returns
        -------
        grad, hess : arrays of the shape, dtype and memory order of ``y_pred``
        """
        warn_of_ignored(self)
        y, raw, weight = unpack(y_true, y_pred, sample_weight)
        labels = self._labels(y, raw)
        _, grad, hess = self._run(
            self._curved(), raw, labels, sample_weight=weight, reduction="sum", return_hessian=True
        )
        factor = self.hessian_factor
        if factor is None and self.activation == "softmax":
            classes = raw.shape[1]
            factor = classes / (classes - 1) if raw.dtype == np.float64 else 2.0
        if factor is not None:
            hess *= factor
        return grad, hess

    def _run(self, rule: Any, raw: Any, labels: Any, **options: Any) -> Any:
        only = RULES[type(rule)].negative is not None
        traits = Traits(type(self).__name__, alpha=self.alpha, sigmoid_only=only)
        options["activation"] = self.activation
        return run(rule, traits, raw, labels, pos_weight=self.pos_weight, **options)

    def _curved(self) -> Any:
        """The rule whose exact Hessian is the Hessian to return."""
        rule = self._rule()
        return rule if self.hessian == "exact" else derived(rule, convex)

    def _labels(self, y: Any, raw: Any) -> Any:
        classes = classes_of(raw, self) if y.ndim == 1 else 0
        one_label_a_row(y, len(raw))
        return labels_of(y, classes, self)

    # ------------------------------------------------------------------ CatBoost

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any = None) -> Any:
        """For CatBoost, one raw score per row: (n, 2), both derivatives of minus the loss."""
        warn_of_ignored(self)
        raw = np.asarray(approxes, dtype=np.float64)
        labels = self._labels(np.asarray(targets), raw)
        minus = np.broadcast_to(-1.0, raw.shape) if weights is None else np.negative(weights)
        out = np.empty((len(raw), 2))
        self._run(
            self._curved(), raw, labels, sample_weight=minus, reduction="sum",
            return_hessian=True, grad_out=out[:, 0], hess_out=out[:, 1],
        )  # fmt: skip
        if self.hessian_factor is not None:
            out[:, 1] *= self.hessian_factor
        return out

    def calc_ders_multi(self, approxes: Any, target: Any, weight: Any = 1.0) -> tuple[Any, Any]:
        """For CatBoost, one row of C raw scores: derivatives (C,), (C, C) of minus the loss."""
        # The Hessian of f is f'' u u^T - f' (diag(p) - p p^T) with u = onehot - p. The kernels'
        # gradient of f is f' u, that of a rule with slope f'' is f'' u, and that of cross-entropy
        # is -u: outside of the target, where f' p_j is -f' u_j, nothing is subtracted or divided.
        raw = np.array([approxes], dtype=np.float64)
        labels = self._labels(np.array([target]), raw)
        rule, t = self._curved(), int(labels[0])
        _, slopes, own = self._run(rule, raw, labels, reduction="sum", return_hessian=True)
        _, bends = self._run(derived(rule, bend), raw, labels, reduction="sum")
        loss, (back,) = fusedce.cross_entropy(raw, labels, reduction="sum")
        second = np.outer(bends, -back)
        back[t] = np.exp(-loss)  # the probabilities
        spread = np.outer(slopes, back)
        spread[t] = spread[:, t]
        second -= spread
        np.fill_diagonal(second, own[0])
        return -weight * slopes[0], -weight * (self.hessian_factor or 1.0) * second

    # ------------------------------------------------------------------ before and after

    def init_score(self, y: Any, sample_weight: Any = None) -> Any:
        """The initial raw score s: the constant with the smallest weighted loss.

        For cross-entropy it is log(p / (1 - p)) with p the share of positive labels, or the
        logarithms of the shares of the classes. For other rules it is computed numerically in
        float64, and with softmax it is shifted so that sum(exp(s)) = 1. Shares below 1e-15 are
        replaced by 1e-15, so no score is larger than 34.6 in size.

        How to pass s:

        - LightGBM: ``init_score=np.full(n, s)``, for C classes ``np.tile(s, (n, 1))``, to ``fit``
          or ``Dataset``, also for each validation set. Add s to ``predict(raw_score=True)``.
        - XGBoost: the same arrays as ``base_margin=`` to ``fit`` or ``DMatrix``, also for
          predictions. Or a number as ``base_score=``: s for ``xgboost.train``, 1 / (1 + exp(-s))
          for ``XGBClassifier``.
        - CatBoost: ``Pool(..., baseline=np.full((n, 1), s))``, for C classes an array (n, C). For
          predictions pass it too, or add s to the predicted raw scores.

        Parameters
        ----------
        y : array (n,)
            Labels as in a call.
        sample_weight : array (n,), optional
            Weight of each row.

        Returns
        -------
        float, or array (C,)

        Raises
        ------
        TypeError, ValueError
            For labels as in a call, and for weights whose sum is not above 0.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedce.adapters.boosting import BinaryCrossEntropy, SigmoidFocal
        >>> y = np.array([1, 0, 0, 0])
        >>> print(f"{BinaryCrossEntropy().init_score(y):.4f}")
        -1.0986
        >>> print(f"{SigmoidFocal().init_score(y):.4f}")
        -0.4104
        """
        y = to_device_of(y, None)
        one_label_a_row(y, len(y) if y.ndim else 1)
        softmax = self.activation == "softmax"
        top = int(np.nanmax(y, initial=0)) if y.dtype.kind in "biuf" else 0
        classes = (self.n_classes or max(2, top + 1)) if softmax else 2
        labels = labels_of(y, classes, self).astype(np.int64)
        weight = None if sample_weight is None else to_device_of(sample_weight, None)
        mass = np.bincount(labels, weight, classes).astype(np.float64)
        if not mass.sum() > 0:
            raise ValueError(f"the weights of y must add up to more than 0, got {mass.sum()}")
        mass = np.maximum(mass / mass.sum(), SMALLEST_SHARE)
        return best_row(self, mass) if softmax else best_score(self, mass)

    def predict_proba(self, raw: Any) -> Any:
        """Probabilities (n, 2) or (n, C) of raw scores (n,) or (n, C).

        Column j is the probability of class j, as in scikit-learn. The raw scores include the
        initial score. ``LGBMClassifier.predict_proba`` returns raw scores for a custom objective.

        Examples
        --------
        >>> import numpy as np
        >>> from fusedce.adapters.boosting import SigmoidFocal
        >>> SigmoidFocal().predict_proba(np.array([0.0, 2.0])).round(3)
        array([[0.5  , 0.5  ],
               [0.119, 0.881]])
        """
        raw = raw if is_cupy(raw) else np.asarray(raw)
        classes_of(raw, self)
        if self.activation == "softmax":
            return fusedce.softmax(raw)
        library = sys.modules["cupy"] if is_cupy(raw) else np
        both = library.empty((len(raw), 2), raw.dtype)
        fusedce.sigmoid(-raw, out=both[:, 0])
        fusedce.sigmoid(raw, out=both[:, 1])
        return both

    # ------------------------------------------------------------------ metrics

    @property
    def xgboost_metric(self) -> Metric:
        """The mean loss: ``eval_metric=`` of XGBoost's classes, ``custom_metric=`` of ``train``."""
        return XGBoostMetric(self)

    @property
    def lightgbm_metric(self) -> Metric:
        """The mean loss: ``eval_metric=`` of LightGBM's classes, ``feval=`` of ``train``."""
        return LightGBMMetric(self)

    @property
    def catboost_metric(self) -> Metric:
        """The mean loss: ``eval_metric=`` of CatBoost."""
        return catboost_metric(self)
