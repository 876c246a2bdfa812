"""Fused classification losses: the loss and the gradient of every logit in one pass."""

from fusedce import losses as _losses
from fusedce.activations import log_sigmoid, log_softmax, prior_bias, sigmoid, softmax
from fusedce.kernels.rule import rule
from fusedce.losses import *  # noqa: F403
from fusedce.losses.apply import apply

__version__ = "0.1.0"

__all__ = ["apply", "log_sigmoid", "log_softmax", "prior_bias", "rule", "sigmoid", "softmax"]
__all__ += _losses.__all__  # the loss functions, listed in fusedce/losses/__init__.py
