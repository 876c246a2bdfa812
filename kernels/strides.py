"""Strides of arrays that are traversed together."""

import numpy as np


def coalesce(
    shape: tuple[int, ...], strides: list[tuple[int, ...]]
) -> tuple[list[int], list[list[int]]]:
    """Axes in falling order of the first array's strides, merged where all strides allow it.

    Returns the new shape and, for each array, its strides along it.
    """
    axes = [k for k in range(len(shape)) if shape[k] > 1]
    axes.sort(key=lambda k: -abs(strides[0][k]))
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for k in axes:
        if sizes and all(s[-1] == t[k] * shape[k] for s, t in zip(steps, strides, strict=True)):
            sizes[-1] *= shape[k]
            for s, t in zip(steps, strides, strict=True):
                s[-1] = t[k]
        else:
            sizes.append(shape[k])
            for s, t in zip(steps, strides, strict=True):
                s.append(t[k])
    return sizes, steps


def steps_of(array: np.ndarray) -> tuple[int, ...]:
    """The strides of an array, 0 along axes of length 1."""
    return tuple(0 if n == 1 else s for s, n in zip(array.strides, array.shape, strict=True))
