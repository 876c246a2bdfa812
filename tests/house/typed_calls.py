"""Calls with the types that checkers must infer; `make check` checks them, nothing runs them.

A comment "type: ignore" on a line without an error is itself an error.
"""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fusedce
from fusedce.options import Reduction

Floats = NDArray[np.float32]


def results(z: Floats, y: NDArray[np.int64], some: bool) -> None:
    """The return type depends on return_grad and return_hessian."""
    assert_type(fusedce.cross_entropy(z, y), tuple[Any, Floats])
    assert_type(fusedce.focal(z, y, gamma=1.5, alpha=0.25), tuple[Any, Floats])
    assert_type(fusedce.poly1(z, y, return_hessian=True), tuple[Any, Floats, Floats])
    assert_type(fusedce.binary_cross_entropy(z, y, return_grad=False), Any)
    hessian = fusedce.asymmetric(z, y, return_grad=False, return_hessian=True)
    assert_type(hessian, tuple[Any, Floats])
    assert_type(fusedce.generalized_cross_entropy(z, y, return_grad=some), Any)
    assert_type(fusedce.cross_entropy([[1.0, 2.0]], [0]), Any)
    loss, grad = fusedce.apply(object(), z, y, activation=None, axis=1, grad_out=z)
    assert_type((loss, grad), tuple[Any, Floats])
    assert_type(fusedce.softmax(z, axis=0), Any)


def numbers_of_numpy(z: Floats, y: NDArray[np.int64], reduction: Reduction) -> None:
    """NumPy's scalars are accepted like Python's numbers."""
    smoothing, index = np.float32(0.1), np.int64(3)
    fusedce.cross_entropy(z, y, label_smoothing=smoothing, ignore_index=index, reduction=reduction)
    fusedce.focal(z, y, gamma=np.float64(2), return_hessian=np.True_)
    for loss in (fusedce.cross_entropy, fusedce.focal):
        assert_type(loss(z, y), tuple[Any, Floats])


def mistakes(z: Floats, y: NDArray[np.int64]) -> None:
    """Calls that a type checker must reject."""
    fusedce.cross_entropy(z, y, reduction="avg")  # type: ignore[call-overload]
    fusedce.focal(z, y, activation="tanh")  # type: ignore[call-overload]
    fusedce.focal(z, y, soft_labels="mixed")  # type: ignore[call-overload]
    fusedce.poly1(z, y, weights=z)  # type: ignore[call-overload]
    fusedce.binary_cross_entropy(z, y, neg_label=2)  # type: ignore[call-overload]
    fusedce.cross_entropy(z, y, "mean")  # type: ignore[call-overload]
