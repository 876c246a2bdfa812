"""Elementwise losses of rows of whole 16-byte chunks, emulated: class indices and weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

import fusedce
from fusedce.kernels.cuda.tiling import division_multiplier
from tests.core import test_losses as suite
from tests.core.test_losses import DTYPES, check, make, near
from tests.core.test_rule import Branching
from tests.emulator import machine
from tests.emulator.device import Emulated
from tests.emulator.extent import part

SHAPES = list(itertools.product((1, 3, 257), (4, 8, 80, 96)))


@pytest.fixture
def device(monkeypatch):
    found = Emulated()
    monkeypatch.setattr(suite, "fusedce", found)
    return found


def taken(device):
    """(name, type tags) of the last launched kernel over elements."""
    kernel = next(
        one.kernel
        for one in reversed(device.launched)
        if "elementwise" in one.kernel.factory.__name__
    )
    return kernel.factory.__name__, {getattr(t, "__name__", t) for t in kernel.types}


def labelled(dtype, shape, seed=0, form="index"):
    """Logits and labels; some rows are ignored, and some have the background label."""
    rng = np.random.default_rng(seed)
    z, t = make("sigmoid", form, dtype, shape, rng)
    t = t.astype(np.int64) if form == "int" else t
    if form == "index":
        t[1::5], t[2::5] = shape[1], shape[1] - 1
    if form in ("index", "int"):
        t[3::7] = -100
    return z, t


FLOATS = ["float16", "bfloat16", "float64"]


def weights(shape, seed=0):
    """Weights by the name of their option, in float32 or float64; some are zero."""
    rng = np.random.default_rng(seed)
    w, p, s = (rng.integers(0, 9, n) / 4 for n in (shape[1], shape[1], shape[0]))
    return {"weight": w.astype(np.float32), "pos_weight": p, "sample_weight": s.astype(np.float32)}


@pytest.mark.parametrize("dtype", part(DTYPES, "float32"))
@pytest.mark.parametrize(("rows", "classes"), part(SHAPES, (257, 80)))
def test_class_indices(rows, classes, dtype, device):
    """The background label, ignored rows, and each reduction."""
    shape, whole = (rows, classes), classes * np.dtype(DTYPES[dtype]).itemsize % 16 == 0
    device.order, device.seed = machine.ORDERS[shape[0] % 3], shape[1]
    z, t = labelled(dtype, shape)
    for name, reduction in (("focal", "mean"), ("cross_entropy", "none"), ("focal 3.7", "sum")):
        check(name, z, t, dtype, activation="sigmoid", reduction=reduction)
        assert taken(device)[0] == ("elementwise_rows" if whole else "elementwise_strided")
        _, slope = device.focal(z, t, activation="sigmoid", reduction=reduction)
        _, want = fusedce.focal(z, t, activation="sigmoid", reduction=reduction)
        near(dtype, slope, want)
    if whole:
        assert {"HardLabelsNoHess", "ClassIndices"} <= taken(device)[1]


@pytest.mark.parametrize("dtype", part(DTYPES, "bfloat16"))
@pytest.mark.parametrize("form", part(["index", "int", "soft", "bool"], "index"))
def test_weights(form, dtype, device):
    """One, two and all kinds of weights, also with alpha and with labels other than 0 and 1."""
    shape = 19, 16
    z, t = labelled(dtype, shape, 1, form)
    known = weights(shape)
    for k, number in enumerate((1, 1, 1, 2, 3)):
        names = list(itertools.combinations(known, number))[k % 3 if number < 3 else 0]
        some = {name: known[name] for name in names}
        some |= {"alpha": 0.25} if k % 2 else {}
        reduction = ("mean", "none", "sum")[k % 3]
        check("focal", z, t, dtype, activation="sigmoid", reduction=reduction, **some)
        few = form == "bool" and dtype == "float64"  # a chunk's two labels fill no word
        assert taken(device)[0] == ("elementwise_strided" if few else "elementwise_rows")
    check("focal", z, t, dtype, activation="sigmoid", label_smoothing=0.1, **known)
    assert "SoftLabels" in taken(device)[1]


@pytest.mark.parametrize("kind", part([*FLOATS, "int32", "bool", "uint8"], "float16"))
def test_every_kind_of_weight(kind, device):
    z, t = labelled("float32", (7, 24), 2)
    some = {k: (w > 1).astype(DTYPES.get(kind, kind)) for k, w in weights((7, 24)).items()}
    check("cross_entropy", z, t, "float32", activation="sigmoid", denominator=3.0, **some)
    assert taken(device)[0] == "elementwise_rows"


@pytest.mark.parametrize("kind", part(["int8", "int16", "int32", "uint8", "uint64"], "int32"))
def test_every_kind_of_index(kind, device):
    z, t = labelled("bfloat16", (7, 24), 2)
    t = np.where(t < 0, 24, t).astype(kind)
    check("cross_entropy", z, t, "bfloat16", activation="sigmoid", ignore_index=24)
    check("cross_entropy", z, t, "bfloat16", activation="sigmoid", ignore_index=3)
    assert taken(device)[0] == "elementwise_rows"


@pytest.mark.parametrize("dtype", part(DTYPES, "float32"))
def test_labels_that_are_none(dtype, device):
    """A wrong label makes only its row NaN; an ignored row is 0 even if its logits are NaN."""
    z, t = labelled(dtype, (9, 16), 3)
    t[:] = [0, 17, -1, 16, -(2**31), 2**32 + 1, 15, -100, 2**63 - 1]
    z[7] = np.nan
    bad = np.array([False, True, True, False, True, True, False, False, True])
    w = np.ones(9, np.float32)
    for some in ({}, {"sample_weight": np.where(t == -100, np.nan, w)}):
        found = device.focal(
            z, t, activation="sigmoid", reduction="none", return_hessian=True, **some
        )
        for result in found:
            nan = np.isnan(result.astype(float))
            np.testing.assert_array_equal(nan, np.repeat(bad[:, None], 16, 1))
            assert not result[7].any()
        assert taken(device)[0] == "elementwise_rows"


@pytest.mark.parametrize("some", [{}, weights((70, 32))], ids=["even", "weighted"])
def test_in_place_and_nothing_to_average(some, device):
    z, t = labelled("float32", (70, 32), 4)
    _, want = device.focal(z, t, activation="sigmoid", **some)
    device.focal(z, t, activation="sigmoid", grad_out=z, **some)
    np.testing.assert_array_equal(z, want)
    t[:] = -100
    z[1] = np.nan
    loss, grad, hess = device.focal(z, t, activation="sigmoid", return_hessian=True, **some)
    assert np.isnan(loss)
    assert not grad.any()
    assert not hess.any()
    assert taken(device)[0] == "elementwise_rows"


@pytest.mark.parametrize("form", part(["index", "bool"], "index"))
def test_a_rule_that_takes_no_vectors(form, device):
    """The rule is evaluated lane by lane, and each lane has its own weights."""
    z, t = labelled("float32", (5, 8), 5, form)
    options = {"activation": "sigmoid", "reduction": "none"}
    for some in ({}, weights((5, 8))):
        found = device.apply(Branching(0.5), z, t, **options, **some)
        want = fusedce.apply(Branching(0.5), z, t, **options, **some)
        for ours, true in zip(found, want, strict=True):
            np.testing.assert_allclose(ours, true, rtol=1e-5, atol=1e-9)
        flat = form == "bool" and not some
        assert taken(device)[0] == ("elementwise_flat" if flat else "elementwise_rows")


def test_other_layouts_stay_elsewhere(device):
    """Ragged rows, gaps, Fortran order and unaligned weights use the strided kernel."""
    z, t = labelled("float32", (6, 24), 6)
    w = np.arange(25, dtype=np.float32) / 8
    for a, b, some in (
        (z[:, :23], np.minimum(t, 23), {}),
        (z[:, :20], np.minimum(t, 20), {}),
        (np.asfortranarray(z), t, {}),
        (z, t, {"weight": w[1:]}),
        (z, t, {"weight": w[::-1][:24]}),
    ):
        check("focal", a, b, "float32", activation="sigmoid", **some)
        assert taken(device)[0] == "elementwise_strided"


def test_bytes(device):
    """Logits are read and gradients written once, 16 bytes at a time; a label once per chunk."""
    for dtype in DTYPES:
        z, t = labelled(dtype, (64, 80), 7)
        device.focal(z, t, activation="sigmoid", denominator=1.0, **weights((64, 80)))
        memory = device.memory
        assert tuple(n / z.nbytes for n in memory.touched("logits")) == (1, 0)
        assert tuple(n / z.nbytes for n in memory.touched("grad")) == (0, 1)
        assert set(memory.sizes("logits")[0]) == set(memory.sizes("grad")[1]) == {16}


def test_rows_by_multiplication():
    """Multiplication and shift give the exact quotient of every number below 2**31."""
    rng = np.random.default_rng(8)
    for divisor in [*range(1, 70), 1 << 20, (1 << 20) - 1, (1 << 20) + 1, (1 << 31) - 1]:
        factor, shift = division_multiplier(divisor)
        assert factor < 1 << 32
        near = [k * divisor + d for k in (1, 2, (1 << 31) // divisor) for d in (-1, 0, 1)]
        for n in [*near, (1 << 31) - 1, *rng.integers(0, 1 << 31, 50).tolist()]:
            assert n >= 1 << 31 or (n * factor) >> shift == n // divisor


def test_no_row(device):
    z, t = labelled("float32", (0, 8))
    loss, grad = device.focal(z, t, activation="sigmoid", reduction="sum")
    assert loss == 0
    assert grad.shape == (0, 8)
