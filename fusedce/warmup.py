"""Compile the common kernels ahead of their first use: ``python -m fusedce warmup``.

Tiny calls of the public functions do it; what is on disk already is only loaded.
"""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fusedce
from fusedce.arrays import BFLOAT16

# The activations each function is used with; those at the end take none.
LOSSES: dict[str, tuple[str | None, ...]] = {
    "cross_entropy": ("softmax", "sigmoid", None),
    "binary_cross_entropy": ("sigmoid",),
    "focal": ("sigmoid", "softmax"),
    "poly1": ("softmax",),
    "generalized_cross_entropy": ("softmax",),
    "asymmetric": ("sigmoid",),
    "softmax": (),
    "log_softmax": (),
    "sigmoid": (),
    "log_sigmoid": (),
}
DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": BFLOAT16,
}

# Rows in the lanes and rows one after the other, each in one thread and spread over several.
SHAPES = ((8, 4), (1 << 16, 4), (8, 1000), (256, 1000))
INDICES = (np.int64, np.int32, np.uint8)
LABELS = (np.float32, np.float64, bool, np.uint8, np.int32, np.int64)


class Step(NamedTuple):
    """One function, activation and dtype: some calls."""

    loss: str
    activation: str | None
    dtype: str

    def __str__(self) -> str:
        options = f" {self.activation or 'of probabilities'}" if LOSSES[self.loss] else ""
        return f"{self.loss}{options} {self.dtype}"

    def run(self) -> None:
        """Call the function with every usual shape and target."""
        function = getattr(fusedce, self.loss)
        for shape in SHAPES:
            logits = np.full(shape, 0.5, DTYPES[self.dtype])
            if not LOSSES[self.loss]:
                function(logits)
                continue
            for targets in self._targets(logits):
                function(logits, targets, activation=self.activation)
            if self.activation == "softmax":  # the kernel of all options
                indices = np.zeros(len(logits), np.int64)
                function(logits, indices, activation="softmax", logit_scale=0.5)

    def _targets(self, logits: np.ndarray) -> Iterator[np.ndarray]:
        for dtype in INDICES:
            yield np.zeros(len(logits), dtype)
        labels = (logits.dtype,) if self.activation == "softmax" else (*LABELS, logits.dtype)
        for label in labels:
            yield np.ones(logits.shape, label)


def steps(loss: str | None = None, dtype: str | None = None) -> list[Step]:
    """What there is to do, for one function or dtype or for all."""
    losses = LOSSES if loss is None else (loss,)
    dtypes = DTYPES if dtype is None else (dtype,)
    return [
        Step(name, activation, d)
        for name, d in itertools.product(losses, dtypes)
        for activation in LOSSES[name] or (None,)
    ]


def _shown(todo: list[Step]) -> Iterator[Step]:
    """The steps, with a progress bar where rich is installed, else with a line each."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
    except ImportError:
        for k, step in enumerate(todo, 1):
            print(f"{k}/{len(todo)} {step}", flush=True)
            yield step
        return
    columns = ("{task.description:40}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=len(todo))
        for step in todo:
            bar.update(task, description=str(step))
            yield step
            bar.advance(task)


def writable(folder: str) -> bool:
    """Whether compiled code can be kept there."""
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def summary(made: Iterable[tuple[Any, ...]], seconds: float, folder: str) -> str:
    """One line: kernels, seconds, place."""
    loaded = [from_disk for _, _, from_disk in made]
    fresh = loaded.count(False)
    return (
        f"{len(loaded)} kernels ({fresh} compiled, {len(loaded) - fresh} already there) "
        f"in {seconds:.0f} s: {folder}"
    )


def main(loss: str | None = None, dtype: str | None = None) -> int:
    """Warm up; the exit status."""
    from fusedce.kernels.cpu.compile import COMPILED, cache_folder

    folder = cache_folder()
    if not writable(folder):
        print(
            f"python -m fusedce warmup: nothing can be kept, since {folder} cannot be written; "
            "set NUMBA_CACHE_DIR to a folder that can",
            file=sys.stderr,
        )
        return 1
    start = time.perf_counter()
    try:
        for step in _shown(steps(loss, dtype)):
            step.run()
    except KeyboardInterrupt:
        print("interrupted; what was compiled so far is kept", file=sys.stderr)
        return 130
    print(summary(COMPILED, time.perf_counter() - start, folder))
    return 0
