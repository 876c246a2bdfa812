"""Softmax rows with class indices and contiguous classes: the rule is evaluated once a row.

rows.py explains the arguments.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.load_store import chunks_of, decode, no_words, optimization_barrier
from fusedce.kernels.cuda.load_store_scalar import itemsize, number_at, params_of, put_number
from fusedce.kernels.cuda.logit_transform import (
    Full,
    chain_transform,
    minus_max,
    present_lanes,
    transform_logits,
)
from fusedce.kernels.cuda.online_softmax import (
    SoftmaxState,
    exp_max_difference,
    exp_scale_and_factor,
    exp_scaled,
    online_softmax_first,
    online_softmax_iteration,
    online_softmax_reduce,
    online_softmax_update,
    shifted_logits,
    times_exp_scaled,
)
from fusedce.kernels.cuda.reduce import cluster_arrive, cluster_wait, sync_before_overwrite
from fusedce.kernels.cuda.row_cache import (
    RegisterExps,
    Registers,
    chunk_loop_end,
    load_chunks,
    prefetch_row,
    reload_chunks,
    values_to_keep,
)
from fusedce.kernels.cuda.rows import (
    Outputs,
    class_weight_of,
    lane_part,
    load_class_index,
    load_remainder,
    rank_of_class,
    row_of_group,
    sample_weight_of,
    scale_of,
    softmax_curvature,
    store_chunk_results,
    store_loss,
    store_remainder_results,
    without_loads,
    z_loss_of,
)
from fusedce.kernels.cuda.tags import RowTags, tag_class
from fusedce.kernels.link import softmax_row
from fusedce.kernels.scalar import exp_down, generated, scalar, where
from fusedce.kernels.vector import lanes_as, vector_of


class IndexTarget(NamedTuple):
    """The target class of a row, and the factors of the row."""

    label: Any  # 0 where there is none
    logit: Any  # its stored logit
    weight: Any  # its class weight
    sample: Any  # the sample weight of the row
    scale: Any  # 1 / denominator of the mean


class IndexRow(NamedTuple):
    """What the derivatives of a row are computed from, see ``link.softmax_row``.

    The gradient of a class other than the target is k exp(x - maximum).
    """

    scaling: Any  # ExpScale of the maximum
    unit: float  # k exp(x - maximum) is unit times ``exp_scaled``
    maximum: float
    sum_exp_minus_1: float
    k: float
    first: float  # the gradient of the target class
    square: float  # second derivatives of the others: square p**2 + product p (1 - p)
    product: float
    second: float  # the second derivative of the target class


class Kept(NamedTuple):
    """What a thread keeps of the first pass over its chunks."""

    values: Any  # what stays in registers: words or exponentials of the last iteration
    maximum: Any  # of the chunks; exponentials are relative to it


@scalar
def evaluate_row(args, dtype, params, target, x, maximum, sum_exp_minus_1, live, valid):
    """(loss, IndexRow) of a row.

    ``target``: IndexTarget; ``x``: its transformed logit; ``valid``: whether the label is in
    [0, classes): else results are NaN. (Booleans in a record would change the machine code.)
    """
    T = type(x)
    d = minus_max(args, x, maximum)
    loss, k, rest, first, square, product, second = softmax_row(
        params, d, exp_down(d), maximum, sum_exp_minus_1, target.weight * target.sample,
        target.sample, z_loss_of(args, T), target.scale,
    )  # fmt: skip
    bad, none = where(valid, T(1), T(np.nan)), T(0)
    if live:
        scaling, unit = exp_scale_and_factor(dtype, maximum, k * bad)
        return loss * bad, IndexRow(
            scaling, unit, maximum, sum_exp_minus_1, k * bad, first * bad, square, product * bad,
            second * bad,
        )  # fmt: skip
    scaling, unit = exp_scale_and_factor(dtype, none, none)
    return none, IndexRow(scaling, unit, none, none, none, none, none, none, none)


@generated
def derivatives(tags, args, z, x, row, live):
    """(gradients, second derivatives) of classes other than the target; ``row``: IndexRow."""
    if tag_class(tags, "features") is not Full:

        def plain(tags, args, z, x, row, live):
            shifted = shifted_logits(tags.dtype, row.scaling, x)
            g = row.unit * exp_scaled(tags.dtype, row.scaling, shifted)
            return g, g

        return plain

    def full(tags, args, z, x, row, live):
        N = type(z)
        e = exp_down(minus_max(args, x, row.maximum))
        h = softmax_curvature(e, row.sum_exp_minus_1, row.square, row.product)
        g, h = chain_transform(args, z, x, row.k * e, h)
        return where(live, g, N(0)), where(live, h, N(0))

    return full


@generated
def softmax_pass(tags, args, N, source, part):
    """(SoftmaxState, what stays in registers) of a thread's chunks: the first pass over a row."""
    if tag_class(tags, "residency") in (Registers, RegisterExps):

        def single_iteration(tags, args, N, source, part):
            k = np.int32(0)
            words = load_chunks(tags, args, N, source, part, k)
            v = decode(N, tags.dtype, words)
            v = transform_logits(tags.features, args, v, present_lanes(tags, N, part, k))
            state, e = online_softmax_first(tags.dtype, v)
            return state, values_to_keep(tags, words, e)

        return single_iteration

    def loop(tags, args, N, source, part):
        # Scalars, not a record: a record in a loop would change the machine code.
        T = lanes_as(N(0))
        thread_max, sum_below_max, n_at_max = T(-np.finfo(T).max), T(0), T(0)
        words = no_words(N, tags.dtype)
        k = np.int32(0)
        while k < part.chunks:
            words = load_chunks(tags, args, N, source, part, k)
            v = decode(N, tags.dtype, words)
            v = transform_logits(tags.features, args, v, present_lanes(tags, N, part, k))
            (thread_max, sum_below_max, n_at_max), _ = online_softmax_iteration(
                tags.residency, tags.dtype, SoftmaxState(thread_max, sum_below_max, n_at_max), v
            )
            k = np.int32(k + chunks_of(N, tags.dtype))
        return SoftmaxState(thread_max, sum_below_max, n_at_max), words

    return loop


@generated
def gradients(tags, args, N, source, part, k, kept, row, live):
    """(gradients, second derivatives) of the chunks from the k-th on; ``kept``: Kept."""
    if tag_class(tags, "residency") is RegisterExps:

        def from_exponentials(tags, args, N, source, part, k, kept, row, live):
            factor = row.k * exp_max_difference(tags.dtype, kept.maximum - row.maximum)
            g = times_exp_scaled(tags.dtype, kept.maximum, factor, kept.values)
            return g, g

        return from_exponentials

    def from_logits(tags, args, N, source, part, k, kept, row, live):
        v = decode(N, tags.dtype, reload_chunks(tags, args, N, source, part, k, kept.values))
        x = transform_logits(tags.features, args, v, present_lanes(tags, N, part, k))
        return derivatives(tags, args, v, x, row, live)

    return from_logits


@generated
def store_target(tags, args, out, target, row):
    """Store the gradient, and second derivative if wanted, of the target class."""
    if tag_class(tags, "features") is not Full:
        return lambda tags, args, out, target, row: put_number(
            tags.dtype, out.grad + target.label * itemsize(tags.dtype), row.first
        )

    def full(tags, args, out, target, row):
        x = transform_logits(tags.features, args, target.logit, True)
        first, second = chain_transform(args, target.logit, x, row.first, row.second)
        offset = target.label * itemsize(tags.dtype)
        if args.grad != 0:
            put_number(tags.dtype, out.grad + offset, first)
        if args.hess != 0:
            put_number(tags.dtype, out.hess + offset, second)

    return full


@scalar
def gradient_pass(tags, args, N, source, part, out, kept, row, live):
    """Store the derivatives of a thread's chunks; zeros in a row that does not count."""
    load_part, store_part = part
    k, per, at = np.int32(0), chunks_of(N, tags.dtype), store_part.first
    end = chunk_loop_end(tags, store_part.chunks, per)
    while k < end:
        first, second = gradients(tags, args, N, source, load_part, k, kept, row, live)
        here = Outputs(out.grad + at, out.hess + at)
        store_chunk_results(tags, args, here, store_part, k, first, second)
        k, at = np.int32(k + per), at + per * store_part.step


def index_rows(Params: type, T: Any, Dtype: type, IndexDtype: type, Residency: type, Group: type,
               Lanes: type,
               Alignment: type, Features: type) -> Any:  # fmt: skip
    """The kernel of class indices for rows with contiguous classes, a group of threads a row.

    Reads logits (outer, classes, inner) of Dtype, targets (outer, inner) of IndexDtype, and if
    given sample_weight (outer, inner), weight (classes,) and label_stats (1 / denominator). Writes,
    if wanted, loss (outer, inner), the blocks' sums of it ``partial`` (blocks,) of T, and grad and
    hess (outer, classes, inner) of Dtype. All arithmetic is of T.
    """

    def index_rows(args):
        tags = RowTags(Dtype(), Residency(), Group(), Alignment(), Features())
        dtype, group = tags.dtype, tags.group
        N = vector_of(T, Lanes())
        params = params_of(args, Params, T)
        # 1. Which row, which part of it, and its label. Of an ignored row nothing is loaded.
        this = row_of_group(group, args)
        outer, inner = this.outer, this.inner
        source = args.logits + outer * args.logits_outer + inner * args.logits_inner
        scale = scale_of(args, T)
        label = load_class_index(args, IndexDtype(), outer, inner)
        live = this.in_range and label != args.ignore_index and scale != T(0)
        valid = label >= 0 and label < args.classes
        label = label if live and valid else np.int64(0)
        sample = sample_weight_of(args, T, outer, inner)
        store_part = lane_part(tags, args, source, this.rank, this.in_range)
        part = without_loads(store_part, live)
        logit = number_at(T, dtype, source + label * itemsize(dtype)) if live else T(0)
        # 2. Load the remainder (scalar head and tail of the row): at most one class a thread.
        z = x = T(-np.inf)
        if store_part.remainder > 0:
            z = load_remainder(T, dtype, source, part)
            x = transform_logits(tags.features, args, z, part.has_remainder > 0)
        # 3. First pass over the body: online softmax of the thread's chunks.
        prefetch_row(tags, args, N, source, part, store_part.chunks)
        state, values = softmax_pass(tags, args, N, source, part)
        kept, (thread_max, sum_below_max, n_at_max) = Kept(values, state.maximum), state
        if store_part.remainder > 0:
            thread_max, sum_below_max, n_at_max = online_softmax_update(dtype, state, x)
        # 4. Combine the threads' states to the row's maximum and sum.
        maximum, sum_exp_minus_1 = online_softmax_reduce(
            group, args, dtype, 0, SoftmaxState(thread_max, sum_below_max, n_at_max)
        )
        cluster_arrive(group)
        # 5. Evaluate the rule once: the loss, and what every gradient is computed from.
        x_target = transform_logits(tags.features, args, logit, True)
        weight = class_weight_of(args, T, label)
        target = IndexTarget(label, logit, weight, sample, scale)
        loss, row = evaluate_row(
            args, dtype, params, target, x_target, maximum, sum_exp_minus_1, live, valid
        )
        # 6. Gradient pass. In place, it overwrites logits that other threads have read.
        sync_before_overwrite(group)
        if args.grad != 0 or args.hess != 0:
            grad = args.grad + outer * args.grad_outer + inner * args.grad_inner
            hess = args.hess + outer * args.hess_outer + inner * args.hess_inner
            out = Outputs(optimization_barrier(grad), hess)
            gradient_pass(tags, args, N, source, (part, store_part), out, kept, row, live)
            if store_part.remainder > 0:
                first, second = derivatives(tags, args, z, x, row, live)
                store_remainder_results(tags, args, out, store_part, first, second)
            # 7. The target class: its gradient replaces what its thread has stored.
            if live and this.rank == rank_of_class(tags, args, store_part, label):
                store_target(tags, args, out, target, row)
        # 8. Store the loss, or add it to the block's sum.
        store_loss(group, args, this, loss)
        cluster_wait(group)

    return index_rows
