"""The launches of usual calls, found without a GPU: arrays have no memory, and nothing is run."""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple
from unittest import mock

import ml_dtypes
import numpy as np

import fusedce
from fusedce.backends import array_libraries, cuda_replay
from fusedce.backends.array_libraries import Layout, contiguous
from fusedce.kernels import rule
from fusedce.kernels.cuda.kernel_args import Facts
from fusedce.tools.warmup_cuda import SHARED, Imagined, Nowhere
from tests.listed import RULES, competing

DTYPES = {
    "float32": np.float32, "float64": np.float64, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}  # fmt: skip
# Classes of a row: for one lane, a few lanes, a warp, a block, an incomplete chunk, a cluster or
# what replaces it, and too many to be kept on chip.
FEW = (4, 21)
WIDE = (80, 1000, 1001, 4096, 32000, 50257, 128256)
CLASSES = FEW + WIDE
# Elementwise losses with options that select another rule, in addition to ``distinct``.
MIXED = {"focal torchvision": {"soft_labels": "torchvision"}}
ADDRESSES = itertools.count(1 << 40, 1 << 40)  # farther apart than any array is long


class Array(NamedTuple):
    """An argument: its offset in bytes from a multiple of 16, and extra elements in each row."""

    shape: tuple[int, ...]
    dtype: Any
    offset: int = 0
    padding: int = 0

    @property
    def strides(self):
        """In bytes."""
        return contiguous(
            (*self.shape[:-1], self.shape[-1] + self.padding), np.dtype(self.dtype).itemsize
        )

    def imagined(self):
        """The array, with an address and without memory."""
        address = next(ADDRESSES) + self.offset
        return Nowhere(Layout(address, tuple(self.shape), self.strides, np.dtype(self.dtype), 0))


def array(shape, dtype, offset=0, padding=0):
    """An array with an address and without memory."""
    return Array(shape, dtype, offset, padding).imagined()


def facts(capability):
    """The facts of a device of this architecture."""
    return Facts(capability, shared=SHARED.get(10 * capability[0] + capability[1], 99 << 10))


def launched(call, capability=(9, 0)):
    """The launches of ``call()``."""
    found = []
    instead = {
        "LIBRARIES": (Imagined(),), "facts": lambda device: facts(capability),
        "launch": lambda library, launches, *where: found.extend(launches),
    }  # fmt: skip
    with (
        mock.patch.multiple(array_libraries, **instead),
        mock.patch.object(cuda_replay, "store"),
    ):
        call()
    return found


class Call:
    """A public function with its arguments, made when it is called."""

    def __init__(self, name, loss, logits, targets, **options):
        self.loss, self.name, self.options = loss, name, options
        self.logits = Array(*logits)
        self.targets = None if targets is None else Array(*targets)

    @property
    def function(self):
        """The name of the public function."""
        return self.loss.split()[0]

    @property
    def own(self):
        """The loss's own options."""
        return RULES.get(self.loss) or MIXED.get(self.loss) or {}

    def __call__(self):
        made = {k: v.imagined() if isinstance(v, Array) else v for k, v in self.options.items()}
        targets = () if self.targets is None else (self.targets.imagined(),)
        public = getattr(fusedce, self.function)
        return public(self.logits.imagined(), *targets, **self.own | made)


def rules_of(call):
    """The parameter types of the rules in the kernels of a call."""
    return {kind for one in launched(call) for kind in one.kernel.types if kind in rule.RULES}


def distinct():
    """The listed losses that differ in the type of their rule: the first of each type."""
    found, seen = [], set()
    for name in RULES:
        z = (64, 80), np.float32
        types = rules_of(Call(name, name, z, z, activation="sigmoid"))
        if types - seen:
            found.append(name)
        seen |= types
    return found


def _softmax(loss, dtype, classes, way, **more):
    """A call over rows; ``way`` selects the labels, options and results."""
    z, index = ((3, classes), DTYPES[dtype]), ((3,), np.int64)
    targets = {"same": z, "double": ((3, classes), np.float64)}
    options = {
        "plain": {}, "hessian": {"return_hessian": True}, "softcap": {"softcap": 3.0},
        "smooth": {"label_smoothing": 0.1}, "loss": {"return_grad": False},
        "both": {"label_smoothing": 0.1, "return_hessian": True},
        "weighted": {"label_smoothing": 0.1, "weight": Array((classes,), np.float32)},
        "same": {}, "double": {"return_hessian": True},
        "loose": {"grad_out": Array((3, classes), DTYPES[dtype], offset=8)},
    }[way]  # fmt: skip
    name = f"{loss}-{dtype}-{classes}-{way}"
    more = {"activation": "softmax"} | options | more
    return Call(name, loss, z, targets.get(way, index), **more)


# (losses, dtypes, classes, ways): each with the variants that may need too many registers.
CE, HALVES = ("cross_entropy",), ("float16", "bfloat16")
LOSSES = distinct()
COMPETING = tuple(name for name in competing(LOSSES) if name not in CE)
ELEMENTWISE = (*LOSSES, *MIXED)
ROWS = (
    (CE, ("float32", "bfloat16"), CLASSES, ("plain",)),
    (CE, ("float64",), (4, 1000, 32000, 128256), ("plain",)),
    (CE, ("float16",), (1000, 128256), ("plain",)),
    (CE, ("float32",), (4, 1000, 128256), ("hessian", "both")),
    (CE, ("float32",), (1000,), ("loss", "smooth", "same")),
    (CE, ("float32",), (1001,), ("softcap", "weighted", "double", "loose")),
    (CE, ("float64",), (21, 128256), ("both",)),
    (CE, ("float64",), (1000,), ("hessian", "same")),
    (CE, ("float16",), (1001,), ("both", "loose")),
    (CE, ("bfloat16",), (21, 32000), ("smooth", "same")),
    (CE, ("bfloat16",), (1000, 32000), ("both",)),
    (COMPETING, ("float32",), (1000,), ("plain",)),
    (("focal",), ("float32", "bfloat16"), (21,), ("smooth",)),
    (("focal 3.7", "generalized_cross_entropy"), ("float32", "float64"), (21,), ("both",)),
)


def rows():
    """Softmax over rows whose classes are contiguous."""
    for losses, dtypes, classes, ways in ROWS:
        for one in itertools.product(losses, dtypes, classes, ways):
            yield _softmax(*one)


def columns():
    """Softmax along an axis that is not the last one, and short rows with padding."""
    ways = {
        "plain": {}, "hessian": {"return_hessian": True}, "smooth": {"label_smoothing": 0.1},
        "both": {"label_smoothing": 0.1, "return_hessian": True}, "given": {},
    }  # fmt: skip
    for dtype, kind in DTYPES.items():
        for classes in (21, 80):
            z, index = ((2, classes, 4, 4), kind), ((2, 4, 4), np.int64)
            for way in ways if dtype == "float32" else ("plain", "both"):
                name = f"cross_entropy-{dtype}-{classes}-axis-{way}"
                labels = z if way == "given" else index
                yield Call(name, "cross_entropy", z, labels, axis=1, **ways[way])
        padded = (3, 21), kind, 0, 11
        yield Call(f"cross_entropy-{dtype}-padded", "cross_entropy", padded, ((3,), np.int64))


REAL_ASYMMETRIC = "asymmetric 0 2.5 0"
# (losses, dtypes, labels, ways)
ELEMENTS = (
    (ELEMENTWISE, ("float32",), ("int64",), ("plain",)),
    (ELEMENTWISE, ("float32",), ("float32",), ("plain", "hessian")),
    (("focal", "asymmetric"), ("float32", "bfloat16"), ("bool",), ("plain", "hessian")),
    (("focal",), ("float64", *HALVES), ("same", "float32"), ("plain",)),
    (("focal",), ("float16",), ("int8",), ("softcap",)),
    ((REAL_ASYMMETRIC,), ("float64",), ("bool", "float32"), ("plain", "hessian")),
    (("focal", "asymmetric", REAL_ASYMMETRIC), ("float32",), ("bool",), ("weighted",)),
    ((REAL_ASYMMETRIC,), ("float64",), ("float32",), ("weighted",)),
    (("focal",), ("float64", *HALVES), ("index",), ("plain",)),
    (ELEMENTWISE, ("float32",), ("index",), ("plain", "weighted")),
    (("cross_entropy", "asymmetric"), ("float32",), ("index",), ("hessian",)),
    (("focal",), ("float64", *HALVES), ("index", "same"), ("weighted", "samples")),
    (("focal",), ("float32",), ("bool",), ("ragged",)),
)


def elements():
    """Losses of single elements."""
    n = (64, 80)
    more = {
        "plain": {}, "hessian": {"return_hessian": True}, "softcap": {"softcap": 3.0},
        "weighted": {"weight": Array((80,), np.float32)},
        "samples": {"sample_weight": Array((64, 1), np.float64)},
        "ragged": {"weight": Array((80,), np.float32, offset=4)},
    }  # fmt: skip
    for losses, dtypes, labels, ways in ELEMENTS:
        for loss, dtype, form, way in itertools.product(losses, dtypes, labels, ways):
            forms = {"same": (n, DTYPES[dtype]), "index": ((64,), np.int64)}
            targets = forms.get(form) or (n, np.dtype(form))
            name = f"{loss}-{dtype}-sigmoid-{form}-{way}"
            z = n, DTYPES[dtype]
            yield Call(name, loss, z, targets, activation="sigmoid", **more[way])
    for loss, dtype in (("focal", "float32"), ("asymmetric", "float64"), ("focal", "float16")):
        z = n, DTYPES[dtype]
        yield Call(f"{loss}-{dtype}-probability", loss, z, z, activation=None)
    for dtype, kind in DTYPES.items():
        name, index = f"focal-{dtype}-probability-index", ((64,), np.int64)
        yield Call(name, "focal", (n, kind), index, activation=None)


def functions():
    """Activations."""
    for dtype, kind in DTYPES.items():
        for name in ("softmax", "log_softmax"):
            many = name == "softmax" and dtype in ("float32", "bfloat16")
            for classes in (21, 1001, 128256) if many else (1000,):
                yield Call(f"{name}-{dtype}-{classes}", name, ((3, classes), kind), None)
        yield Call(f"softmax-{dtype}-axis", "softmax", ((2, 21, 4, 4), kind), None, axis=1)
        for name in ("sigmoid", "log_sigmoid"):
            yield Call(f"{name}-{dtype}", name, ((64, 80), kind), None)


def labels():
    """Calls with a label pass over many labels."""
    many = (1 << 16,), np.int32
    for dtype in ("float32", "float64"):
        z = (1 << 16, 4), DTYPES[dtype]
        yield Call(f"cross_entropy-{dtype}-many", "cross_entropy", z, many)
        yield Call(f"cross_entropy-{dtype}-many-given", "cross_entropy", z, z,
                   normalize_targets=True)  # fmt: skip


def calls():
    """All calls."""
    return [*rows(), *columns(), *elements(), *functions(), *labels()]


def families(call):
    """The rules of this call, and (kernel, place, type) of each other type of its kernels."""
    found = {
        (one.kernel.factory, place, kind)
        for one in launched(call)
        for place, kind in enumerate(one.kernel.types)
        if kind not in rule.RULES
    }
    return found | rules_of(call)


@functools.cache
def covering():
    """The names of calls that together have all rules, and all types at each place of a kernel."""
    left = {call.name: families(call) for call in calls()}
    missing, chosen = set().union(*left.values()), []
    while missing:
        chosen.append(max(left, key=lambda name: len(left[name] & missing)))
        missing -= left.pop(chosen[-1])
    return tuple(chosen)


# A few calls that together launch kernels of every factory and every dtype.
SELECTED = (
    "cross_entropy-float32-1000-plain", "cross_entropy-bfloat16-128256-plain",
    "cross_entropy-float64-128256-both", "cross_entropy-float16-1001-both",
    "cross_entropy-bfloat16-21-axis-plain", "cross_entropy-float32-80-axis-both",
    "asymmetric-bfloat16-sigmoid-bool-plain", f"{REAL_ASYMMETRIC}-float64-sigmoid-float32-weighted",
    "focal-float16-sigmoid-same-plain", "focal-bfloat16-sigmoid-same-plain",
    "focal-float32-probability-index",
    "focal-bfloat16-sigmoid-index-plain", "focal-float16-sigmoid-index-weighted",
    "focal-float32-sigmoid-bool-ragged", "softmax-bfloat16-1001",
    "softmax-float32-axis", "log_sigmoid-float16", "cross_entropy-float32-many",
    "cross_entropy-float32-many-given",
)  # fmt: skip
