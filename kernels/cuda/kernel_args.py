"""What a launch is: a kernel, its grid, and its arguments, all of them int64.

A kernel takes one argument, a ``KernelArgs``: addresses, byte strides, sizes, and floats as their
bits. Each field takes eight bytes; a field that a kernel does not read costs nothing. A launch is
planned once for all calls of the same options, dtypes and shapes. What changes from call to call,
the addresses of arrays, is added when it is launched (``ARRAYS``, ``Launch.bound``).
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.dtypes import dtype_code
from fusedce.kernels.problem import Problem


class KernelArgs(NamedTuple):
    """The argument of every kernel. An array of three axes has a stride in bytes along each."""

    # sizes
    outer: int = 0
    classes: int = 0
    inner: int = 0
    # arrays; address 0: absent
    logits: int = 0
    logits_outer: int = 0
    logits_cls: int = 0
    logits_inner: int = 0
    targets: int = 0
    targets_outer: int = 0
    targets_cls: int = 0
    targets_inner: int = 0
    sample_weight: int = 0
    sample_outer: int = 0
    sample_cls: int = 0
    sample_inner: int = 0
    loss: int = 0
    loss_outer: int = 0
    loss_cls: int = 0
    loss_inner: int = 0
    grad: int = 0
    grad_outer: int = 0
    grad_cls: int = 0
    grad_inner: int = 0
    hess: int = 0
    hess_outer: int = 0
    hess_cls: int = 0
    hess_inner: int = 0
    weight: int = 0  # (C,)
    weight_step: int = 0
    pos_weight: int = 0  # (C,), or one number: step 0
    pos_weight_step: int = 0
    user_denominator: int = 0  # the denominator that the caller passes, a single number
    total: int = 0  # the reduced loss
    label_stats: int = 0  # results of the label pass, see LABEL_STATS_BYTES
    partial: int = 0  # (blocks,) sums of losses (compute type) or of weights (float64)
    counts: int = 0  # (blocks,) int64: labels that are not ignored
    bad: int = 0  # (blocks,) int64: position of the first invalid label of a block
    # codes of dtypes (``dtypes.CODE``) that are looked up at run time
    targets_dtype: int = 0
    sample_dtype: int = 0
    loss_dtype: int = 0
    weight_dtype: int = 0
    pos_weight_dtype: int = 0
    user_denominator_dtype: int = 0
    # how the work is divided
    group: int = 0  # log2 of the lanes that share a row
    cluster: int = 0  # log2 of the blocks that share a row
    span: int = 0  # rows, elements or partial sums of a block
    rounds: int = 0  # iterations of a group over a row
    staged: int = 0  # offset in bytes of the staged row in shared memory
    magic_classes: int = 0  # n // classes == (n * magic) >> 40 for n < 2**20
    magic_inner: int = 0
    shift_classes: int = 0  # in elementwise_rows: the shift of its magic division
    # labels
    sparse_targets: int = 0
    normalize: int = 0
    may_ignore: int = 0
    ignore_index: int = 0
    real_targets: int = 0  # targets are floats that are checked, see Problem
    lowest: int = 0
    highest: int = 0
    forbidden_label: int = 0
    elements: int = 0  # elements that a label counts as in the mean; 0: its class weight
    # floats of the compute type, as bits
    scale: int = 0  # 1 / denominator, if there are no label_stats
    label_factor: int = 0
    label_shift: int = 0
    ignore_value: int = 0  # the number that marks an ignored target, or NaN
    pos_factor: int = 0
    neg_factor: int = 0
    z_loss: int = 0
    softcap: int = 0
    logit_scale: int = 0
    p0: int = 0
    p1: int = 0
    p2: int = 0
    p3: int = 0
    p4: int = 0
    p5: int = 0
    p6: int = 0
    p7: int = 0


SLOT = {name: k for k, name in enumerate(KernelArgs._fields)}

# The arrays of a call, in this order; scratch holds what one launch writes for the next.
ARRAYS = (
    "logits", "targets", "sample_weight", "weight", "pos_weight", "user_denominator",
    "loss", "grad", "hess", "total", "scratch",
)  # fmt: skip

# The label statistics at the start of scratch. Offsets in bytes of: the divisor (float64), the
# position of the first invalid label (int64, -1: none), 1 / divisor, and divisor / rows that are
# not ignored (both of the compute type).
STATS_DIVISOR, STATS_BAD_LABEL, STATS_SCALE, STATS_PER_ROW, LABEL_STATS_BYTES = 0, 8, 16, 24, 32


class Kernel(NamedTuple):
    """What is compiled: ``factory(*types)`` is a Python function of a KernelArgs."""

    factory: Callable[..., Callable[[KernelArgs], None]]
    types: tuple[Any, ...]
    registers: int = 64  # at most so many a thread

    @property
    def name(self) -> str:
        """The name for messages: the factory and its types."""
        words = [getattr(t, "__name__", str(t)) for t in self.types]
        return f"{self.factory.__name__}({', '.join(words)})"


class Launch(NamedTuple):
    """A kernel over a grid."""

    kernel: Kernel
    blocks: int
    threads: int
    args: KernelArgs  # addresses are offsets from those of ``bound``
    bound: tuple[tuple[int, int], ...]  # (field of ``args``, index into ARRAYS)
    shared: int = 0  # bytes of dynamic shared memory a block
    cluster: int = 1  # neighbouring blocks that share a row


class Plan(NamedTuple):
    """The launches of a call, in order, for all arrays of the same dtypes, shapes and strides."""

    label_pass: tuple[Launch, ...]  # read the labels, write the label statistics
    losses: tuple[Launch, ...]  # write losses and gradients
    scratch: int  # bytes


class Facts(NamedTuple):
    """The properties of a device that launches depend on."""

    capability: tuple[int, int] = (9, 0)
    processors: int = 132
    shared: int = 232448  # bytes of shared memory a block may ask for
    cache: int = 50 << 20  # bytes of L2


def bits(value: float, compute: type) -> int:
    """The bits of a float of the compute type, as an integer."""
    code, integer = ("<d", "<q") if compute is np.float64 else ("<f", "<i")
    return int(struct.unpack(integer, struct.pack(code, value))[0])


Fields = dict[str, Any]
Bound = dict[str, tuple[str, int]]  # field -> (array that it points to, offset in bytes)


def launch(
    kernel: Kernel, blocks: int, threads: int, fields: Fields, bound: Bound, *, shared: int = 0,
    cluster: int = 1,
) -> Launch:  # fmt: skip
    """A launch of a kernel with these fields of KernelArgs."""
    return rebound(
        Launch(kernel, blocks, threads, KernelArgs(), (), shared, cluster), fields, bound
    )


def rebound(made: Launch, fields: Fields, bound: Bound) -> Launch:
    """The launch with more fields and arrays."""
    offsets = {field: offset for field, (_, offset) in bound.items()}
    slots = tuple((SLOT[field], ARRAYS.index(array)) for field, (array, _) in bound.items())
    return made._replace(args=made.args._replace(**fields, **offsets), bound=made.bound + slots)


STRIDE_PREFIX = {"sample_weight": "sample"}  # of the fields of its strides, if not its name


def add_view(fields: Fields, bound: Bound, name: str, array: np.ndarray | None) -> None:
    """Add an array of three axes; the stride of an axis of length 1 is 0."""
    if array is None:
        return
    bound[name] = name, 0
    steps = zip(("outer", "cls", "inner"), array.strides, array.shape, strict=True)
    for axis, step, n in steps:
        fields[f"{STRIDE_PREFIX.get(name, name)}_{axis}"] = step if n > 1 else 0


def add_vector(fields: Fields, bound: Bound, name: str, array: np.ndarray | None) -> None:
    """Add an array of (C,) numbers, or of one number for all classes."""
    if array is not None:
        bound[name] = name, 0
        fields[f"{name}_step"] = array.strides[0] if array.size > 1 else 0
        fields[f"{name}_dtype"] = dtype_code(array.dtype)


def outcome_factors(problem: Problem) -> tuple[float, float]:
    """(factor of positive outcomes, factor of negative ones) of the losses, without arrays."""
    if problem.alpha is None:
        return problem.pos_scale, 1.0
    return problem.pos_scale * problem.alpha, 1.0 - problem.alpha


def common(problem: Problem) -> tuple[Fields, Bound]:
    """The fields and arrays that all kernels of losses share."""
    fields: Fields = {}
    bound: Bound = {}
    outer, classes, inner = problem.logits.shape
    T = problem.compute
    pos_factor, neg_factor = outcome_factors(problem)
    floats = {
        "label_factor": problem.label_factor, "label_shift": problem.label_shift,
        "ignore_value": problem.ignore_value,
        "pos_factor": pos_factor, "neg_factor": neg_factor, **problem.scalars,
    }  # fmt: skip
    floats |= {f"p{k}": p for k, p in enumerate(problem.params)}
    fields |= {name: bits(value, T) for name, value in floats.items()}
    fields |= {
        "outer": outer, "classes": classes, "inner": inner,
        "sparse_targets": int(problem.sparse_targets), "normalize": int(problem.normalize),
        "may_ignore": int(problem.may_ignore), "ignore_index": problem.ignore_index,
        "real_targets": int(problem.real_targets),
        "lowest": problem.lowest, "highest": problem.highest,
        "forbidden_label": problem.forbidden_label,
        "targets_dtype": dtype_code(problem.targets.dtype),
    }  # fmt: skip
    for name in ("logits", "targets", "sample_weight", "loss", "grad", "hess"):
        add_view(fields, bound, name, getattr(problem, name))
    if problem.sample_weight is not None:
        fields["sample_dtype"] = dtype_code(problem.sample_weight.dtype)
    if problem.loss is not None:
        fields["loss_dtype"] = dtype_code(problem.loss.dtype)
    add_vector(fields, bound, "weight", problem.weight)
    add_vector(fields, bound, "pos_weight", problem.pos_weight)
    return fields, bound


def is_full(problem: Problem) -> bool:
    """Whether the kernel computes Hessians, or a softcap or scale of logits (``Full``)."""
    return problem.hess is not None or problem.transforms_logits
