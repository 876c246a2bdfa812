"""Emulated row kernels: where the logits of a row stay, and the bytes accessed per logit.

Between the softmax reduction and the gradient pass, narrow rows stay in registers, wide rows in the
shared memory of one block or of a cluster; the widest rows are read again. The sizes of
``kernels/tuning.py`` are made small here, so that small rows take all of these paths.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from fusedce.kernels.cuda.kernel_args import Facts
from fusedce.kernels.cuda.reduce import REDUCTION_BYTES
from tests.core import test_losses as suite
from tests.core.test_losses import DTYPES, calls, check, make
from tests.emulator import machine
from tests.emulator.device import Emulated
from tests.emulator.extent import part, rest

OLD = (7, 5)  # neither clusters nor an instruction that rounds to bfloat16
SMALL = 2 * REDUCTION_BYTES - 2000  # bytes of shared memory: too few to hold a row


def tuned(lanes=16, registers=1024, shared_threads=64, shared_bytes=1 << 16, **facts):
    """A device, and the tuning sizes that decide how a row is divided and where it is kept."""
    sizes = {"GPU_REGISTERS_LANES": lanes, "GPU_FULL_LANES": lanes,
             "GPU_REGISTERS_THREADS": registers, "GPU_SHARED_THREADS": shared_threads,
             "GPU_RELOAD_THREADS": shared_threads, "GPU_SHARED_BYTES": shared_bytes,
             "GPU_LANE_CLASSES": 4, "GPU_LABEL_THREADS": 64}  # fmt: skip
    return {"sizes": sizes, "facts": Facts(**facts)}


WIDE = {"lanes": 8, "registers": 16}  # rows of more than 128 classes do not fit in registers
# name -> (device, tags that its kernels have for 259 classes)
WAYS = {
    "warps": (tuned(lanes=32), {"RegisterExps", "Warp"}),
    "blocks": (tuned(lanes=4), {"RegisterExps", "Block"}),
    "staged": (tuned(**WIDE, shared_threads=32, capability=OLD), {"Smem", "Block"}),
    "fetched": (tuned(**WIDE, shared_threads=32, capability=(8, 0)), {"SmemAsync", "Block"}),
    "again": (tuned(**WIDE, shared_threads=128, capability=OLD, shared=SMALL), {"Reload", "Block"}),
    "clusters": (tuned(**WIDE, shared_threads=32, shared_bytes=512), {"SmemAsync", "Cluster"}),
    "clusters again": (
        tuned(**WIDE, shared_threads=128, shared_bytes=800, shared=SMALL),
        {"Reload", "Cluster"},
    ),
}


@pytest.fixture(params=WAYS)
def device(request, monkeypatch):
    """Fixture: a device whose rows stay where the name of the parameter says."""
    found = Emulated(**WAYS[request.param][0])
    found.way = request.param
    monkeypatch.setattr(suite, "fusedce", found)
    return found


def kinds(device):
    """The type tags of the kernels that a call has launched."""
    tags = [t for one in device.launched for t in one.kernel.types if isinstance(t, type)]
    return {base.__name__ for t in tags for base in (t, *t.__bases__)} | {
        t.__name__.rstrip("0123456789") for t in tags
    }


def z_and_t(form, dtype, shape, seed=0, off=0):
    """Targets, and logits that begin ``off`` elements after a multiple of 16 bytes."""
    z, t = make("softmax", form, dtype, shape, np.random.default_rng(seed))
    room = np.zeros(z.size + 16 + off, z.dtype)
    start = -room.ctypes.data % 16 // z.itemsize + off
    there = room[start : start + z.size].reshape(shape)
    there[...] = z
    return there, t


@pytest.mark.parametrize("dtype", part(DTYPES, "float32"))
@pytest.mark.parametrize("form", part(["index", "soft"], "index"))
def test_rows_wait_where_they_should(form, dtype, device):
    z, t = z_and_t(form, dtype, (2, 259))
    device.cross_entropy(z, t)
    found, wanted = kinds(device), WAYS[device.way][1]
    if dtype == "float32":
        assert wanted <= found | ({"RegisterExps"} if "Registers" in found else set())
    if "RegisterExps" not in wanted:
        assert not found & {"RegisterExps", "Registers"}


@rest
@pytest.mark.parametrize("form", ["index", "soft"])
@pytest.mark.parametrize(
    ("name", "dtype"), [*(("cross_entropy", dtype) for dtype in DTYPES), ("focal 3.7", "float32")]
)
def test_rows(name, dtype, form, device):
    """Aligned and unaligned rows, with and without the Hessian."""
    own = suite.RULES[name]
    public = name.split()[0]
    for k, (classes, off) in enumerate(((256, 0), (259, 0), (131, 3))):
        device.order, device.seed = machine.ORDERS[k % 3], classes
        z, t = z_and_t(form, dtype, (3, classes), classes, off)
        want = check(name, z, t, dtype, activation="softmax", reduction="none")
        loss, grad = getattr(device, public)(z, t, activation="softmax", reduction="none", **own)
        rtol = {"float64": 1e-12, "float32": 3e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
        np.testing.assert_allclose(loss, want[0], rtol=min(rtol, 3e-6))
        np.testing.assert_allclose(grad.astype(float), want[1].astype(float), rtol=rtol, atol=1e-7)


@rest
@pytest.mark.parametrize("form", ["index", "soft"])
@pytest.mark.parametrize("name", ["cross_entropy", "poly1"])
def test_options(name, form, device):
    """Every option for rows; half of the calls are in float16 or bfloat16."""
    shape = (3, 133) if device.way != "clusters again" else (1, 261)
    for k, options in enumerate(calls(name, "softmax", form, shape, np.random.default_rng(0))):
        dtype = ("float32", "float16", "float64", "bfloat16")[k % 4]
        device.order, device.seed = machine.ORDERS[k % 3], k
        z, t = z_and_t(form, dtype, shape, k)
        check(name, z, t, dtype, activation="softmax", **options)


@rest
def test_masked_blocks(device):
    """The classes that a lane, a loop iteration or a block reads first are all masked with -inf."""
    z, t = z_and_t("index", "float32", (6, 600))
    t[...] = 599
    for row, hidden in enumerate((1, 4, 64, 256, 512, 599)):
        z[row, :hidden] = -np.inf
    _, grad, hess = check("focal 0.5", z, t, "float32", activation="softmax", reduction="none")
    assert not grad[np.isinf(z)].any()
    assert not hess[np.isinf(z)].any()
    check("cross_entropy", z[:, ::-1], 0 * t, "float32", activation="softmax")


@rest
def test_spoilt_rows(device):
    """NaN, a row of -inf, an ignored row and a label out of range affect only their own row."""
    z, t = z_and_t("index", "float32", (7, 333))
    calm = device.cross_entropy(z, t, reduction="none", return_hessian=True)
    z[1, 300], z[2], z[3], t[3], t[5] = np.nan, -np.inf, np.nan, -100, 400
    for form in (t, np.where(t < 333, t, 0)):
        got = device.cross_entropy(z, form, reduction="none", return_hessian=True)
        for a, b in zip(got, calm, strict=True):
            np.testing.assert_array_equal(a[[0, 4, 6]], b[[0, 4, 6]])
            assert np.isnan(a[[1, 2]]).all()
            assert not a[3].any()
        assert np.isnan(got[1][5]).all() == (form is t)


@pytest.mark.parametrize(
    ("form", "dtype"),
    part([("index", "float32"), ("soft", "bfloat16"), ("index", "float64")], ("index", "float32")),
)
def test_same_bits_in_every_order(form, dtype, device):
    z, t = z_and_t(form, dtype, (5, 157))
    found = set()
    for order, seed in (("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)):
        device.order, device.seed = order, seed
        got = device.focal(z, t, activation="softmax", return_hessian=True)
        found.add(b"".join(a.tobytes() for a in got))
    assert len(found) == 1


@rest
@pytest.mark.parametrize("form", ["index", "soft"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_in_place(dtype, form, device):
    z, t = z_and_t(form, dtype, (3, 257))
    want = device.cross_entropy(z, t)[1]
    device.cross_entropy(z, t, grad_out=z)
    np.testing.assert_array_equal(z, want)


@rest
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_activations(name, dtype, device):
    import fusedce

    for classes in (256, 259):
        z, _ = z_and_t("index", dtype, (3, classes))
        z[1, :200] = -np.inf
        rtol = {"float64": 1e-13, "float32": 3e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
        got, want = (getattr(m, name)(z).astype(float) for m in (device, fusedce))
        np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-7)


# ------------------------------------------------------------------------------ bytes


def traffic(device, z, t, **options):
    """How many times a logit is read and a gradient is written, on average."""
    device.cross_entropy(z, t, **options)
    read, written = device.memory.touched("logits"), device.memory.touched("grad")
    return read[0] / z.nbytes, written[1] / z.nbytes


# In addition, every lane of a row reads the logit of the label: one address, so one request.
def shared_look(device, z):
    lanes = max((1 << one.args.group for one in device.launched if one.args.group), default=1)
    return lanes * z.itemsize / (z.shape[1] * z.itemsize)


@pytest.mark.parametrize("dtype", part(DTYPES, "float16"))
@pytest.mark.parametrize("classes", [512, 515])
def test_bytes_of_rows(classes, dtype, device):
    """A row kept on chip is read once, another twice; 16 bytes at a time except at its ends."""
    z, t = z_and_t("index", dtype, (4, classes))
    reads, writes = traffic(device, z, t)
    once = 2 if "Reload" in kinds(device) else 1
    assert once <= reads <= once + shared_look(device, z) + 1e-9
    assert 1 <= writes <= 1 + 1 / classes + 1e-9
    singles = device.memory.sizes("grad")[1]
    ends = 2 * (16 // z.itemsize - 1) if classes % 8 else 0
    assert singles.get(z.itemsize, 0) <= 4 * (1 + ends)


@rest
@pytest.mark.parametrize("dtype", part(["float32", "bfloat16"], "bfloat16"))
def test_bytes_of_distributions(dtype, device):
    """Soft targets need three passes: a row that is not kept on chip is read three times."""
    z, _ = z_and_t("index", dtype, (4, 512))
    t = np.random.default_rng(0).dirichlet(np.ones(512), 4).astype(np.float32)
    reads, writes = traffic(device, z, t)
    assert reads == (3 if "Reload" in kinds(device) else 1)
    assert writes == 1
