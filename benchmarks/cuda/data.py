"""The arrays of a case on the device; their rows repeat after a block, as on the CPU."""

from math import prod
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.cuda.cases import Question
from benchmarks.cuda.device import BITS
from benchmarks.data import Problem, last


def repeated(block: Any, shape: tuple[int, ...], axis: int, device: Any) -> Any:
    """An array of a shape that repeats the rows (class axis last) of a block."""
    bits = BITS.get(block.dtype.itemsize, block.dtype)
    found = device.xp.empty(shape, bits)
    data.repeat(device.put(block.view(bits)), last(found, axis))
    return found.view(block.dtype)


def make(case: Question, device: Any) -> Problem:
    """The arrays of a case, the same in each run; ``grad`` is the target of copies."""
    arrays, rng = case.arrays, np.random.default_rng(0)
    axis = arrays.axis % len(arrays.shape)
    rows = (*arrays.shape[:axis], *arrays.shape[axis + 1 :], arrays.shape[axis])
    length = min(rows[0], max(1, data.BLOCK // prod(rows[1:])))
    block = data.draw(case, (length, *rows[1:-1]), rng)
    logits = repeated(block[0], arrays.shape, arrays.axis, device)
    if arrays.targets == "index":
        targets = device.xp.empty(rows[:-1], device.xp.int64)
        data.repeat(device.put(block[1]), targets)
    else:
        targets = repeated(block[1], arrays.shape, arrays.axis, device)
    bits = BITS.get(logits.dtype.itemsize, logits.dtype)
    grad = device.xp.empty(arrays.shape, bits).view(logits.dtype)
    return Problem(case, logits, targets, np.ones(rows[-1], np.float32), grad, block)
