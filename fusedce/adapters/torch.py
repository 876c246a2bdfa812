"""PyTorch: the losses of ``torch.nn.functional`` and ``torchvision.ops``, with their interfaces.

To use them, change the import. Arguments, defaults, class dimension, reductions, dtypes of results
and types of errors are those of PyTorch and torchvision. Tensors are on the CPU or a GPU, of
float64, float32, float16 or bfloat16, with any strides. The operators are registered with
``torch.library``: ``torch.compile`` and ``torch.export`` treat each as one operator.

The gradient is multiplied by the upstream gradient before it is rounded, so it is rounded once:

- In eager mode on the CPU with ``reduction="mean"`` or ``"sum"`` the forward pass computes the
  gradient with the loss and saves it with the logits: two arrays of their size until the backward
  pass. If the upstream gradient is 1, the saved gradient is returned. For any other it is computed
  again from the logits: a product with the saved gradient would be less accurate if the saved one
  was rounded to half precision or is subnormal, and would read and write as much memory. The next
  forward pass then computes the loss alone, until an upstream gradient is 1 again.
- Otherwise the forward pass computes the loss alone and saves its inputs, and the backward pass
  reads the logits again: with ``reduction="none"``, with hooks on saved tensors (activation
  checkpointing), on a GPU (where reading the upstream gradient would wait for the GPU) and in
  traced code.
- ``inplace=True`` writes the gradient over the logits. An upstream gradient other than 1 multiplies
  it afterwards: it is then rounded twice, and float16 gradients that underflowed stay 0. On a GPU
  this waits for the GPU. If an earlier operation saved the logits for its own backward pass, torch
  raises an error.

Not supported, unlike in torch:

- second derivatives: a RuntimeError where one is computed, and with ``inplace=True`` already if
  ``create_graph=True`` asks for it;
- derivatives in forward mode, and with respect to targets or weights: a RuntimeError;
- weights that are not finite;
- changing the logits in place between the forward and the backward pass, which torch detects.

Supported in addition to torch: class indices of any integer dtype, binary labels that are integers
or bools, and weights of any dtype. ``nll_loss`` and ``NLLLoss`` are PyTorch's own objects, so that
they can be imported from here too.
"""

from torch.nn import NLLLoss
from torch.nn.functional import nll_loss

from fusedce.adapters.torch_functions import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from fusedce.adapters.torch_modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    FocalLoss,
    SoftmaxFocalLoss,
)

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "FocalLoss", "NLLLoss", "SoftmaxFocalLoss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "nll_loss",
    "sigmoid_focal_loss", "softmax_focal_loss",
]  # fmt: skip
