"""One call in order: check, view, launch, reduce, hand back."""

from typing import Any

import numpy as np

from fusedce import arrays, checks
from fusedce.backends import cpu_replay, cuda, cuda_replay
from fusedce.backends.cpu import HIGHEST, Host
from fusedce.kernels.problem import Problem
from fusedce.options import IGNORE_INDEX, Call, Options, Traits


def run(params: Any, traits: Traits, logits: Any, targets: Any, /, **options: Any) -> Any:
    """Compute a loss and what is asked for of its derivatives; the whole of a public call."""
    key = cpu_replay.signature(params, traits, logits, targets, options)
    if key is not None:
        prepared = cpu_replay.recall(key)
        if prepared is not None:
            results = prepared.again(logits, targets, options)
            if results is not None:
                return results
    else:
        key, results = cuda_replay.again(params, traits, logits, targets, options)
        if results is not None:
            return results
    return _run(params, traits, logits, targets, key, options)


def _run(params: Any, traits: Traits, logits: Any, targets: Any, key: Any, keywords: Any) -> Any:
    """The ordinary way, with every check."""
    extra = keywords.keys() - Options.__annotations__.keys()
    if extra:
        raise checks.unknown(traits.name, extra, Options._fields)
    options = Options(**keywords)
    for name, value in (("logits", logits), ("targets", targets)):
        if value is None:
            raise checks.missing(name)
    home = cuda.home(logits=logits, targets=targets, **{k: keywords.get(k) for k in cuda.INPUTS})
    single = home.ndim(logits) == home.ndim(targets) == 0
    if single and options.activation != "softmax":
        return _run_single(home, params, traits, logits, targets, options)
    return_grad = checks.flag("return_grad", options.return_grad)
    return_hessian = checks.flag("return_hessian", options.return_hessian)
    if options.validate is not None:
        checks.flag("validate", options.validate)
    call = _check(home, traits, logits, targets, options)
    buffers = _buffers(options)
    outputs = _outputs(home, call, buffers, return_grad, return_hessian)
    brought = {name: outputs[name] for name in buffers if buffers[name] is not None}
    checks.overlaps(brought, call.inputs)
    if call.reduction == "none" and options.loss_out is None:
        loss_dtype = arrays.loss_dtype(call.logits.dtype)
        outputs["loss_out"] = home.empty("loss_out", call.loss_shape, loss_dtype)
    problem = _problem(home, params, traits, call, outputs)
    return home.finish(traits, call, problem, outputs, buffers, key, bool(options.validate))


def _buffers(options: Options) -> dict[str, Any]:
    """The arrays that the caller wants filled, None where there is none."""
    return {name: getattr(options, name) for name in ("loss_out", "grad_out", "hess_out")}


def _run_single(
    home: Host | cuda.Gpu, params: Any, traits: Traits, logits: Any, targets: Any, options: Options
) -> Any:
    """A single logit with a single label, as an array of one."""
    buffers = _buffers(options)
    views = dict(buffers)
    for name, buffer in buffers.items():
        one = name != "loss_out" or options.reduction == "none"  # a reduced loss has no axis
        if one and getattr(buffer, "shape", None) == ():
            views[name] = buffer.reshape(1)
    arguments = options._asdict() | views
    result = run(params, traits, *home.single(logits, targets), **arguments)
    results = result if isinstance(result, tuple) else (result,)
    wanted = [True, options.return_grad, options.return_hessian]
    given = [b for b, want in zip(buffers.values(), wanted, strict=True) if want]
    back = [home.number(r) if b is None else b for r, b in zip(results, given, strict=True)]
    return tuple(back) if len(back) > 1 else back[0]


def _check(
    home: Host | cuda.Gpu, traits: Traits, logits: Any, targets: Any, options: Options
) -> Call:
    """Arguments into a ``Call``, or the error that says what is wrong with them."""
    activation = checks.choice("activation", options.activation, checks.ACTIVATIONS)
    reduction = checks.choice("reduction", options.reduction, checks.REDUCTIONS)
    z, t, w, pw, sw = home.read(
        logits=logits, targets=targets, weight=options.weight, pos_weight=options.pos_weight,
        sample_weight=options.sample_weight,
    )  # fmt: skip
    z = checks.logits(z)
    k = checks.class_axis(options.axis, z)
    sparse_targets = checks.target_form(z.shape, t, k, activation)
    if activation == "softmax" and z.shape[k] == 0:
        raise checks.no_classes(z.shape, options.axis)
    divisor = home.denominator(options.denominator)
    call = Call(
        activation=activation,
        logits=home.native("logits", z),
        targets=home.native("targets", t),
        sparse_targets=sparse_targets,
        axis=k,
        weight=w if w is None else home.vector("weight", w, z.shape[k]),
        pos_weight=pw
        if pw is None
        else home.vector("pos_weight", pw, z.shape[k], scalar=True),
        sample_weight=None,
        ignore_index=checks.whole("ignore_index", options.ignore_index),
        smoothing=checks.number("label_smoothing", options.label_smoothing, 0, 1,
                                allowed="in [0, 1]"),
        normalize=checks.flag("normalize_targets", options.normalize_targets),
        neg_label=checks.choice("neg_label", options.neg_label, (0, -1)),
        z_loss=checks.number("z_loss", options.z_loss),
        softcap=checks.positive("softcap", options.softcap) or 0.0,
        logit_scale=checks.number("logit_scale", options.logit_scale),
        reduction=reduction,
        denominator=divisor,
        any_label=traits.any_label,
        inputs={
            "logits": z, "targets": t, "weight": w, "pos_weight": pw, "sample_weight": sw,
            "denominator": divisor if isinstance(divisor, np.ndarray) else options.denominator,
        },
    )  # fmt: skip
    _check_meaning(traits, call)
    if sw is not None:
        spread = checks.sample_weight(sw, call.loss_shape, call.rows, call.axis)
        call.sample_weight = home.native("sample_weight", spread)
    if activation is None:
        home.probabilities(call.logits)
    return call


def _check_meaning(traits: Traits, call: Call) -> None:
    """Options that say nothing for this activation or these targets."""
    where = f"activation={call.activation!r}"
    if call.activation == "softmax":
        if traits.sigmoid_only:
            raise checks.no_competition(traits.name, where)
        if traits.alpha is not None:
            raise checks.no_class_balance(traits.alpha, where)
        refused: dict[str, Any] = {"pos_weight": call.pos_weight}
        refused |= {"neg_label": call.neg_label or None, "soft_labels": traits.mixed}
    else:
        refused = {"z_loss": call.z_loss or None, "normalize_targets": call.normalize or None}
        if call.activation is None:
            refused |= {"softcap": call.softcap or None, "soft_labels": traits.mixed}
            refused["logit_scale"] = call.logit_scale if call.logit_scale != 1.0 else None
    _refuse(refused, where)
    if call.sparse_targets:
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
    if call.ignore_index == 0 and call.real_targets and call.by_row:
        where = "a distribution, most of whose targets may be 0"
        raise checks.meaningless("ignore_index", 0, where)
    if call.ignore_index != IGNORE_INDEX and not (call.can_be_ignored or call.any_label):
        where = f"targets of dtype {call.targets.dtype}, which cannot hold it"
        raise checks.meaningless("ignore_index", call.ignore_index, where)


def _refuse(options: dict[str, Any], where: str) -> None:
    for name, value in options.items():
        if value is not None:
            shown = value.tolist() if isinstance(value, np.ndarray) else value
            raise checks.meaningless(name, shown, where)


def _outputs(
    home: Host | cuda.Gpu, call: Call, given: dict[str, Any], grad: bool, hess: bool
) -> dict[str, np.ndarray | None]:
    """The buffers of the caller, and new ones where there are none."""
    shape, dtype = call.logits.shape, call.logits.dtype
    outputs: dict[str, np.ndarray | None] = dict.fromkeys(given)
    if given["loss_out"] is not None:
        loss_shape = call.loss_shape if call.reduction == "none" else ()
        loss_dtype = arrays.loss_dtype(dtype)
        outputs["loss_out"] = home.output("loss_out", given["loss_out"], loss_shape, loss_dtype)
    for name, wanted in (("grad_out", grad), ("hess_out", hess)):
        if given[name] is not None:
            outputs[name] = home.output(name, given[name], shape, dtype)
            if not wanted:
                option = "return_grad" if name == "grad_out" else "return_hessian"
                raise checks.unwanted(name, option)
        elif wanted:
            outputs[name] = home.like(name, call.logits)
    return outputs


def _label_map(call: Call) -> tuple[float, float]:
    """(factor, shift) from a target to its smoothed mass."""
    keep = 1.0 - call.smoothing
    if call.by_row:
        return keep, call.smoothing / call.classes
    if call.neg_label == -1:
        return 0.5 * keep, 0.5 * keep + 0.5 * call.smoothing
    return keep, 0.5 * call.smoothing


def _problem(
    home: Host | cuda.Gpu, params: Any, traits: Traits, call: Call, outputs: dict[str, Any]
) -> Problem:
    """The call as three axes."""
    shape = arrays.split_shape(call.logits.shape, call.axis)
    row_shape = (shape[0], 1, shape[2])
    loss_shape = row_shape if call.by_row else shape
    # Probabilities: f'' - f' cancels near p = 1, so float32 is computed in float64 too.
    compute = arrays.compute_type(call.logits.dtype) if call.activation else np.float64
    factor, shift = _label_map(call)
    dense_labels = not call.sparse_targets and not call.by_row
    background = call.sparse_targets and call.activation == "sigmoid"
    integers = call.targets.dtype.kind in "iu"
    loss, grad, hess = outputs.values()
    if call.reduction != "none":
        loss = None
    return Problem(
        params=type(params)(*map(arrays.compute_type(call.logits.dtype), params)),
        activation=call.activation,
        compute=compute,
        logits=home.view3("logits", call.logits, shape),
        targets=home.view3("targets", call.targets, row_shape if call.sparse_targets else shape),
        sparse_targets=call.sparse_targets,
        sample_weight=None
        if call.sample_weight is None
        else home.view3("sample_weight", call.sample_weight, loss_shape),
        ignore_index=call.ignore_index,
        may_ignore=integers and not (call.by_row and not call.sparse_targets),
        real_targets=call.real_targets,
        lowest=call.neg_label if dense_labels else 0,
        highest=2 if dense_labels else call.classes + background,
        forbidden_label=0 if dense_labels and call.neg_label == -1 else HIGHEST,
        label_factor=factor,
        label_shift=shift,
        normalize=call.normalize,
        z_loss=call.z_loss,
        softcap=call.softcap,
        logit_scale=call.logit_scale,
        loss=None if loss is None else home.out3("loss_out", loss, loss_shape),
        grad=None if grad is None else home.out3("grad_out", grad, shape),
        hess=None if hess is None else home.out3("hess_out", hess, shape),
        **home.factors(call, traits.alpha, compute),
    )
