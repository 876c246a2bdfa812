"""Labels are read once ahead of the logits: range, number not ignored, sum of their weights.

So an error is found before anything is written, also when the gradient replaces the logits, and
the mean's denominator is known when the first gradient is.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import address_of, rows_of
from fusedce.kernels.cpu.loops import loop
from fusedce.kernels.cpu.machine import call7, peek, poke
from fusedce.kernels.cpu.plan import plan_at


@loop
def survey(plan, labels):
    """(labels not ignored, position of the first bad one or -1) of a block."""
    kept, bad = 0, 0
    for i in range(labels.size):
        label = labels[i]
        keep = label != plan.ignore_index
        kept += keep
        bad += keep & ((label < plan.lowest) | (label >= plan.highest) | (label == plan.hole))
    if bad > 0:
        for i in range(labels.size):
            label = labels[i]
            wrong = (label < plan.lowest) | (label >= plan.highest) | (label == plan.hole)
            if wrong and label != plan.ignore_index:
                return kept, i
    return kept, -1


def labels(T):
    """The kernel over integer labels; ``partial`` gets the sum of weight[label]."""
    size = np.dtype(T).itemsize

    def labels(address, first, last):
        plan = plan_at(address)
        scratch = np.empty(plan.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            n = stop - start
            here = plan.targets.address + outer * plan.targets.outer + start * plan.targets.inner
            step = plan.targets.inner
            call7(plan.load_targets, here, 0, step, 1, n, address_of(scratch), 0)
            kept, bad = survey(plan, scratch[:n])
            weights = np.float64(kept)
            if plan.weight != 0 and bad < 0:
                weights = np.float64(0)
                for i in range(n):
                    if scratch[i] != plan.ignore_index:
                        weights += np.float64(peek(plan.weight + scratch[i] * size, T))
            poke(plan.partial + 8 * b, weights)
            poke(plan.count + 8 * b, np.int64(kept))
            poke(plan.bad + 8 * b, np.int64(outer * plan.inner + start + bad if bad >= 0 else -1))

    return labels


def occupied(T):
    """The kernel that counts rows with a label that is not zero (normalize_targets)."""

    def occupied(address, first, last):
        plan = plan_at(address)
        y = np.empty(plan.width, T)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            rows = 0
            for inner in range(start, stop):
                here = (
                    plan.targets.address + outer * plan.targets.outer + inner * plan.targets.inner
                )
                found = False
                for j in range(0, plan.classes, plan.width):
                    n = min(plan.width, plan.classes - j)
                    step = plan.targets.cls
                    call7(plan.load_targets, here + j * step, 0, step, 1, n, address_of(y), 0)
                    for k in range(n):
                        found |= y[k] != T(0)
                rows += 1 if found else 0
            poke(plan.count + 8 * b, np.int64(rows))

    return occupied
