"""PyTorch: the losses of ``torch.nn.functional`` and ``torchvision.ops`` by a change of import.

Arguments, defaults, class dimension, reductions, dtypes of results and types of errors are torch's.
The operators are registered with ``torch.library``: ``torch.compile`` and ``torch.export`` treat
each as one operator. Tensors on the CPU or a GPU, of float64, float32, float16 or bfloat16, with
any strides.

The kernels multiply by the upstream gradient before they round a gradient, so it is rounded once:

- In eager mode on the CPU with ``reduction="mean"`` or ``"sum"`` the forward pass computes the
  gradient with the loss and saves it with the logits: two arrays of their size until the backward
  pass. If the upstream gradient is 1, the saved gradient is returned. For any other it is computed
  again from the logits: a product with the saved gradient would be inexact where that was rounded
  to half precision or is subnormal, and would read and write as much memory.
  The next forward pass then computes the loss alone, until an upstream gradient is 1 again.
- Otherwise the forward pass computes the loss alone and saves its inputs, and the backward pass
  reads the logits again: with ``reduction="none"``, under hooks of saved tensors (checkpoints), on
  a GPU (where reading the upstream gradient would wait for the GPU) and in traced code.
- ``inplace=True`` writes the gradient over the logits. An upstream gradient other than 1 multiplies
  it: one rounding more, and float16 gradients that underflowed stay 0; on a GPU this waits for the
  GPU. If an earlier operation saved the logits for its own backward pass, torch raises an error.

Not supported, unlike in torch: second derivatives (an error where one is taken; with
``inplace=True`` already if ``create_graph=True`` asks for it), derivatives in forward mode and
derivatives with respect to targets or weights, which are all RuntimeErrors; weights that are not
finite; logits that are changed in place between the passes, which torch detects. Supported beyond
torch: class indices of any integer dtype, binary labels that are integers or bool, weights of any
dtype.
"""

import torch
from torch import Tensor, nn
from torch.nn import NLLLoss
from torch.nn import functional as F
from torch.nn.functional import nll_loss

from fusedce import checks
from fusedce.adapters.torch_errors import in_terms_of
from fusedce.adapters.torch_operators import NEVER, Inputs, Spec, evaluate

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "FocalLoss", "NLLLoss", "SoftmaxFocalLoss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "nll_loss",
    "sigmoid_focal_loss", "softmax_focal_loss",
]  # fmt: skip


def _dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of a loss: float32 for half precision in autocast."""
    half = dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half and torch.is_autocast_enabled(device.type) else dtype


def _softmax(
    loss: str, logits: Tensor, target: Tensor, weight: Tensor | None, inplace: bool,
    reduction: str, ignore_index: int, label_smoothing: float, gamma: float = 0.0,
) -> Tensor:  # fmt: skip
    """A softmax loss over axis 1, or over axis 0 of a single row."""
    dtype, axis = logits.dtype, min(1, logits.ndim - 1)
    checks.whole("ignore_index", ignore_index)
    if logits.shape == target.shape:
        if not target.is_floating_point():
            raise TypeError(f"probabilities of classes must be floats, got {target.dtype}")
        if ignore_index >= 0:
            raise ValueError(f"ignore_index={ignore_index} has no meaning with probabilities")
        for factor in (target, weight):
            dtype = dtype if factor is None else torch.promote_types(dtype, factor.dtype)
        ignore_index = NEVER
    if axis >= 0 and logits.shape[axis] == 0:  # no classes: NaN, 0 or -0 for every gamma
        target = target if target.is_floating_point() else target.long()
        return F.cross_entropy(
            logits, target, weight, ignore_index=ignore_index, reduction=reduction,
            label_smoothing=label_smoothing,
        )  # fmt: skip
    spec = Spec(
        loss, "softmax", axis, reduction, _dtype(dtype, logits.device),
        gamma=float(gamma), ignore_index=ignore_index, label_smoothing=float(label_smoothing),
    )  # fmt: skip
    return evaluate(spec, (logits, target, weight, None, None), inplace)


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction, also from PyTorch's deprecated arguments."""
    if size_average is None and reduce is None:
        checks.choice("reduction", reduction, checks.REDUCTIONS)
        return reduction
    return nn._reduction.legacy_get_string(size_average, reduce)  # type: ignore[no-any-return]


@in_terms_of(F.cross_entropy)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    inplace: bool = False,
) -> Tensor:
    """Softmax cross-entropy, as ``torch.nn.functional.cross_entropy``.

    loss = log(sum_j exp z_j) - z_t; gradient p - onehot(t).

    Parameters
    ----------
    input : tensor (N, C, ...) or (C,)
        Logits.
    target : tensor of integers (N, ...) or (), or probabilities of input's shape
        A class in [0, C), ``ignore_index`` (gradient 0, not in the mean), or a distribution.
    weight : tensor (C,), optional
        Weight of each class.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the targets' weights, of distributions by their number.
    label_smoothing : float in [0, 1]
        Part of the target that is distributed evenly over all classes.
    inplace : bool
        Write the gradient over the logits; see the module.

    Raises
    ------
    IndexError, RuntimeError, TypeError, ValueError
        Where torch raises one.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import cross_entropy
    >>> logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([0]))
    >>> loss.backward()
    >>> print(f"{loss:.4f}", logits.grad)
    0.1698 tensor([[-0.1562,  0.1142,  0.0420]])
    """
    reduction = _reduction(size_average, reduce, reduction)
    return _softmax(
        "cross_entropy", input, target, weight, inplace, reduction, ignore_index, label_smoothing
    )


@in_terms_of(F.cross_entropy, 3)
def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    inplace: bool = False,
) -> Tensor:
    """Softmax focal loss: loss = -(1 - p_t)**gamma log p_t.

    Arguments and errors are those of ``cross_entropy``, with the same result for ``gamma=0``, bit
    for bit; gamma must be at least 0. Lin et al. 2017, arXiv:1708.02002, with a softmax.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import softmax_focal_loss
    >>> print(f"{softmax_focal_loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])):.5f}")
    0.00414
    """
    return _softmax(
        "focal", input, target, weight, inplace, reduction, ignore_index, label_smoothing, gamma
    )


def _binary(
    loss: str, activation: str | None, inputs: Inputs, reduction: str, inplace: bool = False,
    gamma: float = 0.0, alpha: float | None = None,
) -> Tensor:  # fmt: skip
    """A loss of each element."""
    logits, target, *_ = inputs
    if logits.shape != target.shape:
        raise ValueError(
            f"target must have the shape of input, {tuple(logits.shape)}, got {tuple(target.shape)}"
        )
    # torch multiplies by 1 - target, so the result has the dtype of the target.
    soft = target.is_floating_point()
    dtype = target.dtype if soft else logits.dtype
    if loss == "focal":
        dtype = torch.promote_types(dtype, logits.dtype)
    dtype = _dtype(dtype, logits.device)
    spec = Spec(
        loss, activation, logits.ndim - 1, reduction, dtype, float(gamma), alpha,
        ignore_index=NEVER if soft else -100,
    )  # fmt: skip
    return evaluate(spec, inputs, inplace)


@in_terms_of(F.binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    inplace: bool = False,
) -> Tensor:
    """Sigmoid cross-entropy, as ``torch.nn.functional.binary_cross_entropy_with_logits``.

    loss = -y log p - (1 - y) log(1 - p), p = 1 / (1 + exp(-z)); gradient p - y.

    Parameters
    ----------
    input, target : tensors of one shape
        Logits, and labels in [0, 1]. The loss is linear in a label: as in torch, one outside of
        [0, 1] is no error.
    weight, pos_weight : tensors that broadcast to that shape, optional
        Weight of each element; of the positive part of each.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements.
    inplace : bool
        As in ``cross_entropy``.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        Where torch raises one.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import binary_cross_entropy_with_logits
    >>> loss = binary_cross_entropy_with_logits(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0]))
    >>> print(f"{loss:.4f}")
    2.3556
    """
    reduction = _reduction(size_average, reduce, reduction)
    inputs = input, target, None, pos_weight, weight
    return _binary("cross_entropy", "sigmoid", inputs, reduction, inplace)


@in_terms_of(F.binary_cross_entropy)
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of probabilities, as ``torch.nn.functional.binary_cross_entropy``.

    loss = -y log p - (1 - y) log(1 - p), each logarithm at least -100; gradient
    (p - y) / (p (1 - p)), at most 1e12 in size. Computed in float64.

    Parameters and errors are those of ``binary_cross_entropy_with_logits``, with probabilities for
    logits. As in torch, inputs and targets that are not in [0, 1], NaN among them, are a
    RuntimeError on the CPU. On a GPU, where torch raises a device-side assertion, their loss is
    NaN.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import binary_cross_entropy
    >>> print(binary_cross_entropy(torch.tensor([0.0, 0.5]), torch.ones(2), reduction="none"))
    tensor([100.0000,   0.6931])
    """
    reduction = _reduction(size_average, reduce, reduction)
    return _binary("clamped", None, (input, target, None, None, weight), reduction)


@in_terms_of(F.binary_cross_entropy_with_logits, 2)
def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
    *,
    inplace: bool = False,
) -> Tensor:
    """Focal loss of every element, as ``torchvision.ops.sigmoid_focal_loss``.

    loss = -alpha_t (1 - p_t)**gamma log p_t with p_t = p y + (1 - p)(1 - y) and
    alpha_t = alpha y + (1 - alpha)(1 - y). Lin et al. 2017, arXiv:1708.02002.

    Parameters
    ----------
    inputs, targets : tensors of one shape
        Logits, and labels in [0, 1]. As in torchvision, a label outside of [0, 1] is no error.
    alpha : float in [0, 1], or -1
        Weight of positive labels; -1 for none.
    gamma : float >= 0
        Exponent that reduces the loss of elements with a high probability.
    reduction : {"none", "mean", "sum"}
        "mean" divides by the number of elements.
    inplace : bool
        As in ``cross_entropy``.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        Where torchvision raises one.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import sigmoid_focal_loss
    >>> print(sigmoid_focal_loss(torch.tensor([3.0, -1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])))
    tensor([2.7321e-05, 1.6994e-02, 4.3322e-02])
    """
    off = alpha == -1
    given = inputs, targets, None, None, None
    return _binary(
        "focal", "sigmoid", given, reduction, inplace, gamma, None if off else float(alpha)
    )


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` by ``cross_entropy``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        return cross_entropy(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip


class SoftmaxFocalLoss(nn.CrossEntropyLoss):
    """``softmax_focal_loss`` as a module."""

    def __init__(self, weight: Tensor | None = None, gamma: float = 2.0, ignore_index: int = -100,
                 reduction: str = "mean", label_smoothing: float = 0.0) -> None:  # fmt: skip
        super().__init__(
            weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
        self.gamma = gamma

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        return softmax_focal_loss(
            input, target, self.weight, self.gamma, self.ignore_index, self.reduction,
            self.label_smoothing,
        )  # fmt: skip


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """``torch.nn.BCEWithLogitsLoss`` by ``binary_cross_entropy_with_logits``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        return binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class BCELoss(nn.BCELoss):
    """``torch.nn.BCELoss`` by ``binary_cross_entropy``."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss."""
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class FocalLoss(nn.Module):
    """``sigmoid_focal_loss`` as a module."""

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none") -> None:
        super().__init__()
        self.alpha, self.gamma, self.reduction = alpha, gamma, reduction

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        return sigmoid_focal_loss(inputs, targets, self.alpha, self.gamma, self.reduction)

    def extra_repr(self) -> str:
        """The arguments, in the module's repr."""
        return f"alpha={self.alpha}, gamma={self.gamma}, reduction={self.reduction!r}"
