"""One call, in this order: options, checks, views of three axes, kernels, results."""

from typing import Any

import numpy as np

from fusedce import arrays, checks, errors, options
from fusedce.backends import cpu_replay, cuda, cuda_replay
from fusedce.backends.cpu import HIGHEST, CpuBackend
from fusedce.kernels.problem import Problem
from fusedce.options import IGNORE_INDEX, OPTIONS, Call, Options, Traits

Backend = CpuBackend | cuda.CudaBackend


def run(params: Any, traits: Traits, logits: Any, targets: Any, /, **keywords: Any) -> Any:
    """Compute a loss and the derivatives that are asked for: the whole of a public call.

    A call whose signature was prepared before is replayed; any other is checked and prepared.
    """
    key = cpu_replay.signature(params, traits, logits, targets, keywords)
    if key is not None:
        prepared = cpu_replay.lookup(key)
        if prepared is not None:
            results = prepared.run(logits, targets, keywords)
            if results is not None:
                return results
    else:
        key, results = cuda_replay.run(params, traits, logits, targets, keywords)
        if results is not None:
            return results
    return _run(params, traits, logits, targets, key, keywords)


def _run(params: Any, traits: Traits, logits: Any, targets: Any, key: Any, keywords: Any) -> Any:
    """A call that cannot be replayed, with every check."""
    extra = keywords.keys() - OPTIONS.keys()
    if extra:
        raise errors.unknown(traits.name, extra, Options._fields)
    for name, value in (("logits", logits), ("targets", targets)):
        if value is None:
            raise errors.missing(name)
    arguments = {name: keywords.get(name) for name in cuda.INPUTS}
    backend = cuda.backend_of(logits=logits, targets=targets, **arguments)
    given = Options(**keywords)
    single = backend.ndim(logits) == backend.ndim(targets) == 0
    if single and given.activation != "softmax":
        return _run_single(backend, params, traits, logits, targets, given)
    call = _check(backend, traits, logits, targets, options.checked(given))
    outputs = _outputs(backend, call)
    buffers = {name: outputs[name] for name, x in _buffers(given).items() if x is not None}
    checks.overlaps(buffers, call.inputs)
    if given.reduction == "none" and given.loss_out is None:
        loss_dtype = arrays.loss_dtype(call.logits.dtype)
        outputs["loss_out"] = backend.empty("loss_out", call.loss_shape, loss_dtype)
    problem = _problem(backend, params, traits, call, outputs)
    return backend.execute(traits, call, problem, outputs, key)


def _buffers(given: Options) -> dict[str, Any]:
    """The output arrays that the caller passed; None where there is none."""
    return {name: getattr(given, name) for name in ("loss_out", "grad_out", "hess_out")}


def _run_single(
    backend: Backend, params: Any, traits: Traits, logits: Any, targets: Any, given: Options
) -> Any:
    """A single logit with a single label, as arrays of shape (1,)."""
    buffers = _buffers(given)
    views = dict(buffers)
    for name, buffer in buffers.items():
        one = name != "loss_out" or given.reduction == "none"  # a reduced loss has no axis
        if one and getattr(buffer, "shape", None) == ():
            views[name] = buffer.reshape(1)
    keywords = given._asdict() | views
    result = run(params, traits, *backend.single(logits, targets), **keywords)
    results = result if isinstance(result, tuple) else (result,)
    wanted = [True, given.return_grad, given.return_hessian]
    asked = [b for b, want in zip(buffers.values(), wanted, strict=True) if want]
    back = [backend.number(r) if b is None else b for r, b in zip(results, asked, strict=True)]
    return tuple(back) if len(back) > 1 else back[0]


def _check(backend: Backend, traits: Traits, logits: Any, targets: Any, given: Options) -> Call:
    """The ``Call`` of these arguments; an error if one of them is wrong."""
    z, t, w, pw, sw = backend.read(
        logits=logits, targets=targets, weight=given.weight, pos_weight=given.pos_weight,
        sample_weight=given.sample_weight,
    )  # fmt: skip
    z = checks.logits(z)
    k = checks.class_axis(given.axis, z)
    sparse_targets = checks.target_form(z.shape, t, k, given.activation)
    if given.activation == "softmax" and z.shape[k] == 0:
        raise errors.no_classes(z.shape, given.axis)
    divisor = backend.denominator(given.denominator)
    call = Call(
        options=given,
        logits=backend.native("logits", z),
        targets=backend.native("targets", t),
        sparse_targets=sparse_targets,
        axis=k,
        weight=w if w is None else backend.vector("weight", w, z.shape[k]),
        pos_weight=pw
        if pw is None
        else backend.vector("pos_weight", pw, z.shape[k], scalar=True),
        sample_weight=None,
        denominator=divisor,
        any_label=traits.any_label,
        inputs={
            "logits": z, "targets": t, "weight": w, "pos_weight": pw, "sample_weight": sw,
            "denominator": divisor if isinstance(divisor, np.ndarray) else given.denominator,
        },
    )  # fmt: skip
    _check_meaning(traits, call)
    if sw is not None:
        spread = checks.sample_weight(sw, call.loss_shape, call.rows, call.axis)
        call.sample_weight = backend.native("sample_weight", spread)
    if given.activation is None:
        backend.probabilities(call.logits)
    return call


def _check_meaning(traits: Traits, call: Call) -> None:
    """Raise for options that have no meaning with this activation or these targets."""
    given = call.options
    activation = given.activation
    where = f"activation={activation!r}"
    values = given._asdict() | {"pos_weight": call.pos_weight}
    if activation == "softmax":
        if traits.sigmoid_only:
            raise errors.no_competition(traits.name, where)
        if traits.alpha is not None:
            raise errors.no_class_balance(traits.alpha, where)
    refused = [n for n, o in OPTIONS.items() if activation not in o.activations]
    _refuse({n: values[n] for n in refused}, where)
    if activation != "sigmoid":
        _refuse({"soft_labels": traits.mixed}, where)
    if activation is None and traits.soft and not call.sparse_targets:
        raise errors.useless(f"{traits.name} of a rule registered with soft=", where)
    if call.sparse_targets:
        where = "class indices" + (" and activation=None" if activation is None else "")
        refused = [n for n, o in OPTIONS.items() if activation not in o.index_activations]
        _refuse({n: values[n] for n in refused}, where)
        if activation is None:
            _refuse({"alpha": traits.alpha}, where)
            if traits.sigmoid_only:
                raise errors.useless(traits.name, where)
    if call.denominator is not None and given.reduction != "mean":
        where = f"reduction={given.reduction!r}"
        raise errors.meaningless("denominator", call.denominator, where)
    if given.ignore_index == 0 and call.real_targets and call.by_row:
        where = "a distribution, most of whose targets may be 0"
        raise errors.meaningless("ignore_index", 0, where)
    if given.ignore_index != IGNORE_INDEX and not (call.can_be_ignored or call.any_label):
        where = f"targets of dtype {call.targets.dtype}, which cannot hold it"
        raise errors.meaningless("ignore_index", given.ignore_index, where)


def _refuse(values: dict[str, Any], where: str) -> None:
    """Raise for the first of these options that does not have its default value."""
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            raise errors.meaningless(name, value.tolist(), where)
        if value != options.DEFAULTS.get(name):
            raise errors.meaningless(name, value, where)


def _outputs(backend: Backend, call: Call) -> dict[str, np.ndarray | None]:
    """The caller's output arrays, and new ones for derivatives that are asked for without one."""
    shape, dtype, given = call.logits.shape, call.logits.dtype, call.options
    outputs: dict[str, np.ndarray | None] = dict.fromkeys(_buffers(given))
    if given.loss_out is not None:
        loss_shape = call.loss_shape if given.reduction == "none" else ()
        loss_dtype = arrays.loss_dtype(dtype)
        outputs["loss_out"] = backend.output("loss_out", given.loss_out, loss_shape, loss_dtype)
    for name, option in (("grad_out", "return_grad"), ("hess_out", "return_hessian")):
        buffer, wanted = getattr(given, name), getattr(given, option)
        if buffer is not None:
            outputs[name] = backend.output(name, buffer, shape, dtype)
            if not wanted:
                raise errors.unwanted(name, option)
        elif wanted:
            outputs[name] = backend.like(name, call.logits)
    return outputs


def _label_map(call: Call) -> tuple[float, float]:
    """(factor, shift): the smoothed label is label * factor + shift."""
    smoothing = call.options.label_smoothing
    keep = 1.0 - smoothing
    if call.by_row:
        return keep, smoothing / call.classes
    if call.options.neg_label == -1:
        return 0.5 * keep, 0.5 * keep + 0.5 * smoothing
    return keep, 0.5 * smoothing


def _problem(
    backend: Backend, params: Any, traits: Traits, call: Call, outputs: dict[str, Any]
) -> Problem:
    """The call for the kernels: arrays as views (outer, class, inner), options as numbers."""
    given = call.options
    shape = arrays.split_shape(call.logits.shape, call.axis)
    row_shape = (shape[0], 1, shape[2])
    loss_shape = row_shape if call.by_row else shape
    # For probabilities f'' - f' cancels near p = 1: float32 is computed in float64 too.
    compute = arrays.compute_type(call.logits.dtype) if given.activation else np.float64
    factor, shift = _label_map(call)
    dense_labels = not call.sparse_targets and not call.by_row
    background = call.sparse_targets and given.activation == "sigmoid"
    integers = call.targets.dtype.kind in "iu"
    loss, grad, hess = outputs.values()
    if given.reduction != "none":
        loss = None
    return Problem(
        params=type(params)(*map(arrays.compute_type(call.logits.dtype), params)),
        activation=given.activation,
        compute=compute,
        logits=backend.view3("logits", call.logits, shape),
        targets=backend.view3("targets", call.targets, row_shape if call.sparse_targets else shape),
        sparse_targets=call.sparse_targets,
        sample_weight=None
        if call.sample_weight is None
        else backend.view3("sample_weight", call.sample_weight, loss_shape),
        ignore_index=given.ignore_index,
        may_ignore=integers and not (call.by_row and not call.sparse_targets),
        real_targets=call.real_targets,
        lowest=given.neg_label if dense_labels else 0,
        highest=2 if dense_labels else call.classes + background,
        forbidden_label=0 if dense_labels and given.neg_label == -1 else HIGHEST,
        label_factor=factor,
        label_shift=shift,
        normalize=given.normalize_targets,
        scalars=options.kernel_arguments(given),
        transforms_logits=options.transforms_logits(given),
        loss=None if loss is None else backend.out3("loss_out", loss, loss_shape),
        grad=None if grad is None else backend.out3("grad_out", grad, shape),
        hess=None if hess is None else backend.out3("hess_out", hess, shape),
        **backend.factors(call, traits.alpha, compute),
    )
