"""Who else computes a loss and its gradient on a GPU: each the same work, the mean loss.

The upstream gradient is a number on the device: autograd multiplies by it in the backward pass,
fusedce divides by a ``denominator`` that has it folded in.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from benchmarks.cases import Case, Loss, selected
from benchmarks.cuda.cases import Question
from benchmarks.cuda.device import Call, nothing
from benchmarks.data import Problem
from benchmarks.rivals import torch_loss

Read = Callable[[Any], tuple[float, Any]]  # what a call returned -> mean loss, gradient
SELDOM = "seconds of compilation for every shape"
NAMES = {"liger_kernel": "liger-kernel", "quack": "quack-kernels", "cupy": "cupy-cuda13x"}


@dataclass(frozen=True)
class Entry:
    """What is timed: a call, how its result is read, what is done before and is not timed."""

    call: Call
    read: Read
    before: Call = nothing


Prepare = Callable[[Problem, Any], Callable[[Question], Entry]]


@dataclass(frozen=True)
class Rival:
    """Someone who computes the same; prepared once for all questions about the same arrays."""

    name: str
    module: str  # without which there is nothing to measure
    prepare: Prepare
    refuses: Callable[[Case], str | None] = lambda case: None  # why it cannot do a case
    memory: Callable[[Case], float] = lambda case: 4.0  # held at a time, in units of the logits
    compiles: bool = False  # for seconds, not for moments

    def missing(self) -> str | None:
        """Why it cannot be measured here."""
        if importlib.util.find_spec(self.module) is None:
            return f"not installed: pip install {NAMES.get(self.module, self.module)}"
        return None


def ours(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """Fusedce on CuPy arrays, into memory of CuPy's pool."""
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
    """Forward and backward pass; under ``no_grad`` where the loss alone is asked for."""
    torch: Any = importlib.import_module("torch")

    def entry(case: Question) -> Entry:
        leaf, up = z.detach().requires_grad_(case.loss.grad), None
        if case.upstream != 1:
            up = torch.full((), case.upstream, dtype=dtype or z.dtype, device=z.device)

        def call() -> Any:
            if not case.loss.grad:
                with torch.no_grad():
                    return loss(leaf, t), None
            value = loss(leaf, t)
            return value, torch.autograd.grad(value, leaf, up)[0]

        def read(got: Any) -> tuple[float, Any]:
            return float(got[0].detach()), None if got[1] is None else device.from_torch(got[1])

        return Entry(call, read, before)

    return entry


def prepare_torch(
    problem: Problem, device: Any, compiled: bool = False
) -> Callable[[Question], Entry]:
    """What a torch user writes, as it is or through torch.compile."""
    torch: Any = importlib.import_module("torch")
    case = problem.case
    loss = torch_loss(case.loss, case.arrays.targets == "index", None)
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, dynamic=False)
    return by_autograd(
        loss, device.to_torch(problem.logits), device.to_torch(problem.targets), device
    )


def prepare_compiled(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """The same through torch.compile."""
    return prepare_torch(problem, device, compiled=True)


def prepare_liger(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """It writes its gradient over the logits, so it has a fresh copy of them before each run."""
    torch: Any = importlib.import_module("torch")
    liger: Any = importlib.import_module("liger_kernel.transformers.functional")
    z, t = device.to_torch(problem.logits), device.to_torch(problem.targets)
    work = torch.empty_like(z)
    return by_autograd(liger.liger_cross_entropy, work, t, device, lambda: work.copy_(z))


def prepare_quack(problem: Problem, device: Any) -> Callable[[Question], Entry]:
    """Its loss is float32 whatever the logits are."""
    torch: Any = importlib.import_module("torch")
    quack: Any = importlib.import_module("quack.cross_entropy")
    z, t = device.to_torch(problem.logits), device.to_torch(problem.targets)

    def loss(z: Any, t: Any) -> Any:
        return quack.cross_entropy(z, t, reduction="mean")

    return by_autograd(loss, z, t, device, dtype=torch.float32)


def rows_only(case: Case) -> str | None:
    """Cross-entropy of rows in C order is all there is."""
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
    """Array expressions in float32, as one writes them in NumPy."""
    z, t, loss, axis = problem.logits, problem.targets, problem.case.loss, problem.axis

    def entry(case: Question) -> Entry:
        scale = case.upstream if case.loss.grad else None

        def call() -> Any:
            if loss.activation == "softmax":
                return plain_softmax(device.xp, z, t, axis, scale)
            return plain_sigmoid(device.xp, z, t, loss, scale)

        return Entry(call, lambda got: (float(got[0]), got[1]))

    return entry


def eager_memory(case: Case) -> float:
    """Input, gradient, and what autograd keeps between them."""
    return 12.0 if case.loss.gamma else 6.0


def plain_memory(case: Case) -> float:
    """Five arrays of float32 and the gradient."""
    return 1 + 5 * 4 * prod(case.arrays.shape) / case.arrays.logits_bytes


RIVALS: tuple[Rival, ...] = (
    Rival("torch", "torch", prepare_torch, memory=eager_memory),
    Rival("torch.compile", "torch", prepare_compiled, memory=eager_memory, compiles=True),
    Rival("Liger-Kernel", "liger_kernel", prepare_liger, rows_only),
    Rival("CuPy", "cupy", prepare_cupy, memory=plain_memory),
    Rival("quack", "quack", prepare_quack, rows_only),
)


def chosen(patterns: list[str]) -> list[Rival]:
    """The rivals whose names are picked; without patterns all, none for "none"."""
    if patterns == ["none"]:
        return []
    names = selected([r.name for r in RIVALS], patterns or ["*"], "rival")
    return [r for r in RIVALS if r.name in names]
