"""The losses as operators of ``torch.library``, and their autograd functions in eager mode.

Traced code contains the operators. The derivative of ``loss`` is ``gradient``. In eager mode the
gradient may be computed with the loss and saved; ``fusedce.adapters.torch`` says when.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fusedce.adapters import hugepages
from fusedce.adapters.rules import ClampedLog
from fusedce.adapters.torch_errors import FORWARD, SECOND, probabilities
from fusedce.call import run
from fusedce.losses.cross_entropy import CrossEntropy
from fusedce.losses.focal import focal_call
from fusedce.options import Traits

Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
NEVER = -(2**63)  # the ignore_index of float targets: torch ignores none of them


class Spec(NamedTuple):
    """What to compute, in types that a schema of torch.library allows."""

    loss: str
    activation: str | None
    axis: int
    reduction: str
    dtype: torch.dtype  # of the loss
    gamma: float = 0.0
    alpha: float | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0


def _compute_dtype(logits: Tensor) -> torch.dtype:
    """The type of all arithmetic."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _array(tensor: Tensor | None) -> Any:
    """A NumPy array on the memory of a CPU tensor; a GPU tensor itself."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    if tensor.is_cuda:
        return tensor
    tensor = tensor.resolve_neg()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _classes(pos_weight: Tensor, tensors: list[Tensor | None]) -> tuple[Tensor, int]:
    """pos_weight as a vector, and its axis; several axes over which it varies are merged."""
    shape: torch.Size = tensors[0].shape  # type: ignore[union-attr]
    spread = pos_weight[(None,) * (len(shape) - pos_weight.ndim)]
    varies = [k for k, n in enumerate(spread.shape) if n != 1]
    if not varies:
        return pos_weight.reshape(()), -1
    first, last = varies[0], varies[-1] + 1
    if len(varies) > 1:
        spread = spread.expand([n if first <= k < last else 1 for k, n in enumerate(shape)])
        merged = (*shape[:first], -1, *shape[last:])
        for k, x in enumerate(tensors):
            if x is not None and x.shape == shape:
                tensors[k] = x.view(merged) if k > 2 else x.reshape(merged)
    return spread.reshape(-1), first


def _evaluate(spec: Spec, inputs: Inputs, grad: Tensor | None = None) -> Tensor:
    """The loss, and into ``grad`` the gradient."""
    logits, targets, weight, pos_weight, sample_weight = inputs
    if sample_weight is not None:
        sample_weight = sample_weight.expand(_unreduced(spec, logits))
    loss = _empty_loss(spec, logits, _compute_dtype(logits))
    tensors, axis = [logits, targets, sample_weight, loss, grad], spec.axis
    if pos_weight is not None:
        pos_weight, axis = _classes(pos_weight, tensors)
    z, y, s, loss_out, grad_out = map(_array, tensors)
    options = {
        "activation": spec.activation, "axis": axis, "reduction": spec.reduction,
        "weight": _array(weight), "pos_weight": _array(pos_weight), "sample_weight": s,
        "ignore_index": spec.ignore_index, "label_smoothing": spec.label_smoothing,
        "return_grad": grad is not None, "loss_out": loss_out, "grad_out": grad_out,
    }  # fmt: skip
    run(*_rule(spec, logits.is_cuda), z, y, **options)
    return loss.to(spec.dtype)


def _rule(spec: Spec, on_gpu: bool) -> tuple[Any, Traits]:
    """(rule, traits): as in torch, float labels may be any number.

    Those of probabilities must be in [0, 1]: ``_checked`` checks it on the CPU, kernels on a GPU.
    """
    if spec.loss == "focal":
        soft = "torchvision" if spec.activation == "sigmoid" else "split"
        return focal_call(spec.gamma, spec.alpha, soft, any_label=True)
    if spec.loss == "clamped":
        return ClampedLog(), Traits("cross_entropy", any_label=not on_gpu)
    return CrossEntropy(), Traits("cross_entropy", any_label=True)


def _unreduced(spec: Spec, logits: Tensor) -> tuple[int, ...]:
    """The shape of the unreduced loss."""
    shape = tuple(logits.shape)
    return shape[: spec.axis] + shape[spec.axis + 1 :] if spec.activation == "softmax" else shape


def _empty_loss(spec: Spec, logits: Tensor, dtype: torch.dtype) -> Tensor:
    shape = _unreduced(spec, logits) if spec.reduction == "none" else ()
    return torch.empty(shape, dtype=dtype, device=logits.device)


def _new_grad(logits: Tensor, pos_weight: Tensor | None) -> Tensor:
    """A new gradient, on the CPU in huge pages."""
    grad = _grad_like(logits, pos_weight)
    if not grad.is_cuda:
        hugepages.advise(_array(grad))
    return grad


def _grad_like(logits: Tensor, pos_weight: Tensor | None) -> Tensor:
    """An empty gradient. With pos_weight, whose axes may be merged, it is contiguous."""
    order = torch.preserve_format if pos_weight is None else torch.contiguous_format
    return torch.empty_like(logits, memory_format=order)


_INPUTS = "Tensor targets, Tensor? weight, Tensor? pos_weight, Tensor? sample_weight"
_SCHEMA_TYPES: dict[Any, str] = {
    str: "str", str | None: "str?", int: "int", torch.dtype: "ScalarType", float: "float",
    float | None: "float?",
}  # fmt: skip
_SPEC = ", ".join(f"{_SCHEMA_TYPES[t]} {name}" for name, t in Spec.__annotations__.items())


def _operator(name: str, first: str, returns: str) -> Callable[[Callable[..., Any]], Any]:
    """An operator of torch's that takes ``first``, the inputs and a spec."""
    schema = f"({first}, {_INPUTS}, {_SPEC}) -> {returns}"
    mutates = ("logits",) if "!" in first else ()
    made: Callable[[Callable[..., Any]], Any] = torch.library.custom_op(
        f"fusedce::{name}", mutates_args=mutates, schema=schema
    )
    return made


# torch has no public names for these.
_transformed: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", bool)
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", int)
_hooks: Callable[[bool], Any] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None
)
_forward_enabled: Callable[[], bool] = getattr(torch._C, "_is_fwd_grad_enabled", lambda: True)


def _forward_mode() -> bool:
    """Whether forward-mode derivatives are active, which an operator would silently omit."""
    return forward_ad._current_level >= 0 and _forward_enabled()


def _reverse_mode() -> None:
    """Raise in forward mode. In eager mode ``_Loss.jvp`` raises, if there are tangents."""
    if _forward_mode():
        raise NotImplementedError(FORWARD)


def _checked(args: Any, grad: Tensor | None = None) -> Tensor:
    """The loss, after a check of probabilities; a backward pass does not repeat the check."""
    spec = Spec(*args[5:])
    if spec.loss == "clamped":
        for name, x in zip(("input", "target"), args, strict=False):
            if x.is_floating_point() and not x.is_cuda:
                probabilities(name, _array(x.float() if x.itemsize == 2 else x))
    return _evaluate(spec, args[:5], grad)


@_operator("loss", "Tensor logits", "Tensor")
def _loss(*args: Any) -> Tensor:
    _reverse_mode()
    return _checked(args)


@_operator("loss_and_gradient", "Tensor logits", "(Tensor, Tensor)")
def _loss_and_gradient(*args: Any) -> tuple[Tensor, Tensor]:
    grad = _new_grad(args[0], args[3])
    return _checked(args, grad), grad


@_operator("loss_and_gradient_", "Tensor(a!) logits", "Tensor")
def _in_place(*args: Any) -> Tensor:
    return _checked(args, args[0])


@_operator("gradient", "Tensor upstream, Tensor logits", "Tensor")
def _gradient(upstream: Tensor, *args: Any) -> Tensor:
    _reverse_mode()
    logits, targets, weight, pos_weight, sample_weight = args[:5]
    spec, factor = Spec(*args[5:]), upstream
    if sample_weight is not None:
        wide = _compute_dtype(logits)
        factor = upstream.to(wide) * sample_weight.to(wide)
    if spec.reduction == "none":  # the same gradient, without an array of losses
        spec = spec._replace(reduction="sum")
    grad = _new_grad(logits, pos_weight)
    _evaluate(spec, (logits, targets, weight, pos_weight, factor), grad)
    return grad


@_loss.register_fake
def _(*args: Any) -> Tensor:
    _reverse_mode()
    spec = Spec(*args[5:])
    return _empty_loss(spec, args[0], spec.dtype)


@_loss_and_gradient.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor]:
    spec = Spec(*args[5:])
    return _empty_loss(spec, args[0], spec.dtype), _grad_like(args[0], args[3])


@_in_place.register_fake
def _(*args: Any) -> Tensor:
    spec = Spec(*args[5:])
    return _empty_loss(spec, args[0], spec.dtype)


@_gradient.register_fake
def _(upstream: Tensor, *args: Any) -> Tensor:
    return _grad_like(args[0], args[3])


def _traced_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.spec = inputs[5:]


def _traced_backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(upstream, *ctx.saved_tensors, *ctx.spec), *[None] * (len(ctx.spec) + 4)


def _refuse(ctx: Any, *upstream: Any) -> Any:
    raise RuntimeError(SECOND)


def _refuse_tangents(ctx: Any, *tangents: Any) -> Any:
    raise NotImplementedError(FORWARD)


_loss.register_autograd(_traced_backward, setup_context=_traced_setup)
_gradient.register_autograd(_refuse)


def _one_by_one(operator: Any) -> None:
    """Register a vmap rule that calls an operator for each member of the batch."""

    def rule(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        members = [
            operator(*(x if d is None else x.select(d, k) for x, d in zip(args, dims, strict=True)))
            for k in range(info.batch_size)
        ]
        return torch.stack(members), 0

    operator.register_vmap(rule)


_one_by_one(_loss)
_one_by_one(_gradient)


def _observed() -> bool:
    """Whether hooks or modes (checkpoints) see the saved tensors, which then must not vary."""
    return _transformed() or _hooks(True) is not None or _modes() > 0


# For each loss, whether the last upstream gradient was 1: if not, a gradient computed with the next
# loss would probably be discarded. No result depends on it.
_ones: dict[str, bool] = {}


def _is_one(upstream: Tensor) -> bool:
    """Whether it is a single 1; False for a batch of vmap or a tracer, whose value is unknown."""
    try:
        return bool(upstream.ndim == 0 and upstream.item() == 1)
    except RuntimeError:
        return False


class _Gradient(torch.autograd.Function):
    """The gradient as a function that autograd records; its derivative raises an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return _gradient(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    backward = staticmethod(_refuse)
    jvp = staticmethod(_refuse_tangents)


class _Loss(torch.autograd.Function):
    """The loss in eager mode, whose gradient may be computed in the forward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(early: str, *args: Any) -> Any:
        if early == "saved":
            return _loss_and_gradient(*args)
        return (_in_place if early == "in place" else _loss)(*args), None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        early, *args = inputs
        saved = args[0] if early == "in place" else output[1]
        if early == "saved":
            ctx.mark_non_differentiable(saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*args[:5], saved)
        ctx.early, ctx.spec = early, args[5:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> Any:
        nothing = [None] * (len(ctx.spec) + 4)
        if upstream is None:
            return None, None, *nothing
        *inputs, saved = ctx.saved_tensors
        compiled = torch.compiler.is_compiling()
        followed = torch.is_grad_enabled() or (not compiled and _forward_mode())
        if followed and ctx.early == "in place":
            raise RuntimeError(SECOND)  # the gradient has replaced the logits
        if not followed and ctx.early != "never":
            one = not compiled and _is_one(upstream)
            if ctx.early != "in place":
                _ones[ctx.spec[0]] = one
            if one and saved is not None:
                return None, saved, *nothing
        if ctx.early == "in place":
            return None, _multiplied(saved, upstream, ctx.spec[2]), *nothing
        gradient = _Gradient.apply if followed else _gradient
        return None, gradient(upstream, *inputs, *ctx.spec), *nothing

    jvp = staticmethod(_refuse_tangents)


def _multiplied(grad: Tensor, upstream: Tensor, axis: int) -> Tensor:
    """A gradient that is already rounded, times the upstream gradient of each row or element."""
    factor = upstream.to(_compute_dtype(grad))
    if 0 < factor.ndim < grad.ndim:  # one for each row
        factor = factor.unsqueeze(axis)
    return (grad * factor).to(grad.dtype)


def evaluate(spec: Spec, inputs: Inputs, inplace: bool = False) -> Tensor:
    """The loss as autograd records it."""
    logits = inputs[0]
    for x in inputs[1:]:  # otherwise a meta tensor would move the loss to meta
        if x is not None and x.ndim and x.device.type != logits.device.type:
            raise RuntimeError(f"tensors on {logits.device} and {x.device}: move one of them")
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs[1:]):
        raise RuntimeError("targets and weights have no gradient here: pass them detached")
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        if inplace:
            raise RuntimeError("inplace=True is for eager mode: a compiler plans memory itself")
        return _loss(*inputs, *spec)
    early = "never"
    if logits.requires_grad and torch.is_grad_enabled():
        if inplace and not _transformed():
            early = "in place"
        elif spec.reduction != "none" and logits.device.type == "cpu" and not _observed():
            early = "saved" if _ones.get(spec.loss, True) else "not now"
    return _Loss.apply(early, *inputs, *spec)[0]
