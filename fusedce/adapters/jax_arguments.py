"""Arguments of the losses for JAX: arrays, axes, labels and ``where``."""

from typing import Any

import jax
import jax.numpy as jnp

from fusedce import checks


def as_array(x: Any) -> Any:
    """A JAX array. Outside of jit ``jnp.asarray`` would copy one that is differentiated."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def cast(x: Any, dtype: Any) -> Any:
    """The array in a dtype; the same array if it has that dtype."""
    return x if x.dtype == dtype else x.astype(dtype)


def without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape without an axis."""
    return tuple(n for k, n in enumerate(shape) if k != axis % len(shape))


def one_axis(array: Any, axes: tuple[int, ...]) -> Any:
    """The array with some axes merged into one, the last."""
    rest = tuple(k for k in range(array.ndim) if k not in axes)
    array = array.transpose(rest + axes)
    return array.reshape((*array.shape[: len(rest)], -1))


def axes_of(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes as a tuple of numbers counted from 0."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(checks.axis(k, ndim) for k in (axis if isinstance(axis, tuple) else (axis,)))


def included(where: Any, axis: Any, ndim: int) -> Any:
    """``where`` as booleans with as many axes as the logits."""
    where = cast(as_array(where), bool)
    if where.ndim > ndim:
        raise ValueError(f"where has {where.ndim} dimensions and logits have {ndim}")
    if where.ndim != ndim:
        where = jnp.expand_dims(where, axes_of(axis, ndim) if where.ndim else tuple(range(ndim)))
    return where


def spread_labels(logits: Any, labels: Any, axis: Any) -> tuple[Any, Any]:
    """Logits and labels of one shape.

    The loss is linear in the labels. On a class axis that only the labels have, all of them
    multiply the same log-probability, so they are summed.
    """
    shape = jnp.broadcast_shapes(logits.shape, labels.shape)
    axes = axis if isinstance(axis, tuple) else (axis,)
    if axis is not None and logits.ndim < len(shape) and max(axes) >= 0:
        raise ValueError(
            f"axis must be negative where labels have more dimensions than logits, got axis={axis} "
            f"with logits {logits.shape} and labels {labels.shape}"
        )
    own = (1,) * (len(shape) - logits.ndim) + logits.shape
    more = tuple(k for k in axes_of(axis, len(shape)) if own[k] == 1 and shape[k] > 1)
    if more:
        labels = jnp.broadcast_to(labels, shape).sum(more, keepdims=True)
        shape = jnp.broadcast_shapes(own, labels.shape)
    return jnp.broadcast_to(logits, shape), jnp.broadcast_to(labels, shape)


def one_class_axis(logits: Any, axis: Any, where: Any, *labels: Any) -> Any:
    """(logits, class axis counted from the end, where, labels), each with one class axis."""
    axes = axes_of(axis, logits.ndim)
    if isinstance(axis, int):
        return (logits, axes[0] - logits.ndim, where, *labels)
    spread = where if where is None else jnp.broadcast_to(where, logits.shape)
    there = [None if x is None else one_axis(x, axes) for x in (logits, spread, *labels)]
    return there[0], -1, *there[1:]


def masked(logits: Any, where: Any, axis: int) -> Any:
    """The logits with -inf for classes that are not included, and 0 in rows without any."""
    empty = ~jnp.any(where, axis, keepdims=True)
    return jnp.where(where, logits, jnp.where(empty, 0, -jnp.inf).astype(logits.dtype))
