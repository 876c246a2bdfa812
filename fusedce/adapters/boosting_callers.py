"""What a library was told and keeps from objectives: read from the frames that call them.

No library hands its parameters to an objective of one's own, and each ignores in silence those that
only its own objectives know. The functions that train have them among their local variables.
"""

import contextlib
import sys
import warnings
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

LIBRARIES = {"xgboost", "lightgbm", "catboost"}
OTHERS = {"sklearn", "joblib"}  # between them and the user
# Of LightGBM and XGBoost: those that only look at the order of the scores, or are none.
FIT_FOR_RAW_SCORES = {
    "auc", "aucpr", "auc_mu", "average_precision", "map", "mean_average_precision", "ndcg",
    "none", "null", "na", "custom", "",
}  # fmt: skip

_TOLD: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def warn_of_ignored(objective: Any) -> None:
    """Warn, once for each objective, of what the library that calls it was told in vain."""
    frame: FrameType | None = sys._getframe(1)
    level, inside, found = 2, False, list[str]()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        library = module.split(".")[0]
        if library in LIBRARIES:
            inside = True
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                # Another version of the library has other variables: then nothing is said.
                found += _ignored(module, frame, objective)
        elif inside and library not in OTHERS:
            break  # whoever called the library
        frame, level = frame.f_back, level + 1
    told = _TOLD.setdefault(objective, set()) if found else set()
    for text in found:
        if text not in told:
            told.add(text)
            warnings.warn(text, UserWarning, stacklevel=level)


def _ignored(module: str, frame: FrameType, objective: Any) -> Iterator[str]:
    """Sentences about the parameters in a frame of a library."""
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
        return  # with an objective, as of XGBClassifier, metrics are those of its probabilities
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
