"""How much is emulated: a part in `make test`, everything in `make emulate` (EMULATE=all)."""

from __future__ import annotations

import os

import pytest

rest = pytest.mark.skipif(
    os.environ.get("EMULATE") != "all", reason="`make emulate` runs all of the emulated cases"
)


def part(cases, *kept):
    """All cases; in `make test` only those that are named, by value or by place, are run."""
    cases = list(cases)
    for one in kept:
        assert one in cases or isinstance(one, int), one

    def marked(k, case):
        values = case if isinstance(case, tuple) else (case,)
        return case if case in kept or k in kept else pytest.param(*values, marks=rest)

    return [marked(k, case) for k, case in enumerate(cases)]
