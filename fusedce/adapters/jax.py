"""JAX: the classification losses of optax, for ``jax.jit``, ``jax.grad`` and ``jax.vmap``.

XLA passes its own buffers to fusedce, without a copy. The loss reads the logits once. The gradient
is computed from the logits again, which is a second read and one write, and only if it is needed.
It is multiplied by the upstream gradient before it is rounded.

What is supported:

- The first derivative in reverse mode with respect to the logits. Hessians, forward mode and
  derivatives with respect to labels raise NotImplementedError.
- Inside of ``jax.jit`` the losses are computed on the CPU; on a GPU such a call raises an error.
  Outside of ``jax.jit`` a call on a GPU is computed there, through CuPy and DLPack.
- ``jax.jit`` gathers sharded arrays for the call. ``jax.shard_map`` computes each shard on its own.
- ``jax.vmap`` over labels alone reads the logits once for each member of the batch.
- ``jax.export`` needs ``DisabledSafetyCheck.custom_call("fusedce")``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusedce import checks
from fusedce.adapters.jax_arguments import (
    as_array,
    axes_of,
    cast,
    included,
    masked,
    one_class_axis,
    spread_labels,
    without_axis,
)
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


def _floats(logits: Any) -> Any:
    logits = as_array(logits)
    checks.logits(np.empty(0, logits.dtype))
    return logits


def _number(name: str, value: Any, high: float = float("inf")) -> float:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} must be a number when the function is traced: make it static")
    allowed = "in [0, 1]" if high == 1 else "a finite number >= 0"
    return checks.number(name, float(value), 0, high, allowed=allowed)


def _by_index(name: str, logits: Any, labels: Any, axis: Any, where: Any, **options: Any) -> Any:
    logits, labels = _floats(logits), as_array(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if where is not None:
        where = included(where, axis, logits.ndim)
    logits, axis, where = one_class_axis(logits, axis, where)
    rows = without_axis(logits.shape, axis)
    if labels.ndim != len(rows):
        raise ValueError(f"labels must have shape {rows}, got {labels.shape}")
    if where is not None:
        signed = not jnp.issubdtype(labels.dtype, jnp.unsignedinteger)
        labels = labels if signed else labels.astype(jnp.int32)
        labels = jnp.where(jnp.any(where, axis), labels, _IGNORED)
        logits = logits if where.shape[axis] == 1 else masked(logits, where, axis)
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
    return cast(loss(text(name, axis=axis, **options), logits, labels), logits.dtype)


def _by_element(name: str, logits: Any, labels: Any, **options: Any) -> Any:
    logits, labels = _floats(logits), as_array(labels)
    if jnp.issubdtype(labels.dtype, jnp.inexact):
        labels = cast(labels, logits.dtype)
    if logits.shape != labels.shape:
        logits, labels = jnp.broadcast_arrays(logits, labels)
    call = text(name, activation="sigmoid", **options)
    return cast(loss(call, logits, labels), logits.dtype)


def softmax_cross_entropy_with_integer_labels(
    logits: Any, labels: Any, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Any:
    """Softmax cross-entropy of class indices, without reduction.

    With p = softmax(z) along the class axis, for the label t of a row::

        loss   = log(sum_j exp(z_j)) - z_t = -log(p_t)
        grad_j = p_j - [j == t]

    Parameters
    ----------
    logits : array (..., C, ...) of float64, float32, float16 or bfloat16
        A logit -inf masks a class.
    labels : array of integers, of the shape of the logits without ``axis``
        Class indices from 0 to C - 1. A row with label -100 is ignored: its loss and its gradient
        are 0.
    axis : int or tuple of ints, default -1
        The class axis. If there are several, labels are flat indices into them.
    where : array of bool, of the shape of the labels or the logits, optional
        The rows or the classes to include. A row without an included class has loss 0. If the class
        of the label is not included, the loss is inf; optax subtracts the logit of that class
        nevertheless. If the class axis has extent 0, the loss is -inf, as in optax.

    Returns
    -------
    array of the shape of the labels and the dtype of the logits
        Computed in float32, for float64 in float64, and rounded once.

    Raises
    ------
    TypeError, ValueError
        When the function is traced, with a message that contains the name of the argument.
    ValueError or jax.errors.JaxRuntimeError
        When the function runs, for a label out of range, with its position. In optax the loss of
        such a label is NaN, and negative labels count from the end.

    See Also
    --------
    optax.softmax_cross_entropy_with_integer_labels : the same function
    fusedce.cross_entropy : the function that computes it

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import softmax_cross_entropy_with_integer_labels
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> loss = softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1]))
    >>> print(np.asarray(loss).round(4))
    [0.2761 2.9518]
    """
    return _by_index("cross_entropy", logits, labels, axis, where)


def softmax_focal_loss(
    logits: Any, labels: Any, gamma: Any = 2.0, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Any:
    """Softmax focal loss of class indices, without reduction. optax has no such function.

    With p = softmax(z) along the class axis, for the label t of a row::

        loss = -(1 - p_t)**gamma * log(p_t)

    Parameters
    ----------
    logits, labels, axis, where
        As in ``softmax_cross_entropy_with_integer_labels``.
    gamma : float >= 0, default 2
        Exponent. With 0 the results are those of ``softmax_cross_entropy_with_integer_labels``. It
        must be a number, not a tracer, when the function is traced.

    Returns
    -------
    array of the shape of the labels and the dtype of the logits
        As in ``softmax_cross_entropy_with_integer_labels``.

    Raises
    ------
    TypeError, ValueError, jax.errors.JaxRuntimeError
        As in ``softmax_cross_entropy_with_integer_labels``.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002, equation 4.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import softmax_focal_loss
    >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
    >>> print(np.asarray(softmax_focal_loss(logits, jnp.array([0, 1]))).round(4))
    [0.0161 2.6514]
    """
    options = {"activation": "softmax", "gamma": _number("gamma", gamma)}
    return _by_index("focal", logits, labels, axis, where, **options)


def softmax_cross_entropy(
    logits: Any, labels: Any, axis: int | tuple[int, ...] | None = -1, where: Any = None
) -> Any:
    """Softmax cross-entropy of distributions over classes, without reduction.

    With p = softmax(z) along the class axis, for the labels y of a row, which need not sum to 1::

        loss   = -sum_j y_j * log(p_j)
        grad_j = p_j * sum_k y_k - y_j

    Parameters
    ----------
    logits : array (..., C, ...) of float64, float32, float16 or bfloat16
        A logit -inf masks a class whose label is 0.
    labels : array that broadcasts with the logits
        Derivatives by them are not supported: if labels depend on what is differentiated by, pass
        ``jax.lax.stop_gradient(labels)``. If labels have more axes than the logits, ``axis`` must
        be negative.
    axis : int, tuple of ints or None, default -1
        The class axis, or several. None: all axes.
    where : array of bool, of the shape of the loss or the logits, optional
        The rows, or the classes with their labels, to include. A row without an included class has
        loss 0.

    Returns
    -------
    array without ``axis``, of the dtype to which logits and labels promote
        Computed in float32, for float64 logits in float64.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        When the function is traced, with a message that contains the name of the argument.

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
    logits, labels = _floats(logits), as_array(labels)
    dtype = jnp.result_type(logits, labels)
    axes_of(axis, logits.ndim)
    if where is not None:
        where = included(where, axis, logits.ndim)
        logits = jnp.broadcast_to(logits, jnp.broadcast_shapes(logits.shape, where.shape))
    if logits.shape != labels.shape:
        logits, labels = spread_labels(logits, labels, axis)
    logits, k, where, labels = one_class_axis(logits, axis, where, labels)
    if logits.shape[k] == 0:
        return jnp.full(without_axis(logits.shape, k), -0.0, dtype)
    if where is not None:
        where = where.reshape((1,) * (logits.ndim - where.ndim) + where.shape)
        labels = jnp.where(where, labels, 0)
        logits = masked(logits, where, k)
    return cast(loss(text("cross_entropy", axis=k), logits, labels), dtype)


def sigmoid_binary_cross_entropy(logits: Any, labels: Any) -> Any:
    """Sigmoid cross-entropy of each element, without reduction.

    For the label y of an element::

        p    = 1 / (1 + exp(-z))
        loss = -y * log(p) - (1 - y) * log(1 - p)
        grad = p - y

    Parameters
    ----------
    logits : array of float64, float32, float16 or bfloat16
        Of any shape.
    labels : array that broadcasts with the logits
        Floats of any value, for which the formula is computed, bools, or integers 0 and 1. An
        element with the integer label -100 is ignored: its loss and its gradient are 0. Derivatives
        by labels are not supported.

    Returns
    -------
    array of the shape to which both broadcast, and the dtype of the logits
        Computed in float32, for float64 in float64, and rounded once.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        When the function is traced, with a message that contains the name of the argument.
    ValueError or jax.errors.JaxRuntimeError
        When the function runs, for an integer label that is neither 0 nor 1, with its position.

    See Also
    --------
    optax.sigmoid_binary_cross_entropy : the same function

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from fusedce.adapters.jax import sigmoid_binary_cross_entropy
    >>> labels = jnp.array([1, 0])
    >>> loss = lambda logits: sigmoid_binary_cross_entropy(logits, labels).sum()
    >>> print(np.asarray(jax.grad(loss)(jnp.array([0.0, 4.0]))).round(4))
    [-0.5    0.982]
    """
    return _by_element("binary_cross_entropy", logits, labels)


def sigmoid_focal_loss(logits: Any, labels: Any, *, alpha: Any = None, gamma: Any = 2.0) -> Any:
    """Sigmoid focal loss of each element, without reduction.

    For the label y of an element::

        p    = 1 / (1 + exp(-z))
        p_t  = p * y + (1 - p) * (1 - y)
        loss = (1 - p_t)**gamma * (-y * log(p) - (1 - y) * log(1 - p))

    Parameters
    ----------
    logits, labels
        As in ``sigmoid_binary_cross_entropy``; float labels must be in [0, 1].
    alpha : float in [0, 1], optional
        Weight of positive labels; that of negative labels is 1 - alpha.
    gamma : float >= 0, default 2
        Exponent. With 0 the results are those of ``sigmoid_binary_cross_entropy``. ``alpha`` and
        ``gamma`` must be numbers, not tracers, when the function is traced.

    Returns
    -------
    array of the shape to which both broadcast, and the dtype of the logits
        As in ``sigmoid_binary_cross_entropy``.

    Raises
    ------
    TypeError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError
        As in ``sigmoid_binary_cross_entropy``.

    See Also
    --------
    optax.sigmoid_focal_loss : the same function

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.

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
