"""What the elements of a row weigh, asked once a chunk: by weights of classes and of samples."""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cuda.device import threads
from fusedce.kernels.cuda.load_store import decoded, lanes_of, per_chunk, read_beside
from fusedce.kernels.cuda.load_store_scalar import constant, itemsize, number_at
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.scalar import scalar


class Absent(NamedTuple):
    """Type tag: there are no such weights."""


class Seats(NamedTuple):
    """How a thread finds the rows of its chunks."""

    args: Any
    first: Any  # number of its first chunk
    last: Any  # of the last one of all


@scalar
def seat_of(seats, dtype, k):
    """(row, first class) of the k-th chunk of a thread; beyond the end, of the last one."""
    args, per = seats.args, np.int32(per_chunk(dtype))
    n = min(np.int32(seats.first + k * threads()), seats.last)
    factor = np.uint64(np.uint32(args.magic_classes))  # both in 32 bits: one multiplication
    row = np.int64((np.uint64(np.uint32(n)) * factor) >> np.uint64(args.shift_classes))
    chunks = np.int32(np.int32(args.classes) // per)
    return row, np.int32(np.int32(n - np.int32(row) * chunks) * per)


def chunk_replaced(builder, found, k, values):
    """The same lanes, but those of the k-th chunk."""
    start = builder.mul(k, constant(len(values)))
    for i, value in enumerate(values):
        found = builder.insert_element(found, value, builder.add(start, constant(i)))
    return found


@intrinsic
def with_chunk(typingctx, dtype, x, k, chunk):
    """The same lanes, but those of the k-th chunk: other ones, or one for all."""
    per = lanes_of(dtype.instance_class)

    def codegen(context, builder, sig, args):
        _, found, k, new = args
        one = not hasattr(chunk, "width")
        values = [new if one else builder.extract_element(new, constant(i)) for i in range(per)]
        return chunk_replaced(builder, found, k, values)

    return x(dtype, x, types.int32, chunk), codegen


@scalar
def weights_at(tag, P, dtype, array, first):
    """The weights of a chunk's classes, from the first one on."""
    address = array + np.int64(first) * np.int64(itemsize(tag))
    return decoded(P, tag, read_beside(P, tag, dtype, address, np.int64(0), np.int32(1)))


@scalar
def ones_at(tag, P, dtype, array, first):
    """The same where there are none."""
    return P(1)


@scalar
def sample_at(tag, T, args, row):
    """The sample weight of a row."""
    return number_at(T, tag, args.sample_weight + row * args.sample_outer)


@scalar
def one_at(tag, T, args, row):
    """The same where there are none."""
    return T(1)


class Weights(NamedTuple):
    """Type tags of how weights are stored."""

    classes: Any
    positive: Any
    samples: Any


def weighed(Weight: type, Positive: type, Samples: type) -> Any:
    """The function of (k, found, ...) that puts what the k-th chunk weighs into (up, down)."""
    classes, positive = (ones_at if tag is Absent else weights_at for tag in (Weight, Positive))
    samples = one_at if Samples is Absent else sample_at

    @scalar
    def with_weights(k, found, seats, dtype, T, P, weights, up, down):
        args = seats.args
        row, first = seat_of(seats, dtype, k)
        both = classes(weights.classes, P, dtype, args.weight, first)
        both = both * samples(weights.samples, T, args, row)
        more = both * up * positive(weights.positive, P, dtype, args.pos_weight, first)
        ups, downs = found
        return with_chunk(dtype, ups, k, more), with_chunk(dtype, downs, k, both * down)

    return with_weights


@scalar
def unweighed(found, seats, dtype, T, P, weights, up, down):
    """(up, down), the same for all."""
    return up, down
