"""Caffe: two loss layers of ``type: "Python"``.

The prototxt of such a layer contains::

    type: "Python"
    python_param { module: "fusedce.adapters.caffe" layer: "FocalLossLayer" }
    loss_weight: 1

Without Caffe the layers are ordinary classes. A blob is then any object with ``data``, ``diff`` and
``reshape``.
"""

import ast
import json
from contextlib import suppress
from typing import Any

import numpy as np

import fusedce
from fusedce import checks

try:
    from caffe import Layer
except ImportError:
    Layer = object


class _LossLayer(Layer):
    """A layer with two bottoms, scores and labels of one shape, and one number as its top."""

    param_str = ""  # Caffe sets it before ``setup``

    def setup(self, bottom: Any, top: Any) -> None:
        """Check the number of blobs."""
        if len(bottom) != 2 or len(top) != 1:
            raise ValueError(
                f"{type(self).__name__} takes two bottoms, scores and labels, and one top, "
                f"got {len(bottom)} and {len(top)}"
            )

    def reshape(self, bottom: Any, top: Any) -> None:
        """Check the shapes, before each forward pass."""
        scores, labels = (blob.data.shape for blob in bottom)
        if len(scores) < 2 or scores != labels:
            raise ValueError(
                f"scores and labels must have one shape, (N, C) or more, got {scores} and {labels}"
            )
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        """Write the loss to the top, without computing the gradient."""
        top[0].data[...] = self._call(bottom, return_grad=False)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Write the gradient times the loss weight, which Caffe stores in ``diff`` of the top."""
        if len(propagate_down) > 1 and propagate_down[1]:
            raise ValueError(f"{type(self).__name__} has no gradient by the labels")
        if propagate_down[0]:
            self._call(bottom, sample_weight=top[0].diff, grad_out=bottom[0].diff)

    def _call(self, bottom: Any, **options: Any) -> Any:
        scores, labels = bottom[0].data, bottom[1].data
        batch = max(1, len(scores))  # a batch without samples has loss 0, as for Caffe's own layers
        return self._loss(scores, labels, axis=1, denominator=batch, **options)


class MultiLabelSoftmaxLossLayer(_LossLayer):
    """Softmax loss of samples with several labels, each with the weight 1 / (number of labels).

    With p = softmax(z) of the scores z of a sample n, labels y, and M the number of labels that are
    not 0, for N samples::

        loss   = -1/N * sum_n 1/M * sum_j y_j * log(p_j)
        grad_j = (p_j * sum_k y_k - y_j) / (M * N)

    The bottoms are scores and labels, both (N, C) or (N, C, ...), of float32 or float64; labels are
    any real numbers. The top is the loss, (1,). A sample without a label has loss 0 and gradient 0,
    and N counts it. The gradient is multiplied by the loss weight before it is rounded.

    Raises
    ------
    ValueError
        For another number of blobs, for other shapes, and if the gradient by the labels is asked
        for.

    References
    ----------
    Mahajan et al., Exploring the Limits of Weakly Supervised Pretraining, ECCV 2018,
    arXiv:1805.00932.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from fusedce.adapters.caffe import MultiLabelSoftmaxLossLayer
    >>> def blob(*values):
    ...     data = np.array(values, np.float32)
    ...     diff = np.ones_like(data)  # of the top: a loss weight of 1
    ...     return SimpleNamespace(data=data, diff=diff, reshape=data.reshape)
    >>> bottom, top = [blob([2, 1, -1]), blob([1, 1, 0])], [blob(0)]
    >>> layer = MultiLabelSoftmaxLossLayer()
    >>> layer.setup(bottom, top)
    >>> layer.reshape(bottom, top)
    >>> layer.forward(bottom, top)
    >>> layer.backward(top, [True, False], bottom)
    >>> print(top[0].data.round(2), bottom[0].diff.round(3))
    [0.85] [[ 0.205 -0.241  0.035]]
    """

    def _loss(self, scores: np.ndarray, labels: np.ndarray, **options: Any) -> Any:
        return fusedce.cross_entropy(scores, labels, normalize_targets=True, **options)


class FocalLossLayer(_LossLayer):
    """Sigmoid focal loss, with a weight for each class, its balance.

    For N samples, an element with the score z whose class has the balance b gives::

        p = 1 / (1 + exp(-z))
        label not 0:  loss = -b * (1 - p)**gamma * log(p) / N
                      grad = b * (1 - p)**gamma * (gamma * p * log(p) + p - 1) / N
        label 0:      loss = -b * p**gamma * log(1 - p) / N
                      grad = b * p**gamma * (p - gamma * (1 - p) * log(1 - p)) / N

    The top is the sum of the losses. Blobs are as in ``MultiLabelSoftmaxLossLayer``.

    ``param_str`` is a dict, in JSON or as a Python literal; it is parsed, not evaluated. Its
    entries, both optional:

    - ``focusing_parameter``: gamma >= 0, by default 2;
    - ``class_balances``: a dict from the strings "1" to "C" to finite numbers, by default all 1.

    Raises
    ------
    TypeError, ValueError
        For any other ``param_str``, for a class without a balance, and for blobs as in
        ``MultiLabelSoftmaxLossLayer``.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from fusedce.adapters.caffe import FocalLossLayer
    >>> def blob(*values):
    ...     data = np.array(values, np.float32)
    ...     diff = np.ones_like(data)  # of the top: a loss weight of 1
    ...     return SimpleNamespace(data=data, diff=diff, reshape=data.reshape)
    >>> bottom, top = [blob([2, 1, -1]), blob([1, 0, 0])], [blob(0)]
    >>> layer = FocalLossLayer()
    >>> layer.param_str = "{'class_balances': {'1': 3, '2': 1, '3': 1}}"
    >>> layer.setup(bottom, top)
    >>> layer.reshape(bottom, top)
    >>> layer.forward(bottom, top)
    >>> layer.backward(top, [True, False], bottom)
    >>> print(top[0].data.round(2), bottom[0].diff.round(3))
    [0.73] [[-0.015  0.768  0.053]]
    """

    def setup(self, bottom: Any, top: Any) -> None:
        """Check the number of blobs and read the parameters."""
        super().setup(bottom, top)
        given = _parse(self.param_str)
        gamma, balances = given.pop("focusing_parameter", 2.0), given.pop("class_balances", None)
        for name in given:
            known = "focusing_parameter and class_balances"
            raise ValueError(f"param_str may have {known}, got {name!r}")
        allowed = "a finite number >= 0"
        self.focusing_parameter = checks.number("focusing_parameter", gamma, 0, allowed=allowed)
        if not isinstance(balances, dict | None):
            raise TypeError(
                f"class_balances must be a dict from classes to numbers, got {balances!r}"
            )
        for name, balance in (balances or {}).items():
            checks.number(f"class_balances[{name!r}]", balance)
        self.class_balances = balances

    def reshape(self, bottom: Any, top: Any) -> None:
        """Check the shapes and find the balance of each class, before each forward pass."""
        super().reshape(bottom, top)
        self.weight = None
        if self.class_balances is not None:
            names = [str(j + 1) for j in range(bottom[0].data.shape[1])]
            for name in names:
                if name not in self.class_balances:
                    raise ValueError(
                        f"class_balances has no {name!r}, of classes '1' to {names[-1]!r}"
                    )
            self.weight = np.array([self.class_balances[name] for name in names])

    def _loss(self, scores: np.ndarray, labels: np.ndarray, **options: Any) -> Any:
        options |= {"gamma": self.focusing_parameter, "weight": self.weight}
        return fusedce.focal(scores, labels != 0, **options)


def _parse(text: str) -> dict[str, Any]:
    """The dict in ``param_str``."""
    given: Any = None if text.strip() else {}
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError):
            given = read(text.strip())
            break
    if not isinstance(given, dict):
        raise ValueError(f"param_str must be a dict in JSON or as Python writes it, got {text!r}")
    return given
