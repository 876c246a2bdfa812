"""How much is emulated: a part in `make test`, everything in `make emulate` (EMULATE=all)."""

from __future__ import annotations

import os

import pytest

rest = pytest.mark.skipif(
    os.environ.get("EMULATE") != "all", reason="`make emulate` runs all of the emulated cases"
)


def part(cases, *kept):
    """Values of a parameter, of which `make test` runs only those that are ``kept``."""
    cases = list(cases)
    assert set(kept) <= set(cases), kept
    given = [(case, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [case if case in kept else pytest.param(*values, marks=rest) for case, values in given]
