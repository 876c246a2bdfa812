"""Emulated kernels: rows of one lane each, elements, the label pass; the bytes they access."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from tests.core import test_losses as suite
from tests.core.test_losses import DTYPES, calls, check, make
from tests.emulator import machine
from tests.emulator.device import Emulated
from tests.emulator.extent import part, rest


@pytest.fixture
def device(monkeypatch):
    """Fixture: a device with small sizes: classes kept per lane, elements and labels per block."""
    sizes = {"GPU_LANE_CLASSES": 16, "GPU_LANE_VISIT": 4, "GPU_SPAN": 128, "GPU_LABELS": 64}
    found = Emulated(sizes=sizes)
    monkeypatch.setattr(suite, "fusedce", found)
    return found


def kernels(device):
    """(factory, tags) of the launches of a call."""
    return [
        (one.kernel.factory.__name__, {getattr(t, "__name__", t) for t in one.kernel.types})
        for one in device.launched
    ]


def has(device, name, *tags):
    return any(name in factory and set(tags) <= kinds for factory, kinds in kernels(device))


def traffic(device, name, array):
    """How many times an array is read and written, on average."""
    return tuple(n / array.nbytes for n in device.memory.touched(name))


# ------------------------------------------------------------------------------ rows in lanes


@pytest.mark.parametrize("dtype", part(DTYPES, "float32"))
@pytest.mark.parametrize("form", part(["index", "soft"], "index"))
@pytest.mark.parametrize("name", part(["cross_entropy", "focal 0.5"], "cross_entropy"))
def test_columns(name, form, dtype, device):
    """The class axis in the middle: few classes stay in registers, more are read again."""
    for k, classes in enumerate((1, 2, 7, 17, 30)):
        device.order, device.seed = machine.ORDERS[k % 3], k
        shape = (2, classes, 3, 5) if k % 2 else (1, classes, 33)
        z, t = make("softmax", form, dtype, shape, np.random.default_rng(k), 1)
        check(name, z, t, dtype, activation="softmax", axis=1)
        device.cross_entropy(z, t, axis=1)
        if classes in (2, 30):  # half as many stay in float64
            assert has(device, "columns", "Reload" if classes == 30 else "Registers")


@rest
@pytest.mark.parametrize("form", ["index", "soft"])
@pytest.mark.parametrize("classes", [5, 30])
def test_options_of_columns(classes, form, device):
    rng = np.random.default_rng(0)
    for k, options in enumerate(calls("focal", "softmax", form, (6, classes), rng)):
        dtype = ("float32", "bfloat16", "float64", "float16")[k % 4]
        device.order, device.seed = machine.ORDERS[k % 3], k
        z, t = make("softmax", form, dtype, (6, classes), np.random.default_rng(k))
        for a, b in ((z, t), (np.asfortranarray(z), np.asfortranarray(t))):
            check("focal", a, b, dtype, activation="softmax", **options)


@pytest.mark.parametrize("dtype", part(DTYPES, "bfloat16"))
@pytest.mark.parametrize(("classes", "times"), [(5, 1), (30, 2)])
def test_bytes_of_columns(classes, times, dtype, device):
    """A row that a lane keeps is read once, a longer one twice; the label's logit once more."""
    z, t = make("softmax", "index", dtype, (2, classes, 64), np.random.default_rng(0), 1)
    device.cross_entropy(z, t, axis=1)
    read, _ = traffic(device, "logits", z)
    assert times <= read <= times + 1 / classes
    assert 1 <= traffic(device, "grad", z)[1] <= 1 + 1 / classes
    z, t = make("softmax", "index", dtype, (64, classes), np.random.default_rng(0))
    device.cross_entropy(z, t)
    if classes == 5:
        assert has(device, "columns", "SmemStaged")
        read, _ = traffic(device, "logits", z)
        assert 1 <= read <= 1 + 1 / classes


# ------------------------------------------------------------------------------ elements


@pytest.mark.parametrize("dtype", part(DTYPES, "float16"))
@pytest.mark.parametrize("labels", part(["int", "soft", "bool"], "soft"))
@pytest.mark.parametrize("activation", part(["sigmoid", None], "sigmoid"))
def test_elementwise_flat(activation, labels, dtype, device):
    """From one element to several blocks, with and without an incomplete chunk of 16 bytes."""
    for k, n in enumerate((1, 3, 4, 17, 600, 1031, 2048)):
        device.order, device.seed = machine.ORDERS[k % 3], k
        z, t = make(activation, labels, dtype, (1, n), np.random.default_rng(n))
        z, t = z[0], t[0].astype(np.int32) if labels == "int" else t[0]
        check("focal", z, t, dtype, activation=activation)
        if n == 600 and labels != "bool":
            assert has(device, "elementwise_flat")
            check("cross_entropy", z[1:], t[1:], dtype, activation=activation)


@pytest.mark.parametrize("dtype", part(DTYPES, "bfloat16"))
@pytest.mark.parametrize("form", ["index", "int", "soft"])
@pytest.mark.parametrize("activation", part(["sigmoid", None], "sigmoid"))
def test_elements_anywhere(activation, form, dtype, device):
    """Blocks that begin in the middle of a row; outputs in the layout of the caller's logits."""
    shapes = (3, 100), (3, 5, 30), (2, 200, 2), (75, 2) if form == "index" else (150, 1)
    for k, shape in enumerate(shapes[::3] if (activation, form) == (None, "index") else shapes):
        device.order, device.seed = machine.ORDERS[k % 3], k
        z, t = make(activation, form, dtype, shape, np.random.default_rng(k), 1)
        w = np.random.default_rng(1).integers(0, 9, shape[1]) / 4
        for a, b in ((z, t), (z[::-1], t[::-1]), (np.asfortranarray(z), t)):
            check("focal", a, b, dtype, activation=activation, axis=1, weight=w, reduction="none")


@pytest.mark.parametrize("dtype", part(DTYPES, "bfloat16"))
def test_bytes_of_elements(dtype, device):
    """Each element is accessed once, 16 bytes at a time where arrays have the same alignment."""
    z, t = make("sigmoid", "int", dtype, (4, 512), np.random.default_rng(0))
    t = t.astype(np.int32)
    device.cross_entropy(z, t, activation="sigmoid")
    assert traffic(device, "logits", z) == (1, 0)
    assert traffic(device, "grad", z) == (0, 1)
    assert set(device.memory.sizes("logits")[0]) == {16}
    assert set(device.memory.sizes("grad")[1]) == {16}
    device.cross_entropy(z[:, 1:], t[:, 1:], activation="sigmoid", denominator=1.0)
    for name, touched in (("logits", (1, 0)), ("targets", (1, 0)), ("grad", (0, 1))):
        array = t if name == "targets" else z
        assert traffic(device, name, array[:, 1:]) == touched


# ------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("form", part(["index", "soft", "int"], "index", "soft"))
def test_labels_of_several_blocks(form, activation, device):
    """Several blocks count labels, and another block combines their counts."""
    if (activation, form) == ("softmax", "int"):
        return
    z, t = make(activation, form, "float32", (230, 5), np.random.default_rng(2))
    options = {"weight": np.arange(1.0, 6.0)}
    if form == "soft" and activation == "softmax":
        t[::3] = 0
        options["normalize_targets"] = True
    elif form != "soft":
        t.reshape(-1)[::7] = -100
    for order in machine.ORDERS:
        device.order = order
        check("cross_entropy", z, t, "float32", activation=activation, **options)
    if form != "soft":
        names = [factory for factory, _ in kernels(device)]
        assert names[:2] == ["label_pass", "combine_label_stats"]
        t.reshape(-1)[[41, 170]] = 77
        with pytest.raises(IndexError, match="77"):
            device.cross_entropy(z, t, activation=activation, validate=True)


@rest
def test_as_many_threads_as_on_a_device(monkeypatch):
    """Blocks of 1024 threads, with the real tuning sizes."""
    device = Emulated(order="random", seed=7)
    monkeypatch.setattr(suite, "fusedce", device)
    for form, activation in (("index", "softmax"), ("soft", "softmax"), ("int", "sigmoid")):
        z, t = make(activation, form, "float32", (3, 1030), np.random.default_rng(5))
        check("focal", z, t, "float32", activation=activation)
    assert max(one.threads for one in device.launched) == 1024
