"""The losses as one operation of JAX, which carries the options of a call as JSON text.

``loss`` takes logits and labels; its gradient is the same operation with a third argument, the
upstream gradient.
"""

import functools
import json
import math
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

from fusedce.adapters import jax_xla
from fusedce.arrays import loss_dtype
from fusedce.backends import array_libraries
from fusedce.call import run
from fusedce.losses.cross_entropy import CrossEntropy
from fusedce.losses.focal import focal_call
from fusedce.options import Traits


@functools.cache
def named(call: bytes | str) -> tuple[Any, dict[str, Any]]:
    """(function of logits and labels, its options) for a call that is given as text.

    As in optax, float labels may be any number.
    """
    options = json.loads(call)
    rule, traits = CrossEntropy(), Traits(options.pop("loss"), any_label=True)
    if traits.name == "focal":
        own = {"gamma": 2.0, "alpha": None, "soft_labels": "split"}
        given = {name: options.pop(name, default) for name, default in own.items()}
        rule, traits = focal_call(**given, any_label=True)
        if "sign" in rule._fields:  # optax takes the log of 1 - p_t: NaN where it is < 0
            rule = rule._replace(sign=math.nan)
    return functools.partial(run, rule, traits), options


def text(name: str, **options: Any) -> str:
    """A call as text, which stays valid in a compiled program that another process loads."""
    return json.dumps({"loss": name, **options}, sort_keys=True)


def _compute(call: jax_xla.Call) -> None:
    (out,) = call.outputs
    _run(call.text, out, *_spread(call, out.shape))


def _spread(call: jax_xla.Call, shape: tuple[int, ...]) -> list[Any]:
    """The inputs broadcast, without copies: under vmap an input may have extent 1 on an axis."""
    logits, labels, *upstream = call.inputs
    axis, full, rows = named(call.text)[1].get("axis"), shape, shape
    if axis is not None and upstream:
        at = len(shape) + axis
        rows = (*shape[:at], *shape[at + 1 :])
    elif axis is not None:
        at = len(shape) + 1 + axis
        full = (*shape[:at], logits.shape[axis], *shape[at:])
    kind = full if labels.ndim == len(full) else rows
    wanted = (full, kind, rows)
    inputs = (logits, labels, *upstream)
    return [np.broadcast_to(x, s) for x, s in zip(inputs, wanted, strict=False)]


def _run(call: bytes | str, out: Any, logits: Any, labels: Any, *upstream: Any) -> Any:
    """The unreduced loss, or with an upstream gradient the gradient; into ``out`` if given."""
    function, options = named(call)
    if upstream:
        # "sum" has the same gradient as "none" and needs no array of losses.
        kind = {"reduction": "sum", "sample_weight": upstream[0], "grad_out": out}
        return function(logits, labels, **kind, **options)[1]
    kind = {"reduction": "none", "return_grad": False, "loss_out": out}
    return function(logits, labels, **kind, **options)


def _refuse(call: jax_xla.Call) -> None:
    raise NotImplementedError(
        "inside jax.jit fusedce computes on the CPU: on a GPU call the loss outside of jit, or "
        "place the jitted function on a CPU device"
    )


_TARGET = "fusedce"
_VERSION = jax_xla.version(jax.ffi.include_dir())
# XLA registers a name once in a process. So the handlers are stored in a module of JAX, and when
# this module is imported again, they call its new functions.
_HANDLERS: dict[str, jax_xla.Handler] = vars(jax.ffi).setdefault("_fusedce", {})
for _platform, _work in (("cpu", _compute), ("CUDA", _refuse)):
    if _platform in _HANDLERS:
        _HANDLERS[_platform].work = _work
    else:
        _handler = jax_xla.Handler(_work, _VERSION)
        _capsule = jax.ffi.pycapsule(_handler.address)
        jax.ffi.register_ffi_target(_TARGET, _capsule, platform=_platform, api_version=1)
        _HANDLERS[_platform] = _handler


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _call(call: str, logits: Any, labels: Any, *upstream: Any) -> Any:
    """The unreduced loss, or with an upstream gradient the gradient by the logits."""
    if _on_gpu(logits):
        return _eagerly(call, logits, labels, *upstream)
    result = jax.eval_shape(functools.partial(_shaped, call, bool(upstream)), logits)
    return jax.ffi.ffi_call(_TARGET, result, vmap_method="expand_dims")(
        logits, labels, *upstream, call=call
    )


def _shaped(call: str, is_gradient: bool, logits: Any) -> Any:
    """An array of the result's shape and dtype."""
    if is_gradient:
        return logits
    axis = named(call)[1].get("axis")
    rows = logits if axis is None else logits.sum(axis)
    return rows.astype(loss_dtype(np.dtype(logits.dtype)))


@_call.defjvp
def _no_further(call: str, primals: Any, tangents: Any) -> Any:
    raise NotImplementedError(
        "the losses of fusedce.adapters.jax have no second derivative: for jax.hessian and other "
        "derivatives of a gradient use the loss of the same name in optax"
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def loss(call: str, logits: Any, labels: Any) -> Any:
    """The unreduced loss of a call as text, which JAX differentiates by the logits."""
    return _call(call, logits, labels)


@functools.partial(loss.defjvp, symbolic_zeros=True)
def _derivative(call: str, primals: Any, tangents: Any) -> Any:
    by_logits, by_labels = tangents
    if not isinstance(by_labels, jax.custom_derivatives.SymbolicZero):
        raise NotImplementedError(
            "the losses of fusedce.adapters.jax are not differentiated by their labels: pass "
            "jax.lax.stop_gradient(labels)"
        )
    value = _call(call, *primals)
    if isinstance(by_logits, jax.custom_derivatives.SymbolicZero):
        return value, jnp.zeros_like(value)
    return value, _TANGENT.bind(*primals, by_logits, call=call)


# The tangent of the loss, which is never computed: JAX transposes it to the gradient.
_TANGENT = jax.extend.core.Primitive("fusedce_tangent")


@_TANGENT.def_impl
def _no_forward(*args: Any, **params: Any) -> Any:
    raise NotImplementedError(
        "the losses of fusedce.adapters.jax are not differentiated in forward mode (jax.jvp, "
        "jax.jacfwd, jax.linearize): use reverse mode (jax.grad, jax.vjp, jax.jacrev), or the loss "
        "of the same name in optax"
    )


@_TANGENT.def_abstract_eval
def _abstract(logits: Any, labels: Any, tangent: Any, *, call: str) -> Any:
    result = jax.eval_shape(functools.partial(_shaped, call, False), tangent)
    return tangent.update(shape=result.shape, dtype=result.dtype)


def _transpose(upstream: Any, logits: Any, labels: Any, tangent: Any, *, call: str) -> Any:
    if type(upstream) is ad.Zero:
        return None, None, ad.Zero(tangent.aval)
    return None, None, _call(call, logits, labels, upstream)


def _batch(args: Any, axes: Any, *, call: str) -> Any:
    """Move all batch axes to the front: the class axis, counted from the end, is unchanged."""
    (size,) = {x.shape[k] for x, k in zip(args, axes, strict=True) if k is not None}
    full = [batching.bdim_at_front(x, k, size) for x, k in zip(args, axes, strict=True)]
    return _TANGENT.bind(*full, call=call), 0


def _no_second(primals: Any, tangents: Any, *, call: str) -> Any:
    return _no_further(call, primals, tangents)


mlir.register_lowering(_TANGENT, _no_forward)
ad.primitive_jvps[_TANGENT] = _no_second
ad.primitive_transposes[_TANGENT] = _transpose
batching.primitive_batchers[_TANGENT] = _batch


def _on_gpu(x: Any) -> bool:
    """Whether x is a concrete array on a GPU; False for a tracer."""
    if isinstance(x, jax.core.Tracer) or not hasattr(x, "devices"):
        return False
    return any(device.platform in ("gpu", "cuda") for device in x.devices())


def _eagerly(call: str, *arrays: Any) -> Any:
    """The result of the GPU kernels, on arrays that DLPack exchanges without a copy."""
    logits, labels, *upstream = map(array_libraries._cupy().from_dlpack, arrays)
    return jax.dlpack.from_dlpack(_run(call, None, logits, labels, *upstream))
