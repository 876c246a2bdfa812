"""The lanes that share a row: some of a warp, a block, or a cluster of blocks; and their sums.

Sums go over a fixed tree, so that every lane gets the same bits in every run. What blocks and
clusters exchange lies at the start of shared memory, each exchange in a place of its own.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.device import (
    barrier,
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
from fusedce.kernels.scalar import INLINED, choose, scalar

# One exchange: a number of each of 32 warps, and one of the block for its cluster.
EXCHANGE = 33 * 8
EXCHANGES = 14 * EXCHANGE  # of a kernel; a multiple of 16


class Warp(NamedTuple):
    """Type tag: 2**team lanes of a warp share a row."""


class Block(NamedTuple):
    """Type tag: a block of 2**team threads has a row."""


class Cluster(NamedTuple):
    """Type tag: a cluster of blocks, of 2**team threads in all, has a row."""


@scalar
def upper(a, b):
    """The larger; a where b is NaN."""
    return choose(b > a, b, a)


def seat(team, plan):
    """(row, lane) of this thread: the lane is its number among those that share the row."""
    raise NotImplementedError("compiled code only")


@overload(seat, jit_options=INLINED)
def _seat(team, plan):
    if team.instance_class is Warp:

        def of_warp(team, plan):
            row = np.int64(block()) * plan.span + (thread() >> np.int32(plan.team))
            return row, np.int32(thread() & np.int32((1 << plan.team) - 1))

        return of_warp
    if team.instance_class is Block:
        return lambda team, plan: (np.int64(block()), thread())

    def of_cluster(team, plan):
        rank = cluster_rank()
        return np.int64(block()) >> plan.cluster, np.int32(rank * threads() + thread())

    return of_cluster


@scalar
def warp_max(x, size):
    """The largest among ``size`` neighbours."""
    step = np.int32(1)
    while step < size:
        x = upper(x, shuffle_xor(x, step))
        step = np.int32(step * 2)
    return x


@scalar
def warp_sum(x, size):
    """The sum over ``size`` neighbours."""
    step = np.int32(1)
    while step < size:
        x = x + shuffle_xor(x, step)
        step = np.int32(step * 2)
    return x


@scalar
def posted(x, place, neutral):
    """What the warps of a block have to say, one in each lane; x is the word of this one."""
    warps = (threads() + np.int32(31)) >> np.int32(5)
    lane = np.int32(thread() & np.int32(31))
    T = type(x)
    size = np.int32(8)
    if lane == np.int32(0):
        put(np.int32(place + (thread() >> np.int32(5)) * size), x)
    barrier()
    return get(np.int32(place + lane * size), T) if lane < warps else neutral


@scalar
def block_max(x, place, neutral):
    """The largest in a block."""
    return warp_max(posted(warp_max(x, np.int32(32)), place, neutral), np.int32(32))


@scalar
def block_sum(x, place):
    """The sum over a block."""
    T = type(x)
    return warp_sum(posted(warp_sum(x, np.int32(32)), place, T(0)), np.int32(32))


@scalar
def block_both(a, b, place):
    """The sums of a and of b over a block."""
    warps = (threads() + np.int32(31)) >> np.int32(5)
    lane = np.int32(thread() & np.int32(31))
    T, full = type(a), np.int32(32)
    a, b = warp_sum(a, full), warp_sum(b, full)
    mine = np.int32(place + (thread() >> np.int32(5)) * np.int32(8))
    if lane == np.int32(0):
        put(mine, a)
        put(np.int32(mine + np.int32(EXCHANGE)), b)
    barrier()
    a, b = T(0), T(0)
    if lane < warps:
        there = np.int32(place + lane * np.int32(8))
        a, b = get(there, T), get(np.int32(there + np.int32(EXCHANGE)), T)
    return warp_sum(a, full), warp_sum(b, full)


@scalar
def cluster_both(a, b, place, size):
    """The sums of what the blocks of a cluster show, in the order of their ranks."""
    T, shown = type(a), np.int32(place + np.int32(32 * 8))
    if thread() == np.int32(0):
        put(shown, a)
        put(np.int32(shown + np.int32(EXCHANGE)), b)
    cluster_barrier()
    a, b = T(0), T(0)
    rank = np.int32(0)
    while rank < size:
        a = a + get_remote(shown, rank, T)
        b = b + get_remote(np.int32(shown + np.int32(EXCHANGE)), rank, T)
        rank = np.int32(rank + 1)
    return a, b


@scalar
def publish(x, place):
    """Show a block's number to its cluster."""
    if thread() == np.int32(0):
        put(np.int32(place + np.int32(32 * 8)), x)
    cluster_barrier()


@scalar
def cluster_max(x, place, size):
    """The largest of what the blocks of a cluster show."""
    publish(x, place)
    T = type(x)
    rank = np.int32(0)
    while rank < size:
        x = upper(x, get_remote(np.int32(place + np.int32(32 * 8)), rank, T))
        rank = np.int32(rank + 1)
    return x


@scalar
def cluster_sum(x, place, size):
    """The sum of what the blocks of a cluster show, in the order of their ranks."""
    publish(x, place)
    T = type(x)
    total = T(0)
    rank = np.int32(0)
    while rank < size:
        total = total + get_remote(np.int32(place + np.int32(32 * 8)), rank, T)
        rank = np.int32(rank + 1)
    return total


def maximum(team, plan, place, x, neutral):
    """The largest x of a row; every lane of the team gets it. ``place``: number of the exchange."""
    raise NotImplementedError("compiled code only")


@overload(maximum, jit_options=INLINED)
def _maximum(team, plan, place, x, neutral):
    if team.instance_class is Warp:
        return lambda team, plan, place, x, neutral: warp_max(x, np.int32(1 << plan.team))
    if team.instance_class is Block:
        return lambda team, plan, place, x, neutral: block_max(
            x, np.int32(place * EXCHANGE), neutral
        )

    def of_cluster(team, plan, place, x, neutral):
        top = block_max(x, np.int32(place * EXCHANGE), neutral)
        return cluster_max(top, np.int32(place * EXCHANGE), np.int32(1 << plan.cluster))

    return of_cluster


def both(team, plan, place, a, b):
    """The sums of a and b over a row, with one wait in a block. Two exchanges."""
    raise NotImplementedError("compiled code only")


@overload(both, jit_options=INLINED)
def _both(team, plan, place, a, b):
    if team.instance_class is Warp:

        def of_warp(team, plan, place, a, b):
            size = np.int32(1 << plan.team)
            return warp_sum(a, size), warp_sum(b, size)

        return of_warp
    if team.instance_class is Block:
        return lambda team, plan, place, a, b: block_both(a, b, np.int32(place * EXCHANGE))

    def of_cluster(team, plan, place, a, b):
        here = np.int32(place * EXCHANGE)
        a, b = block_both(a, b, here)
        return cluster_both(a, b, here, np.int32(1 << plan.cluster))

    return of_cluster


def together(team, plan, place, x):
    """The sum of x over a row, for every lane of the team. ``place``: number of the exchange."""
    raise NotImplementedError("compiled code only")


@overload(together, jit_options=INLINED)
def _together(team, plan, place, x):
    if team.instance_class is Warp:
        return lambda team, plan, place, x: warp_sum(x, np.int32(1 << plan.team))
    if team.instance_class is Block:
        return lambda team, plan, place, x: block_sum(x, np.int32(place * EXCHANGE))

    def of_cluster(team, plan, place, x):
        part = block_sum(x, np.int32(place * EXCHANGE))
        return cluster_sum(part, np.int32(place * EXCHANGE), np.int32(1 << plan.cluster))

    return of_cluster


def have_read(team):
    """Before a lane writes what others of its team have read: a shuffle orders no memory."""
    raise NotImplementedError("compiled code only")


@overload(have_read, jit_options=INLINED)
def _have_read(team):
    if team.instance_class is Warp:
        return lambda team: warp_barrier()
    return lambda team: None  # there was an exchange in between


def leave(team):
    """Before a block ends: its shared memory must stay while others of its cluster read it."""
    raise NotImplementedError("compiled code only")


@overload(leave, jit_options=INLINED)
def _leave(team):
    if team.instance_class is Cluster:
        return lambda team: cluster_barrier()
    return lambda team: None


def block_total(team, place, x, first):
    """(sum of a block's losses, whether this thread is to store it); ``first``: lane 0 of a row."""
    raise NotImplementedError("compiled code only")


@overload(block_total, jit_options=INLINED)
def _block_total(team, place, x, first):
    if team.instance_class is Warp:

        def of_rows(team, place, x, first):
            T = type(x)
            total = block_sum(choose(first, x, T(0)), np.int32(place * EXCHANGE))
            return total, thread() == np.int32(0)

        return of_rows
    return lambda team, place, x, first: (x, first)
