"""What the elements of a row weigh, asked once a chunk: by weights of classes and of samples."""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.device import threads
from fusedce.kernels.cuda.memory import decoded, lanes_of, per_chunk, read_beside
from fusedce.kernels.cuda.numba_cuda import intrinsic, types
from fusedce.kernels.cuda.stored import constant, itemsize, number_at
from fusedce.kernels.scalar import INLINED, scalar


class Absent(NamedTuple):
    """Type tag: there are no such weights."""


class Seats(NamedTuple):
    """How a thread finds the rows of its chunks."""

    plan: Any
    first: Any  # number of its first chunk
    last: Any  # of the last one of all


@scalar
def seat_of(seats, form, k):
    """(row, first class) of the k-th chunk of a thread; beyond the end, of the last one."""
    plan, per = seats.plan, np.int32(per_chunk(form))
    n = min(np.int32(seats.first + k * threads()), seats.last)
    factor = np.uint64(np.uint32(plan.magic_classes))  # both in 32 bits: one multiplication
    row = np.int64((np.uint64(np.uint32(n)) * factor) >> np.uint64(plan.shift_classes))
    chunks = np.int32(np.int32(plan.classes) // per)
    return row, np.int32(np.int32(n - np.int32(row) * chunks) * per)


@intrinsic
def with_chunk(typingctx, form, x, k, chunk):
    """The same lanes, but those of the k-th chunk: other ones, or one for all."""
    per = lanes_of(form.instance_class)

    def codegen(context, builder, sig, args):
        _, found, k, new = args
        start = builder.mul(k, constant(per))
        for i in range(per):
            value = builder.extract_element(new, constant(i)) if hasattr(chunk, "width") else new
            found = builder.insert_element(found, value, builder.add(start, constant(i)))
        return found

    return x(form, x, types.int32, chunk), codegen


def weights_at(tag, P, form, address):
    """The weights of a chunk's classes, from an address on."""
    raise NotImplementedError("compiled code only")


@overload(weights_at, jit_options=INLINED)
def _weights_at(tag, P, form, address):
    if tag.instance_class is Absent:
        return lambda tag, P, form, address: P(1)
    return lambda tag, P, form, address: decoded(
        P, tag, read_beside(P, tag, form, address, np.int64(0), np.int32(1))
    )


def place_at(tag, address, number):
    """The address of a number by its place; nothing where there are none."""
    raise NotImplementedError("compiled code only")


@overload(place_at, jit_options=INLINED)
def _place_at(tag, address, number):
    if tag.instance_class is Absent:
        return lambda tag, address, number: np.int64(0)
    return lambda tag, address, number: address + np.int64(number) * np.int64(itemsize(tag))


def sample_at(tag, T, plan, row):
    """The sample weight of a row."""
    raise NotImplementedError("compiled code only")


@overload(sample_at, jit_options=INLINED)
def _sample_at(tag, T, plan, row):
    if tag.instance_class is Absent:
        return lambda tag, T, plan, row: T(1)
    return lambda tag, T, plan, row: number_at(T, tag, plan.sample_weight + row * plan.sample_outer)


class Weights(NamedTuple):
    """Type tags of how weights are stored."""

    classes: Any
    positive: Any
    samples: Any


@scalar
def weighed(k, found, seats, form, T, P, weights, up, down):
    """(up, down) of lanes, with those of the k-th chunk."""
    plan = seats.plan
    row, first = seat_of(seats, form, k)
    both = weights_at(weights.classes, P, form, place_at(weights.classes, plan.weight, first))
    both = both * sample_at(weights.samples, T, plan, row)
    here = place_at(weights.positive, plan.pos_weight, first)
    more = both * up * weights_at(weights.positive, P, form, here)
    ups, downs = found
    return with_chunk(form, ups, k, more), with_chunk(form, downs, k, both * down)


@scalar
def unweighed(found, seats, form, T, P, weights, up, down):
    """(up, down), the same for all."""
    return up, down
