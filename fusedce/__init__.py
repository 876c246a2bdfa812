"""Fused classification losses: the loss and the gradient of every logit in one pass."""

from fusedce.activations import log_sigmoid, log_softmax, prior_bias, sigmoid, softmax
from fusedce.kernels.rule import rule
from fusedce.losses import (
    asymmetric,
    binary_cross_entropy,
    cross_entropy,
    focal,
    generalized_cross_entropy,
    poly1,
)
from fusedce.losses.apply import apply

__version__ = "0.1.0"

__all__ = [
    "apply",
    "asymmetric",
    "binary_cross_entropy",
    "cross_entropy",
    "focal",
    "generalized_cross_entropy",
    "log_sigmoid",
    "log_softmax",
    "poly1",
    "prior_bias",
    "rule",
    "sigmoid",
    "softmax",
]
