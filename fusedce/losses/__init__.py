"""Table of contents: one line a loss. Being listed here is being tested and benchmarked."""

from fusedce.losses.asymmetric import asymmetric
from fusedce.losses.cross_entropy import binary_cross_entropy, cross_entropy
from fusedce.losses.focal import focal
from fusedce.losses.generalized_cross_entropy import generalized_cross_entropy
from fusedce.losses.poly1 import poly1

__all__ = [
    "asymmetric",
    "binary_cross_entropy",
    "cross_entropy",
    "focal",
    "generalized_cross_entropy",
    "poly1",
]
