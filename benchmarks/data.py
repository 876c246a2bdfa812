"""The arrays of a case, made once and shared by all calls that are timed on it.

Their rows repeat after a block of a million logits, which is far longer than the history of any
branch predictor and larger than L2. So loss and gradient follow from those of one block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import DTYPES, Arrays, Case

Array = NDArray[Any]
BLOCK = 1 << 20
POSITIVES = 0.05  # of dense labels
BACKGROUND = 0.9  # of the anchors of a detector


@dataclass(frozen=True)
class Problem:
    """A case with its arrays; ``grad`` is a buffer whose pages are in memory."""

    case: Case
    logits: Array
    targets: Array
    weight: Array  # (C,)
    grad: Array
    block: tuple[Array, Array]  # the rows that repeat, class axis last

    @property
    def axis(self) -> int:
        """The class axis of the logits."""
        return self.case.arrays.axis

    @cached_property
    def rows(self) -> int:
        """Entries of the outermost axis of ``logits``, the class axis not counted."""
        return int(last(self.logits, self.axis).shape[0])

    def fused(self, grad_out: Array | None) -> Any:
        """Call fusedce; without ``grad_out`` into new memory."""
        more = {} if grad_out is None else {"grad_out": grad_out}
        return self.case.loss(self.logits, self.targets, self.weight, self.axis, **more)


def last(a: Array, axis: int) -> Array:
    """A view with the class axis last."""
    return np.moveaxis(a, axis, -1)


def allocate(shape: tuple[int, ...], dtype: Any, layout: str) -> Array:
    """An array of zeros, with every page in memory."""
    if layout == "every other column":
        a = np.empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
    elif layout == "every other row":
        a = np.empty((2 * shape[0], *shape[1:]), dtype)[::2]
    else:
        a = np.empty(shape, dtype, order="F" if layout == "F" else "C")
    a[...] = 0
    return a


def draw(case: Case, rows: tuple[int, ...], rng: np.random.Generator) -> tuple[Array, Array]:
    """One block: logits of standard deviation 3 (rows, C), and targets."""
    arrays = case.arrays
    shape = rows if len(arrays.shape) == 1 else (*rows, arrays.shape[arrays.axis])
    drawn: Array = np.asarray(rng.standard_normal(shape, np.float32))
    drawn *= 3
    logits = drawn.astype(DTYPES[arrays.dtype])
    if arrays.targets == "index":
        classes = shape[-1]
        targets = rng.integers(0, classes, rows)
        if case.loss.activation == "sigmoid":  # an index beyond the classes means background
            targets[rng.random(rows) < BACKGROUND] = classes
        return logits, targets
    if arrays.targets == "distribution":
        mass = rng.random(shape, np.float32)
        return logits, mass / mass.sum(axis=-1, keepdims=True)
    return logits, (rng.random(shape, np.float32) < POSITIVES).astype(DTYPES[arrays.targets])


def repeat(block: Array, out: Array) -> Array:
    """Fill ``out`` with copies of a block of its rows, the last one shortened."""
    for start in range(0, len(out), len(block)):
        part = out[start : start + len(block)]
        part[...] = block[: len(part)]
    return out


def filled(block: Array, shape: tuple[int, ...], axis: int, layout: str) -> Array:
    """An array of a shape that repeats the rows (class axis last) of a block."""
    found = allocate(shape, block.dtype, layout)
    repeat(block, last(found, axis))
    return found


def make(case: Case, fill: Callable[..., Any] = filled) -> Problem:
    """The arrays of a case, the same in each run."""
    arrays, rng = case.arrays, np.random.default_rng(0)
    shape, axis, layout = arrays.shape, arrays.axis % len(arrays.shape), arrays.layout
    rows = (*shape[:axis], *shape[axis + 1 :], shape[axis])  # class axis last
    length = min(rows[0], max(1, BLOCK // prod(rows[1:])))
    block = draw(case, (length, *rows[1:-1]), rng)
    logits = fill(block[0], shape, axis, layout)
    if arrays.targets == "index":
        targets = fill(block[1], rows[:-1], -1, "C")
    else:
        targets = fill(block[1], shape, axis, layout)
    weight = rng.uniform(0.5, 1.5, rows[-1]).astype(np.float32)
    chosen = "F" if layout == "F" else "C"  # the layout that fusedce chooses for a gradient
    grad = fill(np.zeros_like(block[0]), shape, axis, chosen)
    return Problem(case, logits, targets, weight, grad, block)


def other(problem: Problem) -> Problem | None:
    """The problem of the other call in the case's bar; the same if only the threads differ."""
    bar = problem.case.bar
    if bar is None or bar.of == "copy":
        return None
    arrays: Arrays = problem.case.arrays.other(bar.of)
    if arrays == problem.case.arrays:
        return problem
    return make(replace(problem.case, arrays=arrays))
