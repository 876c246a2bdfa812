"""Factors of elements in rows, by weights of classes and of samples: looked up once a chunk."""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import threads
from fusedce.kernels.cuda.elementwise_flat import NoWeight
from fusedce.kernels.cuda.load_store import chunk_lanes, decode, per_chunk, read_like
from fusedce.kernels.cuda.load_store_scalar import constant, itemsize, number_at
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.scalar import scalar


class RowChunks(NamedTuple):
    """From which a thread finds the rows of its chunks."""

    args: Any
    first: Any  # number of its first chunk
    last: Any  # number of the last chunk of the array


@scalar
def chunk_row(chunks, dtype, k):
    """(row, first class) of the k-th chunk of a thread; past the end, of the last chunk."""
    args, per = chunks.args, np.int32(per_chunk(dtype))
    n = min(np.int32(chunks.first + k * threads()), chunks.last)
    factor = np.uint64(np.uint32(args.magic_classes))  # both in 32 bits: one multiplication
    row = np.int64((np.uint64(np.uint32(n)) * factor) >> np.uint64(args.shift_classes))
    row_chunks = np.int32(np.int32(args.classes) // per)
    return row, np.int32(np.int32(n - np.int32(row) * row_chunks) * per)


def insert_lanes(builder, vector, k, values):
    """The vector with the lanes of its k-th chunk replaced by ``values``, in LLVM IR."""
    start = builder.mul(k, constant(len(values)))
    for i, value in enumerate(values):
        vector = builder.insert_element(vector, value, builder.add(start, constant(i)))
    return vector


@intrinsic
def with_chunk(typingctx, dtype, x, k, chunk):
    """x with the lanes of its k-th chunk replaced: by a vector, or all by one number."""
    per = chunk_lanes(dtype.instance_class)

    def codegen(context, builder, sig, args):
        _, vector, k, new = args
        one = not hasattr(chunk, "width")
        values = [new if one else builder.extract_element(new, constant(i)) for i in range(per)]
        return insert_lanes(builder, vector, k, values)

    return x(dtype, x, types.int32, chunk), codegen


@scalar
def load_class_weights(tag, P, dtype, array, first):
    """The weights of a chunk's classes, from class ``first`` on: a vector of type P."""
    address = array + np.int64(first) * np.int64(itemsize(tag))
    return decode(P, tag, read_like(P, tag, dtype, address, np.int64(0), np.int32(1)))


@scalar
def unit_class_weights(tag, P, dtype, array, first):
    """The same where there is no such array: 1."""
    return P(1)


@scalar
def load_sample_weight(tag, T, args, row):
    """The sample weight of a row."""
    return number_at(T, tag, args.sample_weight + row * args.sample_outer)


@scalar
def unit_sample_weight(tag, T, args, row):
    """The same where there is no such array: 1."""
    return T(1)


class Weights(NamedTuple):
    """Type tags: the dtype of each weight array, or NoWeight."""

    classes: Any
    positive: Any
    samples: Any


def weighted_factors(Weight: type, Positive: type, Samples: type) -> Any:
    """The function of (k, found, ...) that sets the factors of the k-th chunk.

    found: (factors of positive outcomes, factors of negative outcomes), vectors.
    """
    classes, positive = (
        unit_class_weights if tag is NoWeight else load_class_weights for tag in (Weight, Positive)
    )
    samples = unit_sample_weight if Samples is NoWeight else load_sample_weight

    @scalar
    def set_factors(k, found, chunks, dtype, T, P, weights, pos_factor, neg_factor):
        args = chunks.args
        row, first = chunk_row(chunks, dtype, k)
        both = classes(weights.classes, P, dtype, args.weight, first)
        both = both * samples(weights.samples, T, args, row)
        pos = both * pos_factor * positive(weights.positive, P, dtype, args.pos_weight, first)
        all_pos, all_neg = found
        all_pos = with_chunk(dtype, all_pos, k, pos)
        return all_pos, with_chunk(dtype, all_neg, k, both * neg_factor)

    return set_factors


@scalar
def constant_factors(found, chunks, dtype, T, P, weights, pos_factor, neg_factor):
    """(pos_factor, neg_factor), the same for all elements."""
    return pos_factor, neg_factor
