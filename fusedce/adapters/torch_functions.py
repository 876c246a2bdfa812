"""The losses for PyTorch as functions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusedce import checks
from fusedce.adapters.torch_errors import in_terms_of
from fusedce.adapters.torch_operators import NEVER, Inputs, Spec, evaluate


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
    """Softmax cross-entropy with the interface of ``torch.nn.functional.cross_entropy``.

    With p = softmax(z) over the classes, for the class index t::

        loss   = log(sum_j exp(z_j)) - z_t = -log(p_t)
        grad_j = p_j - [j == t]

    Parameters
    ----------
    input : tensor (N, C, ...) or (C,)
        Logits.
    target : tensor of integers (N, ...) or (), or of floats of the shape of ``input``
        Class indices from 0 to C - 1, or distributions over the classes.
    weight : tensor (C,), optional
        Weight of each class.
    size_average, reduce : bool, optional
        PyTorch's deprecated forms of ``reduction``.
    ignore_index : int, default -100
        Class index that is ignored: its gradient is 0, and the mean does not count it.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides by the sum of the weights of the targets, for distributions by their number.
    label_smoothing : float in [0, 1], default 0
        Share of each target that is distributed evenly over all classes.
    inplace : bool, default False
        Whether to write the gradient over the logits, as described in ``fusedce.adapters.torch``.

    Returns
    -------
    tensor
        The loss: of shape (), with ``reduction="none"`` of the shape of the class indices.

    Raises
    ------
    IndexError, RuntimeError, TypeError, ValueError
        The type that torch raises for the same arguments.

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
    """Softmax focal loss, with the interface of ``cross_entropy``.

    With p = softmax(z) over the classes, for the class index t::

        loss = -(1 - p_t)**gamma * log(p_t)

    Parameters
    ----------
    input, target, weight, ignore_index, reduction, label_smoothing, inplace
        As in ``cross_entropy``.
    gamma : float >= 0, default 2
        Exponent. With 0 the result is that of ``cross_entropy``, bit for bit.

    Returns
    -------
    tensor
        The loss, as in ``cross_entropy``.

    Raises
    ------
    IndexError, RuntimeError, TypeError, ValueError
        As in ``cross_entropy``.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002, there with a
    sigmoid.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import softmax_focal_loss
    >>> loss = softmax_focal_loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
    >>> print(f"{loss:.5f}")
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
    """Sigmoid cross-entropy: ``torch.nn.functional.binary_cross_entropy_with_logits``.

    For each element with label y::

        p    = 1 / (1 + exp(-z))
        loss = -y * log(p) - (1 - y) * log(1 - p)
        grad = p - y

    Parameters
    ----------
    input, target : tensors of the same shape
        Logits, and labels in [0, 1]. As in torch, other labels are no error: the formula is
        computed for them.
    weight : tensor that broadcasts to that shape, optional
        Weight of each element.
    size_average, reduce : bool, optional
        PyTorch's deprecated forms of ``reduction``.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides by the number of elements.
    pos_weight : tensor that broadcasts to that shape, optional
        Factor of the term with log(p).
    inplace : bool, default False
        Whether to write the gradient over the logits, as described in ``fusedce.adapters.torch``.

    Returns
    -------
    tensor
        The loss: of shape (), with ``reduction="none"`` of the shape of the logits.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        The type that torch raises for the same arguments.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import binary_cross_entropy_with_logits
    >>> logits, labels = torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0])
    >>> print(f"{binary_cross_entropy_with_logits(logits, labels):.4f}")
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
    """Cross-entropy of probabilities: ``torch.nn.functional.binary_cross_entropy``.

    For each element with probability p and label y, where log is at least -100 and the gradient is
    at most 1e12 in size, as in torch::

        loss = -y * log(p) - (1 - y) * log(1 - p)
        grad = (p - y) / (p * (1 - p))

    It is computed in float64 and rounded to the dtype of the result.

    Parameters
    ----------
    input, target : tensors of the same shape
        Probabilities, and labels, both in [0, 1]. Other numbers and NaN are a RuntimeError on the
        CPU. On a GPU their loss is NaN, where torch has a device-side assertion.
    weight, size_average, reduce, reduction
        As in ``binary_cross_entropy_with_logits``.

    Returns
    -------
    tensor
        The loss, as in ``binary_cross_entropy_with_logits``.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        The type that torch raises for the same arguments.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import binary_cross_entropy
    >>> p, labels = torch.tensor([0.0, 0.5]), torch.ones(2)
    >>> print(binary_cross_entropy(p, labels, reduction="none"))
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
    """Sigmoid focal loss of each element: ``torchvision.ops.sigmoid_focal_loss``.

    For each element with label y::

        p       = 1 / (1 + exp(-z))
        p_t     = p * y + (1 - p) * (1 - y)
        alpha_t = alpha * y + (1 - alpha) * (1 - y)
        loss    = alpha_t * (1 - p_t)**gamma * (-y * log(p) - (1 - y) * log(1 - p))

    Parameters
    ----------
    inputs, targets : tensors of the same shape
        Logits, and labels in [0, 1]. As in torchvision, other labels are no error: the formula is
        computed for them.
    alpha : float in [0, 1], or -1, default 0.25
        Weight of positive labels. With -1 there is no factor alpha_t.
    gamma : float >= 0, default 2
        Exponent.
    reduction : {"none", "mean", "sum"}, default "none"
        "mean" divides by the number of elements.
    inplace : bool, default False
        Whether to write the gradient over the logits, as described in ``fusedce.adapters.torch``.

    Returns
    -------
    tensor
        The loss: of the shape of the logits, with another reduction of shape ().

    Raises
    ------
    RuntimeError, TypeError, ValueError
        The type that torchvision raises for the same arguments.

    References
    ----------
    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.

    Examples
    --------
    >>> import torch
    >>> from fusedce.adapters.torch import sigmoid_focal_loss
    >>> logits, labels = torch.tensor([3.0, -1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    >>> print(sigmoid_focal_loss(logits, labels))
    tensor([2.7321e-05, 1.6994e-02, 4.3322e-02])
    """
    off = alpha == -1
    given = inputs, targets, None, None, None
    return _binary(
        "focal", "sigmoid", given, reduction, inplace, gamma, None if off else float(alpha)
    )
