"""Helpers for the tests of repeated calls."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from fusedce import call
from fusedce.backends import cpu_replay

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.fixture(name="ordinary", autouse=True)
def count_ordinary_calls(monkeypatch):
    """Fixture: an empty cache of prepared calls, and a list of the calls that were not replayed."""
    monkeypatch.setattr(cpu_replay, "_PREPARED", {})
    monkeypatch.setattr(cpu_replay, "lookup", cpu_replay._PREPARED.get)
    calls = []
    original = call._run

    def counted(*args, **options):
        calls.append(options)
        return original(*args, **options)

    monkeypatch.setattr(call, "_run", counted)
    return calls


def forget():
    cpu_replay._PREPARED.clear()


def bits(result):
    """Bytes, shapes, dtypes and types of the results of a call."""
    results = result if isinstance(result, tuple) else (result,)
    return [(np.asarray(a).tobytes(), np.shape(a), np.asarray(a).dtype, type(a)) for a in results]


def data(form, dtype, seed, shape=(7, 5)):
    """Random logits and targets of this form."""
    rng = np.random.default_rng(seed)
    z = (3 * rng.normal(size=shape)).astype(dtype)
    if form == "index":
        return z, rng.integers(0, shape[1], shape[0])
    if form == "soft":
        return z, rng.random(shape).astype(dtype)
    if form == "probabilities":
        return rng.random(shape).astype(dtype), rng.integers(0, 2, shape)
    return z, rng.integers(0, 2, shape).astype(form)
