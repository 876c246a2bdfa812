# Written by ``python -m tests.stubs``.

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

class _Array(Protocol):
    @property
    def dtype(self) -> Any: ...
    @property
    def shape(self) -> Any: ...

_A = TypeVar("_A", bound=_Array)  # an array of any library: the derivatives are of the same
_Activation = Literal["softmax", "sigmoid"] | None
_Reduction = Literal["mean", "sum", "none"]

__version__: str
__all__: list[str]

class _Options(TypedDict, total=False):
    weight: Any
    pos_weight: Any
    sample_weight: Any
    ignore_index: int
    label_smoothing: float
    normalize_targets: bool
    neg_label: Literal[0, -1]
    z_loss: float
    softcap: float | None
    logit_scale: float
    reduction: _Reduction
    denominator: Any
    axis: int
    loss_out: Any
    grad_out: Any
    hess_out: Any
    validate: bool | None

@overload
def apply(
    rule: Any, logits: _A, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def apply(
    rule: Any, logits: _A, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A, _A]: ...
@overload
def apply(
    rule: Any, logits: Any, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def apply(
    rule: Any, logits: _A, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def apply(
    rule: Any, logits: Any, targets: Any, *, activation: _Activation = "softmax", return_grad: bool = True, return_hessian: bool = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def asymmetric(
    logits: _A, targets: Any, *, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05, activation: _Activation = "sigmoid", return_grad: Literal[True] = True, return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def asymmetric(
    logits: _A, targets: Any, *, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05, activation: _Activation = "sigmoid", return_grad: Literal[True] = True, return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A, _A]: ...
@overload
def asymmetric(
    logits: Any, targets: Any, *, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05, activation: _Activation = "sigmoid", return_grad: Literal[False], return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def asymmetric(
    logits: _A, targets: Any, *, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05, activation: _Activation = "sigmoid", return_grad: Literal[False], return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def asymmetric(
    logits: Any, targets: Any, *, gamma_pos: float = 0.0, gamma_neg: float = 4.0, clip: float = 0.05, activation: _Activation = "sigmoid", return_grad: bool = True, return_hessian: bool = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def binary_cross_entropy(
    logits: _A, targets: Any, *, activation: _Activation = "sigmoid", return_grad: Literal[True] = True, return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def binary_cross_entropy(
    logits: _A, targets: Any, *, activation: _Activation = "sigmoid", return_grad: Literal[True] = True, return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A, _A]: ...
@overload
def binary_cross_entropy(
    logits: Any, targets: Any, *, activation: _Activation = "sigmoid", return_grad: Literal[False], return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def binary_cross_entropy(
    logits: _A, targets: Any, *, activation: _Activation = "sigmoid", return_grad: Literal[False], return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def binary_cross_entropy(
    logits: Any, targets: Any, *, activation: _Activation = "sigmoid", return_grad: bool = True, return_hessian: bool = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def cross_entropy(
    logits: _A, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def cross_entropy(
    logits: _A, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A, _A]: ...
@overload
def cross_entropy(
    logits: Any, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def cross_entropy(
    logits: _A, targets: Any, *, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def cross_entropy(
    logits: Any, targets: Any, *, activation: _Activation = "softmax", return_grad: bool = True, return_hessian: bool = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def focal(
    logits: _A, targets: Any, *, gamma: float = 2.0, alpha: float | None = None, soft_labels: Literal["split", "torchvision"] = "split", activation: _Activation = "sigmoid", return_grad: Literal[True] = True, return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def focal(
    logits: _A, targets: Any, *, gamma: float = 2.0, alpha: float | None = None, soft_labels: Literal["split", "torchvision"] = "split", activation: _Activation = "sigmoid", return_grad: Literal[True] = True, return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A, _A]: ...
@overload
def focal(
    logits: Any, targets: Any, *, gamma: float = 2.0, alpha: float | None = None, soft_labels: Literal["split", "torchvision"] = "split", activation: _Activation = "sigmoid", return_grad: Literal[False], return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def focal(
    logits: _A, targets: Any, *, gamma: float = 2.0, alpha: float | None = None, soft_labels: Literal["split", "torchvision"] = "split", activation: _Activation = "sigmoid", return_grad: Literal[False], return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def focal(
    logits: Any, targets: Any, *, gamma: float = 2.0, alpha: float | None = None, soft_labels: Literal["split", "torchvision"] = "split", activation: _Activation = "sigmoid", return_grad: bool = True, return_hessian: bool = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def generalized_cross_entropy(
    logits: _A, targets: Any, *, q: float = 0.7, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def generalized_cross_entropy(
    logits: _A, targets: Any, *, q: float = 0.7, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A, _A]: ...
@overload
def generalized_cross_entropy(
    logits: Any, targets: Any, *, q: float = 0.7, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def generalized_cross_entropy(
    logits: _A, targets: Any, *, q: float = 0.7, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def generalized_cross_entropy(
    logits: Any, targets: Any, *, q: float = 0.7, activation: _Activation = "softmax", return_grad: bool = True, return_hessian: bool = False, **options: Unpack[_Options]
) -> Any: ...
def log_sigmoid(
    logits: Any, *, out: Any = None
) -> Any: ...
def log_softmax(
    logits: Any, *, axis: int = -1, out: Any = None
) -> Any: ...
@overload
def poly1(
    logits: _A, targets: Any, *, epsilon: float = 1.0, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def poly1(
    logits: _A, targets: Any, *, epsilon: float = 1.0, activation: _Activation = "softmax", return_grad: Literal[True] = True, return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A, _A]: ...
@overload
def poly1(
    logits: Any, targets: Any, *, epsilon: float = 1.0, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[False] = False, **options: Unpack[_Options]
) -> Any: ...
@overload
def poly1(
    logits: _A, targets: Any, *, epsilon: float = 1.0, activation: _Activation = "softmax", return_grad: Literal[False], return_hessian: Literal[True], **options: Unpack[_Options]
) -> tuple[Any, _A]: ...
@overload
def poly1(
    logits: Any, targets: Any, *, epsilon: float = 1.0, activation: _Activation = "softmax", return_grad: bool = True, return_hessian: bool = False, **options: Unpack[_Options]
) -> Any: ...
def prior_bias(
    pi: float
) -> float: ...
def rule(
    params: Any, *, negative: Callable[..., Any] | None = None, soft: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def sigmoid(
    logits: Any, *, out: Any = None
) -> Any: ...
def softmax(
    logits: Any, *, axis: int = -1, out: Any = None
) -> Any: ...
