"""What fusedce is measured against, as data: who else computes a loss and its gradient.

Each does the same work: the mean loss and its gradient by every logit, from the arrays that a user
has. What a library wants converted (a dtype of targets, its own array type) is converted before
the clock starts. A library is imported when it is used and not before; one that is not installed
is named as skipped.
"""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import plain
from benchmarks.cases import Arrays, Case, Loss, selected
from benchmarks.data import Array, Problem

Call = Callable[[], Any]
Read = Callable[[Any], tuple[float, Array]]  # what a call returned -> loss, gradient
SELDOM = "seconds of compilation for every shape"
INSTALL = {  # what pip wants to hear, where that is not the module; PyPI's torch brings CUDA
    "sklearn": "scikit-learn",
    "torch": "torch --index-url https://download.pytorch.org/whl/cpu",
}


@dataclass(frozen=True)
class Rival:
    """Someone who computes the same."""

    name: str
    module: str  # without which there is nothing to measure
    prepare: Callable[[Problem, int], tuple[Call, Read]]  # for so many threads
    refuses: Callable[[Case], str | None] = lambda case: None  # why it cannot do a case
    memory: Callable[[Case], float] = lambda case: 1.0  # held at a time, in units of the logits
    needs: Callable[[], str | None] = lambda: None  # what else is missing
    compiles: bool = False  # for seconds, not for moments

    def missing(self) -> str | None:
        """Why it cannot be measured here."""
        if importlib.util.find_spec(self.module) is None:
            return f"not installed: pip install {INSTALL.get(self.module, self.module)}"
        return self.needs()


# --------------------------------------------------------------------- NumPy, scikit-learn


def prepare_numpy(problem: Problem, threads: int) -> tuple[Call, Read]:
    """Blocks of plain NumPy, into the same gradient as fusedce."""
    return lambda: plain.mean_loss(problem), lambda loss: (loss, problem.grad)


def refused_by_numpy(case: Case) -> str | None:
    """Half precision is not what anyone computes in with NumPy."""
    if case.loss.function is not None:
        return "has no such loss"
    return "half precision" if case.arrays.dtype.endswith("float16") else None


def prepare_sklearn(problem: Problem, threads: int) -> tuple[Call, Read]:
    """``loss_gradient`` into buffers of its own, the mean by sample weights, as its models do."""
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
    """It has two of the losses, for one layout."""
    loss, arrays = case.loss, case.arrays
    if loss.gamma or loss.smoothing or loss.weighted:
        return "has no such loss"
    if arrays.targets not in ("index", "float32"):
        return "takes class indices or float labels"
    if arrays.layout != "C" or len(arrays.shape) > 2 or arrays.axis != -1:
        return "takes rows in C order"
    return None if arrays.dtype in ("float32", "float64") else "half precision"


# --------------------------------------------------------------------- torch


def torch_loss(loss: Loss, index: bool, weight: Any) -> Callable[[Any, Any], Any]:
    """The mean loss as a torch user writes it."""
    torch: Any = importlib.import_module("torch")
    functional = torch.nn.functional

    def softmax(z: Any, t: Any) -> Any:
        if not loss.gamma:
            options = {"weight": weight, "label_smoothing": loss.smoothing}
            return functional.cross_entropy(z, t, **options)
        logp = -functional.cross_entropy(z, t, reduction="none")
        return -((1 - logp.exp()) ** loss.gamma * logp).mean()

    def sigmoid(z: Any, t: Any) -> Any:
        if index:
            t = t[:, None] == torch.arange(z.shape[1])
        t = t.to(z.dtype)
        if not loss.gamma:
            return functional.binary_cross_entropy_with_logits(z, t)
        x = z * (2 * t - 1)  # the logit of the true outcome
        values = -((1 - torch.sigmoid(x)) ** loss.gamma) * functional.logsigmoid(x)
        if loss.alpha is not None:
            values = values * ((2 * loss.alpha - 1) * t + (1 - loss.alpha))
        return values.mean()

    return softmax if loss.activation == "softmax" else sigmoid


def as_torch(a: Array) -> Any:
    """A tensor over the same memory."""
    torch: Any = importlib.import_module("torch")
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


def prepare_torch(problem: Problem, threads: int, compiled: bool = False) -> tuple[Call, Read]:
    """Forward and backward pass by autograd."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool that outlives the case
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    case = problem.case
    weight = as_torch(problem.weight) if case.loss.weighted else None
    loss = torch_loss(case.loss, case.arrays.targets == "index", weight)
    z, t = as_torch(problem.logits), as_torch(problem.targets)
    if case.loss.activation == "softmax" and problem.axis == 0:
        z = z.T  # torch has the classes second
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, dynamic=False)
    z.requires_grad_(case.loss.grad)

    def call() -> Any:
        if not case.loss.grad:
            return loss(z, t), None
        value = loss(z, t)
        return value, torch.autograd.grad(value, z)[0]

    def read(got: Any) -> tuple[float, Array]:
        value, grad = float(got[0].detach()), got[1]
        if grad is None:
            return value, problem.grad
        grad = grad.float() if grad.dtype == torch.bfloat16 else grad
        return value, grad.numpy().T if problem.axis == 0 else grad.numpy()

    return call, read


def prepare_compiled(problem: Problem, threads: int) -> tuple[Call, Read]:
    """The same through torch.compile."""
    return prepare_torch(problem, threads, compiled=True)


def torch_memory(case: Case) -> float:
    """Input, gradient, and what autograd keeps between them."""
    if case.loss.activation == "softmax":
        return 6.0
    return 12.0 if case.loss.gamma else 6.0


def no_compiler() -> str | None:
    """torch.compile writes C++."""
    found = any(map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++")))
    return None if found else "needs a C++ compiler: apt install g++"


def refused_by_compiled(case: Case) -> str | None:
    """A curve has many shapes."""
    return SELDOM if case.curve or case.group == "dtype" else None


# --------------------------------------------------------------------- jax


def jax_loss(loss: Loss, arrays: Arrays, weight: Any) -> Callable[[Any, Any], Any]:
    """The mean loss as a jax user writes it."""
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


def prepare_jax(problem: Problem, threads: int) -> tuple[Call, Read]:
    """``jax.jit(jax.value_and_grad(loss))`` of arrays on jax's CPU device."""
    os.environ.setdefault("NPROC", str(threads))  # the size of XLA's pool; read at the first import
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax: Any = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)  # class indices stay int64, as everywhere
    case, put = problem.case, jax.numpy.asarray
    loss = jax_loss(case.loss, case.arrays, put(problem.weight))
    z, t = put(problem.logits), put(problem.targets)
    if not case.loss.grad:
        alone = jax.jit(loss)
        return lambda: alone(z, t).block_until_ready(), lambda got: (float(got), problem.grad)
    both = jax.jit(jax.value_and_grad(loss))
    return (
        lambda: jax.block_until_ready(both(z, t)),
        lambda got: (float(got[0]), np.asarray(got[1])),
    )


RIVALS: tuple[Rival, ...] = (
    Rival("NumPy", "numpy", prepare_numpy, refused_by_numpy),
    Rival("scikit-learn", "sklearn", prepare_sklearn, refused_by_sklearn, lambda case: 2.0),
    Rival("torch", "torch", prepare_torch, memory=torch_memory),
    Rival("torch.compile", "torch", prepare_compiled, refused_by_compiled, torch_memory,
          no_compiler, compiles=True),
    Rival("jax.jit", "jax", prepare_jax, memory=lambda case: 6.0),
)  # fmt: skip


def chosen(patterns: list[str]) -> list[Rival]:
    """The rivals whose names are picked; without patterns all, none for "none"."""
    if patterns == ["none"]:
        return []
    names = selected([r.name for r in RIVALS], patterns or ["*"], "rival")
    return [r for r in RIVALS if r.name in names]
