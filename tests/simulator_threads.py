"""Threads of a block as greenlets: each runs until it waits for others.

Whoever waits has a reason: a barrier, a shuffle; when nobody can run and some have not ended, the
``Fault`` says who waits where.
"""

from __future__ import annotations

import contextvars
import sys
from collections import deque

import numpy as np
from greenlet import getcurrent, greenlet

from tests import simulator_memory as watched
from tests.simulator_memory import Buffer, Fault, Memory

WARP = 32
SHARED = 200  # number of the first block's shared memory among the buffers


class Now:
    """What runs: the memory of all launches, the cluster of blocks, the thread."""

    memory = Memory()
    cluster: Cluster
    thread: Thread


class Warp:
    """Lanes that exchange numbers."""

    def __init__(self, block):
        self.block = block
        self.waiting, self.values, self.log = [], [], []

    def settle(self):
        """A barrier of the warp; a shuffle is none, it orders nothing that memory holds."""
        if self.log:
            codes = np.array(self.log, np.int64)
            self.log.clear()
            self.block.log.append(codes)
            actors = codes >> watched.THREAD & 1023
            self.block.cluster.check(codes, actors, "threads", f"block {self.block.number}")


class Thread:
    """A greenlet with its place in a block."""

    def __init__(self, block, index, kernel, plan, context):
        self.block, self.index, self.lane = block, index, index % WARP
        self.warp = block.warps[index // WARP]
        self.log = self.warp.log
        self.code = index << watched.THREAD
        self.asks, self.arrived = None, False
        self.greenlet = greenlet(lambda: kernel(plan))
        self.greenlet.gr_context = context.copy()

    def __repr__(self):
        return f"thread {self.index} of block {self.block.number}"


class Block:
    """Threads with a shared memory."""

    def __init__(self, cluster, rank, number, launch, kernel, plan):
        self.cluster, self.rank, self.number = cluster, rank, number
        self.shared = Buffer(f"shared memory of block {number}", 0, launch.shared, SHARED + rank)
        self.shared.writable[:] = b"\1" * launch.shared
        self.warps = [Warp(self) for _ in range(-(-launch.threads // WARP))]
        self.log, self.kept, self.waiting = [], [], []
        context = contextvars.copy_context()
        self.threads = [
            Thread(self, i, kernel, plan, context) for i in range(launch.threads)
        ]  # fmt: skip

    def settle(self):
        """A barrier: nothing before it meets anything after."""
        for warp in self.warps:
            warp.settle()
        codes = np.concatenate([np.empty(0, np.int64), *self.log])
        self.log.clear()
        self.kept.append(codes)
        actors = codes >> watched.THREAD & 1023
        if len(self.warps) > 1:
            # Within a warp that was looked at already.
            self.cluster.check(codes, actors // WARP, "warps", f"block {self.number}")


class Cluster:
    """Blocks that run together."""

    def __init__(self, launch, first, order):
        self.launch, self.order = launch, order
        kernel, plan = order.kernel, order.plan
        self.blocks = [
            Block(self, rank, first + rank, launch, kernel, plan) for rank in range(launch.cluster)
        ]
        self.threads = [t for block in self.blocks for t in block.threads]
        self.ready, self.waiting, self.kept = deque(), [], []
        self.remote = None  # who has read another block's memory since the last barrier

    def run(self):
        self.release(self.threads)
        self.hub = getcurrent()
        ended = 0
        while self.ready:
            Now.thread = thread = self.ready.popleft()
            try:
                thread.greenlet.switch()
            except Exception as error:
                error.add_note(f"in {thread} of {self.launch.kernel.name}")
                raise
            ended += thread.greenlet.dead
        if ended < len(self.threads):
            raise Fault(self.stuck())
        if self.remote:
            raise Fault(f"{self.remote} reads a block's memory, which may have ended")
        self.settle()

    def settle(self):
        """A barrier of the cluster, or its end."""
        parts = []
        for block in self.blocks:
            block.settle()
            parts += [(codes, np.full(len(codes), block.number)) for codes in block.kept]
            block.kept.clear()
        codes, actors = (np.concatenate(part) for part in zip(*parts, strict=True))
        if len(self.blocks) > 1:
            self.check(codes, actors, "blocks", "a cluster")
        self.kept.append(codes)

    def check(self, codes, actors, kind, where):
        """Whether two have touched the same byte."""
        met = watched.collision(codes, actors)
        if met:
            name = self.place(met[0])
            raise Fault(f"{name}: a race between {kind} {met[1]} and {met[2]} of {where}")

    def place(self, place):
        """Words for a byte of some buffer."""
        buffers = [*Now.memory.buffers, *(block.shared for block in self.blocks)]
        bits = watched.BUFFER - watched.OFFSET
        found = next(b for b in buffers if b.code >> watched.BUFFER == place >> bits)
        return found.where(place & (1 << bits) - 1)

    def release(self, threads):
        """Let threads go on, in the order of this run."""
        self.ready.extend(self.order.arranged(threads))

    def stuck(self):
        """Who waits where for whom."""
        places: dict[str, list[int]] = {}
        for thread in self.threads:
            state = "has ended" if thread.greenlet.dead else thread.asks.where()
            places.setdefault(f"{state} (block {thread.block.number})", []).append(thread.index)
        words = [f"{_ranges(indices)} {state}" for state, indices in places.items()]
        return f"{self.launch.kernel.name}: threads wait for others: {'; '.join(words)}"


def _ranges(numbers):
    """0-3, 5, ... for messages."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)


class Ask:
    """Where in a kernel a thread waits, and for what."""

    __slots__ = ("code", "line", "what")

    def __init__(self, what):
        frame = sys._getframe(3)  # who calls what calls ``meet``
        self.what, self.code, self.line = what, frame.f_code, frame.f_lineno

    def where(self):
        return f"at {self.what}, {self.code.co_filename.rpartition('/')[2]}:{self.line}"

    def same(self, other):
        return self.what == other.what and self.code is other.code and self.line == other.line


def meet(waiting, everyone, what, act):
    """Wait until all have come, at the same place of the kernel; the last one acts for all."""
    thread, cluster = Now.thread, Now.cluster
    thread.asks = Ask(what)
    waiting.append(thread)
    if len(waiting) == everyone:
        if not all(t.asks.same(thread.asks) for t in waiting):
            raise Fault(f"threads meet at different places: {cluster.stuck()}")
        together = list(waiting)
        waiting.clear()
        act(together)
        cluster.release(together)
    cluster.hub.switch()
