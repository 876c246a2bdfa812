"""The arrays of a case on the device; their rows repeat after a block, as on the CPU."""

from functools import partial
from typing import Any

from benchmarks import data
from benchmarks.cuda.cases import Question
from benchmarks.cuda.device import BITS


def filled(device: Any, block: Any, shape: tuple[int, ...], axis: int, layout: str) -> Any:
    """An array in C order that repeats the rows (class axis last) of a block."""
    bits = BITS.get(block.dtype.itemsize, block.dtype)
    found = device.xp.empty(shape, bits)
    data.repeat(device.put(block.view(bits)), data.last(found, axis))
    return found.view(block.dtype)


def make(case: Question, device: Any) -> data.Problem:
    """The arrays of a case, the same in each run."""
    return data.make(case, partial(filled, device))
