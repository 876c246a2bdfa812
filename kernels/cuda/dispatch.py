"""The launches of a problem: the GPU's answer to ``Problem``.

What is chosen here must follow from dtypes, shapes, strides, scalars and how addresses lie in
chunks, never from the numbers in an array: a program serves later calls too.
"""

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda import tiling
from fusedce.kernels.cuda.activations import (
    Itself,
    Logarithm,
    sigmoids,
    softmax_columns,
    softmax_rows,
)
from fusedce.kernels.cuda.dispatch_elementwise import element_losses
from fusedce.kernels.cuda.dispatch_rows import lanes_of, probability_index, softmax
from fusedce.kernels.cuda.dtypes import dtype_code, dtype_tag
from fusedce.kernels.cuda.kernel_args import (
    RECORD,
    Bound,
    Facts,
    Fields,
    Kernel,
    Launch,
    Plan,
    bits,
    common,
    launch,
    rebound,
    view,
)
from fusedce.kernels.cuda.labels import (
    Firsts,
    Integers,
    Numbers,
    collected,
    rows_kept,
    survey,
    totals,
)
from fusedce.kernels.cuda.reduce import REDUCTION_SLOT, REDUCTION_SLOTS
from fusedce.kernels.problem import Problem


def losses(problem: Problem, facts: Facts) -> Launch:
    """What writes everything asked for, and the sums of blocks."""
    if problem.activation == "softmax":
        return softmax(problem, facts)
    if problem.activation is None and problem.sparse_targets:
        return probability_index(problem, facts)
    return element_losses(problem, facts)


# ------------------------------------------------------------------------------------- the labels


def _by_row(problem: Problem) -> bool:
    """Whether a row of classes has one loss, not one an element."""
    rows_of_probabilities = problem.activation is None and problem.sparse_targets
    return problem.activation == "softmax" or rows_of_probabilities


def _labels(problem: Problem, fields: Fields, bound: Bound) -> tuple[Kernel, int]:
    """(kernel, labels) of a survey of labels; what its plan needs is put in."""
    targets, classes = problem.targets, problem.logits.shape[1]
    fields["elements"] = classes if problem.sparse_targets else 1
    if problem.sparse_targets and _by_row(problem):
        fields["elements"] = 0
    else:
        bound.pop("weight", None)
    fields["classes"] = targets.shape[1]
    if targets.flags.c_contiguous:
        fields |= {"outer": 1, "classes": 1, "inner": targets.size}
        fields["targets_inner"] = targets.itemsize
    label_kind = Numbers if problem.real_targets else Integers
    return Kernel(survey, (problem.compute, dtype_tag(targets.dtype), label_kind)), targets.size


def _survey(problem: Problem, given: np.ndarray | None, validate: bool) -> tuple[Launch, ...]:
    """What reads labels and denominator and writes the record; partial sums lie behind it."""
    fields, everything = common(problem)
    bound: Bound = {n: everything[n] for n in ("targets", "weight") if n in everything}
    bound["record"] = "scratch", 0
    if given is not None:
        bound["given"], fields["given_dtype"] = ("given", 0), dtype_code(given.dtype)
    fields["elements"] = 1
    one_each = problem.sparse_targets or not _by_row(problem)
    integers = problem.targets.dtype.kind in "iu" and one_each
    numbers = problem.real_targets and not _by_row(problem)
    looked_at = given is None or validate
    rows = problem.logits.shape[0] * problem.logits.shape[2]
    last = Kernel(collected, (problem.compute,))
    kernel, number, span = last, 0, 0  # of nothing: the denominator alone
    if looked_at and (integers or numbers):
        (kernel, number), span = _labels(problem, fields, bound), tuning.GPU_LABELS
    elif looked_at and (problem.normalize or (problem.real_targets and validate)):
        kernel, span, number = Kernel(rows_kept, (problem.compute,)), tuning.GPU_LABELS >> 4, rows
    elif looked_at and problem.real_targets:
        fields["classes"] = 1
        kernel = Kernel(survey, (problem.compute, dtype_tag(problem.targets.dtype), Firsts))
        span, number = tuning.GPU_LABELS, rows
    blocks = max(1, -(-number // max(1, span)))
    places = {"partial": RECORD, "counts": RECORD + 8 * blocks, "bad": RECORD + 16 * blocks}
    bound |= {name: ("scratch", offset) for name, offset in places.items()}
    threads = tuning.GPU_SURVEY_THREADS
    shared, fields["span"] = 2 * REDUCTION_SLOT + 8 * threads, span
    first = launch(kernel, blocks, threads, fields, bound, shared=shared)
    if blocks == 1:
        return (first,)
    again = fields | {"span": blocks}
    return first, launch(last, 1, threads, again, bound, shared=shared)


# ------------------------------------------------------------------------------------ the program


def program(
    problem: Problem, *, divisor: float | None, given: np.ndarray | None, validate: bool,
    total: np.ndarray | None, facts: Facts,
) -> Plan:  # fmt: skip
    """The launches of a call.

    ``divisor``: what the mean divides by, None: what ``given`` holds on the device, or what the
    labels say. ``total``: the reduced loss, if there is one. ``validate``: labels are looked at in
    any case.
    """
    unknown = divisor is None
    ahead = _survey(problem, given, validate) if unknown or validate else ()
    main = losses(problem, facts)
    sums = main.blocks // main.cluster
    behind = RECORD + 24 * max((found.blocks for found in ahead), default=0)
    fields: Fields = {"scale": bits(1.0 / divisor if divisor else 0.0, problem.compute)}
    bound: Bound = {"record": ("scratch", 0)} if unknown else {}
    if total is None:
        return Plan(ahead, (rebound(main, fields, bound),), behind)
    bound["partial"] = "scratch", behind
    main = rebound(main, fields, bound)
    fields = {
        "span": sums,
        "loss_dtype": dtype_code(total.dtype),
        "p0": bits(divisor or 0.0, np.float64),
    }
    bound["total"] = "total", 0
    kernel = Kernel(totals, (problem.compute,))
    last = launch(kernel, 1, tuning.GPU_SURVEY_THREADS, fields, bound, shared=REDUCTION_SLOT)
    return Plan(ahead, (main, last), behind + 8 * sums)


def activation(
    name: str, source: np.ndarray, target: np.ndarray, compute: type, facts: Facts
) -> Plan:
    """target <- softmax, log_softmax, sigmoid or log_sigmoid of source, both (outer, C, inner)."""
    fields: Fields = dict(zip(("outer", "classes", "inner"), source.shape, strict=True))
    bound: Bound = {}
    view(fields, bound, "logits", source)
    view(fields, bound, "grad", target)
    fields["staged"] = REDUCTION_SLOTS
    stored, limits = (
        dtype_tag(source.dtype, facts.capability),
        tiling.resource_limits(compute, False, False),
    )
    what = Logarithm if name.startswith("log") else Itself
    kernel: Kernel
    if name.endswith("sigmoid"):
        fields |= tiling.patches(*source.shape)
        kernel = Kernel(sigmoids, (compute, stored, what))
        blocks, threads = -(-source.size // tuning.GPU_SPAN), tuning.GPU_THREADS
        made = launch(kernel, blocks, threads, fields, bound)
    elif tiling.along(stored, limits.classes, source, target) or not tiling.side_by_side(
        source, target
    ):
        lanes, shared = lanes_of(stored, compute, limits, source, target)
        registers = tiling.lane_registers(lanes[1], compute, False)
        kernel = Kernel(softmax_columns, (compute, stored, *lanes, what), registers)
        threads = tuning.GPU_LANES_THREADS
        blocks = -(-source.shape[0] * source.shape[2] // threads)
        made = launch(kernel, blocks, threads, fields, bound, shared=shared)
    else:
        d = tiling.rows(stored, source, facts, limits)
        alignment = tiling.alignment(source, target)
        kernel = Kernel(
            softmax_rows, (compute, stored, d.residency, d.group, d.lanes, alignment, what)
        )
        kernel = kernel._replace(registers=d.registers(limits))
        made = d.launch(kernel, fields | d.fields(), bound)
    return Plan((), (made,), 0)
