"""The examples of the pages that need a GPU."""

from __future__ import annotations

import pytest

from tests.cuda.gpu import missing
from tests.house import pages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing() or "")]
FOUND = [found for found in pages.examples() if pages.on_a_gpu(*found)]


@pytest.mark.parametrize(("page", "heading"), FOUND)
def test_examples_on_a_gpu(page, heading):
    if absent := pages.lacking(page, heading):
        pytest.skip(f"{', '.join(absent)} is not installed")
    if "torch" in pages.packages(page, heading):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("torch finds no GPU")
    failures = pages.run(page, heading)
    assert not failures, failures
