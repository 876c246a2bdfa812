"""softmax, sigmoid and their logarithms, stable at every input."""

from typing import Any

import numpy as np

from fusedce import arrays, checks
from fusedce.backends import cuda, cuda_replay


def _activate(name: str, logits: Any, out: Any, axis: int) -> Any:
    key, result = cuda_replay.run_activation(name, logits, out, axis)
    if result is not None:
        return result
    backend = cuda.backend_of(logits=logits)
    (z,) = backend.read(logits=logits)
    source = backend.native("logits", checks.logits(z))
    if source.ndim == 0 and name.endswith("softmax"):
        raise ValueError("logits must have a class axis, got a 0-d array")
    k = checks.axis(axis, max(1, source.ndim))
    if out is None:
        result = backend.like("out", source)
    else:
        result = backend.output("out", out, z.shape, source.dtype)
        checks.overlaps({"out": result}, {"logits": z}, in_place="out")
    if source.size:
        shape = arrays.split_shape(source.shape or (1,), k)
        backend.activate(name, source, result, shape, out, key)
    return backend.activated(result) if out is None else out


def softmax(logits: Any, *, axis: int = -1, out: Any = None) -> Any:
    """Softmax of logits along an axis; each probability is accurate relative to its own size.

    For the logits z along the axis::

        p_j = exp(z_j) / sum_k exp(z_k)

    Parameters
    ----------
    logits : array of float64, float32, float16 or bfloat16
        A logit -inf gives 0. If all logits of a row are -inf, or one of them is NaN, the row
        of the result is NaN.
    axis : int, default -1
        The class axis.
    out : array of the shape and dtype of the logits, optional
        Array to write the result to. It is returned, and may be ``logits`` itself.

    Returns
    -------
    array of the shape and dtype of the logits

    Raises
    ------
    TypeError
        For logits of another dtype, such as integers.
    ValueError
        For an axis that the logits do not have, or an ``out`` of another shape or dtype.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.softmax(np.array([1000.0, 1000.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    return _activate("softmax", logits, out, axis)


def log_softmax(logits: Any, *, axis: int = -1, out: Any = None) -> Any:
    """Logarithm of the softmax of logits along an axis, computed without the softmax.

    For the logits z along the axis::

        out_j = z_j - log(sum_k exp(z_k))

    Parameters
    ----------
    logits : array of float64, float32, float16 or bfloat16
        A logit -inf gives -inf. If all logits of a row are -inf, or one of them is NaN, the row
        of the result is NaN.
    axis : int, default -1
        The class axis.
    out : array of the shape and dtype of the logits, optional
        Array to write the result to. It is returned, and may be ``logits`` itself.

    Returns
    -------
    array of the shape and dtype of the logits

    Raises
    ------
    TypeError
        For logits of another dtype, such as integers.
    ValueError
        For an axis that the logits do not have, or an ``out`` of another shape or dtype.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.log_softmax(np.array([0.0, -1000.0]))
    array([    0., -1000.])
    """
    return _activate("log_softmax", logits, out, axis)


def sigmoid(logits: Any, *, out: Any = None) -> Any:
    """Sigmoid of each element, accurate relative to its own size.

    For a logit z::

        p = 1 / (1 + exp(-z))

    Parameters
    ----------
    logits : array of float64, float32, float16 or bfloat16
        Of any shape.
    out : array of the shape and dtype of the logits, optional
        Array to write the result to. It is returned, and may be ``logits`` itself.

    Returns
    -------
    array of the shape and dtype of the logits

    Raises
    ------
    TypeError
        For logits of another dtype, such as integers.
    ValueError
        For an ``out`` of another shape or dtype.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.sigmoid(np.array([0.0, -50.0]))
    array([5.00000000e-01, 1.92874985e-22])
    """
    return _activate("sigmoid", logits, out, -1)


def log_sigmoid(logits: Any, *, out: Any = None) -> Any:
    """Logarithm of the sigmoid of each element, accurate relative to its own size.

    For a logit z::

        out = -log(1 + exp(-z))

    Parameters
    ----------
    logits : array of float64, float32, float16 or bfloat16
        Of any shape.
    out : array of the shape and dtype of the logits, optional
        Array to write the result to. It is returned, and may be ``logits`` itself.

    Returns
    -------
    array of the shape and dtype of the logits

    Raises
    ------
    TypeError
        For logits of another dtype, such as integers.
    ValueError
        For an ``out`` of another shape or dtype.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.log_sigmoid(np.array([-1000.0, 0.0]))
    array([-1.00000000e+03, -6.93147181e-01])
    """
    return _activate("log_sigmoid", logits, out, -1)


def prior_bias(pi: float) -> float:
    """Bias of a last layer with which an untrained model predicts the probability pi.

    The sigmoid of the bias is pi::

        bias = -log((1 - pi) / pi)

    Parameters
    ----------
    pi : float in (0, 1)
        The share of positive labels, for example. RetinaNet uses 0.01.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If pi is no number.
    ValueError
        If pi is not in (0, 1).

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002, section 4.1.

    Examples
    --------
    >>> import fusedce
    >>> print(f"{fusedce.prior_bias(0.01):.3f}")
    -4.595
    """
    x = checks.number("pi", pi, 0, 1, open_low=True, open_high=True, allowed="in (0, 1)")
    return float(np.log(x) - np.log1p(-x))
