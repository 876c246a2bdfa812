"""The arguments of boosting libraries: labels, raw scores, weights, each on the CPU or a GPU."""

import sys
from typing import Any

import numpy as np


def is_cupy(x: Any) -> bool:
    """Whether x is a CuPy array, without importing CuPy."""
    return type(x).__module__.split(".")[0] == "cupy"


def to_device_of(x: Any, raw: Any) -> Any:
    """An array moved to where the raw scores are: XGBoost may have only labels on the GPU."""
    if is_cupy(raw):
        return sys.modules["cupy"].asarray(x)
    return x.get() if is_cupy(x) else np.asarray(x)


def one_label_a_row(y: Any, rows: int) -> None:
    """Raise unless there is one number for each row."""
    hint = ""
    if y.shape == (rows, 1):
        hint = "; one column is y_true[:, 0]"
    elif y.ndim == 2:
        hint = (
            "; several labels a row need a model each, as by sklearn.multioutput."
            "MultiOutputClassifier, and rows with a single 1 are y_true.argmax(axis=1)"
        )
    if y.shape != (rows,):
        raise ValueError(f"y_true must have shape ({rows},), got {y.shape}{hint}")
    if y.dtype.kind not in "biuf":
        raise TypeError(f"y_true must hold numbers, got {y.dtype}")


def classes(raw: Any, objective: Any) -> int:
    """The number of classes, after a check of the shape of the raw scores."""
    shape, C = raw.shape, objective.n_classes
    if objective.activation == "sigmoid":
        if raw.ndim == 1:
            return 2
        hint = f"several classes need {_other(objective)}"
        hint = "one column is y_pred[:, 0]" if shape[1:] == (1,) else hint
        raise ValueError(f"y_pred must have shape (n,), got {shape}; {hint}")
    if raw.ndim == 2 and shape[1] >= 2 and shape[1] == (C or shape[1]):
        return int(shape[1])
    hint = ""
    if raw.ndim == 1 or shape[1:] == (1,):
        hint = (
            f"; labels 0 and 1 need {_other(objective)}, and of more classes the library must be "
            "told: num_class (train), class_names or classes_count (CatBoost)"
        )
    wanted = "C >= 2" if C is None else f"C = n_classes = {C}"
    raise ValueError(f"y_pred must have shape (n, C) with {wanted}, got {shape}{hint}")


def labels(y: Any, classes: int, objective: Any) -> Any:
    """Labels for ``fusedce.call`` after a check: 0 and 1 unchanged, classes as integers."""
    sigmoid = objective.activation == "sigmoid"
    if sigmoid and ((y == 0) | (y == 1)).all():
        return y
    with np.errstate(invalid="ignore"):
        whole = y.astype(np.int32)
    if (whole == y).all() and (not len(y) or (whole.min() >= 0 and whole.max() < classes)):
        return whole
    known = (whole == y) & (whole >= 0)
    at = int((~known | (whole >= classes)).argmax())
    hint = f"; several classes need {_other(objective)}" if sigmoid and known.all() else ""
    raise ValueError(
        f"y_true must hold whole numbers from 0 to {classes - 1}, "
        f"got {y[at]} at position {at}{hint}"
    )


def _other(objective: Any) -> str:
    """The name of the objective for labels of the other kind."""
    other = "softmax" if objective.activation == "sigmoid" else "sigmoid"
    return objective.other or f"activation={other!r}"


def unpack(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """(labels, raw scores, weights) of (y_true, y_pred, weights) or of (preds, dtrain)."""
    if hasattr(y_pred, "get_label"):
        raw, y_true, sample_weight = y_true, y_pred.get_label(), y_pred.get_weight()
    else:
        raw = y_pred
    raw = raw if is_cupy(raw) else np.asarray(raw)
    if sample_weight is not None:
        sample_weight = to_device_of(sample_weight, raw)
        sample_weight = sample_weight if sample_weight.size else None
    return to_device_of(y_true, raw), raw, sample_weight
