"""The libraries that fusedce is compared with on a GPU: each computes the same mean loss.

The upstream gradient is a number on the device: autograd multiplies by it in the backward pass,
fusedce divides by a ``denominator`` that contains it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from benchmarks.cases import Case, Loss
from benchmarks.cuda.cases import Question
from benchmarks.cuda.device import nothing
from benchmarks.data import Problem
from benchmarks.rivals import Call, Read, Rival, autograd, torch_loss, torch_memory


@dataclass(frozen=True)
class Entry:
    """A call that is timed, how its result is read, and what is done before it, untimed."""

    call: Call
    read: Read
    before: Call = nothing


def ours(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """Fusedce on CuPy arrays; its results are in memory of CuPy's pool."""
    count = problem.logits.size
    if problem.case.loss.activation == "softmax":
        count //= problem.logits.shape[problem.axis]

    def entry(case: Question) -> Entry:
        more = {}
        if case.upstream != 1:
            more["denominator"] = device.put(np.float32(count / case.upstream))
        z, t = problem.logits, problem.targets

        def read(got: Any) -> tuple[float, Any]:
            loss, grad = got if case.loss.grad else (got, None)
            return float(loss) / case.upstream, grad

        return Entry(lambda: case.loss(z, t, None, problem.axis, **more), read)

    return entry


# --------------------------------------------------------------------- autograd


def by_autograd(
    loss: Callable[[Any, Any], Any], z: Any, t: Any, device: Any, before: Call = nothing,
    dtype: Any = None,
) -> Callable[[Question], Entry]:  # fmt: skip
    """Forward and backward pass; only the loss where no gradient is asked for."""
    torch: Any = importlib.import_module("torch")

    def entry(case: Question) -> Entry:
        leaf, up = z.detach().requires_grad_(case.loss.grad), None
        if case.upstream != 1:
            up = torch.full((), case.upstream, dtype=dtype or z.dtype, device=z.device)

        call = autograd(loss, leaf, t, up)

        def read(got: Any) -> tuple[float, Any]:
            return float(got[0].detach()), None if got[1] is None else device.from_torch(got[1])

        return Entry(call, read, before)

    return entry


def prepare_torch(
    problem: Problem, device: Any, compiled: bool = False
) -> Callable[[Question], Entry]:
    """The loss as a user of torch writes it, eager or through torch.compile."""
    torch: Any = importlib.import_module("torch")
    case = problem.case
    loss = torch_loss(case.loss, case.arrays.targets == "index", None)
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, dynamic=False)
    z, t = device.to_torch(problem.logits), device.to_torch(problem.targets)
    return by_autograd(loss, z, t, device)


def prepare_liger(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """Liger writes its gradient over the logits, so they are copied again before each call."""
    torch: Any = importlib.import_module("torch")
    liger: Any = importlib.import_module("liger_kernel.transformers.functional")
    z, t = device.to_torch(problem.logits), device.to_torch(problem.targets)
    work = torch.empty_like(z)
    return by_autograd(liger.liger_cross_entropy, work, t, device, lambda: work.copy_(z))


def prepare_quack(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """The loss of quack is float32 for logits of any dtype."""
    torch: Any = importlib.import_module("torch")
    quack: Any = importlib.import_module("quack.cross_entropy")
    z, t = device.to_torch(problem.logits), device.to_torch(problem.targets)
    loss = partial(quack.cross_entropy, reduction="mean")
    return by_autograd(loss, z, t, device, dtype=torch.float32)


def rows_only(case: Case) -> str | None:
    """Why a library that has only cross-entropy of rows in C order cannot compute a case."""
    if case.loss.activation != "softmax" or case.loss.gamma:
        return "has no such loss"
    return None if len(case.arrays.shape) == 2 else "takes rows in C order"


# --------------------------------------------------------------------- CuPy


def plain_softmax(xp: Any, z: Any, t: Any, axis: int, scale: float | None) -> tuple[Any, Any]:
    """Cross-entropy in plain expressions, and its gradient times ``scale``."""
    x = z.astype(xp.float32)
    x -= x.max(axis=axis, keepdims=True)
    e = xp.exp(x)
    total = e.sum(axis=axis, keepdims=True)
    hit = xp.take_along_axis(x, xp.expand_dims(t, axis), axis)
    loss = (xp.log(total) - hit).mean()
    if scale is None:
        return loss, None
    e /= total
    rows = xp.moveaxis(e, axis, -1)
    places = [xp.arange(n).reshape(-1, *(1,) * (t.ndim - k - 1)) for k, n in enumerate(t.shape)]
    rows[(*places, t)] -= 1
    e *= scale / t.size
    return loss, e.astype(z.dtype)


def plain_sigmoid(
    xp: Any, z: Any, t: Any, loss: Loss, scale: float | None
) -> tuple[Any, Any]:  # fmt: skip
    """Cross-entropy or focal loss of hard labels in plain expressions."""
    sign = 2 * t.astype(xp.float32) - 1
    x = z.astype(xp.float32) * sign  # the logit of the true outcome
    cost = xp.logaddexp(0, -x)
    q = 1 / (1 + xp.exp(x))
    factor = 1.0 if loss.alpha is None else (1 + (2 * loss.alpha - 1) * sign) / 2
    power = q**loss.gamma if loss.gamma else 1.0
    mean = (factor * power * cost).mean()
    if scale is None:
        return mean, None
    slope = -factor * power * (q + loss.gamma * (1 - q) * cost) * sign
    return mean, (slope * (scale / z.size)).astype(z.dtype)


def prepare_cupy(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """Array expressions in float32, as they are written in NumPy."""
    z, t, loss, axis = problem.logits, problem.targets, problem.case.loss, problem.axis

    def entry(case: Question) -> Entry:
        scale = case.upstream if case.loss.grad else None

        def call() -> Any:
            if loss.activation == "softmax":
                return plain_softmax(device.xp, z, t, axis, scale)
            return plain_sigmoid(device.xp, z, t, loss, scale)

        return Entry(call, lambda got: (float(got[0]), got[1]))

    return entry


def plain_memory(case: Case) -> float:
    """Five arrays of float32 and the gradient."""
    return 1 + 5 * 4 * prod(case.arrays.shape) / case.arrays.logits_bytes


def _rival(name: str, module: str, prepare: Callable[..., Any], **more: Any) -> Rival:
    """A library; by default it may hold four times the memory of the logits."""
    return Rival(name, (module,), prepare, **{"memory": lambda case: 4.0} | more)


RIVALS: tuple[Rival, ...] = (
    _rival("torch", "torch", prepare_torch, memory=torch_memory),
    _rival("torch.compile", "torch", partial(prepare_torch, compiled=True), memory=torch_memory,
           compiles=True),
    _rival("Liger-Kernel", "liger_kernel", prepare_liger, refuses=rows_only,
           install="liger-kernel"),
    _rival("CuPy", "cupy", prepare_cupy, memory=plain_memory, install="cupy-cuda13x"),
    _rival("quack", "quack", prepare_quack, refuses=rows_only, install="quack-kernels"),
)  # fmt: skip
