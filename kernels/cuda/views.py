"""What a problem puts into the plan of every launch."""

import numpy as np

from fusedce.kernels.cuda.forms import kind
from fusedce.kernels.cuda.plan import Bound, Fields, bits
from fusedce.kernels.problem import Problem

NAMES = {"sample_weight": "sample"}  # of the steps of a view, where not its own


def view(fields: Fields, bound: Bound, name: str, array: np.ndarray | None) -> None:
    """An array of three axes; an axis of length 1 stands still."""
    if array is None:
        return
    bound[name] = name, 0
    steps = zip(("outer", "cls", "inner"), array.strides, array.shape, strict=True)
    for axis, step, n in steps:
        fields[f"{NAMES.get(name, name)}_{axis}"] = step if n > 1 else 0


def vector(fields: Fields, bound: Bound, name: str, array: np.ndarray | None) -> None:
    """An array of classes, or of one number for all."""
    if array is not None:
        bound[name] = name, 0
        fields[f"{name}_step"] = array.strides[0] if array.size > 1 else 0
        fields[f"{name}_kind"] = kind(array.dtype)


def factors(problem: Problem) -> tuple[float, float]:
    """What positive and negative outcomes weigh, but for arrays."""
    if problem.alpha is None:
        return problem.pos_scale, 1.0
    return problem.pos_scale * problem.alpha, 1.0 - problem.alpha


def common(problem: Problem) -> tuple[Fields, Bound]:
    """What every kernel of losses reads alike."""
    fields: Fields = {}
    bound: Bound = {}
    outer, classes, inner = problem.logits.shape
    T = problem.compute
    up, down = factors(problem)
    floats = {
        "label_factor": problem.label_factor, "label_shift": problem.label_shift,
        "mark": problem.mark,
        "z_loss": problem.z_loss, "softcap": problem.softcap,
        "logit_scale": problem.logit_scale, "up": up, "down": down,
    }  # fmt: skip
    floats |= {f"p{k}": p for k, p in enumerate(problem.params)}
    fields |= {name: bits(value, T) for name, value in floats.items()}
    fields |= {
        "outer": outer, "classes": classes, "inner": inner,
        "one_hot": int(problem.one_hot), "normalize": int(problem.normalize),
        "ignoring": int(problem.ignoring), "ignore_index": problem.ignore_index,
        "has_numbers": int(problem.has_numbers),
        "lowest": problem.lowest, "highest": problem.highest, "hole": problem.hole,
        "targets_kind": kind(problem.targets.dtype),
    }  # fmt: skip
    for name in ("logits", "targets", "sample_weight", "loss", "grad", "hess"):
        view(fields, bound, name, getattr(problem, name))
    if problem.sample_weight is not None:
        fields["sample_kind"] = kind(problem.sample_weight.dtype)
    if problem.loss is not None:
        fields["loss_kind"] = kind(problem.loss.dtype)
    vector(fields, bound, "weight", problem.weight)
    vector(fields, bound, "pos_weight", problem.pos_weight)
    return fields, bound


def is_full(problem: Problem) -> bool:
    """Whether a kernel for more than plain logits and gradients is needed."""
    return problem.hess is not None or problem.softcap != 0.0 or problem.logit_scale != 1.0
