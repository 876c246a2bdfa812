"""The launches over rows of classes."""

from typing import Any

import numpy as np

from fusedce.kernels import launch as sizes
from fusedce.kernels.cuda import deal as deals
from fusedce.kernels.cuda.columns import distribution_columns, index_columns
from fusedce.kernels.cuda.distribution_rows import (
    Apart,
    Beside,
    OneHot,
    Unweighted,
    distribution_rows,
)
from fusedce.kernels.cuda.forms import form
from fusedce.kernels.cuda.index_rows import index_rows
from fusedce.kernels.cuda.lanes import Across, Along
from fusedce.kernels.cuda.plan import Facts, Kernel, Launch, launch
from fusedce.kernels.cuda.probabilities import probability_rows
from fusedce.kernels.cuda.seen import Full, Plain
from fusedce.kernels.cuda.teams import EXCHANGES
from fusedce.kernels.cuda.views import common, is_full
from fusedce.kernels.cuda.waits import Again, Held, Kept
from fusedce.kernels.problem import Problem
from fusedce.kernels.vector import Wide


def softmax(problem: Problem, facts: Facts) -> Launch:
    """Losses over softmax rows."""
    stored = form(problem.logits.dtype, facts.capability)
    arrays = problem.logits, problem.grad, problem.hess
    space = deals.room(problem.compute, is_full(problem), _spread(problem))
    if deals.along(stored, space.classes, *arrays) or not deals.side_by_side(*arrays):
        return _columns(problem, stored, space)
    return _rows(problem, stored, facts, space)


def _spread(problem: Problem) -> bool:
    """Whether classes other than the target have mass."""
    return not problem.one_hot or problem.label_shift != 0.0


def _masses(problem: Problem, stored: type) -> tuple[type, type, type]:
    """(form of the labels, where they are, form of the weights) of a distribution."""
    weights: type = Unweighted if problem.weight is None else form(problem.weight.dtype)
    if problem.one_hot:
        return stored, OneHot, weights
    targets = problem.targets
    piece = min(16, deals.per_chunk(stored) * targets.itemsize)
    whole = deals.whole(stored, problem.logits) and piece >= 4 and deals.aligned(targets, piece)
    beside = deals.alike(problem.logits, targets) or whole
    place = Beside if beside and deals.side_by_side(targets) else Apart
    return form(targets.dtype), place, weights


def _rows(problem: Problem, stored: type, facts: Facts, space: deals.Room) -> Launch:
    """A team a row."""
    fields, bound = common(problem)
    full, spread = is_full(problem), _spread(problem)
    kept = Held if full or spread else Kept
    d = deals.rows(stored, problem.logits, facts, space, kept)
    fields |= d.fields()
    where = deals.where(problem.logits, problem.grad, problem.hess)
    types: tuple[Any, ...] = type(problem.params), problem.compute, stored
    outs = where, Full if full else Plain
    if spread:
        types += (*_masses(problem, stored), d.way, d.team, d.lanes, *outs, Wide)
        kernel = Kernel(distribution_rows, types)
    else:
        kernel = Kernel(
            index_rows, (*types, form(problem.targets.dtype), d.way, d.team, d.lanes, *outs)
        )
    return d.launch(kernel._replace(registers=d.registers(space)), fields, bound)


def lanes_of(
    stored: type, compute: type, space: deals.Room, logits: np.ndarray, *outputs: np.ndarray | None
) -> tuple[tuple[type, type, type], int]:
    """((layout, way, lanes), shared memory) of rows in lanes."""
    classes = logits.shape[1]
    if classes > space.classes:
        visit = sizes.GPU_LANE_VISIT * 4 // np.dtype(compute).itemsize
        return (Across, Again, deals.lanes(visit)), EXCHANGES
    lanes = deals.enough(classes)
    if deals.along(stored, space.classes, logits, *outputs):
        room = sizes.GPU_LANES_THREADS * classes * np.dtype(compute).itemsize
        return (Along, Held, lanes), EXCHANGES + room
    return (Across, Held, lanes), EXCHANGES


def _columns(problem: Problem, stored: type, space: deals.Room) -> Launch:
    """A lane a row."""
    fields, bound = common(problem)
    full, spread = is_full(problem), _spread(problem)
    arrays = problem.logits, problem.grad, problem.hess
    lanes, shared = lanes_of(stored, problem.compute, space, *arrays)
    fields["staged"] = EXCHANGES
    types: tuple[Any, ...] = type(problem.params), problem.compute, stored
    extra = Full if full else Plain
    if spread:
        targets, place, weights = _masses(problem, stored)
        place = OneHot if place is OneHot else Apart
        types += (targets, place, weights, *lanes, extra, Wide)
        kernel = Kernel(distribution_columns, types, 255)
    else:
        registers = deals.lane_registers(lanes[1], problem.compute, full)
        kernel = Kernel(index_columns, (*types, *lanes, extra), registers)
    threads = sizes.GPU_LANES_THREADS
    outer, _, inner = problem.logits.shape
    return launch(kernel, -(-outer * inner // threads), threads, fields, bound, shared=shared)


def probability_index(problem: Problem, facts: Facts) -> Launch:
    """Losses over rows of probabilities with class indices."""
    fields, bound = common(problem)
    threads = sizes.GPU_LANES_THREADS
    outer, _, inner = problem.logits.shape
    stored = form(problem.logits.dtype, facts.capability)
    kernel = Kernel(probability_rows, (type(problem.params), problem.compute, stored), 128)
    blocks = -(-outer * inner // (threads // 32))
    return launch(kernel, blocks, threads, fields, bound, shared=EXCHANGES)
