"""Compile the common kernels ahead of their first use: ``python -m fusedce warmup``.

The public functions are called with small arrays. Kernels that are on disk already are loaded.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import fusedce
from fusedce.arrays import BFLOAT16
from fusedce.kernels.cache import cache_folder, no_place
from fusedce.losses import LOSSES as DECLARED
from fusedce.tools import warmup_cuda

# The activations that each function is mostly used with; functions that are activations take none.
LOSSES: dict[str, tuple[str | None, ...]] = {
    **{name: loss.activations for name, loss in DECLARED.items()},
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

# Few classes (one row in each vector lane) and many (rows one after the other); each shape once for
# one thread and once for several.
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

    def run(
        self, array: Callable[..., Any] = np.full, shapes: Sequence[tuple[int, int]] = SHAPES
    ) -> None:
        """Call the function with every usual shape and target."""
        function = getattr(fusedce, self.loss)
        for shape in shapes:
            logits = array(shape, dtype=DTYPES[self.dtype], fill_value=0.5)
            if not LOSSES[self.loss]:
                function(logits)
                continue
            for targets in self._targets(array, shape):
                function(logits, targets, activation=self.activation)
            if self.activation == "softmax":  # the kernel of all options
                indices = array(shape[:1], dtype=np.int64, fill_value=0)
                function(logits, indices, activation="softmax", logit_scale=0.5)

    def _targets(self, array: Callable[..., Any], shape: tuple[int, int]) -> Iterator[Any]:
        for dtype in INDICES:
            yield array(shape[:1], dtype=dtype, fill_value=0)
        own = DTYPES[self.dtype]
        for label in (own,) if self.activation == "softmax" else (*LABELS, own):
            yield array(shape, dtype=label, fill_value=1)


def steps(loss: str | None = None, dtype: str | None = None) -> list[Step]:
    """The steps for one function or dtype, or for all."""
    losses = LOSSES if loss is None else (loss,)
    dtypes = DTYPES if dtype is None else (dtype,)
    return [
        Step(name, activation, d)
        for name, d in itertools.product(losses, dtypes)
        for activation in LOSSES[name] or (None,)
    ]


def _shown(todo: list[Step]) -> Iterator[Step]:
    """Yield the steps; show a progress bar on a terminal if rich is installed, else a line each."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
    except ImportError:
        bars = False
    else:
        bars = sys.stdout.isatty()
    if not bars:
        for k, step in enumerate(todo, 1):
            print(f"{k}/{len(todo)} {step}", flush=True)
            yield step
        return
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), "{task.description}")
    with Progress(*columns) as bar:
        task = bar.add_task("", total=len(todo))
        for step in todo:
            bar.update(task, description=str(step))
            yield step
            bar.advance(task)


def summary(loaded: Sequence[bool], seconds: float, folder: str) -> str:
    """One line: the number of kernels, how many were on disk before, seconds, the folder."""
    fresh = loaded.count(False)
    return (
        f"{len(loaded)} kernels ({fresh} compiled, {len(loaded) - fresh} already there) "
        f"in {seconds:.0f} s: {folder}"
    )


def _run(todo: list[Step], architecture: str | None) -> list[bool]:
    """Run the steps; for each kernel whether it was on disk before."""
    from fusedce.kernels.cpu.compile import COMPILED

    if architecture is not None:
        return warmup_cuda.run(_shown(todo), architecture)
    for step in _shown(todo):
        step.run()
    return [from_disk for _, _, from_disk in COMPILED]


def main(loss: str | None = None, dtype: str | None = None, architecture: str | None = None) -> int:
    """Warm up, for this CPU or for a GPU's architecture; the exit status."""
    if (why := no_place()) is not None:
        return _failed(f"nothing can be kept, since {why}")
    start = time.perf_counter()
    try:
        loaded = _run(steps(loss, dtype), architecture)
    except KeyboardInterrupt:
        print("interrupted; what was compiled so far is kept", file=sys.stderr)
        return 130
    except (ImportError, RuntimeError) as error:
        if architecture is None:
            raise
        return _failed(str(error))
    print(summary(loaded, time.perf_counter() - start, str(cache_folder())))
    return 0


def _failed(why: str) -> int:
    print(f"python -m fusedce warmup: {why}", file=sys.stderr)
    return 1
