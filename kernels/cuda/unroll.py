"""A loop over the lanes of a vector, unrolled in Python, for rules that take no vectors.

A compiled loop would index lanes by a variable, which needs the vector in memory, and the compiler
does not unroll loops with large bodies.
"""

from typing import Any

import numpy as np

from fusedce.kernels.scalar import scalar


@scalar
def _given(state, *args):
    return state


def _after(before: Any, step: Any, lane: int) -> Any:
    @scalar
    def after(state, *args):
        return step(np.int32(lane), before(state, *args), *args)

    return after


def unrolled(step: Any, width: int) -> Any:
    """A function of (state, *args): step(k, state, *args) for each lane k, in order."""
    done = _given
    for lane in range(width):
        done = _after(done, step, lane)
    return done
