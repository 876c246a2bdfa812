"""Plans the launches of a call on a GPU, from its ``Problem``.

A plan may depend on dtypes, shapes, strides, scalars and the alignment of addresses, never on the
numbers in an array: it is cached and used again for later calls.
"""

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda import tiling
from fusedce.kernels.cuda.activations import (
    LogProbability,
    Probability,
    sigmoids,
    softmax_columns,
    softmax_rows,
)
from fusedce.kernels.cuda.dispatch_elementwise import elementwise_launch
from fusedce.kernels.cuda.dispatch_rows import column_types, probability_launch, softmax_launch
from fusedce.kernels.cuda.dtypes import dtype_code, dtype_tag
from fusedce.kernels.cuda.kernel_args import (
    LABEL_STATS_BYTES,
    Bound,
    Facts,
    Fields,
    Kernel,
    Launch,
    Plan,
    add_view,
    bits,
    common,
    launch,
    rebound,
)
from fusedce.kernels.cuda.labels import (
    FirstTargets,
    FloatLabels,
    IntegerLabels,
    combine_label_stats,
    distribution_pass,
    label_pass,
    reduce_losses,
)
from fusedce.kernels.cuda.reduce import REDUCTION_BYTES, REDUCTION_SLOT_BYTES
from fusedce.kernels.problem import Problem


def loss_launch(problem: Problem, facts: Facts) -> Launch:
    """The launch that writes losses, gradients and Hessians, and the sums of losses of blocks."""
    if problem.activation == "softmax":
        return softmax_launch(problem, facts)
    if problem.activation is None and problem.sparse_targets:
        return probability_launch(problem, facts)
    return elementwise_launch(problem, facts)


# --------------------------------------------------------------------------------- the label pass


def _by_row(problem: Problem) -> bool:
    """Whether the loss is one number for a row of classes, not one for each element."""
    rows_of_probabilities = problem.activation is None and problem.sparse_targets
    return problem.activation == "softmax" or rows_of_probabilities


def _single_labels(problem: Problem, fields: Fields, bound: Bound) -> tuple[Kernel, int]:
    """(kernel, number of labels) of a pass over single labels; its fields are added."""
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
    label_kind = FloatLabels if problem.real_targets else IntegerLabels
    return Kernel(label_pass, (problem.compute, dtype_tag(targets.dtype), label_kind)), targets.size


def _label_pass(
    problem: Problem, user_denominator: np.ndarray | None, validate: bool
) -> tuple[Launch, ...]:
    """The launches that read labels and denominator and write the label statistics.

    Scratch holds the statistics, then for each block a sum of weights and two counts.
    """
    fields, everything = common(problem)
    bound: Bound = {n: everything[n] for n in ("targets", "weight") if n in everything}
    bound["label_stats"] = "scratch", 0
    if user_denominator is not None:
        bound["user_denominator"] = "user_denominator", 0
        fields["user_denominator_dtype"] = dtype_code(user_denominator.dtype)
    fields["elements"] = 1
    one_each = problem.sparse_targets or not _by_row(problem)
    integers = problem.targets.dtype.kind in "iu" and one_each
    floats = problem.real_targets and not _by_row(problem)
    labels_read = user_denominator is None or validate
    rows = problem.logits.shape[0] * problem.logits.shape[2]
    last = Kernel(combine_label_stats, (problem.compute,))
    kernel, number, span = last, 0, 0  # no labels are read: the denominator alone
    if labels_read and (integers or floats):
        (kernel, number), span = _single_labels(problem, fields, bound), tuning.GPU_LABELS
    elif labels_read and (problem.normalize or (problem.real_targets and validate)):
        kernel = Kernel(distribution_pass, (problem.compute,))
        span, number = tuning.GPU_LABELS >> 4, rows
    elif labels_read and problem.real_targets:
        fields["classes"] = 1
        targets = dtype_tag(problem.targets.dtype)
        kernel = Kernel(label_pass, (problem.compute, targets, FirstTargets))
        span, number = tuning.GPU_LABELS, rows
    blocks = max(1, -(-number // max(1, span)))
    for k, name in enumerate(("partial", "counts", "bad")):
        bound[name] = "scratch", LABEL_STATS_BYTES + 8 * blocks * k
    threads = tuning.GPU_LABEL_THREADS
    shared, fields["span"] = 2 * REDUCTION_SLOT_BYTES + 8 * threads, span
    first = launch(kernel, blocks, threads, fields, bound, shared=shared)
    if blocks == 1:
        return (first,)
    combined = fields | {"span": blocks}
    return first, launch(last, 1, threads, combined, bound, shared=shared)


# --------------------------------------------------------------------------------------- the plan


def plan(
    problem: Problem, *, divisor: float | None, user_denominator: np.ndarray | None, validate: bool,
    total: np.ndarray | None, facts: Facts,
) -> Plan:  # fmt: skip
    """The launches of a call.

    ``divisor``: the denominator of the mean. If it is None, it is the number in the device array
    ``user_denominator``, or follows from the labels. ``total``: the reduced loss, () or None.
    ``validate``: labels are read in any case, to find the first invalid one.
    """
    unknown = divisor is None
    before = _label_pass(problem, user_denominator, validate) if unknown or validate else ()
    main = loss_launch(problem, facts)
    sums = main.blocks // main.cluster
    end = LABEL_STATS_BYTES + 24 * max((one.blocks for one in before), default=0)
    fields: Fields = {"scale": bits(1.0 / divisor if divisor else 0.0, problem.compute)}
    bound: Bound = {"label_stats": ("scratch", 0)} if unknown else {}
    if total is None:
        return Plan(before, (rebound(main, fields, bound),), end)
    bound["partial"] = "scratch", end
    main = rebound(main, fields, bound)
    fields = {
        "span": sums,
        "loss_dtype": dtype_code(total.dtype),
        "p0": bits(divisor or 0.0, np.float64),
    }
    bound["total"] = "total", 0
    kernel = Kernel(reduce_losses, (problem.compute,))
    last = launch(kernel, 1, tuning.GPU_LABEL_THREADS, fields, bound, shared=REDUCTION_SLOT_BYTES)
    return Plan(before, (main, last), end + 8 * sums)


def activation(
    name: str, source: np.ndarray, target: np.ndarray, compute: type, facts: Facts
) -> Plan:
    """The launch of target = softmax, log_softmax, sigmoid or log_sigmoid of source.

    Both arrays are (outer, C, inner).
    """
    fields: Fields = dict(zip(("outer", "classes", "inner"), source.shape, strict=True))
    bound: Bound = {}
    add_view(fields, bound, "logits", source)
    add_view(fields, bound, "grad", target)
    fields["staged"] = REDUCTION_BYTES
    stored, limits = (
        dtype_tag(source.dtype, facts.capability),
        tiling.resource_limits(compute, False, False),
    )
    what = LogProbability if name.startswith("log") else Probability
    kernel: Kernel
    if name.endswith("sigmoid"):
        fields |= tiling.block_span_fields(*source.shape)
        kernel = Kernel(sigmoids, (compute, stored, what))
        blocks, threads = -(-source.size // tuning.GPU_SPAN), tuning.GPU_THREADS
        made = launch(kernel, blocks, threads, fields, bound)
    elif tiling.rows_can_be_staged(
        stored, limits.classes, source, target
    ) or not tiling.classes_contiguous(source, target):
        lanes, shared = column_types(stored, compute, limits, source, target)
        registers = tiling.column_registers(lanes[1], compute, False)
        kernel = Kernel(softmax_columns, (compute, stored, *lanes, what), registers)
        threads = tuning.GPU_LANES_THREADS
        blocks = -(-source.shape[0] * source.shape[2] // threads)
        made = launch(kernel, blocks, threads, fields, bound, shared=shared)
    else:
        d = tiling.tile_rows(stored, source, facts, limits)
        alignment = tiling.output_alignment(source, target)
        kernel = Kernel(
            softmax_rows, (compute, stored, d.residency, d.group, d.lanes, alignment, what)
        )
        kernel = kernel._replace(registers=d.registers(limits))
        made = d.launch(kernel, fields | d.fields(), bound)
    return Plan((), (made,), 0)
