"""Initial scores, and metrics: the mean loss for each library."""

from typing import Any

import numpy as np

import fusedce
from fusedce.adapters.boosting_inputs import unpack
from fusedce.losses.cross_entropy import CrossEntropy

SMALLEST_SHARE = 1e-15  # the least share of a class, as in LightGBM


def best_score(objective: Any, mass: Any) -> float:
    """The raw score of the smallest loss: the best of a grid, then a zero of the slope near it."""
    classes, limit = np.array([0, 1]), -np.log(SMALLEST_SHARE)

    def cost(scores: Any, **options: Any) -> Any:
        rows = np.stack([scores, scores], axis=1)
        weights = np.broadcast_to(mass, rows.shape)
        options |= {"sample_weight": weights, "reduction": "none"}
        return objective._run(
            objective._rule(), rows, np.broadcast_to(classes, rows.shape), **options
        )

    def slope(score: float) -> float:
        return float(cost(np.array([score]))[1].sum())

    grid = np.linspace(-limit, limit, 400)
    best = int(cost(grid, return_grad=False).sum(axis=1).argmin())
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    if not slope(low) < 0 < slope(high):
        return float(grid[best])
    from scipy.optimize import brentq

    return float(brentq(slope, low, high, xtol=1e-13))


def best_row(objective: Any, mass: Any) -> Any:
    """The raw scores of the smallest loss, one per class: minimized from those of cross-entropy."""
    start, classes = np.log(mass), np.arange(len(mass))
    if isinstance(objective._rule(), CrossEntropy):
        return fusedce.log_softmax(start)
    from scipy.optimize import minimize

    def cost(scores: Any) -> tuple[float, Any]:
        rows = np.tile(scores, (len(mass), 1))
        options: Any = {"sample_weight": mass, "reduction": "sum"}
        loss, grad = objective._run(objective._rule(), rows, classes, **options)
        return float(loss), grad.sum(axis=0)

    return fusedce.log_softmax(minimize(cost, start, jac=True, options={"gtol": 1e-12}).x)


class Metric:
    """The weighted mean of an objective's loss; it is called with the objective's arguments."""

    attribute = ""  # the attribute of the objective that returns this metric

    def __init__(self, objective: Any) -> None:
        self.objective = objective
        self.__name__ = type(objective).__name__

    def __deepcopy__(self, memo: Any) -> "Metric":
        return self  # for the same reason as ``Objective.__deepcopy__``

    def __repr__(self) -> str:
        return f"{self.objective!r}.{self.attribute}"

    def mean(self, y_true: Any, y_pred: Any, sample_weight: Any) -> float:
        """The mean, weighted by the sample weights if there are any."""
        y, raw, weight = unpack(y_true, y_pred, sample_weight)
        ours = self.objective
        whole = ours._labels(y, raw)
        options = {"sample_weight": weight, "return_grad": False}
        options["denominator"] = None if weight is None else float(weight.sum(dtype=np.float64))
        return float(ours._run(ours._rule(), raw, whole, **options))


class XGBoostMetric(Metric):
    """Returns a number for the scikit-learn classes, and (name, number) for ``train``."""

    attribute = "xgboost_metric"

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The mean loss."""
        value = self.mean(y_true, y_pred, sample_weight)
        return (self.__name__, value) if hasattr(y_pred, "get_label") else value


class LightGBMMetric(Metric):
    """Returns (name, number, False); False: a smaller number is better."""

    attribute = "lightgbm_metric"

    def __call__(self, y_true: Any, y_pred: Any, weight: Any = None) -> tuple[str, float, bool]:
        """The mean loss."""
        return self.__name__, self.mean(y_true, y_pred, weight), False


def catboost_metric(objective: Any) -> Metric:
    """A metric whose class has the name of the objective, which CatBoost prints."""
    made: Metric = type(type(objective).__name__, (CatBoostMetric,), {})(objective)
    return made


class CatBoostMetric(Metric):
    """Returns the sum of the losses and the sum of the weights, and later their quotient."""

    attribute = "catboost_metric"
    no_jit = True

    def __reduce__(self) -> Any:
        return catboost_metric, (self.objective,)

    def is_max_optimal(self) -> bool:
        """False: a smaller loss is better."""
        return False

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """(sum of the losses, sum of the weights) for C arrays of raw scores."""
        raw = np.stack(approxes, axis=1) if len(approxes) > 1 else approxes[0]
        total = float(len(target) if weight is None else np.sum(weight, dtype=np.float64))
        return self.mean(target, raw, weight) * total, total

    def get_final_error(self, error: float, weight: float) -> float:
        """The mean."""
        return error / weight
