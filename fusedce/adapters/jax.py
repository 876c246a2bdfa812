"""optax's classification losses, computed by fusedce under ``jax.jit``, ``grad`` and ``vmap``.

XLA calls fusedce on its own buffers, without a copy. The loss reads the logits once. The gradient
is computed from the logits again, multiplied by the upstream gradient before it is rounded: a
second read and one write. It is computed only if it is needed.

The first derivative in reverse mode with respect to the logits is supported: Hessians, forward
mode and derivatives with respect to labels raise NotImplementedError. Inside ``jax.jit`` the
losses are computed on the CPU; on a GPU a call outside of jit is computed there, through CuPy and
DLPack, and one inside raises. ``jax.jit`` gathers sharded arrays for the call; ``jax.shard_map``
computes each shard on its own. Under ``vmap`` over labels alone the logits are read once for each
member. ``jax.export`` needs ``DisabledSafetyCheck.custom_call("fusedce")``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusedce import checks
from fusedce.adapters.jax_operators import loss, text
from fusedce.options import IGNORE_INDEX

__all__ = [
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss",
]

_IGNORED = IGNORE_INDEX


def _array(x: Any) -> Any:
    """A JAX array. Outside of jit ``jnp.asarray`` would copy one that is differentiated."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def _cast(x: Any, dtype: Any) -> Any:
    return x if x.dtype == dtype else x.astype(dtype)


def _floats(logits: Any) -> Any:
    logits = _array(logits)
    checks.logits(np.empty(0, logits.dtype))
    return logits


def _number(name: str, value: Any, high: float = float("inf")) -> float:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must be a number when the function is traced: make it static")
    allowed = "in [0, 1]" if high == 1 else "a finite number >= 0"
    return checks.number(name, float(value), 0, high, allowed=allowed)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(n for k, n in enumerate(shape) if k != axis % len(shape))


def _one_axis(array: Any, axes: tuple[int, ...]) -> Any:
    """The array with some axes merged into one, the last."""
    rest = tuple(k for k in range(array.ndim) if k not in axes)
    array = array.transpose(rest + axes)
    return array.reshape((*array.shape[: len(rest)], -1))


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes as a tuple of numbers counted from 0."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(checks.axis(k, ndim) for k in (axis if isinstance(axis, tuple) else (axis,)))


def _included(where: Any, axis: Any, ndim: int) -> Any:
    """``where`` as booleans with as many axes as the logits."""
    where = _cast(_array(where), bool)
    if where.ndim > ndim:
        raise ValueError(f"where has {where.ndim} dimensions and logits have {ndim}")
    if where.ndim != ndim:
        where = jnp.expand_dims(where, _axes(axis, ndim) if where.ndim else tuple(range(ndim)))
    return where


def _spread(logits: Any, labels: Any, axis: Any) -> tuple[Any, Any]:
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
    more = tuple(k for k in _axes(axis, len(shape)) if own[k] == 1 and shape[k] > 1)
    if more:
        labels = jnp.broadcast_to(labels, shape).sum(more, keepdims=True)
        shape = jnp.broadcast_shapes(own, labels.shape)
    return jnp.broadcast_to(logits, shape), jnp.broadcast_to(labels, shape)


def _classes(logits: Any, axis: Any, where: Any, *labels: Any) -> Any:
    """(logits, class axis counted from the end, where, labels), each with one class axis."""
    axes = _axes(axis, logits.ndim)
    if isinstance(axis, int):
        return (logits, axes[0] - logits.ndim, where, *labels)
    spread = where if where is None else jnp.broadcast_to(where, logits.shape)
    there = [None if x is None else _one_axis(x, axes) for x in (logits, spread, *labels)]
    return there[0], -1, *there[1:]


def _mask(logits: Any, where: Any, axis: int) -> Any:
    """The logits with -inf for classes that are not included, and 0 in rows without any."""
    empty = ~jnp.any(where, axis, keepdims=True)
    return jnp.where(where, logits, jnp.where(empty, 0, -jnp.inf).astype(logits.dtype))


def _by_index(name: str, logits: Any, labels: Any, axis: Any, where: Any, **options: Any) -> Any:
    logits, labels = _floats(logits), _array(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if where is not None:
        where = _included(where, axis, logits.ndim)
    logits, axis, where = _classes(logits, axis, where)
    rows = _without(logits.shape, axis)
    if labels.ndim != len(rows):
        raise ValueError(f"labels must have shape {rows}, got {labels.shape}")
    if where is not None:
        signed = not jnp.issubdtype(labels.dtype, jnp.unsignedinteger)
        labels = labels if signed else labels.astype(jnp.int32)
        labels = jnp.where(jnp.any(where, axis), labels, _IGNORED)
        logits = logits if where.shape[axis] == 1 else _mask(logits, where, axis)
    shape = rows
    if labels.shape != rows:
        shape = jnp.broadcast_shapes(rows, labels.shape)
    if logits.shape[axis] == 0:
        empty = jnp.full(shape, -jnp.inf, logits.dtype)
        return empty if where is None else jnp.where(jnp.any(where, axis), empty, 0)
    if shape != rows:
        at = len(shape) + 1 + axis
        logits = jnp.broadcast_to(logits, (*shape[:at], logits.shape[axis], *shape[at:]))
    labels = jnp.broadcast_to(labels, shape)
    return _cast(loss(text(name, axis=axis, **options), logits, labels), logits.dtype)


def _by_element(name: str, logits: Any, labels: Any, **options: Any) -> Any:
    logits, labels = _floats(logits), _array(labels)
    if jnp.issubdtype(labels.dtype, jnp.inexact):
        labels = _cast(labels, logits.dtype)
    if logits.shape != labels.shape:
        logits, labels = jnp.broadcast_arrays(logits, labels)
    call = text(name, activation="sigmoid", **options)
    return _cast(loss(call, logits, labels), logits.dtype)


def softmax_cross_entropy_with_integer_labels(
    logits: Any, labels: Any, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Any:
    """Softmax cross-entropy of class indices, unreduced.

    loss = log(sum_j exp z_j) - z_t for the label t, gradient p - onehot(t).

    Parameters
    ----------
    logits : array (..., C, ...), float64, float32, float16 or bfloat16
        -inf masks a class.
    labels : array of integers in [0, C), of the logits' shape without ``axis``
        -100 ignores a row: its loss and its gradient are 0.
    axis : int or tuple of ints, default -1
        The axis of the classes; with several, labels are flat indices into them.
    where : array of bool, of the labels' or the logits' shape, optional
        What to include: rows, or classes. A row without an included class has loss 0. Where the
        class of the label is not included the loss is inf (optax still subtracts its logit). With
        a class axis of extent 0 the loss is -inf, as in optax.

    Returns
    -------
    array of the labels' shape and the logits' dtype
        Computed in float32, for float64 in float64, and rounded once.

    Raises
    ------
    TypeError, ValueError
        When the function is traced, naming the argument.
    ValueError or jax.errors.JaxRuntimeError
        When it runs: a label out of range, with its position (optax: NaN, and negative labels
        count from the end).

    See Also
    --------
    optax.softmax_cross_entropy_with_integer_labels : the same function
    fusedce.cross_entropy : what computes it

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import softmax_cross_entropy_with_integer_labels
    >>> logits, labels = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]), jnp.array([0, 1])
    >>> loss = softmax_cross_entropy_with_integer_labels(logits, labels)
    >>> print(np.asarray(loss).round(4))
    [0.2761 2.9518]
    """
    return _by_index("cross_entropy", logits, labels, axis, where)


def softmax_focal_loss(
    logits: Any, labels: Any, gamma: Any = 2.0, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Any:
    """Softmax focal loss, unreduced.

    loss = -(1 - p)**gamma log p, p the softmax probability of the label (Lin et al., ICCV 2017,
    arXiv:1708.02002, equation 4). optax has no such function. Arguments, results and errors are
    those of ``softmax_cross_entropy_with_integer_labels``; ``gamma=0`` gives its results.

    Parameters
    ----------
    gamma : float >= 0, default 2
        Exponent that reduces the loss of easy examples; a number when the function is traced.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import softmax_focal_loss
    >>> logits, labels = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]]), jnp.array([0, 1])
    >>> print(np.asarray(softmax_focal_loss(logits, labels)).round(4))
    [0.0161 2.6514]
    """
    options = {"activation": "softmax", "gamma": _number("gamma", gamma)}
    return _by_index("focal", logits, labels, axis, where, **options)


def softmax_cross_entropy(
    logits: Any, labels: Any, axis: int | tuple[int, ...] | None = -1, where: Any = None
) -> Any:
    """Softmax cross-entropy of distributions over classes, unreduced.

    loss = -sum_k y_k log p_k, gradient p sum(y) - y: labels need not sum to 1.

    Parameters
    ----------
    logits : array (..., C, ...), float64, float32, float16 or bfloat16
        -inf masks a class whose label is 0.
    labels : array that broadcasts with the logits
        Not differentiated: pass ``jax.lax.stop_gradient(labels)`` where they are computed. With
        more dimensions than the logits, ``axis`` is negative.
    axis : int, tuple of ints or None, default -1
        The axes of the classes; None: all.
    where : array of bool, of the loss's or the logits' shape, optional
        What to include: rows, or classes with their labels. A row without an included class has
        loss 0.

    Returns
    -------
    array without ``axis``, of the dtype to which logits and labels promote
        Computed in float32, for float64 logits in float64.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        When the function is traced, naming the argument.

    See Also
    --------
    optax.softmax_cross_entropy : the same function

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import softmax_cross_entropy
    >>> logits, labels = jnp.array([1.2, -0.8, -0.5]), jnp.array([0.9, 0.1, 0.0])
    >>> print(f"{softmax_cross_entropy(logits, labels):.4f}")
    0.4761
    """
    logits, labels = _floats(logits), _array(labels)
    dtype = jnp.result_type(logits, labels)
    _axes(axis, logits.ndim)
    if where is not None:
        where = _included(where, axis, logits.ndim)
        logits = jnp.broadcast_to(logits, jnp.broadcast_shapes(logits.shape, where.shape))
    if logits.shape != labels.shape:
        logits, labels = _spread(logits, labels, axis)
    logits, k, where, labels = _classes(logits, axis, where, labels)
    if logits.shape[k] == 0:
        return jnp.full(_without(logits.shape, k), -0.0, dtype)
    if where is not None:
        where = where.reshape((1,) * (logits.ndim - where.ndim) + where.shape)
        labels = jnp.where(where, labels, 0)
        logits = _mask(logits, where, k)
    return _cast(loss(text("cross_entropy", axis=k), logits, labels), dtype)


def sigmoid_binary_cross_entropy(logits: Any, labels: Any) -> Any:
    """Sigmoid cross-entropy of each element, unreduced.

    loss = -y log p - (1 - y) log(1 - p), gradient p - y.

    Parameters
    ----------
    logits : array, float64, float32, float16 or bfloat16
    labels : array that broadcasts with the logits
        Floats (of any value: the formula is computed for it), bools, or integers 0 and 1 (-100
        ignores an element). Not differentiated.

    Returns
    -------
    array of the logits' dtype
        Computed in float32, for float64 in float64, and rounded once.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        When the function is traced, naming the argument.
    ValueError or jax.errors.JaxRuntimeError
        When it runs: an integer label that is neither 0 nor 1, with its position.

    See Also
    --------
    optax.sigmoid_binary_cross_entropy : the same function

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import sigmoid_binary_cross_entropy
    >>> loss = lambda logits: sigmoid_binary_cross_entropy(logits, jnp.array([1, 0])).sum()
    >>> print(np.asarray(jax.grad(loss)(jnp.array([0.0, 4.0]))).round(4))
    [-0.5    0.982]
    """
    return _by_element("binary_cross_entropy", logits, labels)


def sigmoid_focal_loss(logits: Any, labels: Any, *, alpha: Any = None, gamma: Any = 2.0) -> Any:
    """Sigmoid focal loss of each element, unreduced.

    loss = -(1 - p_t)**gamma log p_t, p_t = p for a label 1 and 1 - p for 0 (Lin et al., ICCV 2017,
    arXiv:1708.02002). A label y between them: (1 - p_t)**gamma times the cross-entropy, with
    p_t = p y + (1 - p)(1 - y). Results and errors are those of ``sigmoid_binary_cross_entropy``;
    ``gamma=0`` gives its results.

    Parameters
    ----------
    logits, labels
        As for that function; labels in [0, 1].
    alpha : float in [0, 1], optional
        Weight of positive labels, 1 - alpha of negative ones.
    gamma : float >= 0, default 2
        Exponent that reduces the loss of easy examples. Both are numbers when the function is
        traced.

    See Also
    --------
    optax.sigmoid_focal_loss : the same function

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import sigmoid_focal_loss
    >>> loss = sigmoid_focal_loss(jnp.array([0.5, -1.0]), jnp.array([1, 0]), alpha=0.25)
    >>> print(np.asarray(loss).round(4))
    [0.0169 0.017 ]
    """
    options: dict[str, Any] = {"gamma": _number("gamma", gamma)}
    if alpha is not None:
        options["alpha"] = _number("alpha", alpha, 1)
    if jnp.issubdtype(jax.dtypes.result_type(labels), jnp.inexact):
        options["soft_labels"] = "torchvision"  # same result for hard labels, 13% slower
    return _by_element("focal", logits, labels, **options)
