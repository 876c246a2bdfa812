"""Writes of results: non-temporal or not, at any alignment and stride, never outside the array."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fusedce
from fusedce.backends import cpu_replay
from fusedce.kernels import tuning
from tests.core.test_losses import DTYPES

CANARY = 0x5A
# One case for each kernel: (activation, whether rows precede classes, C, form of the targets).
KINDS = {
    "rows": ("softmax", True, 97, "index"),
    "long rows": ("softmax", True, 600, "index"),
    "strips": ("softmax", True, 4100, "index"),
    "few classes": ("softmax", True, 10, "index"),
    "dealt out": ("softmax", True, 3, "index"),
    "axis 1": ("softmax", False, 5, "index"),
    "distributions": ("softmax", True, 70, "soft"),
    "few masses": ("softmax", True, 6, "soft"),
    "elements": ("sigmoid", True, 37, "soft"),
}
kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture
def streaming(monkeypatch):
    """Fixture: switch(above) makes stores of gradients above that many bytes non-temporal."""

    def switch(above):
        monkeypatch.setattr(tuning, "STREAM_ABOVE", above)
        cpu_replay._PREPARED.clear()

    yield switch
    cpu_replay._PREPARED.clear()


def inputs(kind, dtype, rows):
    """(logits, targets, options) with this number of rows."""
    activation, last, C, form = KINDS[kind]
    rng = np.random.default_rng(rows)
    shape = (rows, C) if last else (2, C, rows)
    z = (rng.normal(size=shape) * 2).astype(DTYPES[dtype])
    of_rows = shape[:1] if last else (2, rows)
    t = rng.integers(0, C, of_rows) if form == "index" else rng.random(shape).astype(np.float32)
    if form == "index":
        t[..., ::5] = -100
    return z, t, {"activation": activation, "axis": 1}


def guarded(shape, dtype, offset):
    """(bytes, start, array): an array ``offset`` bytes past a cache line, between canary bytes."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + 512, CANARY, np.uint8)
    start = -raw.ctypes.data % 64 + 128 + offset
    return raw, start, raw[start : start + size].view(dtype).reshape(shape)


def bits(array):
    """The array's bytes, with which NaN and signed zeros are compared too."""
    return np.ascontiguousarray(array).tobytes()


def stored_at(kind, dtype, rows, offset):
    """The bytes of a gradient written ``offset`` bytes past a cache line; canaries are checked."""
    z, t, options = inputs(kind, dtype, rows)
    raw, start, out = guarded(z.shape, z.dtype, offset)
    fusedce.cross_entropy(z, t, grad_out=out, **options)
    assert np.all(raw[:start] == CANARY), (rows, offset)
    assert np.all(raw[start + out.nbytes :] == CANARY), (rows, offset)
    return bits(out)


@kinds
@dtypes
def test_streamed_is_stored(kind, dtype, streaming):
    """Non-temporal stores write the bits of plain stores, at every alignment and nowhere else."""
    item = np.dtype(DTYPES[dtype]).itemsize
    for rows in (1, 2, 3, 33) if KINDS[kind][2] < 500 else (1, 3):
        streaming(1 << 62)
        z, t, options = inputs(kind, dtype, rows)
        want = bits(fusedce.cross_entropy(z, t, **options)[1])
        streaming(0)
        for k in range(18):
            assert stored_at(kind, dtype, rows, k * item) == want, (rows, k)
        streaming(1 << 62)
        assert stored_at(kind, dtype, rows, item) == want


@dtypes
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_streamed_sizes(activation, dtype, streaming):
    """One row of 1 to 200 elements: head, whole vectors and tail, each of which may be empty."""
    rng = np.random.default_rng(2)
    kind, item = DTYPES[dtype], np.dtype(DTYPES[dtype]).itemsize
    least = 1 if activation == "softmax" else 2  # classes, for a class index
    for C in (*range(least, 70), 127, 128, 129, 191, 192, 200):
        z = rng.normal(size=(1, C)).astype(kind)
        t = np.array([C // 2])
        streaming(1 << 62)
        want = bits(fusedce.cross_entropy(z, t, activation=activation)[1])
        streaming(0)
        for k in (0, 1, 15):
            raw, start, out = guarded(z.shape, kind, k * item)
            fusedce.cross_entropy(z, t, activation=activation, grad_out=out)
            assert bits(out) == want, (C, k)
            assert np.all(np.delete(raw, np.s_[start : start + out.nbytes]) == CANARY), (C, k)


@kinds
def test_streamed_in_place(kind, streaming):
    """Non-temporal stores of a gradient over its logits write the bits of plain stores."""
    z, t, options = inputs(kind, "float32", 21)
    streaming(1 << 62)
    want = bits(fusedce.cross_entropy(z, t, **options)[1])
    streaming(0)
    fusedce.cross_entropy(z, t, grad_out=z, **options)
    assert bits(z) == want


def test_gradients_off_their_alignment(streaming):
    """Gradients at unaligned addresses are right; tested in a subprocess, which may crash."""
    streaming(0)
    source = """
        import numpy as np
        from fusedce.kernels import tuning
        tuning.STREAM_ABOVE = 0
        from tests.cpu.test_streams import KINDS, bits, inputs, stored_at
        import fusedce
        for kind in KINDS:
            for dtype in ("float32", "float64", "float16", "bfloat16"):
                z, t, options = inputs(kind, dtype, 3)
                want = bits(fusedce.cross_entropy(z, t, **options)[1])
                for offset in (1, 2, 3, 5, 63):
                    assert stored_at(kind, dtype, 3, offset) == want, (kind, dtype, offset)
    """
    run(source)


def run(source):
    """Run code that may crash in a subprocess."""
    command = [sys.executable, "-c", textwrap.dedent(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"


def layouts(a):
    """Views equal to an array, with other memory orders and strides."""
    wide = np.full((*a.shape[:-1], a.shape[-1] + 3), 9, a.dtype)
    wide[..., : a.shape[-1]] = a
    double = np.repeat(np.repeat(a, 2, axis=0), 2, axis=-1)
    yield "wider rows", wide[..., : a.shape[-1]]
    yield "every other", double[::2, ..., ::2]
    yield "Fortran", np.asfortranarray(a)
    yield "from the end", np.ascontiguousarray(a[::-1, ..., ::-1])[::-1, ..., ::-1]
    yield "last axis first", np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1)


def room(a):
    """The tolerance for a gradient that another kernel computes."""
    step = {2: 2.0**-8, 4: 2e-6, 8: 4e-15}[a.dtype.itemsize]
    return {"rtol": step, "atol": step * max(1e-30, abs(a.astype(float)).max()) / 8}


@kinds
@dtypes
def test_orders_of_logits_and_gradients(kind, dtype):
    """Gradients agree for all memory orders of the logits and of the output."""
    for rows in (7, 18, 33):
        z, t, options = inputs(kind, dtype, rows)
        want = fusedce.cross_entropy(z, t, **options)[1]
        for name, view in layouts(z):
            got = fusedce.cross_entropy(view, t, **options)[1]
            np.testing.assert_allclose(got.astype(float), want.astype(float), **room(want),
                                       err_msg=name)  # fmt: skip
        for name, out in layouts(np.zeros_like(z)):
            base = out if out.base is None else out.base
            around = base.copy()
            fusedce.cross_entropy(z, t, grad_out=out, **options)
            if kind == "strips":  # the number of multiplications by a scale may differ
                step = 2 * np.spacing(abs(want))
                assert np.all(abs(out.astype(float) - want.astype(float)) <= step), name
            else:
                assert bits(out) == bits(want), name
            out[...] = 0
            assert bits(base) == bits(around), f"{name}: something beside the gradient"


def test_no_number_beside_the_arrays():
    """Nothing is read or written beyond the end of arrays that end at an inaccessible page.

    The test runs in a subprocess, which may crash.
    """
    source = """
        import numpy as np, fusedce
        from tests.cpu.test_streams import fenced, FENCED
        rng = np.random.default_rng(1)
        for dtype, activation, form in FENCED:
            for C in (1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 33, 63, 64, 65, 100, 2049):
                for N in (1, 3, 9, 16, 17, 18, 33) if C < 600 else (1, 2):
                    z = rng.normal(size=(N, C)).astype(dtype)
                    soft = rng.random((N, C)).astype(dtype)
                    t = fenced(soft if form == "soft" else rng.integers(0, C, N))
                    for a, b in ((fenced(z), fenced(z)), (fenced(z.T).T, fenced(z))):
                        fusedce.cross_entropy(a, t, grad_out=b, activation=activation)
                        fusedce.cross_entropy(a, t, grad_out=a, activation=activation)
                    c = fenced(z.T[None])
                    s = fenced(soft.T[None]) if form == "soft" else t[None]
                    fusedce.cross_entropy(c, s, axis=1, grad_out=c, activation=activation)
    """
    if sys.platform != "linux":
        pytest.skip("mprotect by its Linux name")
    run(source)


FENCED = [("float32", "softmax", "index"), ("float32", "softmax", "soft"),
          ("float32", "sigmoid", "soft"), ("float64", "softmax", "index"),
          ("float16", "softmax", "index")]  # fmt: skip


def fenced(array):
    """A copy that ends directly before a page that cannot be accessed."""
    import ctypes
    import mmap

    array = np.ascontiguousarray(array)
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    base = np.frombuffer(memory, np.uint8)
    fence = ctypes.c_void_p(base.ctypes.data + size)
    # No access; the mapping is the process's own and goes with it.
    assert ctypes.CDLL(None).mprotect(fence, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    copy = base[size - array.nbytes : size].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
