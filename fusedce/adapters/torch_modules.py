"""The losses for PyTorch as modules."""

from torch import Tensor, nn

from fusedce.adapters.torch_functions import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    sigmoid_focal_loss,
    softmax_focal_loss,
)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """Module with the interface of ``torch.nn.CrossEntropyLoss``; it calls ``cross_entropy``.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in ``cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import CrossEntropyLoss
    >>> loss_fn = CrossEntropyLoss(label_smoothing=0.1)
    >>> print(f"{loss_fn(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])):.4f}")
    0.3365
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` and ``target``."""
        return cross_entropy(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip


class SoftmaxFocalLoss(nn.CrossEntropyLoss):
    """Module that calls ``softmax_focal_loss``.

    Parameters
    ----------
    weight, gamma, ignore_index, reduction, label_smoothing
        As in ``softmax_focal_loss``.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import SoftmaxFocalLoss
    >>> loss_fn = SoftmaxFocalLoss(gamma=1.0)
    >>> print(f"{loss_fn(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])):.5f}")
    0.02653
    """

    def __init__(self, weight: Tensor | None = None, gamma: float = 2.0, ignore_index: int = -100,
                 reduction: str = "mean", label_smoothing: float = 0.0) -> None:  # fmt: skip
        super().__init__(
            weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
        self.gamma = gamma

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` and ``target``."""
        return softmax_focal_loss(
            input, target, self.weight, self.gamma, self.ignore_index, self.reduction,
            self.label_smoothing,
        )  # fmt: skip


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """Module with the interface of ``torch.nn.BCEWithLogitsLoss``.

    It calls ``binary_cross_entropy_with_logits``.

    Parameters
    ----------
    weight, size_average, reduce, reduction, pos_weight
        As in ``binary_cross_entropy_with_logits``.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import BCEWithLogitsLoss
    >>> loss_fn = BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    >>> print(f"{loss_fn(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0])):.4f}")
    3.0488
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` and ``target``."""
        return binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class BCELoss(nn.BCELoss):
    """Module with the interface of ``torch.nn.BCELoss``; it calls ``binary_cross_entropy``.

    Parameters
    ----------
    weight, size_average, reduce, reduction
        As in ``binary_cross_entropy``.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import BCELoss
    >>> print(f"{BCELoss()(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])):.4f}")
    0.6931
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` and ``target``."""
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class FocalLoss(nn.Module):
    """Module that calls ``sigmoid_focal_loss``.

    Parameters
    ----------
    alpha, gamma, reduction
        As in ``sigmoid_focal_loss``.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import FocalLoss
    >>> loss_fn = FocalLoss(alpha=0.25, gamma=2.0, reduction="sum")
    >>> print(f"{loss_fn(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0])):.4f}")
    2.9495
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none") -> None:
        super().__init__()
        self.alpha, self.gamma, self.reduction = alpha, gamma, reduction

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``inputs`` and ``targets``."""
        return sigmoid_focal_loss(inputs, targets, self.alpha, self.gamma, self.reduction)

    def extra_repr(self) -> str:
        """The arguments, in the module's repr."""
        return f"alpha={self.alpha}, gamma={self.gamma}, reduction={self.reduction!r}"
