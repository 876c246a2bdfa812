"""The list of losses: one import each. What is tested, benchmarked and exported follows from it."""

from fusedce.losses.asymmetric import asymmetric as asymmetric
from fusedce.losses.cross_entropy import binary_cross_entropy as binary_cross_entropy
from fusedce.losses.cross_entropy import cross_entropy as cross_entropy
from fusedce.losses.declaration import LOSSES as LOSSES
from fusedce.losses.focal import focal as focal
from fusedce.losses.generalized_cross_entropy import (
    generalized_cross_entropy as generalized_cross_entropy,
)
from fusedce.losses.poly1 import poly1 as poly1

__all__ = list(LOSSES)
