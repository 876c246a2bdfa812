"""Softmax rows with a distribution for a target and contiguous classes.

rows.py and distribution.py explain the arguments.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.compensated_sum import add_terms, init_terms, total_terms
from fusedce.kernels.cuda.distribution import (
    GradientFactors,
    RowSums,
    SplitSum,
    Target,
    class_terms,
    count_nonzero,
    distribution_derivatives,
    first_label_ignored,
    split_sum_add,
    split_sum_add_hess,
    split_sum_reduce,
    split_sum_reduce_hess,
    z_loss_terms,
)
from fusedce.kernels.cuda.distribution_masses import (
    chunk_labels,
    chunk_masses,
    load_label_words,
    remainder_label,
    remainder_mass,
)
from fusedce.kernels.cuda.load_store import chunks_of, decode, no_words
from fusedce.kernels.cuda.load_store_scalar import float_of, params_of
from fusedce.kernels.cuda.logit_transform import present_lanes, transform_logits
from fusedce.kernels.cuda.online_softmax import (
    empty_state,
    online_softmax_iteration,
    online_softmax_reduce,
    online_softmax_update,
)
from fusedce.kernels.cuda.reduce import cluster_arrive, cluster_wait, reduce_sum
from fusedce.kernels.cuda.row_cache import (
    chunk_loop_end,
    load_chunks,
    prefetch_row,
    reload_chunks,
)
from fusedce.kernels.cuda.rows import (
    LanePart,
    Outputs,
    class_index_or_zero,
    lane_part,
    load_remainder,
    row_of_group,
    sample_weight_of,
    scale_of,
    store_chunk_results,
    store_loss,
    store_remainder_results,
    without_loads,
)
from fusedce.kernels.cuda.tags import DistributionTags, DistributionTypes, tags_of
from fusedce.kernels.scalar import scalar, where
from fusedce.kernels.vector import vector_of


class ReducedPart(NamedTuple):
    """A thread's part of a row after the first pass."""

    source: Any  # address of the row
    load_part: LanePart
    store_part: LanePart
    maximum: Any  # of the row
    sum_exp_minus_1: Any
    words: Any  # of the last iteration: logits
    label_words: Any  # and labels


class Remainder(NamedTuple):
    """A thread's class in the remainder."""

    z: Any
    x: Any
    mass: Any


@scalar
def first_pass(tags, args, N, source, target, part, chunks, state, n_labels):
    """(words, label words, SoftmaxState, nonzero labels) after a pass over a thread's chunks.

    Starts from ``state`` and ``n_labels``, those of the remainder; ``chunks``: of the thread, also
    if the row does not count.
    """
    dtype = tags.dtype
    words, label_words = no_words(N, dtype), no_words(N, tags.target_dtype)
    prefetch_row(tags, args, N, source, part, chunks)
    k, per = np.int32(0), chunks_of(N, dtype)
    end = chunk_loop_end(tags, part.chunks, per)
    while k < end:
        words = load_chunks(tags, args, N, source, part, k)
        label_words = load_label_words(tags, args, N, target, part, k)
        y = chunk_labels(tags, args, N, target, part, k, label_words)
        n_labels += count_nonzero(y)
        v = decode(N, dtype, words)
        v = transform_logits(tags.features, args, v, present_lanes(tags, N, part, k))
        state, _ = online_softmax_iteration(tags.residency, dtype, state, v)
        k = np.int32(k + per)
    return words, label_words, state, n_labels


@scalar
def label_factor(group, args, T, n_labels):
    """(factor of labels, whether the row counts). With normalize_targets: 1 / nonzero labels."""
    factor = float_of(T, args.label_factor)
    if args.normalize != 0:
        n_labels = reduce_sum(group, args, 4, n_labels)
        return factor / where(n_labels > T(0), n_labels, T(1)), n_labels > T(0)
    return factor, True


@scalar
def remainder_terms(tags, params, x, maximum, sum_exp_minus_1, mass):
    """(loss, first, second) of a thread's class in the remainder."""
    T = type(x)
    none = SplitSum(T(0), T(0), T(0), T(0))
    f, a, b, p, q = class_terms(tags.evaluation, params, x, maximum, sum_exp_minus_1, mass)
    return f, split_sum_add(none, a), split_sum_add_hess(tags.features, none, b)


@scalar
def second_pass(tags, args, N, params, reduced, target, terms):
    """(loss, first, second) of a thread: the loss, and SplitSums of mass f' and mass f''.

    ``reduced``: ReducedPart; ``terms``: those of the remainder.
    """
    part = reduced.load_part
    terms, iteration = init_terms(tags, terms), np.int32(0)
    k, per = np.int32(0), chunks_of(N, tags.dtype)
    end = chunk_loop_end(tags, part.chunks, per)
    while k < end:
        words = reload_chunks(tags, args, N, reduced.source, part, k, reduced.words)
        v = decode(N, tags.dtype, words)
        x = transform_logits(tags.features, args, v, present_lanes(tags, N, part, k))
        mass = chunk_masses(tags, args, N, target, part, k, reduced.label_words)
        f, a, b, p, q = class_terms(
            tags.evaluation, params, x, reduced.maximum, reduced.sum_exp_minus_1, mass
        )
        terms = add_terms(tags, terms, iteration, f, a, b)
        k, iteration = np.int32(k + per), np.int32(iteration + 1)
    return total_terms(tags, terms)


@scalar
def third_pass(tags, args, N, params, reduced, target, out, sums, factors):
    """Store the derivatives of a thread's chunks; zeros in a row that does not count."""
    part, store_part, live = reduced.load_part, reduced.store_part, factors.live
    k, per, at = np.int32(0), chunks_of(N, tags.dtype), store_part.first
    end = chunk_loop_end(tags, store_part.chunks, per)
    while k < end:
        words = reload_chunks(tags, args, N, reduced.source, part, k, reduced.words)
        v = decode(N, tags.dtype, words)
        x = transform_logits(tags.features, args, v, present_lanes(tags, N, part, k))
        mass = chunk_masses(tags, args, N, target, part, k, reduced.label_words)
        g, h = distribution_derivatives(tags, args, params, v, x, mass, sums, factors)
        g, h = where(live, g, N(0)), where(live, h, N(0))
        here = Outputs(out.grad + at, out.hess + at)
        store_chunk_results(tags, args, here, store_part, k, g, h)
        k, at = np.int32(k + per), at + per * store_part.step


@scalar
def remainder_gradients(tags, args, params, rest, out, part, sums, factors):
    """The same of its class in the remainder; ``rest``: Remainder."""
    T = type(rest.x)
    g, h = distribution_derivatives(tags, args, params, rest.z, rest.x, rest.mass, sums, factors)
    g, h = where(factors.live, g, T(0)), where(factors.live, h, T(0))
    store_remainder_results(tags, args, out, part, g, h)


def distribution_rows(*types: Any) -> Any:
    """The kernel of distributions, for rows of contiguous classes; ``types``: DistributionTypes.

    Reads logits (outer, classes, inner) of ``dtype``, targets (outer, classes, inner) of
    ``target_dtype`` or smoothed class indices (outer, inner) of any integer dtype, and if given
    sample_weight (outer, inner), weight (classes,) of ``weight_dtype`` and label_stats
    (1 / denominator). Writes, if wanted, loss (outer, inner), the blocks' sums of it ``partial``
    (blocks,) of T, and grad and hess (outer, classes, inner) of ``dtype``. All arithmetic is of T,
    ``compute``.
    """
    t = DistributionTypes(*types)
    Params, T, Lanes, tags = t.params, t.compute, t.lanes, tags_of(DistributionTags, t)
    dtype, group = tags.dtype, tags.group

    def distribution_rows(args):
        N, params = vector_of(T, Lanes()), params_of(args, Params, T)
        # 1. Which row, which part of it, and its target. Of a row that does not count: no part.
        this = row_of_group(group, args)
        outer, inner = this.outer, this.inner
        source = args.logits + outer * args.logits_outer + inner * args.logits_inner
        scale, label = scale_of(args, T), class_index_or_zero(args, outer, inner)
        live = (
            this.in_range
            and scale != T(0)
            and (args.sparse_targets == 0 or label != args.ignore_index)
        )
        valid = label >= 0 and label < args.classes
        store_part = lane_part(tags, args, source, this.rank, this.in_range)
        part = without_loads(store_part, live)
        at = args.targets + outer * args.targets_outer + inner * args.targets_inner
        target = Target(
            at, label, T(0), live and first_label_ignored(args, T, tags.target_dtype, at)
        )
        # 2. The remainder (scalar head and tail of the row): at most one class a thread.
        z = load_remainder(T, dtype, source, part)
        x = transform_logits(tags.features, args, z, part.has_remainder > 0)
        y = remainder_label(tags, args, T, target, part)
        # 3. First pass: online softmax, and the number of nonzero labels; over the whole row.
        state = online_softmax_update(dtype, empty_state(T), x)
        words, label_words, state, n_labels = first_pass(
            tags, args, N, source, target, part, store_part.chunks, state, count_nonzero(y)
        )
        maximum, sum_exp_minus_1 = online_softmax_reduce(group, args, dtype, 0, state)
        factor, labelled = label_factor(group, args, T, n_labels)
        target, live = Target(at, label, factor, target.ignored), live and labelled
        # 4. Second pass: the loss, and the sums that gradients are computed from.
        mass = remainder_mass(tags, args, T, target, part, y)
        terms = remainder_terms(tags, params, x, maximum, sum_exp_minus_1, mass)
        reduced = ReducedPart(source, part, store_part, maximum, sum_exp_minus_1, words,
                              label_words)  # fmt: skip
        loss, first, second = second_pass(tags, args, N, params, reduced, target, terms)
        first = split_sum_reduce(group, args, 5, first)
        second = split_sum_reduce_hess(tags.features, group, args, 9, second)
        # 5. Sample weight and z-loss; NaN for an invalid label.
        sample = sample_weight_of(args, T, outer, inner) * (T(1) if valid else T(np.nan))
        lse, zeta, zeta_lse = z_loss_terms(args, T, sample, maximum, sum_exp_minus_1)
        loss = reduce_sum(group, args, 13, loss)
        live = live and (not target.ignored or loss != loss)  # NaN: ignored in part
        loss = sample * loss + where(zeta == T(0), T(0), zeta_lse * lse)
        cluster_arrive(group)
        # 6. Third pass: the derivatives.
        if args.grad != 0 or args.hess != 0:
            grad = args.grad + outer * args.grad_outer + inner * args.grad_inner
            hess = args.hess + outer * args.hess_outer + inner * args.hess_inner
            out = Outputs(grad, hess)
            sums = RowSums(maximum, sum_exp_minus_1, first, second)
            factors = GradientFactors(sample * scale, zeta * scale, T(2) * zeta_lse * scale, live)
            third_pass(tags, args, N, params, reduced, target, out, sums, factors)
            rest = Remainder(z, x, mass)
            remainder_gradients(tags, args, params, rest, out, store_part, sums, factors)
        # 7. Store the loss, or add it to the block's sum.
        store_loss(group, args, this, where(live, loss, T(0)))
        cluster_wait(group)

    return distribution_rows
