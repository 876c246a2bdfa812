"""Compile the common GPU kernels, without a GPU: ``python -m fusedce warmup --cuda sm_90``.

The public functions are called with arrays that have an address and no memory. The kernels that
these calls would launch are compiled.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Any
from unittest import mock

import numpy as np

from fusedce.backends import array_libraries
from fusedce.backends.array_libraries import Layout, contiguous
from fusedce.kernels.cuda.kernel_args import Facts

# The most shared memory of a block in bytes, by architecture; 99 KB for those not in the table.
SHARED = {75: 64 << 10, 80: 163 << 10, 87: 163 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10}
# Rows of a lane, a warp, a block, a cluster (without clusters: what replaces it), and wider ones;
# for strided class axes: classes that fit into the registers of a lane, and more.
ROWS = tuple((4096, classes) for classes in (4, 10, 21, 80, 1000, 32000, 128256))
COLUMNS = ((4096, 21), (4096, 80))


class Nowhere:
    """An array with a layout and no memory."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout


class Imagined:
    """The library of such arrays, with the methods of ``array_libraries.Cupy``."""

    def __init__(self) -> None:
        self.addresses = itertools.count(1 << 40, 1 << 40)  # farther apart than any array is long
        self.columns = False  # whether the first axis of new arrays is the contiguous one

    @property
    def maker(self) -> Any:
        """The library that makes the results."""
        return self

    def owns(self, x: Any) -> bool:
        """Whether x is such an array."""
        return isinstance(x, Nowhere)

    def layout(self, x: Nowhere) -> Layout:
        """The layout of x."""
        return x.layout

    def empty(
        self, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None, device: int
    ) -> Nowhere:
        """A new array; strides None: C-contiguous."""
        kind = np.dtype(dtype)
        steps = contiguous(shape, kind.itemsize) if strides is None else strides
        return Nowhere(Layout(next(self.addresses), shape, steps, kind, device))

    def full(self, shape: tuple[int, ...], fill_value: float, dtype: Any) -> Nowhere:
        """An array for a step of warmup."""
        item = np.dtype(dtype).itemsize
        strides = contiguous(shape[::-1], item)[::-1] if self.columns else None
        return self.empty(shape, dtype, strides, 0)

    def stream(self, device: int) -> int:
        """The default stream."""
        return 0


def capability(architecture: str) -> tuple[int, int]:
    """The compute capability: (9, 0) for "sm_90"."""
    found = re.fullmatch(r"sm_(\d+)(\d)", architecture)
    if found is None:
        raise ValueError(f"an architecture is written like sm_90, got {architecture!r}")
    return int(found[1]), int(found[2])


def run(todo: Iterable[Any], architecture: str) -> list[bool]:
    """Compile for one architecture what the steps call; for each kernel whether it was on disk."""
    from fusedce.kernels.cuda.compile import COMPILED, cubin

    major, minor = capability(architecture)
    facts = Facts((major, minor), shared=SHARED.get(10 * major + minor, 99 << 10))

    def launch(library: Any, launches: Any, *where: Any) -> None:
        for each in launches:
            cubin(each.kernel, each.threads, facts.capability)

    library = Imagined()
    instead: dict[str, Any] = {
        "LIBRARIES": (library,),
        "launch": launch,
        "facts": lambda device: facts,
    }
    with mock.patch.multiple(array_libraries, **instead):
        for step in todo:
            for library.columns, shapes in ((False, ROWS), (True, COLUMNS)):
                step.run(library.full, shapes)
    return [made.from_disk for made in COMPILED]
