"""CUDA kernels in Python: every thread of a block a greenlet, on memory that is watched.

``run`` takes the place of ``fusedce.kernels.cuda.launcher.run``, within ``with memory() as m``.
Threads run one after another from barrier to barrier, in the order asked for. What fails on a
device, or gives another result there each time, is a ``Fault`` here: see simulator_memory.py for
accesses, simulator_threads.py for threads that wait for others which never come.
"""

from __future__ import annotations

import contextlib
import random

import numpy as np

from tests import simulator_memory as watched
from tests import simulator_primitives  # noqa: F401  (the twins)
from tests.simulator_binding import body_of
from tests.simulator_memory import Fault, Memory
from tests.simulator_numbers import set_units
from tests.simulator_threads import SHARED, Cluster, Now

ORDERS = ("forward", "reverse", "random")


class _Order:
    """In which order threads run, and what they run."""

    def __init__(self, name, seed, launch, plan):
        if name not in ORDERS:
            raise ValueError(f"no order {name!r}")
        self.name, self.random = name, random.Random(seed)
        self.kernel, self.plan = body_of(launch.kernel), plan

    def arranged(self, things):
        if self.name == "random":
            return self.random.sample(things, len(things))
        found = sorted(things, key=lambda t: (t.block.number, t.index))
        return found if self.name == "forward" else found[::-1]


@contextlib.contextmanager
def memory(inputs=None, outputs=None, scratch=None, *, complete=True, memory=None):
    """What kernels may touch: arrays by name; the outputs must all be written in the end."""
    before, Now.memory = Now.memory, memory or Memory()
    for name, array in (inputs or {}).items():
        Now.memory.add(name, array, written=True)
    for name, array in (outputs or {}).items():
        Now.memory.add(name, array, output=True)
    for name, array in (scratch or {}).items():
        Now.memory.add(name, array, output=True, required=False)
    try:
        yield Now.memory
        if complete and memory is None:
            Now.memory.complete()
    finally:
        Now.memory = before


@contextlib.contextmanager
def units(seed):
    """The float32 units are as inexact as documented, in a way that a seed chooses."""
    set_units(seed)
    try:
        yield
    finally:
        set_units(None)


def run(launches, addresses, device=0, stream=0, order="forward", seed=0):
    """Run all, in order; ``addresses`` stand in the order of ``plan.ARRAYS``."""
    for launch in launches:
        fields = list(launch.plan)
        for slot, k in launch.bound:
            fields[slot] += addresses[k]
        _run(launch, _Order(order, seed, launch, type(launch.plan)(*fields)))


def _run(launch, order):
    if not 1 <= launch.threads <= 1024 or not 1 <= launch.cluster <= 16:
        raise Fault(f"{launch.threads} threads a block, {launch.cluster} blocks a cluster")
    if launch.blocks % launch.cluster:
        raise Fault(f"{launch.blocks} blocks in clusters of {launch.cluster}")
    codes, actors = [], []
    firsts = range(0, launch.blocks, launch.cluster)
    with np.errstate(all="ignore"):
        for first in firsts if order.name == "forward" else reversed(firsts):
            Now.cluster = cluster = Cluster(launch, first, order)
            cluster.run()
            codes += cluster.kept
            actors += [np.full(len(part), first) for part in cluster.kept]
    if codes:
        codes, actors = np.concatenate(codes), np.concatenate(actors)
        Now.memory.counted(codes)
        outside = codes >> watched.BUFFER < SHARED
        cluster.check(codes[outside], actors[outside], "blocks", "a launch")
