"""The cases that are measured on a GPU, as data: arrays, what is computed of them, and the bars.

Three questions about the same arrays: loss and gradient, both with an upstream gradient other than
1 whose value is in the device's memory, and the loss alone.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from benchmarks import cases
from benchmarks.cases import DTYPES, QUICK, USUAL, Arrays, Case, Loss

GRADIENT, UPSTREAM, ALONE = "gradient", "upstream", "loss"
MODES = {
    GRADIENT: "Mean loss and gradient",
    UPSTREAM: "Mean loss and gradient, upstream gradient 1024",
    ALONE: "Mean loss alone",
}
SCALE = 1024.0  # a loss scale of mixed precision, exact in every dtype
ON_CHIP = 232_448  # bytes of shared memory that one block may have on Hopper
FOCAL, BCE = Loss("sigmoid", gamma=2.0, alpha=0.25), Loss("sigmoid")
WIDE = 8192, 128_256


@dataclass(frozen=True)
class Question(Case):
    """One row of the table."""

    own: bool = False  # a shape of the command line, which has no bars

    @property
    def problem(self) -> tuple[Arrays, Loss]:
        """The arrays and the loss; the same for questions about the same arrays."""
        return self.arrays, replace(self.loss, grad=True)

    @property
    def wide(self) -> bool:
        """Whether a row does not fit the shared memory of one block."""
        row = self.arrays.shape[self.arrays.axis] * np.dtype(DTYPES[self.arrays.dtype]).itemsize
        return self.loss.activation == "softmax" and row > ON_CHIP


def bars(case: Question) -> dict[str, float]:
    """The least share of the copy's bandwidth, and the least ratio of each rival's time to ours."""
    if case.own or case.alone:
        return {}
    found = {"torch": 1.0}
    if case.group == ALONE:
        return found
    if case.loss.activation == "softmax":
        found["copy"] = 0.75 if case.wide else 0.90
    elif case.loss.gamma:
        found["copy"] = 0.85
    if case.group == GRADIENT and case.arrays == Arrays(WIDE, dtype="bfloat16"):
        found |= {"Liger-Kernel": 1.3, "torch.compile": 1.4}
    return found


def _questions(
    name: str, title: str, arrays: Arrays, loss: Loss, reads: int = 1, own: bool = False
) -> list[Question]:
    """The three questions about the same arrays; ``name`` and ``title`` lack the dtype."""
    asked: list[tuple[str, dict[str, Any]]] = [
        (GRADIENT, {"loss": loss}),
        (UPSTREAM, {"loss": loss, "upstream": SCALE}),
        (ALONE, {"loss": replace(loss, grad=False), "writes": 0}),
    ]
    found = []
    for mode, more in asked:
        level = QUICK if mode == GRADIENT and arrays.dtype == "bfloat16" else USUAL
        found.append(
            Question(f"{name}-{arrays.dtype}-{mode}", f"{title} {arrays.dtype}", arrays,
                     reads=reads, group=mode, level=level, own=own, **more)
        )  # fmt: skip
    return found


def _all(dtype: str) -> list[Question]:
    """Every question about arrays of one dtype."""
    found = []
    for shape in (WIDE, (16_384, 32_000), (4096, 4096), (65_536, 1000), (1_000_000, 80)):
        title = f"{shape[0]:,} × {shape[1]:,}"
        found += _questions(f"{shape[0]}x{shape[1]}", title, Arrays(shape, dtype=dtype), Loss())
    images = Arrays((8, 21, 1024, 1024), dtype=dtype, axis=1)
    found += _questions("images", "8×21×1024×1024", images, Loss())
    dense = Arrays((100_000_000,), dtype, dtype)
    found += _questions("focal", "sigmoid focal 100 M", dense, FOCAL, 2)
    return found + _questions("bce", "sigmoid BCE 100 M", dense, BCE, 2)


def _listed() -> list[Question]:
    """Questions about the listed losses that no other question is about."""
    found = []
    for name, (loss, targets) in cases.LISTED.items():
        shape = (65_536, 1000) if targets == "index" else (100_000_000,)
        title = name.replace("_", " ")[:20]
        found += _questions(name.replace("_", "-"), title, Arrays(shape, targets), loss)
    return found


CASES = (
    *(case for dtype in ("bfloat16", "float32", "float16") for case in _all(dtype)),
    *_listed(),
)


def own(shapes: list[tuple[int, ...]], dtypes: list[str], losses: list[str]) -> list[Question]:
    """Every loss on every shape in every dtype; labels of elements have the dtype of the logits."""
    found = []
    for shape, dtype, loss in product(shapes, dtypes, losses):
        arrays = cases.arrays_of(shape, dtype, loss)
        if arrays.targets != "index":
            arrays = replace(arrays, targets=dtype)
        found += _questions(*cases.words(shape, loss), arrays, cases.LOSSES[loss][0], 2, own=True)
    return found


def divided(case: Question, by: int) -> Question:
    """The same with fewer rows; shapes of the command line stay as they are."""
    if case.own:
        return case
    return replace(case, arrays=case.arrays.divided(by))


def by_problem(wanted: list[Question]) -> list[list[Question]]:
    """The cases in groups that share their arrays."""
    found: dict[tuple[Arrays, Loss], list[Question]] = {}
    for case in wanted:
        found.setdefault(case.problem, []).append(case)
    return list(found.values())
