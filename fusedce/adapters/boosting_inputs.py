"""What boosting libraries hand over: labels, raw scores, weights, each on some side."""

import sys
from typing import Any

import numpy as np


def is_cupy(x: Any) -> bool:
    """Whether an array is CuPy's, without importing it."""
    return type(x).__module__.split(".")[0] == "cupy"


def beside(x: Any, raw: Any) -> Any:
    """An array on the side of the raw scores: XGBoost can have labels on the GPU and these not."""
    if is_cupy(raw):
        return sys.modules["cupy"].asarray(x)
    return x.get() if is_cupy(x) else np.asarray(x)


def labels(y: Any, rows: int, classes: int, activation: str) -> Any:
    """Labels for the engine, checked: yes or no as they are, classes as integers."""
    if y.shape != (rows,):
        raise ValueError(f"y_true must have shape ({rows},), got {y.shape}")
    if y.dtype.kind not in "biuf":
        raise TypeError(f"y_true must hold numbers, got {y.dtype}")
    if activation == "sigmoid" and ((y == 0) | (y == 1)).all():
        return y
    with np.errstate(invalid="ignore"):
        whole = y.astype(np.int32)
    if (whole == y).all() and (not rows or (whole.min() >= 0 and whole.max() < classes)):
        return whole
    at = int(((whole != y) | (whole < 0) | (whole >= classes)).argmax())
    raise ValueError(
        f"y_true must hold whole numbers from 0 to {classes - 1}, got {y[at]} at position {at}"
    )


def unpack(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """(labels, raw scores, weights) of either form: (y_true, y_pred, weights), (preds, dtrain)."""
    if hasattr(y_pred, "get_label"):
        raw, y_true, sample_weight = y_true, y_pred.get_label(), y_pred.get_weight()
    else:
        raw = y_pred
    raw = raw if is_cupy(raw) else np.asarray(raw)
    if sample_weight is not None:
        sample_weight = beside(sample_weight, raw)
        sample_weight = sample_weight if sample_weight.size else None
    return beside(y_true, raw), raw, sample_weight
