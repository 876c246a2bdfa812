"""Rules that only adapters have. The stamp of compiled code on disk looks at this file."""

from typing import NamedTuple

from fusedce.kernels.rule import rule
from fusedce.kernels.scalar import choose, tiny


class ClampedLog(NamedTuple):
    """Cross-entropy of probabilities as torch cuts it off."""


@rule(ClampedLog)
def _clamped(logp, logq, p, q, params):  # type: ignore[no-untyped-def]
    """f = min(-l, 100), and a gradient f' / p of at most 1e12."""
    T = type(p)
    floor = tiny(p)
    return min(-logp, T(100)), -min(T(1), choose(p > floor, p, floor) * T(1e12)), T(0)
