"""The launches of element-wise losses."""

import numpy as np

from fusedce.kernels import launch as sizes
from fusedce.kernels.cuda import deal as deals
from fusedce.kernels.cuda.element_cells import HalfSigmoid, Soft, Sure, Yes
from fusedce.kernels.cuda.elements import elements
from fusedce.kernels.cuda.flat_elements import Given, Mixed, Reduced, Whole, flat_elements
from fusedce.kernels.cuda.forms import form
from fusedce.kernels.cuda.plan import Facts, Kernel, Launch, launch
from fusedce.kernels.cuda.seen import Full, Plain
from fusedce.kernels.cuda.teams import EXCHANGE
from fusedce.kernels.cuda.views import common, factors, is_full
from fusedce.kernels.link import Identity, Sigmoid
from fusedce.kernels.problem import Problem
from fusedce.kernels.rule import RULES
from fusedce.kernels.strides import coalesce, steps_of
from fusedce.kernels.vector import Wide

_YES_OR_NO = ((1.0, 0.0), (0.5, 0.5))  # of labels {0, 1} and {-1, 1}


def _flat(problem: Problem, stored: type) -> bool:
    """Whether arrays lie alike from end to end, in chunks, and factors are the same everywhere."""
    weights = problem.weight, problem.pos_weight, problem.sample_weight
    if problem.one_hot or any(w is not None for w in weights):
        return False
    given = (problem.logits, problem.targets, problem.loss, problem.grad, problem.hess)
    arrays = [a for a in given if a is not None]
    axes, steps = coalesce(problem.logits.shape, [steps_of(a) for a in arrays])
    if len(axes) > 1:
        return False
    per = deals.per_chunk(stored)
    for array, step in zip(arrays, steps, strict=True):
        piece = per * array.itemsize
        in_chunks = piece >= 4 and deals.address(array) % min(16, piece) == 0
        if not in_chunks or (step and step[0] != array.itemsize):
            return False
    return True


def element_losses(problem: Problem, facts: Facts) -> Launch:
    """Losses of single elements."""
    fields, bound = common(problem)
    stored = form(problem.logits.dtype, facts.capability)
    T, rule = problem.compute, type(problem.params)
    link: type = Sigmoid if problem.activation == "sigmoid" else Identity
    hard = problem.one_hot or problem.targets.dtype.kind in "biu"
    yes_or_no = (problem.label_factor, problem.label_shift) in _YES_OR_NO
    labels: type = Yes if hard and yes_or_no else Soft
    full = is_full(problem)
    heavy = labels is Soft or RULES[rule].negative is not None  # two functions an element
    extra, registers = Full if full else Plain, deals.room(T, full, heavy).registers
    threads = sizes.GPU_THREADS
    if not _flat(problem, stored):
        fields |= deals.patches(*problem.logits.shape)
        kernel = Kernel(elements, (rule, T, stored, link, labels, extra), 128)
        blocks = -(-problem.logits.size // sizes.GPU_SPAN)
        return launch(kernel, blocks, threads, fields, bound, shared=EXCHANGE)
    check = Whole if problem.ignoring else Given
    up, down = factors(problem)
    if not full and min(up, down) > 0.0:
        plain = (problem.label_factor, problem.label_shift) == (1.0, 0.0)
        usual = check is Whole or not hard
        labels = Mixed if plain and usual else Sure if hard and yes_or_no else Soft
    per = deals.per_chunk(stored)
    # Twice the numbers, where two ways of labels or two functions an element leave registers for
    # it: rules without parameters need few.
    light = labels is Sure or (labels is Mixed and not problem.params)
    twice = light and RULES[rule].negative is None and T is not np.float64
    words = sizes.GPU_FLAT_WORDS * (2 if twice else 1)
    registers = max(registers, 128) if twice else registers
    many = max(per, words * 4 // np.dtype(T).itemsize)
    lanes = deals.enough(many)
    chunks = max(1, many // per)
    fields |= {"outer": 1, "classes": problem.logits.size, "inner": 1, "span": chunks * threads}
    fields["team"] = deals.power_above(threads)
    if link is Sigmoid and problem.logits.itemsize == 2 and not full:
        link = HalfSigmoid
    out = Reduced if problem.loss is None else form(problem.loss.dtype)
    types = (
        rule, T, stored, form(problem.targets.dtype), out, link, lanes, labels, check, extra, Wide,
    )  # fmt: skip
    kernel = Kernel(flat_elements, types, registers)
    blocks = max(1, -(-(problem.logits.size // per) // (chunks * threads)))
    return launch(kernel, blocks, threads, fields, bound, shared=EXCHANGE)
