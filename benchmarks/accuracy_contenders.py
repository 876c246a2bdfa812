"""The gradients that ``benchmarks.accuracy`` compares: fusedce's and those of other libraries.

Each function takes a Problem and returns the gradient of the summed loss, or None where the library
has no such loss or dtype. The libraries are called as their documentation says.
"""

import importlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import frameworks, rivals
from benchmarks.cases import Loss
from benchmarks.data import Array
from benchmarks.rivals import Rival

OURS = "fusedce"


@dataclass(frozen=True)
class Problem:
    """Logits of N rows and C classes, and class indices (softmax) or N × C labels (sigmoid)."""

    loss: Loss
    logits: Array
    targets: Array

    @property
    def dtype(self) -> str:
        """The name of the logits' dtype."""
        return str(self.logits.dtype.name)


def by_fusedce(problem: Problem) -> Array | None:
    """``fusedce.cross_entropy`` or ``fusedce.focal``."""
    found = problem.loss(problem.logits, problem.targets, None, -1, reduction="sum")
    return np.asarray(found[1])


def by_torch(problem: Problem) -> Array | None:
    """Autograd of torch's losses; of torchvision's formula for sigmoid focal loss."""
    torch: Any = importlib.import_module("torch")
    loss, softmax = problem.loss, problem.loss.activation == "softmax"
    if loss.gamma and not softmax:
        function = frameworks.torch_focal(loss, "sum")
    else:
        function = rivals.torch_loss(loss, softmax, None, "sum")
    z = rivals.as_torch(problem.logits).requires_grad_()
    value = function(z, rivals.as_torch(problem.targets))
    return np.asarray(torch.autograd.grad(value, z)[0].double().numpy())


def by_optax(problem: Problem) -> Array | None:
    """``jax.jit(jax.value_and_grad(...))`` of optax's loss, which lacks softmax focal loss."""
    jax = rivals.jax_with(1)
    optax: Any = importlib.import_module("optax")
    loss = problem.loss
    if loss.activation == "sigmoid":
        function = optax.sigmoid_binary_cross_entropy
        if loss.gamma:
            focal = optax.sigmoid_focal_loss
            function = partial(focal, alpha=loss.alpha, gamma=loss.gamma)
    elif loss.gamma:
        return None
    else:
        function = optax.softmax_cross_entropy_with_integer_labels
    with jax.enable_x64(problem.dtype == "float64"):
        z, t = jax.numpy.asarray(problem.logits), problem.targets
        t = jax.numpy.asarray(t.astype(np.int32) if t.dtype == np.int64 else t)
        call, read = rivals.jax_call(jax, lambda z, t: function(z, t).sum(), z, t)
        return read(call())[1]


def by_sklearn(problem: Problem) -> Array | None:
    """``loss_gradient`` of HalfMultinomialLoss and HalfBinomialLoss."""
    from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss

    loss, z = problem.loss, problem.logits
    if loss.gamma or problem.dtype == "bfloat16":
        return None
    y = problem.targets.astype(z.dtype)
    if loss.activation == "softmax":
        model: Any = HalfMultinomialLoss(n_classes=z.shape[1])
        return np.asarray(model.loss_gradient(y, z)[1])
    return np.asarray(HalfBinomialLoss().loss_gradient(y.ravel(), z.ravel())[1].reshape(z.shape))


def by_numpy(problem: Problem) -> Array | None:
    """The formulas of textbooks and papers, with 1 - p by subtraction."""
    loss, z, y = problem.loss, problem.logits, problem.targets
    if problem.dtype == "bfloat16":
        return None
    if loss.activation == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        own = np.take_along_axis(p, y[:, None], 1)
        grad = p.copy()
        grad[np.arange(len(z)), y] -= 1
        if loss.gamma:
            inner = 1 - own - loss.gamma * own * np.log(own)
            grad *= (1 - own) ** (loss.gamma - 1) * inner
        return np.asarray(grad)
    p = 1 / (1 + np.exp(-z))
    if not loss.gamma:
        return np.asarray(p - y)
    yes, no = (1.0, 1.0) if loss.alpha is None else (loss.alpha, 1 - loss.alpha)
    own = np.where(y == 1, p, 1 - p)
    grad = (1 - own) ** loss.gamma * (loss.gamma * own * np.log(own) - (1 - own))
    return np.asarray(np.where(y == 1, yes * grad, -no * grad))


CONTENDERS: tuple[Rival, ...] = (
    Rival(OURS, ("fusedce",), by_fusedce, ours=True),
    Rival("torch", ("torch",), by_torch, install=rivals.TORCH),
    Rival("optax", ("jax", "optax"), by_optax),
    Rival("scikit-learn", ("sklearn",), by_sklearn, install="scikit-learn"),
    Rival("NumPy", ("numpy",), by_numpy),
)
