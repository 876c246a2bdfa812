"""One call in order: check, view, launch, reduce, hand back."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusedce import arrays, checks, replay
from fusedce.kernels.problem import Problem
from fusedce.options import Options, Traits

HIGHEST = 2**63 - 1


@dataclass(slots=True)
class _Call:
    """The arguments of a call after their checks."""

    activation: str | None
    logits: np.ndarray
    targets: np.ndarray
    one_hot: bool
    axis: int
    weight: np.ndarray | None
    pos_weight: np.ndarray | None
    sample_weight: np.ndarray | None
    ignore_index: int
    smoothing: float
    normalize: bool
    neg_label: int
    z_loss: float
    softcap: float
    logit_scale: float
    reduction: str
    denominator: float | None
    inputs: dict[str, Any]  # as the caller passed them, for what may overlap

    @property
    def classes(self) -> int:
        return int(self.logits.shape[self.axis])

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.logits.shape[: self.axis] + self.logits.shape[self.axis + 1 :]

    @property
    def by_row(self) -> bool:
        """Whether a row of classes has one loss, not one an element."""
        return self.activation == "softmax" or (self.activation is None and self.one_hot)

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        return self.rows if self.by_row else self.logits.shape


def run(params: Any, traits: Traits, logits: Any, targets: Any, /, **options: Any) -> Any:
    """Compute a loss and what is asked for of its derivatives; the whole of a public call."""
    key = replay.signature(params, traits, logits, targets, options)
    if key is not None:
        prepared = replay.recall(key)
        if prepared is not None:
            results = prepared.again(logits, targets, options)
            if results is not None:
                return results
    return _run(params, traits, logits, targets, key, **options)


def _run(
    params: Any,
    traits: Traits,
    logits: Any,
    targets: Any,
    key: Any,
    /,
    *,
    return_grad: bool = True,
    return_hessian: bool = False,
    loss_out: Any = None,
    grad_out: Any = None,
    hess_out: Any = None,
    validate: bool | None = None,
    **options: Any,
) -> Any:
    """The ordinary way, with every check."""
    extra = options.keys() - Options.__annotations__.keys()
    if extra:
        raise checks.unknown(traits.name, extra)
    if (
        options.get("activation", "softmax") != "softmax"
        and np.ndim(logits) == np.ndim(targets) == 0
    ):
        buffers = {"loss_out": loss_out, "grad_out": grad_out, "hess_out": hess_out}
        options |= {"return_grad": return_grad, "return_hessian": return_hessian}
        return _run_single(params, traits, logits, targets, buffers, validate=validate, **options)
    return_grad = checks.flag("return_grad", return_grad)
    return_hessian = checks.flag("return_hessian", return_hessian)
    if validate is not None:
        checks.flag("validate", validate)  # on the CPU labels are always checked
    call = _check(traits, logits, targets, **options)
    outputs = _outputs(call, loss_out, grad_out, hess_out, return_grad, return_hessian)
    given = {"loss_out": loss_out, "grad_out": grad_out, "hess_out": hess_out}
    checks.overlaps(given, call.inputs)
    if call.reduction == "none" and loss_out is None:
        outputs["loss_out"] = np.empty(call.loss_shape, arrays.loss_dtype(call.logits.dtype))
    problem = _problem(params, traits, call, outputs)
    _check_unsigned(call, problem)
    prepared, labels = _prepared(call, problem, traits.alpha)
    views = (problem.loss, problem.grad, problem.hess)
    weights = (problem.sample_weight, problem.weight, problem.up, problem.down)
    used = (problem.logits, problem.targets, *weights, *views)
    total, bad = prepared.run(labels, used, call.denominator)
    if bad >= 0:
        raise _bad_label(call, problem, bad)
    for array, view in zip(outputs.values(), views, strict=True):
        if array is not None and view is not None:
            arrays.written(array, view)
    if key is not None and _is_plain(call, problem, labels, outputs):
        replay.keep(key, prepared)
    return prepared.results(total, loss_out, *outputs.values())


def _run_single(
    params: Any, traits: Traits, logits: Any, targets: Any, buffers: dict[str, Any], **options: Any
) -> Any:
    """A single logit with a single label, as an array of one."""
    unreduced = options.get("reduction", "mean") == "none"
    views = dict(buffers)
    for name, buffer in buffers.items():
        if getattr(buffer, "shape", None) == () and (unreduced or name != "loss_out"):
            views[name] = buffer.reshape(1)
    z, t = checks.read(logits=logits, targets=targets)
    result = run(params, traits, z.reshape(1), t.reshape(1), **views, **options)
    results = result if isinstance(result, tuple) else (result,)
    wanted = [True, options["return_grad"], options["return_hessian"]]
    given = [b for b, want in zip(buffers.values(), wanted, strict=True) if want]
    back = [np.reshape(r, ())[()] if b is None else b for r, b in zip(results, given, strict=True)]
    return tuple(back) if len(back) > 1 else back[0]


def _check(
    traits: Traits,
    logits: Any,
    targets: Any,
    *,
    activation: str | None = "softmax",
    weight: Any = None,
    pos_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    normalize_targets: bool = False,
    neg_label: int = 0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    reduction: str = "mean",
    denominator: Any = None,
    axis: int = -1,
) -> _Call:
    """Arguments into a ``_Call``, or the error that says what is wrong with them."""
    checks.choice("activation", activation, checks.ACTIVATIONS)
    checks.choice("reduction", reduction, checks.REDUCTIONS)
    z, t, w, pw, sw = checks.read(
        logits=logits, targets=targets, weight=weight, pos_weight=pos_weight,
        sample_weight=sample_weight,
    )  # fmt: skip
    z = checks.logits(z)
    k = checks.axis(axis, z.ndim)
    one_hot = checks.target_form(z.shape, t, k, activation)
    if activation == "softmax" and z.shape[k] == 0:
        raise checks.no_classes(z.shape, axis)
    call = _Call(
        activation=activation,
        logits=arrays.native(z),
        targets=arrays.native(t),
        one_hot=one_hot,
        axis=k,
        weight=w if w is None else checks.class_vector("weight", w, z.shape[k]),
        pos_weight=pw
        if pw is None
        else checks.class_vector("pos_weight", pw, z.shape[k], scalar=True),
        sample_weight=None,
        ignore_index=checks.whole("ignore_index", ignore_index),
        smoothing=checks.number("label_smoothing", label_smoothing, 0, 1, allowed="in [0, 1]"),
        normalize=checks.flag("normalize_targets", normalize_targets),
        neg_label=checks.choice("neg_label", neg_label, (0, -1)),
        z_loss=checks.number("z_loss", z_loss),
        softcap=checks.positive("softcap", softcap) or 0.0,
        logit_scale=checks.number("logit_scale", logit_scale),
        reduction=reduction,
        denominator=checks.positive("denominator", denominator),
        inputs={
            "logits": z, "targets": t, "weight": w, "pos_weight": pw, "sample_weight": sw,
            "denominator": denominator,
        },
    )  # fmt: skip
    _check_meaning(traits, call)
    if sw is not None:
        call.sample_weight = arrays.native(
            checks.sample_weight(sw, call.loss_shape, call.rows, call.axis)
        )
    if activation is None:
        checks.probabilities(call.logits)
    return call


def _check_meaning(traits: Traits, call: _Call) -> None:
    """Options that say nothing for this activation or these targets."""
    where = f"activation={call.activation!r}"
    if call.activation == "softmax":
        if traits.sigmoid_only:
            raise checks.no_competition(traits.name, where)
        refused: dict[str, Any] = {"pos_weight": call.pos_weight, "alpha": traits.alpha}
        refused |= {"neg_label": call.neg_label or None, "soft_labels": traits.mixed}
    else:
        refused = {"z_loss": call.z_loss or None, "normalize_targets": call.normalize or None}
        if call.activation is None:
            refused |= {"softcap": call.softcap or None, "soft_labels": traits.mixed}
            refused["logit_scale"] = call.logit_scale if call.logit_scale != 1.0 else None
    _refuse(refused, where)
    if call.one_hot:
        where = "class indices"
        refused = {"normalize_targets": call.normalize or None}
        refused["neg_label"] = call.neg_label or None
        if call.activation is None:
            where = "class indices and activation=None"
            refused |= {"pos_weight": call.pos_weight, "alpha": traits.alpha}
            if traits.sigmoid_only:
                raise checks.useless(traits.name, where)
        _refuse(refused, where)
    if call.denominator is not None and call.reduction != "mean":
        raise checks.meaningless("denominator", call.denominator, f"reduction={call.reduction!r}")


def _refuse(options: dict[str, Any], where: str) -> None:
    for name, value in options.items():
        if value is not None:
            shown = value.tolist() if isinstance(value, np.ndarray) else value
            raise checks.meaningless(name, shown, where)


def _outputs(
    call: _Call, loss_out: Any, grad_out: Any, hess_out: Any, grad: bool, hess: bool
) -> dict[str, np.ndarray | None]:
    """The buffers of the caller, and new ones where there are none."""
    shape, dtype = call.logits.shape, call.logits.dtype
    loss_dtype = arrays.loss_dtype(dtype)
    loss_shape = call.loss_shape if call.reduction == "none" else ()
    if loss_out is not None:
        checks.output("loss_out", loss_out, loss_shape, loss_dtype)
    outputs: dict[str, np.ndarray | None] = {"loss_out": loss_out}
    for name, buffer, wanted in (("grad_out", grad_out, grad), ("hess_out", hess_out, hess)):
        if buffer is not None:
            checks.output(name, buffer, shape, dtype)
            if not wanted:
                option = "return_grad" if name == "grad_out" else "return_hessian"
                raise checks.unwanted(name, option)
        outputs[name] = buffer
        if wanted and buffer is None:
            outputs[name] = np.empty_like(call.logits, subok=False)
    return outputs


def _label_map(call: _Call) -> tuple[float, float]:
    """(factor, shift) from a target to its smoothed mass."""
    keep = 1.0 - call.smoothing
    if call.by_row:
        return keep, call.smoothing / call.classes
    if call.neg_label == -1:
        return 0.5 * keep, 0.5 * keep + 0.5 * call.smoothing
    return keep, 0.5 * call.smoothing


def _problem(params: Any, traits: Traits, call: _Call, outputs: dict[str, Any]) -> Problem:
    """The call as three axes."""
    shape = arrays.split_shape(call.logits.shape, call.axis)
    row_shape = (shape[0], 1, shape[2])
    loss_shape = row_shape if call.by_row else shape
    # Probabilities: f'' - f' cancels near p = 1, so float32 is computed in float64 too.
    compute = arrays.compute_type(call.logits.dtype) if call.activation else np.float64
    weight, up, down = replay.factors(call.weight, call.pos_weight, traits.alpha, compute)
    factor, shift = _label_map(call)
    dense_labels = not call.one_hot and not call.by_row
    background = call.one_hot and call.activation == "sigmoid"
    integers = call.targets.dtype.kind in "iu"
    loss = outputs["loss_out"] if call.reduction == "none" else None
    return Problem(
        params=type(params)(*map(arrays.compute_type(call.logits.dtype), params)),
        activation=call.activation,
        compute=compute,
        logits=arrays.view3(call.logits, shape),
        targets=arrays.view3(call.targets, row_shape if call.one_hot else shape),
        one_hot=call.one_hot,
        weight=weight,
        up=up,
        down=down,
        sample_weight=None
        if call.sample_weight is None
        else arrays.view3(call.sample_weight, loss_shape),
        ignore_index=call.ignore_index,
        ignoring=integers and not (call.by_row and not call.one_hot),
        lowest=call.neg_label if dense_labels else 0,
        highest=2 if dense_labels else call.classes + background,
        hole=0 if dense_labels and call.neg_label == -1 else HIGHEST,
        label_factor=factor,
        label_shift=shift,
        normalize=call.normalize,
        z_loss=call.z_loss,
        softcap=call.softcap,
        logit_scale=call.logit_scale,
        loss=None if loss is None else arrays.out3(loss, loss_shape),
        grad=None if outputs["grad_out"] is None else arrays.out3(outputs["grad_out"], shape),
        hess=None if outputs["hess_out"] is None else arrays.out3(outputs["hess_out"], shape),
    )


def _has_labels(call: _Call) -> bool:
    """Whether targets are integers that must name a class, or say yes or no."""
    return call.one_hot or (call.targets.dtype.kind in "iu" and not call.by_row)


def _prepared(
    call: _Call, problem: Problem, alpha: float | None
) -> tuple[replay.Prepared, np.ndarray]:
    """What the call launches, and the targets that are read beforehand."""
    from fusedce.kernels.cpu import driver, execute

    survey, elements, labels, read = None, 1.0, -1, problem.targets
    count = float(math.prod(call.loss_shape))
    if _has_labels(call):
        if call.one_hot:
            elements = -1.0 if call.by_row else float(call.classes)
        if call.targets.size:
            survey, read = execute.survey(problem)
            labels = call.targets.size
        else:
            count = 0.0
    elif call.normalize and call.reduction == "mean" and call.denominator is None and count:
        survey = execute.occupied(problem)
    losses = execute.losses(problem) if call.logits.size else None
    weighted = call.weight is not None or call.pos_weight is not None
    factors = None if weighted else (None, problem.up, problem.down)
    prepared = replay.Prepared(
        program=driver.Program(survey, losses, count, elements, labels),
        factors=factors,
        alpha=alpha,
        compute=problem.compute,
        activation=call.activation,
        classes=call.classes,
        reduction=call.reduction,
        shape=call.loss_shape,
        dtype=arrays.loss_dtype(call.logits.dtype),
        grad=problem.grad is not None,
        hess=problem.hess is not None,
    )
    return prepared, read


def _check_unsigned(call: _Call, problem: Problem) -> None:
    """Labels of 2**63 or more, which would be some other label as int64."""
    unsigned = call.targets.dtype == np.uint64 and call.targets.size > 0
    if unsigned and _has_labels(call) and call.targets.max() > HIGHEST:
        raise _bad_label(call, problem, int(call.targets.argmax()))


def _bad_label(call: _Call, problem: Problem, position: int) -> IndexError:
    """The error that says which labels are allowed."""
    allowed = f"0 <= target < {problem.highest}"
    if not call.one_hot:
        allowed = f"a label is {call.neg_label} or 1"
    elif call.activation == "sigmoid":
        allowed = f"0 <= target <= {call.classes} ({call.classes}: background)"
    return checks.bad_label(call.targets, position, allowed, call.ignore_index)


def _is_plain(call: _Call, problem: Problem, labels: np.ndarray, outputs: dict[str, Any]) -> bool:
    """Whether the kernels work on the caller's very arrays, with nothing copied."""
    logits, targets, sample_weight = (
        call.inputs[name] for name in ("logits", "targets", "sample_weight")
    )
    views = (problem.logits, problem.targets, labels, problem.sample_weight,
             problem.loss, problem.grad, problem.hess)  # fmt: skip
    given = (logits, targets, targets, sample_weight, *outputs.values())
    return (
        call.logits.size > 0
        and targets.dtype != np.uint64  # labels above HIGHEST are looked for here
        and all(
            np.may_share_memory(view, array)
            for view, array in zip(views, given, strict=True)
            if view is not None
        )
    )
