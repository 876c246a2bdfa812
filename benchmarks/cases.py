"""The cases that are measured, as data: a loss, its arrays, and the bars for its time.

A bar is a limit for a ratio of times taken in the same run: to a loop that moves the same bytes and
does nothing else, to another call of fusedce, or to the fastest rival.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import product
from math import prod
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

import fusedce
from fusedce import losses as listed

Item = TypeVar("Item", bound=Any)  # with a name
AnyCase = TypeVar("AnyCase", bound="Case")
DTYPES: dict[str, Any] = {
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32,
    "float64": np.float64, "uint8": np.uint8, "bool": np.bool_, "index": np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """The mean of a loss, with the gradient by every logit unless ``grad`` is False.

    ``gamma`` 0 is cross-entropy, any other value focal loss, unless ``function`` names another
    listed loss, with ``own`` options.
    """

    activation: str = "softmax"
    gamma: float = 0.0
    alpha: float | None = None
    smoothing: float = 0.0
    weighted: bool = False  # one weight for each class
    grad: bool = True
    function: str | None = None
    own: tuple[tuple[str, Any], ...] = ()

    def __call__(self, logits: Any, targets: Any, weight: Any, axis: int, **more: Any) -> Any:
        """Call fusedce."""
        options: dict[str, Any] = {
            "activation": self.activation,
            "axis": axis,
            "return_grad": self.grad,
        }
        options |= more
        if self.weighted:
            options["weight"] = weight
        if self.smoothing:
            options["label_smoothing"] = self.smoothing
        if self.function is not None:
            return getattr(fusedce, self.function)(logits, targets, **dict(self.own), **options)
        if self.gamma:
            return fusedce.focal(logits, targets, gamma=self.gamma, alpha=self.alpha, **options)
        return fusedce.cross_entropy(logits, targets, **options)


@dataclass(frozen=True)
class Arrays:
    """The logits and the targets.

    ``targets`` is "index" (int64, one for each row), "distribution" (float32, each row sums to 1),
    or the dtype of one label for each logit, of which 5% are 1.
    """

    shape: tuple[int, ...]
    targets: str = "index"
    dtype: str = "float32"
    axis: int = -1
    layout: str = "C"  # or "F", "every other column", "every other row"

    @property
    def logits_bytes(self) -> int:
        """The bytes of the logits, and of their gradient."""
        return prod(self.shape) * int(np.dtype(DTYPES[self.dtype]).itemsize)

    @property
    def targets_bytes(self) -> int:
        """The bytes of the targets."""
        count = prod(self.shape)
        if self.targets == "index":
            count //= self.shape[self.axis]
        return count * int(np.dtype(DTYPES.get(self.targets, np.float32)).itemsize)

    def other(self, of: str) -> "Arrays":
        """The arrays of the call that a bar other than "copy" refers to."""
        if of == "C order":
            shape = list(self.shape)
            shape.append(shape.pop(self.axis))
            return replace(self, shape=tuple(shape), axis=-1, layout="C")
        return replace(self, dtype="float32") if of == "float32" else self

    def divided(self, by: int) -> "Arrays":
        """The same classes with fewer rows, at least one on each axis."""
        shape = list(self.shape)
        for k in range(len(shape)):
            if k != self.axis % len(shape) or len(shape) == 1:
                kept = max(1, shape[k] // by)
                by, shape[k] = max(1, by * kept // shape[k]), kept
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True)
class Bar:
    """The time may be at most ``limit`` times that of a copy, or of another call of fusedce.

    ``of`` is "copy" (a loop that moves the same bytes), or what differs in the other call on the
    same numbers: "float32", "C order" or "1 thread".
    """

    limit: float
    of: str = "copy"


QUICK, USUAL, ALL = range(3)
OWN = "own"  # the group of the cases of --shape


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    title: str
    arrays: Arrays
    loss: Loss = Loss()
    bar: Bar | None = None
    reads: int = 1  # arrays that the copying loop reads: 1 the logits, 2 the targets too
    writes: int = 1
    faster: float | None = None  # at least so many times faster than the fastest rival
    group: str = "size"
    level: int = ALL  # the smallest selection it is part of
    upstream: float = 1.0  # the upstream gradient of the loss
    bars: dict[str, float] = field(default_factory=dict, hash=False)  # by rival: its time to ours

    @property
    def bytes_read(self) -> int:
        """Bytes that must be read from memory: logits and targets, once."""
        return self.arrays.logits_bytes + self.arrays.targets_bytes

    @property
    def bytes_written(self) -> int:
        """Bytes that must be written to memory: the gradient, once."""
        return self.arrays.logits_bytes if self.loss.grad else 0

    @property
    def curve(self) -> bool:
        """Whether it is one point of a curve."""
        return self.group in ("classes", "rows")

    @property
    def small(self) -> bool:
        """Whether starting a second thread would take longer than the computation."""
        return prod(self.arrays.shape) <= 1 << 18

    @property
    def alone(self) -> bool:
        """Whether it compares fusedce with itself only."""
        return self.group in ("layout", "threads") or self.loss.function is not None

    def divided(self, by: int) -> "Case":
        """The same with fewer rows; small cases and shapes of the command line stay as they are."""
        whole = self.small or self.group == OWN
        return self if whole else replace(self, arrays=self.arrays.divided(by))


IMAGENET = 65_536, 1000
DENSE = (64 << 20,)  # 64 M labels
CE, BCE = Loss(), Loss("sigmoid")
FOCAL, SOFT_FOCAL = Loss("sigmoid", gamma=2.0), Loss("softmax", gamma=2.0)


def _softmax(rows: int, classes: int, bar: Bar, reads: int, faster: float, **more: Any) -> Case:
    name, title = f"softmax-{rows}x{classes}", f"softmax {rows:,} × {classes:,}"
    arrays = Arrays((rows, classes))
    return Case(name, title, arrays, CE, bar, reads, faster=faster, **more)


def _dense(name: str, title: str, loss: Loss, targets: str, limit: float, **more: Any) -> Case:
    return Case(name, title, Arrays(DENSE, targets), loss, Bar(limit), 2, **more)


def _imagenet(name: str, title: str, bar: Bar, loss: Loss = CE, **more: Any) -> Case:
    return Case(name, title, Arrays(IMAGENET), loss, bar, **more)


def _dtype(dtype: str, limit: float, **more: Any) -> Case:
    arrays = Arrays(IMAGENET, dtype=dtype)
    title = f"{dtype} 65,536 × 1,000"
    return Case(dtype, title, arrays, CE, Bar(limit, "float32"), group="dtype", **more)


def _layout(name: str, title: str, arrays: Arrays, **more: Any) -> Case:
    return Case(name, title, arrays, CE, Bar(2.0, "C order"), group="layout", **more)


def _small(rows: int, classes: int) -> Case:
    arrays = Arrays((rows, classes))
    name, title = f"small-{rows}x{classes}", f"softmax {rows} × {classes:,}"
    return Case(name, title, arrays, CE, faster=1.0, group="small", level=QUICK)


def _classes(classes: int) -> Case:
    """A point of a curve: the same number of logits in rows of any length."""
    arrays = Arrays((16_000_000 // classes, classes))
    name, title = f"classes-{classes}", f"16 M in {classes:,} classes"
    return Case(name, title, arrays, reads=2, group="classes", level=USUAL)


def _rows(rows: int) -> Case:
    """A point of a curve: any number of rows of the same length."""
    name, title = f"rows-{rows}", f"{rows:,} × 1,000"
    return Case(name, title, Arrays((rows, 1000)), reads=2, group="rows", level=USUAL)


def _listed() -> dict[str, tuple[Loss, str]]:
    """(loss, kind of targets) of each listed loss that has no case of its own below."""
    found = {}
    for name, loss in listed.LOSSES.items():
        if name not in ("cross_entropy", "binary_cross_entropy", "focal"):
            activation = loss.activations[0]
            own = tuple(loss.options[0].items())
            targets = "index" if activation == "softmax" else "float32"
            found[name] = Loss(str(activation), function=name, own=own), targets
    return found


def _of_list(name: str, loss: Loss, targets: str) -> Case:
    arrays = Arrays(IMAGENET) if targets == "index" else Arrays(DENSE, targets)
    words, reads = name.split("_"), 1 if targets == "index" else 2
    return Case("-".join(words), " ".join(words)[:28], arrays, loss, reads=reads, group="losses")


LISTED = _listed()
TWO = Bar(2.0)
MIXED = Bar(1.3)
THREADS = Bar(1 / 1.7, "1 thread")
SEGMENTS = Arrays((8, 21, 512, 512), axis=1)
ANCHORS = Loss("sigmoid", gamma=2.0, alpha=0.25)

CASES: tuple[Case, ...] = (
    _softmax(4096, 32_000, Bar(1.25), 1, 5, level=QUICK),  # a language model's vocabulary
    _softmax(1024, 128_256, Bar(1.25), 1, 5),  # a row is half of a 1 MB L2
    _softmax(65_536, 1000, Bar(1.25), 1, 5, level=QUICK),  # ImageNet: a row fits L1
    _softmax(200_000, 80, Bar(1.25), 1, 5, level=QUICK),  # COCO: a row is five cache lines
    _softmax(2_000_000, 10, TWO, 2, 5, level=QUICK),  # digits: a row is shorter than a vector
    _softmax(8_000_000, 2, TWO, 2, 1),
    _softmax(4_000_000, 3, TWO, 2, 1),
    _softmax(1_000_000, 21, TWO, 2, 1),
    Case("segmentation", "8 × 21 × 512 × 512, axis=1", SEGMENTS, CE, Bar(1.6), faster=1,
         level=USUAL),
    Case(
        "distribution", "soft labels 65,536 × 1,000", Arrays(IMAGENET, "distribution"), CE,
        MIXED, 2, faster=1, level=USUAL,
    ),
    _imagenet("smoothing", "smoothing 65,536 × 1,000", MIXED, loss=Loss(smoothing=0.1)),
    _imagenet("weights", "weights 65,536 × 1,000", MIXED, loss=Loss(weighted=True)),
    _dense("sigmoid-bce", "sigmoid BCE 64 M", BCE, "float32", 1.2, faster=1),
    _dense("sigmoid-focal", "sigmoid focal 64 M", FOCAL, "float32", 1.2, faster=4, level=QUICK),
    _dense("bce-uint8", "BCE 64 M, uint8 targets", BCE, "uint8", 1.2, faster=1),
    _dense("bce-bool", "BCE 64 M, bool targets", BCE, "bool", 1.2, faster=1),
    _dense("focal-uint8", "focal 64 M, uint8 targets", FOCAL, "uint8", 1.2, faster=4),
    _dense("focal-bool", "focal 64 M, bool targets", FOCAL, "bool", 1.2, faster=4),
    _dense("focal-1.5", "sigmoid focal 64 M, γ = 1.5", Loss("sigmoid", gamma=1.5), "float32", 1.8,
           faster=4),
    _imagenet("softmax-focal", "softmax focal 65,536 × 1,000", MIXED, loss=SOFT_FOCAL),
    Case(
        "retinanet", "RetinaNet 100,000 × 80", Arrays((100_000, 80)), ANCHORS,
        Bar(1.4), faster=4, level=USUAL,
    ),
    _imagenet("loss-only", "loss alone 65,536 × 1,000", Bar(1.2), loss=Loss(grad=False),
                   writes=0, level=USUAL),
    _dtype("float16", 0.75, level=USUAL),
    _dtype("bfloat16", 0.75, level=USUAL),
    _dtype("float64", 2.2),
    _layout("columns", "every other column", Arrays(IMAGENET, layout="every other column"),
            level=USUAL),
    _layout("rows", "every other row", Arrays(IMAGENET, layout="every other row")),
    _layout("transposed", "transposed, axis=0", Arrays(IMAGENET[::-1], axis=0)),
    _layout("fortran", "Fortran order", Arrays(IMAGENET, layout="F"), level=USUAL),
    _imagenet("threads-softmax", "2 threads, softmax", THREADS, group="threads", level=USUAL),
    Case("threads-focal", "2 threads, sigmoid focal", Arrays(DENSE, "float32"), FOCAL, THREADS, 2,
         group="threads"),
    *(_small(*shape) for shape in ((1, 2), (32, 10), (256, 1000))),
    *map(_classes, (2, 10, 32, 100, 1000, 10_000, 100_000)),
    *map(_rows, (1, 10, 100, 1000, 10_000, 100_000)),
    *(_of_list(name, *loss) for name, loss in LISTED.items()),
)  # fmt: skip


def picked(items: Iterable[Item], patterns: list[str], what: str) -> list[Item]:
    """The items whose names the patterns match; without patterns all of them.

    A pattern is a name, a glob or a part of a name; one that matches no name is an error.
    """
    by_name = {item.name: item for item in items}
    names, found = list(by_name), set[str]()
    for pattern in (p.lower() for p in patterns or ["*"]):
        exact = [n for n in names if n.lower() == pattern]
        parts = [n for n in names if fnmatch(n.lower(), pattern) or pattern in n.lower()]
        if not exact and not parts:
            known = "--list names them" if len(names) > 12 else f"there are {', '.join(names)}"
            raise SystemExit(f"no {what} is called {pattern}; {known}")
        found.update(exact or parts)
    return [by_name[name] for name in names if name in found]


def chosen(level: int, patterns: list[str], of: Iterable[AnyCase]) -> list[AnyCase]:
    """The cases whose names are picked; without patterns those of a level and below."""
    return picked(of, patterns, "case") if patterns else [c for c in of if c.level <= level]


# --------------------------------------------------------------------- shapes from the command line

# By their names in fusedce: the loss, and targets of a kind that all rivals take.
LOSSES = {
    "cross_entropy": (CE, "index"),
    "binary_cross_entropy": (BCE, "float32"),
    "focal": (FOCAL, "float32"),
    "softmax_focal": (SOFT_FOCAL, "index"),
    **LISTED,
}


def arrays_of(shape: tuple[int, ...], dtype: str, loss: str) -> Arrays:
    """Logits of a shape: of more than two axes the second has the classes, as in PyTorch."""
    targets = LOSSES[loss][1]
    if targets == "index" and len(shape) < 2:
        raise SystemExit(f"{loss} needs rows and classes, for example --shape {shape[0]}x10")
    return Arrays(shape, targets, dtype, axis=1 if len(shape) > 2 else -1)


def words(shape: tuple[int, ...], loss: str) -> tuple[str, str]:
    """The name and the title of a case of the command line, without the dtype."""
    return f"{'x'.join(map(str, shape))}-{loss}", f"{' × '.join(f'{n:,}' for n in shape)} {loss}"


def own(shapes: list[tuple[int, ...]], dtypes: list[str], losses: list[str]) -> list[Case]:
    """A case for every loss on every shape in every dtype."""
    found = []
    for shape, dtype, loss in product(shapes, dtypes, losses):
        name, title = words(shape, loss)
        arrays = arrays_of(shape, dtype, loss)
        case = Case(f"{name}-{dtype}", f"{title} {dtype}", arrays, LOSSES[loss][0], reads=2,
                    group=OWN)  # fmt: skip
        found.append(replace(case, group="small") if case.small else case)
    return found
