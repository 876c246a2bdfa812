"""The lanes that share a row: some of a warp, a block, or a cluster of blocks; and their sums.

Sums go over a fixed tree, so that every lane gets the same bits in every run. What blocks and
clusters exchange lies at the start of shared memory, each exchange in a place of its own.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.device import (
    barrier,
    barrier_cluster_arrive,
    barrier_cluster_wait,
    block,
    cluster_barrier,
    cluster_rank,
    get,
    get_remote,
    put,
    shuffle_xor,
    thread,
    threads,
    warp_barrier,
)
from fusedce.kernels.cuda.elementary import largest_of
from fusedce.kernels.scalar import INLINED, scalar, where

# One exchange: a number of each of 32 warps, and one of the block for its cluster.
REDUCTION_SLOT = 33 * 8
REDUCTION_SLOTS = 14 * REDUCTION_SLOT  # of a kernel; a multiple of 16
SHOWN = np.int32(32 * 8)  # where the block's number is


class Warp(NamedTuple):
    """Type tag: some lanes of a warp share a row, 2**bits of them (see WARPS)."""


def _warp(bits: int) -> type:
    return type(f"Warp{1 << bits}", (Warp,), {"bits": bits, "__module__": __name__})


WARPS = [_warp(bits) for bits in range(6)]


class Block(NamedTuple):
    """Type tag: a block of 2**team threads has a row."""


class Cluster(NamedTuple):
    """Type tag: a cluster of blocks, of 2**team threads in all, has a row."""


@scalar
def fmax(a, b):
    """The larger; a where b is NaN."""
    return where(b > a, b, a)


def rank(group, args):
    """(row, lane) of this thread: the lane is its number among those that share the row."""
    raise NotImplementedError("compiled code only")


@overload(rank, jit_options=INLINED)
def _seat(group, args):
    if issubclass(group.instance_class, Warp):
        bits = group.instance_class.bits

        def of_warp(group, args):
            row = np.int64(block()) * args.span + (thread() >> np.int32(bits))
            return row, np.int32(thread() & np.int32((1 << bits) - 1))

        return of_warp
    if group.instance_class is Block:
        return lambda group, args: (np.int64(block()), thread())

    def of_cluster(group, args):
        rank = cluster_rank()
        return np.int64(block()) >> args.cluster, np.int32(rank * threads() + thread())

    return of_cluster


def inside_of(group, args, row):
    """Whether there is a row of this number: to teams of blocks no other is given."""
    raise NotImplementedError("compiled code only")


@overload(inside_of, jit_options=INLINED)
def _inside_of(group, args, row):
    if issubclass(group.instance_class, Warp):
        return lambda group, args, row: row < args.outer * args.inner
    return lambda group, args, row: True


def size_bits(group, args):
    """log2 of the lanes that share a row."""
    raise NotImplementedError("compiled code only")


@overload(size_bits, jit_options=INLINED)
def _size_bits(group, args):
    if issubclass(group.instance_class, Warp):
        bits = group.instance_class.bits
        return lambda group, args: np.int32(bits)
    return lambda group, args: np.int32(args.group)


@scalar
def plus(a, b):
    """a + b."""
    return a + b


def _folds(combine):
    """Functions that combine the numbers of 1, 2, 4, ... 32 neighbours."""

    @scalar
    def alone(x):
        return x

    def doubled(before, step):
        @scalar
        def fold(x):
            x = before(x)
            return combine(x, shuffle_xor(x, np.int32(step)))

        return fold

    found = [alone]
    for bits in range(5):
        found.append(doubled(found[-1], 1 << bits))
    return found


MAXIMA, SUMS = _folds(largest_of), _folds(plus)
warp_max, warp_sum = MAXIMA[5], SUMS[5]
max_of_8, sum_of_8 = MAXIMA[3], SUMS[3]


MANY = 8  # warps of a block, or blocks of a cluster, whose numbers are folded in three steps


@scalar
def warps_here():
    """Warps of this block."""
    return (threads() + np.int32(31)) >> np.int32(5)


@scalar
def grouped(lane):
    """The number of a lane within its group, if groups of ``MANY`` do for the warps there are."""
    return np.int32(lane & np.int32(MANY - 1)) if warps_here() <= MANY else lane


@scalar
def posted(T, place, neutral):
    """What the warps of a block have to say: one in each lane, or in each group of ``MANY``."""
    lane = grouped(np.int32(thread() & np.int32(31)))
    return get(np.int32(place + lane * np.int32(8)), T) if lane < warps_here() else neutral


@scalar
def post(x, place):
    """Say what this warp has to say: its first lane does."""
    if np.int32(thread() & np.int32(31)) == np.int32(0):
        put(np.int32(place + (thread() >> np.int32(5)) * np.int32(8)), x)


@scalar
def across_max(x):
    """The largest of what the warps of a block say."""
    return max_of_8(x) if warps_here() <= MANY else warp_max(x)


@scalar
def across_sum(x):
    """The sum of it."""
    return sum_of_8(x) if warps_here() <= MANY else warp_sum(x)


@scalar
def block_max(x, place, neutral):
    """The largest in a block."""
    post(warp_max(x), place)
    barrier()
    return across_max(posted(type(x), place, neutral))


@scalar
def block_sum(x, place):
    """The sum over a block."""
    T = type(x)
    post(warp_sum(x), place)
    barrier()
    return across_sum(posted(T, place, T(0)))


@scalar
def block_both(a, b, place):
    """The sums of a and of b over a block."""
    T, size, apart = type(a), np.int32(8), np.int32(REDUCTION_SLOT)
    a, b = warp_sum(a), warp_sum(b)
    lane = np.int32(thread() & np.int32(31))
    if lane == np.int32(0):
        here = np.int32(place + (thread() >> np.int32(5)) * size)
        put(here, a)
        put(np.int32(here + apart), b)
    barrier()
    a, b, lane = T(0), T(0), grouped(lane)
    if lane < warps_here():
        here = np.int32(place + lane * size)
        a, b = get(here, T), get(np.int32(here + apart), T)
    return across_sum(a), across_sum(b)


@scalar
def publish(x, place):
    """Show a block's number to its cluster."""
    if thread() == np.int32(0):
        put(np.int32(place + SHOWN), x)


@scalar
def shown(T, place, size, neutral):
    """What the blocks of a cluster show, one in each lane of a group of ``MANY``."""
    lane = np.int32(thread() & np.int32(MANY - 1))
    return get_remote(np.int32(place + SHOWN), lane, T) if lane < size else neutral


@scalar
def cluster_max(x, place, size, neutral):
    """The largest of what the blocks of a cluster show."""
    publish(x, place)
    cluster_barrier()
    return max_of_8(shown(type(x), place, size, neutral))


@scalar
def cluster_sum(x, place, size):
    """The sum of what the blocks of a cluster show."""
    T = type(x)
    publish(x, place)
    cluster_barrier()
    return sum_of_8(shown(T, place, size, T(0)))


@scalar
def cluster_both(a, b, place, size):
    """The sums of what they show at two places."""
    T, apart = type(a), np.int32(REDUCTION_SLOT)
    here = np.int32(place + SHOWN)
    if thread() == np.int32(0):
        put(here, a)
        put(np.int32(here + apart), b)
    cluster_barrier()
    a, b, lane = T(0), T(0), np.int32(thread() & np.int32(MANY - 1))
    if lane < size:
        a, b = get_remote(here, lane, T), get_remote(np.int32(here + apart), lane, T)
    return sum_of_8(a), sum_of_8(b)


def reduce_max(group, args, place, x, neutral):
    """The largest x of a row; every lane of the team gets it. ``place``: number of the exchange."""
    raise NotImplementedError("compiled code only")


@overload(reduce_max, jit_options=INLINED)
def _maximum(group, args, place, x, neutral):
    if issubclass(group.instance_class, Warp):
        fold = MAXIMA[group.instance_class.bits]
        return lambda group, args, place, x, neutral: fold(x)
    if group.instance_class is Block:
        return lambda group, args, place, x, neutral: block_max(
            x, np.int32(place * REDUCTION_SLOT), neutral
        )

    def of_cluster(group, args, place, x, neutral):
        top = block_max(x, np.int32(place * REDUCTION_SLOT), neutral)
        size = np.int32(1 << args.cluster)
        return cluster_max(top, np.int32(place * REDUCTION_SLOT), size, neutral)

    return of_cluster


def reduce_sum2(group, args, place, a, b):
    """The sums of a and b over a row, with one wait in a block. Two exchanges."""
    raise NotImplementedError("compiled code only")


@overload(reduce_sum2, jit_options=INLINED)
def _both(group, args, place, a, b):
    if issubclass(group.instance_class, Warp):
        fold = SUMS[group.instance_class.bits]
        return lambda group, args, place, a, b: (fold(a), fold(b))
    if group.instance_class is Block:
        return lambda group, args, place, a, b: block_both(a, b, np.int32(place * REDUCTION_SLOT))

    def of_cluster(group, args, place, a, b):
        here = np.int32(place * REDUCTION_SLOT)
        a, b = block_both(a, b, here)
        return cluster_both(a, b, here, np.int32(1 << args.cluster))

    return of_cluster


def reduce_sum(group, args, place, x):
    """The sum of x over a row, for every lane of the team. ``place``: number of the exchange."""
    raise NotImplementedError("compiled code only")


@overload(reduce_sum, jit_options=INLINED)
def _together(group, args, place, x):
    if issubclass(group.instance_class, Warp):
        fold = SUMS[group.instance_class.bits]
        return lambda group, args, place, x: fold(x)
    if group.instance_class is Block:
        return lambda group, args, place, x: block_sum(x, np.int32(place * REDUCTION_SLOT))

    def of_cluster(group, args, place, x):
        part = block_sum(x, np.int32(place * REDUCTION_SLOT))
        return cluster_sum(part, np.int32(place * REDUCTION_SLOT), np.int32(1 << args.cluster))

    return of_cluster


def sync_before_overwrite(group):
    """Before a lane writes what others of its team have read: a shuffle orders no memory."""
    raise NotImplementedError("compiled code only")


@overload(sync_before_overwrite, jit_options=INLINED)
def _have_read(group):
    if issubclass(group.instance_class, Warp):
        return lambda group: warp_barrier()
    return lambda group: None  # there was an exchange in between


def cluster_arrive(group):
    """After a row's last exchange: a block of a cluster has read what it wants of the others."""
    raise NotImplementedError("compiled code only")


@overload(cluster_arrive, jit_options=INLINED)
def _depart(group):
    if group.instance_class is Cluster:
        return lambda group: barrier_cluster_arrive()
    return lambda group: None


def cluster_wait(group):
    """Before a block ends: its shared memory must stay while others of its cluster read it."""
    raise NotImplementedError("compiled code only")


@overload(cluster_wait, jit_options=INLINED)
def _leave(group):
    if group.instance_class is Cluster:
        return lambda group: barrier_cluster_wait()
    return lambda group: None


def block_total(group, place, x, first):
    """(sum of a block's losses, whether this thread is to store it); ``first``: lane 0 of a row."""
    raise NotImplementedError("compiled code only")


@scalar
def rows_total(x, place):
    """The sum of what lanes have, for thread 0; ``x``: of a warp's lanes together."""
    T, size = type(x), np.int32(8)
    if (thread() & np.int32(31)) == np.int32(0):
        put(np.int32(place + (thread() >> np.int32(5)) * size), x)
    barrier()
    total = T(0)
    if thread() == np.int32(0):
        warp, warps = np.int32(0), threads() >> np.int32(5)
        while warp < warps:
            total = total + get(np.int32(place + warp * size), T)
            warp = np.int32(warp + 1)
    return total


@overload(block_total, jit_options=INLINED)
def _block_total(group, place, x, first):
    if issubclass(group.instance_class, Warp):

        def of_rows(group, place, x, first):
            mine = warp_sum(where(first, x, type(x)(0)))
            return rows_total(mine, np.int32(place * REDUCTION_SLOT)), thread() == np.int32(0)

        return of_rows
    return lambda group, place, x, first: (x, first)
