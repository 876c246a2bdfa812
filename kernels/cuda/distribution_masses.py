"""The masses of a row of a distribution that a group of threads shares: labels times weights.

mass_j = weight_j (factor label_j + label_shift). Labels are loaded in the chunks of the logits
where they have the same layout (``SameLayout``), else element by element. rows.py explains the
arguments; ``target``: Target.
"""

from typing import NamedTuple

import numpy as np

from fusedce.kernels.cuda.distribution import OneHot, Unweighted, masked_mass
from fusedce.kernels.cuda.load_store import (
    chunks_of,
    decode,
    first_lanes,
    no_words,
    optimization_barrier,
    per_chunk,
    read_like,
)
from fusedce.kernels.cuda.load_store_masked import chunk_lane_equals, read_grid, read_lanes
from fusedce.kernels.cuda.load_store_scalar import float_of, itemsize
from fusedce.kernels.cuda.row_cache import Registers
from fusedce.kernels.cuda.tags import tag_class
from fusedce.kernels.scalar import generated, scalar, where
from fusedce.kernels.vector import lanes_as


class SameLayout(NamedTuple):
    """Type tag: labels are contiguous and aligned so that they load in the logits' chunks."""


class OwnLayout(NamedTuple):
    """Type tag: labels have any other strides or alignment."""


# ------------------------------------------------------------------- chunks of the body of a row


@generated
def load_label_words(tags, args, N, target, part, k):
    """SameLayout: the words of the labels of the chunks from the k-th on; else nothing."""
    if tag_class(tags, "target_layout") is SameLayout:

        def same_layout(tags, args, N, target, part, k):
            ratio = np.int64(itemsize(tags.target_dtype))
            item = itemsize(tags.dtype)
            e = part.first // item + np.int64(k) * (part.step // item)
            step = np.int64(part.step // item) * ratio
            address = target.address + e * ratio
            return read_like(N, tags.target_dtype, tags.dtype, address, step, part.chunks - k)

        return same_layout
    return lambda tags, args, N, target, part, k: no_words(N, tags.target_dtype)


@generated
def reload_label_words(tags, args, N, target, part, k, words):
    """The same in a later pass; ``words``: those of the last iteration."""
    if tag_class(tags, "residency") is Registers:
        return lambda tags, args, N, target, part, k, words: optimization_barrier(words)
    return lambda tags, args, N, target, part, k, words: load_label_words(
        tags, args, N, target, part, k
    )


@scalar
def chunk_positions(tags, part, k, array, stride):
    """Where the elements of an array lie that belong to the chunks from the k-th on.

    (address of the first, bytes from one chunk to the next); ``stride``: bytes from class to class.
    """
    item = np.int64(itemsize(tags.dtype))
    step = np.int64(part.step) // item * stride
    return array + part.first // item * stride + np.int64(k) * step, step


@generated
def chunk_labels(tags, args, N, target, part, k, words):
    """The labels of the chunks from the k-th on; zeros in lanes without a logit."""
    layout = tag_class(tags, "target_layout")
    if layout is SameLayout:
        return lambda tags, args, N, target, part, k, words: decode(N, tags.target_dtype, words)
    if layout is OneHot:

        def one_hot(tags, args, N, target, part, k, words):
            item = np.int64(itemsize(tags.dtype))
            step = np.int64(part.step) // item
            first = part.first // item + np.int64(k) * step
            return where(chunk_lane_equals(N, tags.dtype, first, step, target.label), N(1), N(0))

        return one_hot

    def own_layout(tags, args, N, target, part, k, words):
        T = lanes_as(N(0))
        address, step = chunk_positions(tags, part, k, target.address, args.targets_cls)
        return read_grid(
            N, tags.target_dtype, tags.dtype, address, step, args.targets_cls, part.chunks - k, T(0)
        )

    return own_layout


@generated
def chunk_weights(tags, args, N, part, k):
    """The class weights of the chunks from the k-th on."""
    if tag_class(tags, "weight_dtype") is Unweighted:
        return lambda tags, args, N, part, k: N(1)

    def weighted(tags, args, N, part, k):
        T = lanes_as(N(0))
        address, step = chunk_positions(tags, part, k, args.weight, args.weight_step)
        return read_grid(
            N, tags.weight_dtype, tags.dtype, address, step, args.weight_step, part.chunks - k, T(0)
        )

    return weighted


@scalar
def chunk_masses(tags, args, N, target, part, k, words):
    """The masses of the chunks from the k-th on; zeros in lanes without a logit."""
    words = reload_label_words(tags, args, N, target, part, k, words)
    y = chunk_labels(tags, args, N, target, part, k, words)
    count = min(part.chunks - k, chunks_of(N, tags.dtype)) * per_chunk(tags.dtype)
    present = first_lanes(N, np.int32(count))
    T = lanes_as(y)
    mass = chunk_weights(tags, args, N, part, k) * (
        y * target.factor + float_of(T, args.label_shift)
    )
    return where(present, masked_mass(args, y, mass, target.ignored), N(0))


# ---------------------------------------------------- the class in the remainder, head and tail


@scalar
def remainder_label(tags, args, T, target, part):
    """The label of a thread's class in the remainder."""
    j = part.remainder_offset // np.int64(itemsize(tags.dtype))
    if args.sparse_targets != 0:
        return T(1) if part.has_remainder > 0 and j == target.label else T(0)
    address = target.address + j * args.targets_cls
    return read_lanes(T, tags.target_dtype, address, np.int64(0), part.has_remainder, T(0))


@generated
def remainder_weight(tags, args, T, part):
    """The weight of that class."""
    if tag_class(tags, "weight_dtype") is Unweighted:
        return lambda tags, args, T, part: T(1)
    return lambda tags, args, T, part: read_lanes(
        T, tags.weight_dtype,
        args.weight + part.remainder_offset // np.int64(itemsize(tags.dtype)) * args.weight_step,
        np.int64(0), part.has_remainder, T(0),
    )  # fmt: skip


@scalar
def remainder_mass(tags, args, T, target, part, label):
    """The mass of that class; 0 for a thread without one."""
    mass = remainder_weight(tags, args, T, part) * (
        label * target.factor + float_of(T, args.label_shift)
    )
    return masked_mass(args, label, mass, target.ignored) if part.has_remainder > 0 else T(0)
