# Written by ``python -m tests.house.stubs``.

from collections.abc import Callable
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np

from fusedce.options import Activation, Reduction

# Derivatives of NumPy arrays are NumPy arrays of the same dtype; those of others are not described.
_A = TypeVar("_A", bound=np.ndarray[Any, Any])
_Float = float | np.floating[Any] | np.integer[Any]
_Int = int | np.integer[Any]
_Bool = bool | np.bool

__version__: str
__all__: list[str]

class _Options(TypedDict, total=False):
    weight: Any
    pos_weight: Any
    sample_weight: Any
    ignore_index: _Int
    label_smoothing: _Float
    normalize_targets: _Bool
    neg_label: Literal[0, -1]
    z_loss: _Float
    softcap: _Float | None
    logit_scale: _Float
    reduction: Reduction
    denominator: Any
    axis: _Int
    loss_out: Any
    grad_out: Any
    hess_out: Any
    validate: _Bool | None

@overload
def apply(
    rule: Any,
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def apply(
    rule: Any,
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A, _A]: ...
@overload
def apply(
    rule: Any,
    logits: Any,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def apply(
    rule: Any,
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def apply(
    rule: Any,
    logits: Any,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: _Bool = True,
    return_hessian: _Bool = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def asymmetric(
    logits: _A,
    targets: Any,
    *,
    gamma_pos: _Float = 0.0,
    gamma_neg: _Float = 4.0,
    clip: _Float = 0.05,
    activation: Activation = "sigmoid",
    return_grad: Literal[True] = True,
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def asymmetric(
    logits: _A,
    targets: Any,
    *,
    gamma_pos: _Float = 0.0,
    gamma_neg: _Float = 4.0,
    clip: _Float = 0.05,
    activation: Activation = "sigmoid",
    return_grad: Literal[True] = True,
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A, _A]: ...
@overload
def asymmetric(
    logits: Any,
    targets: Any,
    *,
    gamma_pos: _Float = 0.0,
    gamma_neg: _Float = 4.0,
    clip: _Float = 0.05,
    activation: Activation = "sigmoid",
    return_grad: Literal[False],
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def asymmetric(
    logits: _A,
    targets: Any,
    *,
    gamma_pos: _Float = 0.0,
    gamma_neg: _Float = 4.0,
    clip: _Float = 0.05,
    activation: Activation = "sigmoid",
    return_grad: Literal[False],
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def asymmetric(
    logits: Any,
    targets: Any,
    *,
    gamma_pos: _Float = 0.0,
    gamma_neg: _Float = 4.0,
    clip: _Float = 0.05,
    activation: Activation = "sigmoid",
    return_grad: _Bool = True,
    return_hessian: _Bool = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def binary_cross_entropy(
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "sigmoid",
    return_grad: Literal[True] = True,
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def binary_cross_entropy(
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "sigmoid",
    return_grad: Literal[True] = True,
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A, _A]: ...
@overload
def binary_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    activation: Activation = "sigmoid",
    return_grad: Literal[False],
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def binary_cross_entropy(
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "sigmoid",
    return_grad: Literal[False],
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def binary_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    activation: Activation = "sigmoid",
    return_grad: _Bool = True,
    return_hessian: _Bool = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def cross_entropy(
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def cross_entropy(
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A, _A]: ...
@overload
def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def cross_entropy(
    logits: _A,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    activation: Activation = "softmax",
    return_grad: _Bool = True,
    return_hessian: _Bool = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def focal(
    logits: _A,
    targets: Any,
    *,
    gamma: _Float = 2.0,
    alpha: _Float | None = None,
    soft_labels: Literal["split", "torchvision"] = "split",
    activation: Activation = "sigmoid",
    return_grad: Literal[True] = True,
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def focal(
    logits: _A,
    targets: Any,
    *,
    gamma: _Float = 2.0,
    alpha: _Float | None = None,
    soft_labels: Literal["split", "torchvision"] = "split",
    activation: Activation = "sigmoid",
    return_grad: Literal[True] = True,
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A, _A]: ...
@overload
def focal(
    logits: Any,
    targets: Any,
    *,
    gamma: _Float = 2.0,
    alpha: _Float | None = None,
    soft_labels: Literal["split", "torchvision"] = "split",
    activation: Activation = "sigmoid",
    return_grad: Literal[False],
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def focal(
    logits: _A,
    targets: Any,
    *,
    gamma: _Float = 2.0,
    alpha: _Float | None = None,
    soft_labels: Literal["split", "torchvision"] = "split",
    activation: Activation = "sigmoid",
    return_grad: Literal[False],
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def focal(
    logits: Any,
    targets: Any,
    *,
    gamma: _Float = 2.0,
    alpha: _Float | None = None,
    soft_labels: Literal["split", "torchvision"] = "split",
    activation: Activation = "sigmoid",
    return_grad: _Bool = True,
    return_hessian: _Bool = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def generalized_cross_entropy(
    logits: _A,
    targets: Any,
    *,
    q: _Float = 0.7,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def generalized_cross_entropy(
    logits: _A,
    targets: Any,
    *,
    q: _Float = 0.7,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A, _A]: ...
@overload
def generalized_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    q: _Float = 0.7,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def generalized_cross_entropy(
    logits: _A,
    targets: Any,
    *,
    q: _Float = 0.7,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def generalized_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    q: _Float = 0.7,
    activation: Activation = "softmax",
    return_grad: _Bool = True,
    return_hessian: _Bool = False,
    **options: Unpack[_Options],
) -> Any: ...
def log_sigmoid(
    logits: Any,
    *,
    out: Any = None,
) -> Any: ...
def log_softmax(
    logits: Any,
    *,
    axis: _Int = -1,
    out: Any = None,
) -> Any: ...
@overload
def poly1(
    logits: _A,
    targets: Any,
    *,
    epsilon: _Float = 1.0,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def poly1(
    logits: _A,
    targets: Any,
    *,
    epsilon: _Float = 1.0,
    activation: Activation = "softmax",
    return_grad: Literal[True] = True,
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A, _A]: ...
@overload
def poly1(
    logits: Any,
    targets: Any,
    *,
    epsilon: _Float = 1.0,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[False] = False,
    **options: Unpack[_Options],
) -> Any: ...
@overload
def poly1(
    logits: _A,
    targets: Any,
    *,
    epsilon: _Float = 1.0,
    activation: Activation = "softmax",
    return_grad: Literal[False],
    return_hessian: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, _A]: ...
@overload
def poly1(
    logits: Any,
    targets: Any,
    *,
    epsilon: _Float = 1.0,
    activation: Activation = "softmax",
    return_grad: _Bool = True,
    return_hessian: _Bool = False,
    **options: Unpack[_Options],
) -> Any: ...
def prior_bias(
    pi: _Float,
) -> float: ...
def rule(
    params: Any,
    *,
    negative: Callable[..., Any] | None = None,
    soft: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def sigmoid(
    logits: Any,
    *,
    out: Any = None,
) -> Any: ...
def softmax(
    logits: Any,
    *,
    axis: _Int = -1,
    out: Any = None,
) -> Any: ...
