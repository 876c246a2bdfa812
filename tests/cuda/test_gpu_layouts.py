"""The layouts of test_layouts.py on a GPU, with fewer class counts: each needs its own kernels."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.core import test_layouts as suite
from tests.cuda.gpu import imported_cupy, missing, on_the_gpu

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing() or "")]
FIXTURES = imported_cupy, on_the_gpu
CLASSES = 1, 3, 5, 8, 12, 33, 64, 130


@suite.losses
def test_losses(gpu, loss):
    @suite.examples
    @given(suite.cases(loss, CLASSES))
    def run(case):
        suite.check_loss(gpu, loss, case)

    run()


@suite.activations
def test_activations(gpu, name, dtype):
    @suite.examples
    @given(suite.arrays(name, dtype, CLASSES))
    def run(laid):
        suite.check_activation(gpu, name, dtype, *laid)

    run()
