"""The time of a training step of the digits' network, and the part of the loss in it."""

import time
from typing import Any

import numpy as np

import fusedce
from benchmarks.data import Array
from benchmarks.digits_training import Floats, Loss, Network
from benchmarks.measure import NUMPY, OURS, Contender, Effort, take_turns
from benchmarks.results import Record
from benchmarks.screen import Tell

STEPS = (32, 10), (256, 1000)  # batch, classes: those of the digits, and more
ROUNDS = 25


def numpy_cross_entropy(logits: Floats, labels: Array, grad_out: Any = None) -> tuple[float, Any]:
    """The loss and its gradient as one writes them in NumPy, without overflow."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(sums[:, 0]) - shifted[rows, labels])
    grad = np.divide(powers, sums, out=grad_out)
    grad[rows, labels] -= 1
    grad /= len(labels)
    return float(loss), grad


LOSSES: dict[str, Loss] = {NUMPY: numpy_cross_entropy, OURS: fusedce.cross_entropy}


class Step:
    """A training step with random inputs, always the same; it notes its times at each call."""

    def __init__(self, loss: Loss, batch: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        self.loss, self.net = loss, Network(rng, classes)
        self.x = rng.random((batch, 64), dtype=np.float32)
        self.labels = rng.integers(0, classes, batch)
        self.times: list[tuple[float, float]] = []  # seconds: the loss, the rest

    def __call__(self) -> None:
        """Run the step."""
        start = time.perf_counter()
        hidden, logits = self.net.forward(self.x)
        before = time.perf_counter()
        _, grad = self.loss(logits, self.labels, grad_out=logits)
        after = time.perf_counter()
        self.net.update(self.net.backward(self.x, hidden, grad))
        loss = after - before
        self.times.append((loss, time.perf_counter() - start - loss))


def agree(batch: int, classes: int) -> None:
    """Raise unless both losses have the same value and gradient."""
    logits = np.random.default_rng(0).normal(size=(batch, classes)).astype(np.float32)
    labels = np.arange(batch) % classes
    one, other = (loss(logits, labels) for loss in LOSSES.values())
    if not (np.isclose(one[0], other[0], rtol=1e-5) and np.allclose(one[1], other[1], 1e-4, 1e-7)):
        raise SystemExit("NumPy and fusedce do not agree")


def measure_steps(tell: Tell, rounds: int = ROUNDS) -> list[Record]:
    """Median milliseconds of the loss and of the rest, from rounds in turns."""
    records = []
    for batch, classes in STEPS:
        agree(batch, classes)
        steps = {name: Step(loss, batch, classes) for name, loss in LOSSES.items()}
        contenders = [Contender(name, step).enter() for name, step in steps.items()]
        take_turns(contenders, Effort(rounds=rounds, least=rounds))
        ms = {}
        for name, step in steps.items():
            loss, rest = 1e3 * np.median(step.times[2:], axis=0)  # the first two are a warm-up
            ms[name] = {"loss": float(f"{loss:.3g}"), "rest": float(f"{rest:.3g}")}
        tell(", ".join(f"{name} {found['loss']} ms" for name, found in ms.items()))
        records.append({"batch": batch, "classes": classes, "ms": ms})
    return records
