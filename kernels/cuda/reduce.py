"""Groups of threads that share a row (lanes of a warp, a block, a cluster), and their reductions.

A reduction has a fixed tree, so that every thread of the group gets the same bits in every run.
Blocks and clusters exchange numbers through the start of shared memory, which is divided into
reduction slots: each exchange of a kernel has a slot of its own, so that no slot is written twice
and one barrier an exchange is enough. ``slot``: its number; ``address``: its offset in
shared memory; ``neutral``: what a thread without a number contributes.
"""

from typing import NamedTuple

import numpy as np

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
from fusedce.kernels.scalar import generated, scalar, where

# Bytes of one slot: a number of each of 32 warps, and one of the block for its cluster.
REDUCTION_SLOT_BYTES = 33 * 8
REDUCTION_BYTES = 14 * REDUCTION_SLOT_BYTES  # of all slots of a kernel; a multiple of 16
CLUSTER_OFFSET = np.int32(32 * 8)  # of the block's number in a slot


class Warp(NamedTuple):
    """Type tag: 2**bits neighbouring lanes of a warp share a row (see WARPS)."""


def _warp(bits: int) -> type:
    return type(f"Warp{1 << bits}", (Warp,), {"bits": bits, "__module__": __name__})


WARPS = [_warp(bits) for bits in range(6)]


class Block(NamedTuple):
    """Type tag: a block of 2**args.group threads shares a row."""


class Cluster(NamedTuple):
    """Type tag: a cluster of blocks, 2**args.group threads in all, shares a row."""


@generated
def row_and_rank(group, args):
    """(row, rank) of this thread: the number of its row, and its index within the group."""
    if issubclass(group.instance_class, Warp):
        bits = group.instance_class.bits

        def of_warp(group, args):
            row = np.int64(block()) * args.span + (thread() >> np.int32(bits))
            return row, np.int32(thread() & np.int32((1 << bits) - 1))

        return of_warp
    if group.instance_class is Block:
        return lambda group, args: (np.int64(block()), thread())

    def of_cluster(group, args):
        block_rank = cluster_rank()
        return np.int64(block()) >> args.cluster, np.int32(block_rank * threads() + thread())

    return of_cluster


@generated
def row_in_range(group, args, row):
    """Whether there is a row of this number; always, if a group is a block or a cluster."""
    if issubclass(group.instance_class, Warp):
        return lambda group, args, row: row < args.outer * args.inner
    return lambda group, args, row: True


@generated
def group_size_log2(group, args):
    """log2 of the threads in a group."""
    if issubclass(group.instance_class, Warp):
        bits = group.instance_class.bits
        return lambda group, args: np.int32(bits)
    return lambda group, args: np.int32(args.group)


@scalar
def add(a, b):
    """a + b."""
    return a + b


def _warp_reductions(combine):
    """Butterfly reductions over 1, 2, 4, ... 32 neighbouring lanes."""

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


WARP_MAXIMA, WARP_SUMS = _warp_reductions(largest_of), _warp_reductions(add)
warp_max, warp_sum = WARP_MAXIMA[5], WARP_SUMS[5]
max_of_8, sum_of_8 = WARP_MAXIMA[3], WARP_SUMS[3]
FEW = 8  # warps or blocks: so many numbers are reduced in three shuffles


@scalar
def slot_address(slot):
    """The offset of a reduction slot in shared memory."""
    return np.int32(slot * REDUCTION_SLOT_BYTES)


@scalar
def warps_of_block():
    """The number of warps of this block."""
    return (threads() + np.int32(31)) >> np.int32(5)


@scalar
def warp_of_lane(lane):
    """The warp whose result this lane loads: each eight lanes load all, if there are few warps."""
    return np.int32(lane & np.int32(FEW - 1)) if warps_of_block() <= FEW else lane


@scalar
def load_warp_result(T, address, neutral):
    """The result of the warp that ``warp_of_lane`` names."""
    lane = warp_of_lane(np.int32(thread() & np.int32(31)))
    return get(np.int32(address + lane * np.int32(8)), T) if lane < warps_of_block() else neutral


@scalar
def store_warp_result(x, address):
    """Store the result of this warp; its first lane does."""
    if np.int32(thread() & np.int32(31)) == np.int32(0):
        put(np.int32(address + (thread() >> np.int32(5)) * np.int32(8)), x)


@scalar
def max_of_warps(x):
    """The maximum of the warps' results, from one in each lane."""
    return max_of_8(x) if warps_of_block() <= FEW else warp_max(x)


@scalar
def sum_of_warps(x):
    """The sum of the warps' results, from one in each lane."""
    return sum_of_8(x) if warps_of_block() <= FEW else warp_sum(x)


@scalar
def block_max(x, address, neutral):
    """The maximum over a block."""
    store_warp_result(warp_max(x), address)
    barrier()
    return max_of_warps(load_warp_result(type(x), address, neutral))


@scalar
def block_sum(x, address):
    """The sum over a block."""
    T = type(x)
    store_warp_result(warp_sum(x), address)
    barrier()
    return sum_of_warps(load_warp_result(T, address, T(0)))


@scalar
def block_sum2(a, b, address):
    """The sums of a and of b over a block."""
    T, size, apart = type(a), np.int32(8), np.int32(REDUCTION_SLOT_BYTES)
    a, b = warp_sum(a), warp_sum(b)
    lane = np.int32(thread() & np.int32(31))
    if lane == np.int32(0):
        here = np.int32(address + (thread() >> np.int32(5)) * size)
        put(here, a)
        put(np.int32(here + apart), b)
    barrier()
    a, b, lane = T(0), T(0), warp_of_lane(lane)
    if lane < warps_of_block():
        here = np.int32(address + lane * size)
        a, b = get(here, T), get(np.int32(here + apart), T)
    return sum_of_warps(a), sum_of_warps(b)


@scalar
def store_block_result(x, address):
    """Store the block's result where its cluster reads it."""
    if thread() == np.int32(0):
        put(np.int32(address + CLUSTER_OFFSET), x)


@scalar
def load_block_result(T, address, size, neutral):
    """The result of one block of the cluster for each lane; each eight lanes load all."""
    lane = np.int32(thread() & np.int32(FEW - 1))
    return get_remote(np.int32(address + CLUSTER_OFFSET), lane, T) if lane < size else neutral


@scalar
def cluster_max(x, address, size, neutral):
    """The maximum of the blocks' results over a cluster."""
    store_block_result(x, address)
    cluster_barrier()
    return max_of_8(load_block_result(type(x), address, size, neutral))


@scalar
def cluster_sum(x, address, size):
    """The sum of the blocks' results over a cluster."""
    T = type(x)
    store_block_result(x, address)
    cluster_barrier()
    return sum_of_8(load_block_result(T, address, size, T(0)))


@scalar
def cluster_sum2(a, b, address, size):
    """The sums of two results of each block over a cluster, with one barrier."""
    T, apart = type(a), np.int32(REDUCTION_SLOT_BYTES)
    here = np.int32(address + CLUSTER_OFFSET)
    if thread() == np.int32(0):
        put(here, a)
        put(np.int32(here + apart), b)
    cluster_barrier()
    a, b, lane = T(0), T(0), np.int32(thread() & np.int32(FEW - 1))
    if lane < size:
        a, b = get_remote(here, lane, T), get_remote(np.int32(here + apart), lane, T)
    return sum_of_8(a), sum_of_8(b)


@generated
def reduce_max(group, args, slot, x, neutral):
    """The maximum of x over a row, in every thread of the group."""
    if issubclass(group.instance_class, Warp):
        fold = WARP_MAXIMA[group.instance_class.bits]
        return lambda group, args, slot, x, neutral: fold(x)
    if group.instance_class is Block:
        return lambda group, args, slot, x, neutral: block_max(x, slot_address(slot), neutral)

    def of_cluster(group, args, slot, x, neutral):
        maximum = block_max(x, slot_address(slot), neutral)
        size = np.int32(1 << args.cluster)
        return cluster_max(maximum, slot_address(slot), size, neutral)

    return of_cluster


@generated
def reduce_sum2(group, args, slot, a, b):
    """The sums of a and b over a row, with one barrier. Takes two reduction slots."""
    if issubclass(group.instance_class, Warp):
        fold = WARP_SUMS[group.instance_class.bits]
        return lambda group, args, slot, a, b: (fold(a), fold(b))
    if group.instance_class is Block:
        return lambda group, args, slot, a, b: block_sum2(a, b, slot_address(slot))

    def of_cluster(group, args, slot, a, b):
        a, b = block_sum2(a, b, slot_address(slot))
        return cluster_sum2(a, b, slot_address(slot), np.int32(1 << args.cluster))

    return of_cluster


@generated
def reduce_sum(group, args, slot, x):
    """The sum of x over a row, in every thread of the group."""
    if issubclass(group.instance_class, Warp):
        fold = WARP_SUMS[group.instance_class.bits]
        return lambda group, args, slot, x: fold(x)
    if group.instance_class is Block:
        return lambda group, args, slot, x: block_sum(x, slot_address(slot))

    def of_cluster(group, args, slot, x):
        part = block_sum(x, slot_address(slot))
        return cluster_sum(part, slot_address(slot), np.int32(1 << args.cluster))

    return of_cluster


@generated
def sync_before_overwrite(group):
    """Call before a thread overwrites what its group has read: shuffles do not order memory."""
    if issubclass(group.instance_class, Warp):
        return lambda group: warp_barrier()
    return lambda group: None  # a reduction with a barrier came in between


@generated
def cluster_arrive(group):
    """Call after a row's last reduction: the block reads no more from others of its cluster."""
    if group.instance_class is Cluster:
        return lambda group: barrier_cluster_arrive()
    return lambda group: None


@generated
def cluster_wait(group):
    """Call before a block ends: its shared memory must exist while others of its cluster read."""
    if group.instance_class is Cluster:
        return lambda group: barrier_cluster_wait()
    return lambda group: None


@scalar
def sum_of_warp_sums(x, address):
    """The sum over a block, in thread 0, of x: the sum of a warp."""
    T, size = type(x), np.int32(8)
    if (thread() & np.int32(31)) == np.int32(0):
        put(np.int32(address + (thread() >> np.int32(5)) * size), x)
    barrier()
    total = T(0)
    if thread() == np.int32(0):
        warp, warps = np.int32(0), threads() >> np.int32(5)
        while warp < warps:
            total = total + get(np.int32(address + warp * size), T)
            warp = np.int32(warp + 1)
    return total


@generated
def block_loss_sum(group, slot, x, first):
    """(sum of a block's losses x, whether this thread stores it); ``first``: rank 0 of a row."""
    if issubclass(group.instance_class, Warp):

        def of_rows(group, slot, x, first):
            mine = warp_sum(where(first, x, type(x)(0)))
            return sum_of_warp_sums(mine, slot_address(slot)), thread() == np.int32(0)

        return of_rows
    return lambda group, slot, x, first: (x, first)
