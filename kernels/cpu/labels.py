"""Labels are read once ahead of the logits: range, number not ignored, sum of their weights.

So an error is found before anything is written, also when the gradient replaces the logits, and
the mean's denominator is known when the first gradient is.
"""

import numpy as np

from fusedce.kernels.cpu.blocks import address_of, array_at, at, rows_of
from fusedce.kernels.cpu.loops import loop
from fusedce.kernels.cpu.plan import plan_at
from fusedce.kernels.machine import call7, peek, poke
from fusedce.kernels.vector import itemsize


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


@loop
def all_yes_or_no(plan, address, n):
    """Whether labels are 0 and 1 at a glance: none of their other bits is set."""
    if plan.weight != 0 or plan.bytes == 0 or address % 8 != 0 or n * plan.bytes % 8 != 0:
        return False
    if plan.lowest != 0 or plan.highest != 2 or 0 <= plan.ignore_index < 2:
        return False
    ones = np.int64(1)
    for k in range(8 * plan.bytes, 64, 8 * plan.bytes):
        ones |= np.int64(1) << k
    found = np.int64(0)
    words = array_at(address, n * plan.bytes // 8, np.int64)
    for word in words:
        found |= word
    return found & ~ones == 0


@loop
def weigh(plan, labels, T):
    """The sum of weight[label] over the labels that are not ignored."""
    total = np.float64(0)
    for label in labels:
        if label != plan.ignore_index:
            total += np.float64(peek(plan.weight + label * itemsize(T), T))
    return total


def labels(T):
    """The kernel over integer labels; ``partial`` gets the sum of weight[label]."""

    def labels(address, first, last):
        plan = plan_at(address)
        scratch = np.empty(plan.block, np.int64)
        for b in range(first, last):
            outer, start, stop = rows_of(plan, b)
            n, step = stop - start, plan.targets.inner
            here = at(plan.targets, outer, start)
            kept, bad, weights = n, -1, np.float64(n)
            if not all_yes_or_no(plan, here, n):
                found = array_at(here if plan.bytes == 8 else address_of(scratch), n, np.int64)
                if plan.bytes != 8:
                    call7(plan.load_targets, here, 0, step, 1, n, address_of(scratch), 0)
                kept, bad = survey(plan, found)
                weights = np.float64(kept)
                if plan.weight != 0 and bad < 0:
                    weights = weigh(plan, found, T)
            poke(plan.partial + 8 * b, weights)
            poke(plan.count + 8 * b, np.int64(kept))
            poke(plan.bad + 8 * b, np.int64(outer * plan.inner + start + bad if bad >= 0 else -1))
        scratch[0] = 0  # a last use: addresses do not keep it alive

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
