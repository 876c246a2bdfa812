"""Warnings about parameters that a library silently ignores with a custom objective.

No library passes its parameters to a custom objective. They are read from the local variables of
the library's training functions, in the call stack of the objective.
"""

import contextlib
import sys
import warnings
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

LIBRARIES = {"xgboost", "lightgbm", "catboost"}
OTHERS = {"sklearn", "joblib"}  # may be between the library and the user in the call stack
# Metrics of LightGBM and XGBoost that depend on the order of the scores only, or are none.
FIT_FOR_RAW_SCORES = {
    "auc", "aucpr", "auc_mu", "average_precision", "map", "mean_average_precision", "ndcg",
    "none", "null", "na", "custom", "",
}  # fmt: skip

_WARNED: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def warn_of_ignored(objective: Any) -> None:
    """Warn, once for each objective, of parameters that the calling library ignores."""
    frame: FrameType | None = sys._getframe(1)
    level, inside, found = 2, False, list[str]()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        library = module.split(".")[0]
        if library in LIBRARIES:
            inside = True
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                # Another version of the library may have other variables: no warning then.
                found += _ignored(module, frame, objective)
        elif inside and library not in OTHERS:
            break  # the code that called the library
        frame, level = frame.f_back, level + 1
    warned = _WARNED.setdefault(objective, set()) if found else set()
    for text in found:
        if text not in warned:
            warned.add(text)
            warnings.warn(text, UserWarning, stacklevel=level)


def _ignored(module: str, frame: FrameType, objective: Any) -> Iterator[str]:
    """The texts of warnings about the parameters in a stack frame of a library."""
    place = module, frame.f_code.co_name
    if place == ("lightgbm.basic", "update"):
        yield from _balances("LightGBM", frame.f_locals["self"].params, objective)
    elif place in (("lightgbm.engine", "train"), ("lightgbm.engine", "cv")):
        yield from _lightgbm_metrics(frame.f_locals, objective)
    elif place in (("xgboost.training", "train"), ("xgboost.training", "cv")):
        yield from _balances("XGBoost", dict(frame.f_locals["params"]), objective)
        yield from _xgboost_metrics(frame.f_locals, objective)
    elif place == ("catboost.core", "_train"):
        yield from _class_weights(frame.f_locals["params"], objective)


def _balances(library: str, params: dict[str, Any], objective: Any) -> Iterator[str]:
    factor = params.get("scale_pos_weight")
    given = {} if factor is None or float(factor) == 1 else {"scale_pos_weight": factor}
    for name in ("is_unbalance", "unbalance", "unbalanced_sets"):
        if str(params.get(name, False)).lower() not in ("false", "0", "none", "-"):
            given[name] = params[name]
    name = type(objective).__name__
    for key, value in given.items():
        instead = "sample_weight= of fit, or weight= of the data, weights the classes"
        if objective.activation == "sigmoid":
            factor = value if key == "scale_pos_weight" else "negatives / positives"
            instead = f"{name}(pos_weight={factor}) weights the positives"
        yield f"{library} ignores {key}={value!r} with the objective {name}; {instead}"


def _lightgbm_metrics(call: dict[str, Any], objective: Any) -> Iterator[str]:
    if "valid_sets" in call and not call["valid_sets"]:
        return
    params = call["params"]
    metrics = [m for key in ("metric", "metrics", "metric_types") for m in _several(params, key)]
    wrong = [m for m in metrics if str(m).lower() not in FIT_FOR_RAW_SCORES]
    if wrong:
        yield (
            f"LightGBM computes {', '.join(wrong)} of the raw scores of {type(objective).__name__} "
            "as if they were probabilities, and early stopping looks at it; metric='None' leaves "
            "it out, and lightgbm_metric of the objective is the mean loss"
        )


def _xgboost_metrics(call: dict[str, Any], objective: Any) -> Iterator[str]:
    params = dict(call["params"])
    if not call["early_stopping_rounds"] or call["custom_metric"] or "objective" in params:
        return  # with an objective name, as in XGBClassifier, metrics get probabilities
    metrics = [*_several(params, "eval_metric"), *call.get("metrics", ())] or ["rmse"]
    if metrics[-1].split("@")[0] not in FIT_FOR_RAW_SCORES:
        yield (
            f"early stopping of XGBoost looks at {metrics[-1]} of the raw scores of "
            f"{type(objective).__name__}; custom_metric= takes xgboost_metric of the objective, "
            "the mean loss"
        )


def _class_weights(params: dict[str, Any], objective: Any) -> Iterator[str]:
    if objective.activation == "softmax" or params.get("class_names") is not None:
        return
    for key in ("class_weights", "auto_class_weights"):
        if str(params.get(key)) != "None":
            yield (
                f"CatBoost ignores {key}={params[key]!r} with the objective "
                f"{type(objective).__name__} unless it is told class_names=(0, 1)"
            )


def _several(params: dict[str, Any], key: str) -> list[Any]:
    value = params.get(key)
    if isinstance(value, str):
        return value.split(",")
    return [] if value is None else [m for m in value if m is not None]
