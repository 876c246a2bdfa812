"""The error bounds of the contract hold with the worst units that NVIDIA documents.

float32 exponentials and quotients use approximate units. Here each result of a unit is moved, at
random, by its whole documented bound, by half of it, or not at all. The rest of the kernels is
unchanged, so a bound that holds here holds on a device. Logits and oracle are those of the CPU's
tests.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from tests.core import test_accuracy as suite
from tests.core.test_accuracy import COMPETING, RULES, worst
from tests.emulator import machine
from tests.emulator.device import Emulated
from tests.emulator.extent import part

FIXTURES = (worst,)


class Leaner(Emulated):
    """Loss and gradient from a call without the Hessian, where kernels take shorter paths."""

    def call(self, function, args, options):
        hess = super().call(function, args, options)[2]
        return (*super().call(function, args, options | {"return_hessian": False}), hess)


@pytest.fixture(params=part([Emulated, Leaner], Leaner), autouse=True)
def device(monkeypatch, request):
    monkeypatch.setattr(suite, "fusedce", request.param())
    with machine.units(20261122):
        yield


@pytest.mark.parametrize("soft", part([False, True], False), ids=["hard", "soft"])
@pytest.mark.parametrize("name", part(RULES, "focal"))
def test_sigmoid(name, soft, worst):
    suite.test_sigmoid(name, soft, "float32", worst)


@pytest.mark.parametrize("name", part(COMPETING, "focal"))
def test_softmax_of_an_index(name, worst):
    suite.test_softmax_of_an_index(name, "float32", worst)


@pytest.mark.parametrize("form", part(["soft", "smooth"], "soft"))
@pytest.mark.parametrize("name", part(["cross_entropy", "focal", "focal 3.7", "poly1 -1"], "focal"))
def test_softmax_of_a_distribution(name, form, worst):
    suite.test_softmax_of_a_distribution(name, form, "float32", worst)


def test_units_are_off():
    """Every seed gives other results; otherwise the tests above would prove nothing."""
    found = set()
    z = np.linspace(-3, 3, 16, dtype=np.float32).reshape(4, 4)
    for seed in range(3):
        with machine.units(seed):
            found.add(
                suite.fusedce.cross_entropy(z, np.arange(4), return_hessian=True)[1].tobytes()
            )
    assert len(found) == 3
