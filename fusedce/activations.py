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
    """Softmax exp(z_j) / sum_k exp(z_k) along an axis; each p accurate relative to its own size.

    Parameters
    ----------
    logits : array of float64, float32, float16 or bfloat16
        -inf gives 0; a row that is all -inf, or has a NaN, gives NaN.
    axis : int
        The class axis.
    out : array of the shape and dtype of ``logits``, optional
        Filled and returned; may be ``logits`` itself.

    Raises
    ------
    TypeError, ValueError
        For integer logits, a wrong axis or a wrong ``out``.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.softmax(np.array([1000.0, 1000.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    return _activate("softmax", logits, out, axis)


def log_softmax(logits: Any, *, axis: int = -1, out: Any = None) -> Any:
    """Logarithm of the softmax, z_j - log(sum_k exp(z_k)), without computing the softmax first.

    Parameters, results and errors as in ``softmax``.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.log_softmax(np.array([0.0, -1000.0]))
    array([    0., -1000.])
    """
    return _activate("log_softmax", logits, out, axis)


def sigmoid(logits: Any, *, out: Any = None) -> Any:
    """Sigmoid 1 / (1 + exp(-z)) of each element, accurate relative to its own size at both ends.

    Parameters
    ----------
    logits : array of float64, float32, float16 or bfloat16
    out : array of the shape and dtype of ``logits``, optional
        Filled and returned; may be ``logits`` itself.

    Raises
    ------
    TypeError, ValueError
        For integer logits or a wrong ``out``.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.sigmoid(np.array([0.0, -50.0]))
    array([5.00000000e-01, 1.92874985e-22])
    """
    return _activate("sigmoid", logits, out, -1)


def log_sigmoid(logits: Any, *, out: Any = None) -> Any:
    """Logarithm of the sigmoid, -log(1 + exp(-z)).

    Parameters, results and errors as in ``sigmoid``.

    Examples
    --------
    >>> import numpy as np, fusedce
    >>> fusedce.log_sigmoid(np.array([-1000.0, 0.0]))
    array([-1.00000000e+03, -6.93147181e-01])
    """
    return _activate("log_sigmoid", logits, out, -1)


def prior_bias(pi: float) -> float:
    """Bias -log((1 - pi) / pi) of a last layer whose sigmoid starts at probability pi.

    Parameters
    ----------
    pi : float in (0, 1)
        Share of positives the untrained model shall predict; RetinaNet takes 0.01.

    Raises
    ------
    ValueError
        For pi outside (0, 1).

    References
    ----------
    Lin et al. 2017, arXiv:1708.02002, section 4.1.

    Examples
    --------
    >>> import fusedce
    >>> print(f"{fusedce.prior_bias(0.01):.3f}")
    -4.595
    """
    x = checks.number("pi", pi, 0, 1, open_low=True, open_high=True, allowed="in (0, 1)")
    return float(np.log(x) - np.log1p(-x))
