"""The libraries that fusedce is compared with, as data.

Each does the same work: the mean loss and its gradient by every logit, from the arrays that a user
has. Conversions that a library needs (a dtype of the targets, its own array type) are not timed. A
library is imported when it is used; one that is not installed is reported as skipped.
"""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import plain
from benchmarks.cases import Arrays, Case, Loss
from benchmarks.data import Array, Problem

Call = Callable[[], Any]
Read = Callable[[Any], tuple[float, Array]]  # what a call returned -> loss, gradient
SELDOM = "seconds of compilation for every shape"
TORCH = "torch --index-url https://download.pytorch.org/whl/cpu"  # PyPI's torch brings CUDA


@dataclass(frozen=True)
class Rival:
    """A library, or an adapter of fusedce, that computes a loss and its gradient."""

    name: str
    modules: tuple[str, ...]  # which it imports
    prepare: Callable[..., Any]  # from a problem to calls that can be timed
    refuses: Callable[[Case], str | None] = lambda case: None  # why it cannot compute a case
    memory: Callable[[Case], float] = lambda case: 1.0  # held at a time, in units of the logits
    needs: Callable[[], str | None] = lambda: None  # what else is missing
    compiles: bool = False  # for seconds, for every shape
    install: str = ""  # the arguments of pip, if not the name of the module
    ours: bool = False

    def missing(self) -> str | None:
        """Why it cannot be measured here."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"not installed: pip install {self.install or module}"
        return self.needs()


# --------------------------------------------------------------------- NumPy, scikit-learn


def prepare_numpy(problem: Problem, threads: int) -> tuple[Call, Read]:
    """Blocks of plain NumPy, into the same gradient as fusedce."""
    return lambda: plain.mean_loss(problem), lambda loss: (loss, problem.grad)


def refused_by_numpy(case: Case) -> str | None:
    """NumPy has no fast arithmetic in half precision."""
    if case.loss.function is not None:
        return "has no such loss"
    return "half precision" if case.arrays.dtype.endswith("float16") else None


def prepare_sklearn(problem: Problem, threads: int) -> tuple[Call, Read]:
    """``loss_gradient`` into fixed buffers; sample weights make the sum a mean."""
    from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss

    z, loss = problem.logits, problem.case.loss
    y = problem.targets.astype(z.dtype)
    buffers = np.empty(y.shape, z.dtype), np.empty_like(z)
    if loss.activation == "softmax":
        model: Any = HalfMultinomialLoss(n_classes=z.shape[1])
    else:
        model = HalfBinomialLoss()
    fixed = {"sample_weight": np.full(y.shape, 1 / y.size, z.dtype), "n_threads": threads}
    fixed |= {"y_true": y, "raw_prediction": z, "loss_out": buffers[0]}
    if not loss.grad:
        return lambda: model.loss(**fixed).sum(dtype=np.float64), lambda got: (got, buffers[1])

    def call() -> Any:
        values, grad = model.loss_gradient(**fixed, gradient_out=buffers[1])
        return values.sum(dtype=np.float64), grad

    return call, lambda got: got


def refused_by_sklearn(case: Case) -> str | None:
    """scikit-learn has two of the losses, for arrays in C order."""
    loss, arrays = case.loss, case.arrays
    if loss.gamma or loss.smoothing or loss.weighted:
        return "has no such loss"
    if arrays.targets not in ("index", "float32"):
        return "takes class indices or float labels"
    if arrays.layout != "C" or len(arrays.shape) > 2 or arrays.axis != -1:
        return "takes rows in C order"
    return None if arrays.dtype in ("float32", "float64") else "half precision"


# --------------------------------------------------------------------- torch


def torch_loss(
    loss: Loss, index: bool, weight: Any, reduction: str = "mean"
) -> Callable[[Any, Any], Any]:
    """The reduced loss as a user of torch writes it."""
    torch: Any = importlib.import_module("torch")
    functional = torch.nn.functional

    def softmax(z: Any, t: Any) -> Any:
        if not loss.gamma:
            options = {"weight": weight, "label_smoothing": loss.smoothing}
            return functional.cross_entropy(z, t, reduction=reduction, **options)
        logp = -functional.cross_entropy(z, t, reduction="none")
        return getattr(-((1 - logp.exp()) ** loss.gamma * logp), reduction)()

    def sigmoid(z: Any, t: Any) -> Any:
        if index:
            t = t[:, None] == torch.arange(z.shape[1])
        t = t.to(z.dtype)
        if not loss.gamma:
            return functional.binary_cross_entropy_with_logits(z, t, reduction=reduction)
        x = z * (2 * t - 1)  # the logit of the true outcome
        values = -((1 - torch.sigmoid(x)) ** loss.gamma) * functional.logsigmoid(x)
        if loss.alpha is not None:
            values = values * ((2 * loss.alpha - 1) * t + (1 - loss.alpha))
        return getattr(values, reduction)()

    return softmax if loss.activation == "softmax" else sigmoid


def as_torch(a: Array) -> Any:
    """A tensor over the same memory."""
    torch: Any = importlib.import_module("torch")
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def torch_with(threads: int) -> Any:
    """The torch module, set to compute in this number of threads."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool that outlives the case
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    return torch


def autograd(loss: Callable[[Any, Any], Any], leaf: Any, t: Any, upstream: Any = None) -> Call:
    """Forward and backward pass; only the loss if the leaf requires no gradient."""
    torch: Any = importlib.import_module("torch")

    def call() -> Any:
        if not leaf.requires_grad:
            return loss(leaf, t), None
        value = loss(leaf, t)
        return value, torch.autograd.grad(value, leaf, upstream)[0]

    return call


def prepare_torch(problem: Problem, threads: int, compiled: bool = False) -> tuple[Call, Read]:
    """The loss as a user of torch writes it, eager or through torch.compile."""
    torch, case = torch_with(threads), problem.case
    weight = as_torch(problem.weight) if case.loss.weighted else None
    loss = torch_loss(case.loss, case.arrays.targets == "index", weight)
    z, t = as_torch(problem.logits), as_torch(problem.targets)
    if case.loss.activation == "softmax" and problem.axis == 0:
        z = z.T  # torch has the classes on axis 1
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, dynamic=False)
    call = autograd(loss, z.requires_grad_(case.loss.grad), t)

    def read(got: Any) -> tuple[float, Array]:
        value, grad = float(got[0].detach()), got[1]
        if grad is None:
            return value, problem.grad
        grad = grad.float() if grad.dtype == torch.bfloat16 else grad
        return value, grad.numpy().T if problem.axis == 0 else grad.numpy()

    return call, read


def torch_memory(case: Case) -> float:
    """Input, gradient, and what autograd keeps between the passes."""
    return 12.0 if case.loss.activation == "sigmoid" and case.loss.gamma else 6.0


def no_compiler() -> str | None:
    """torch.compile generates C++ and needs a compiler for it."""
    found = any(map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++")))
    return None if found else "needs a C++ compiler: apt install g++"


def refused_by_compiled(case: Case) -> str | None:
    """Half precision and float64 are too many more shapes to compile for."""
    return SELDOM if case.group == "dtype" else None


def only_if_asked(rival: Rival) -> Rival:
    """On a curve, a rival that compiles for every shape waits for --all or for its own name."""
    why = f"{SELDOM}; on curves with --all or --rival"
    return replace(rival, refuses=lambda case: why) if rival.compiles else rival


# --------------------------------------------------------------------- jax


def jax_loss(loss: Loss, arrays: Arrays, weight: Any) -> Callable[[Any, Any], Any]:
    """The mean loss as a user of JAX writes it."""
    jax: Any = importlib.import_module("jax")
    jnp, axis = jax.numpy, arrays.axis
    gamma = int(loss.gamma) if loss.gamma == int(loss.gamma) else loss.gamma

    def softmax(z: Any, t: Any) -> Any:
        if arrays.targets == "distribution":
            return -(t * jax.nn.log_softmax(z, axis)).sum(axis).mean()
        hit = jnp.take_along_axis(z, jnp.expand_dims(t, axis), axis).squeeze(axis)
        lse = jax.nn.logsumexp(z, axis)
        if gamma:
            return (-(jnp.expm1(hit - lse) ** gamma) * (lse - hit)).mean()
        if loss.weighted:
            return (weight[t] * (lse - hit)).sum() / weight[t].sum()
        if loss.smoothing:
            hit = (1 - loss.smoothing) * hit + loss.smoothing * z.mean(axis)
        return (lse - hit).mean()

    def sigmoid(z: Any, t: Any) -> Any:
        if arrays.targets == "index":
            t = t[:, None] == jnp.arange(z.shape[1])
        t = t.astype(z.dtype)
        if not gamma:
            return (jax.nn.softplus(z) - z * t).mean()
        x = z * (2 * t - 1)
        values = -(jax.nn.sigmoid(-x) ** gamma) * jax.nn.log_sigmoid(x)
        if loss.alpha is not None:
            values = values * ((2 * loss.alpha - 1) * t + (1 - loss.alpha))
        return values.mean()

    return softmax if loss.activation == "softmax" else sigmoid


def jax_with(threads: int) -> Any:
    """The jax module on its CPU device, set to compute in this number of threads."""
    os.environ.setdefault("NPROC", str(threads))  # the size of XLA's pool; read at the first import
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return importlib.import_module("jax")


def jax_call(jax: Any, loss: Callable[[Any, Any], Any], z: Any, t: Any) -> tuple[Call, Read]:
    """``jax.jit(jax.value_and_grad(loss))`` of arrays on JAX's device."""
    both = jax.jit(jax.value_and_grad(loss))
    return (
        lambda: jax.block_until_ready(both(z, t)),
        lambda got: (float(got[0]), np.asarray(got[1])),
    )


def prepare_jax(problem: Problem, threads: int) -> tuple[Call, Read]:
    """Loss and gradient, or the loss alone."""
    jax = jax_with(threads)
    jax.config.update("jax_enable_x64", True)  # class indices stay int64, as everywhere
    case, put = problem.case, jax.numpy.asarray
    loss = jax_loss(case.loss, case.arrays, put(problem.weight))
    z, t = put(problem.logits), put(problem.targets)
    if case.loss.grad:
        return jax_call(jax, loss, z, t)
    alone = jax.jit(loss)
    return lambda: alone(z, t).block_until_ready(), lambda got: (float(got), problem.grad)


RIVALS: tuple[Rival, ...] = (
    Rival("NumPy", ("numpy",), prepare_numpy, refused_by_numpy),
    Rival("scikit-learn", ("sklearn",), prepare_sklearn, refused_by_sklearn, lambda case: 2.0,
          install="scikit-learn"),
    Rival("torch", ("torch",), prepare_torch, memory=torch_memory, install=TORCH),
    Rival("torch.compile", ("torch",), partial(prepare_torch, compiled=True), refused_by_compiled,
          torch_memory, no_compiler, compiles=True, install=TORCH),
    Rival("jax.jit", ("jax",), prepare_jax, memory=lambda case: 6.0),
)  # fmt: skip
