"""The calls of the smoke test: every kernel family at small and large sizes, in every dtype."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import fusedce

NONE: Mapping[str, Any] = MappingProxyType({})
DTYPES = ("bfloat16", "float32", "float16", "float64")


class Size(NamedTuple):
    """A block of rows, which the oracle computes once; the arrays repeat it ``times`` times."""

    block: tuple[int, ...]
    times: int = 1


# Classes of a row that one lane, a group of lanes, a warp or a block keeps in registers
SHORT = (Size((64, 4)), Size((64, 80)), Size((64, 80), 2048), Size((33, 1000)),
         Size((16, 1000), 1024), Size((5, 1023)))  # fmt: skip
# ... that are kept in shared memory
LONG = Size((8, 4096), 128), Size((4, 9001)), Size((3, 32_000), 64), Size((2, 58_113))
# ... that a cluster of blocks shares
WIDE = Size((2, 70_001)), Size((3, 128_256), 40), Size((2, 130_003))
# ... and that are read twice
TWICE = (Size((2, 1_000_003), 2),)
# The class axis before other axes
PLANES = (Size((1, 21, 4096)), Size((1, 21, 4096), 64), Size((2, 80, 333)), Size((2, 300, 40), 8),
          Size((3, 5, 7)))  # fmt: skip
FLAT = Size((1000,)), Size((4096,), 4096)
GRID = Size((33, 100)), Size((64, 1000), 256)
# More labels than one block reads
MANY = Size((33, 4)), Size((512, 4), 2048)


class Family(NamedTuple):
    """Calls that differ only in dtype and size."""

    function: str
    activation: str | None
    targets: str  # a form that tests.core.test_losses.make knows; "": an activation takes none
    sizes: tuple[Size, ...]
    axis: int = 1
    numbers: Mapping[str, float] = NONE  # the loss's own
    options: Mapping[str, Any] = NONE  # weight True: one for each class


CE, FOCAL = "cross_entropy", {"gamma": 2.0, "alpha": 0.25}
FAMILIES = {
    "index rows": Family(CE, "softmax", "index", SHORT),
    "index rows, long": Family(CE, "softmax", "index", LONG),
    "index rows, cluster": Family(CE, "softmax", "index", WIDE),
    "index rows, read twice": Family(CE, "softmax", "index", TWICE),
    "index rows, focal": Family("focal", "softmax", "index", SHORT[1:] + LONG[:2],
                                numbers={"gamma": 2.0}),
    "index rows, options": Family(CE, "softmax", "index", (SHORT[1], LONG[2], WIDE[0]),
                                  options={"softcap": 30.0, "z_loss": 1e-3}),
    "distribution rows": Family(CE, "softmax", "soft", SHORT + LONG + WIDE[:1]),
    "index columns": Family(CE, "softmax", "index", PLANES),
    "distribution columns": Family(CE, "softmax", "soft", PLANES),
    "elements, flat": Family("focal", "sigmoid", "soft", FLAT, 0, FOCAL),
    "elements, flat, labels": Family("focal", "sigmoid", "int", FLAT, 0, FOCAL),
    "elements, index": Family("focal", "sigmoid", "index", GRID, numbers=FOCAL),
    "elements, weighted": Family(CE, "sigmoid", "int", GRID, options={"weight": True}),
    "probabilities": Family(CE, None, "index", GRID),
    "probabilities, labels": Family(CE, None, "int", GRID),
    "label pass: labels": Family(CE, "softmax", "index", GRID,
                               options={"ignore_index": 0, "weight": True}),
    "label pass: many labels": Family(CE, "softmax", "index", MANY, options={"ignore_index": 0}),
    "label pass: numbers": Family("focal", "sigmoid", "soft", GRID, numbers=FOCAL,
                                options={"ignore_index": -7}),
    "label pass: distributions": Family(CE, "softmax", "soft", MANY,
                                      options={"normalize_targets": True}),
    "softmax": Family("softmax", None, "", SHORT[1:4] + LONG[2:3] + WIDE[:1]),
    "softmax, columns": Family("softmax", None, "", PLANES),
    "log_softmax": Family("log_softmax", None, "", SHORT[1:4] + LONG[2:3] + WIDE[:1]),
    "sigmoid": Family("sigmoid", None, "", GRID),
    "log_sigmoid": Family("log_sigmoid", None, "", GRID),
}  # fmt: skip


class Case(NamedTuple):
    """One call of a family."""

    name: str
    dtype: str
    size: Size

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the logits."""
        first, *rest = self.size.block
        return first * self.size.times, *rest

    @property
    def reduction(self) -> str:
        """A mean if its divisor depends on the labels, else a sum."""
        label_pass = {"ignore_index", "normalize_targets"} & set(self.family.options)
        return "mean" if label_pass else "sum"

    def options(self, weight: Any) -> dict[str, Any]:
        """Everything but the arrays; the weights come from the caller."""
        family = self.family
        own = {**family.options, **({"weight": weight} if "weight" in family.options else {})}
        call = {"activation": family.activation, "axis": family.axis, "reduction": self.reduction}
        return {**call, **family.numbers, **own}

    def call(self, logits: Any, targets: Any = None, weight: Any = None, among: Any = fusedce):
        """The results of the function of this family in ``among``, fusedce or a stand-in for it."""
        function = getattr(among, self.family.function)
        if not self.family.targets:
            by_axis = self.family.function.endswith("softmax")
            return function(logits, axis=self.family.axis) if by_axis else function(logits)
        return function(logits, targets, **self.options(weight))

    def __str__(self) -> str:
        return f"{self.name}, {self.dtype}, {self.size.block} x {self.size.times}"


def cases(name: str) -> list[Case]:
    """Every call of a family."""
    return [Case(name, dtype, size) for dtype in DTYPES for size in FAMILIES[name].sizes]
