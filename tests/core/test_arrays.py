"""Inputs and outputs of every layout, class axis and dtype, compared with the oracle."""

from __future__ import annotations

import hashlib
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest

import fusedce
from tests.core.test_losses import DTYPES, alike, check, make

FORMS = [("softmax", "index"), ("softmax", "soft"), ("sigmoid", "index"), ("sigmoid", "soft"),
         ("sigmoid", "int"), (None, "index"), (None, "soft")]  # fmt: skip
forms = pytest.mark.parametrize(("activation", "form"), FORMS)
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
REALS = [bool, *INTEGERS, *DTYPES.values()]


def unaligned(a):
    memory = bytearray(a.nbytes + 1)
    b = np.frombuffer(memory, a.dtype, a.size, offset=1).reshape(a.shape)
    b[...] = a
    return b


def sliced(a, axis, start, step):
    """A copy of ``a`` as a view with this start and step; the larger array holds 77 elsewhere."""
    room = list(a.shape)
    room[axis] = room[axis] * abs(step) + start
    big = np.full(room, 77).astype(a.dtype)
    at = [slice(None)] * a.ndim
    at[axis] = slice(start, None, step)
    big[tuple(at)] = a
    return big[tuple(at)]


def layouts(a):
    """Arrays equal to a, each laid out in another way."""
    yield "C", np.ascontiguousarray(a)
    yield "F", np.asfortranarray(a)
    yield "transposed", np.ascontiguousarray(a.T).T
    yield "unaligned", unaligned(a)
    yield "swapped", a.astype(a.dtype.newbyteorder()) if a.dtype.kind != "V" else a
    yield "backwards", np.flip(np.flip(a).copy())
    locked = a.copy()
    locked.flags.writeable = False
    yield "read-only", locked
    for axis in range(a.ndim):
        yield f"flipped {axis}", np.flip(np.flip(a, axis).copy(), axis)
        yield f"sliced {axis}", sliced(a, axis, 1, 2)
    if a.ndim > 1:
        yield "swapped axes", np.swapaxes(np.ascontiguousarray(np.swapaxes(a, 0, -1)), 0, -1)


def assert_near(a, b, what=""):
    """Two results of one calculation are close; they may be sums in different orders.

    In float32 on a GPU exponentials are approximate and may be computed in two ways: 16 units in
    the last place are allowed then, not 4.
    """
    units = a.dtype == np.float32 and not isinstance(fusedce, ModuleType)
    tolerance = (16 if units else 4) * float(ml_dtypes.finfo(a.dtype).eps)
    a, b = a.astype(float), b.astype(float)
    small = tolerance * abs(b[np.isfinite(b)]).max(initial=1e-37)  # where terms cancel
    np.testing.assert_allclose(a, b, tolerance, small, err_msg=what)


@forms
@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 5), -1), ((3, 4, 2, 3), 1), ((3, 130), 1), ((9,), 0)]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_layouts(activation, form, shape, axis, dtype):
    if (activation, form, len(shape)) == ("sigmoid", "index", 1):
        return  # one class index for a row of logits: see test_targets.py
    z, t = make(activation, form, dtype, shape, np.random.default_rng(1), axis)
    t = t.astype(np.float32) if form == "soft" else t
    s = (np.random.default_rng(2).integers(-3, 9, np.delete(shape, axis)) / 4).astype(np.float32)
    plain = check("focal", z, t, dtype, activation=activation, axis=axis, sample_weight=s)
    for what, a in layouts(z):
        check("focal", a, t, dtype, activation=activation, axis=axis, sample_weight=s)
        if what in ("unaligned", "swapped", "read-only"):  # these are copied to a plain array
            got = fusedce.focal(a, t, activation=activation, axis=axis, sample_weight=s)
            alike(fusedce, got[1:], plain[1:2])
    others = [(b, s) for _, b in layouts(t)] if t.ndim else []
    others += [(t, b) for _, b in layouts(s)] if s.ndim else []
    for b, weights in others:
        check("focal", z, b, dtype, activation=activation, axis=axis, sample_weight=weights)


@forms
def test_stride_of_nought(activation, form):
    """Inputs broadcast with stride 0: one row for all, one column for all, one number for all."""
    for shape, axis in (((6, 5), 1), ((3, 4, 2), 1), ((5, 40), 0)):
        z, t = make(activation, form, "float32", shape, np.random.default_rng(3), axis)
        for small in (z[:1], z[..., :1], z[(slice(0, 1),) * z.ndim]):
            a = np.broadcast_to(small, shape)
            for b in (t, np.broadcast_to(t[:1], t.shape)):
                check("cross_entropy", a, b, "float32", activation=activation, axis=axis,
                      sample_weight=np.broadcast_to(0.5, np.delete(shape, axis)))  # fmt: skip


@forms
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_class_axis_in_every_position(activation, form, ndim):
    if (activation, form, ndim) == ("sigmoid", "index", 1):
        return  # one class index for a row of logits: see test_targets.py
    shape = (3, 4, 2, 5)[-ndim:]
    for axis in range(-ndim, ndim):
        z, t = make(activation, form, "float64", shape, np.random.default_rng(4), axis)
        for reduction in ("mean", "none"):
            got = check("focal", z, t, activation=activation, axis=axis, reduction=reduction,
                        weight=np.arange(1, shape[axis] + 1))  # fmt: skip
            per_row = activation == "softmax" or (activation is None and form == "index")
            row_shape = tuple(np.delete(shape, axis))
            if reduction == "none":
                assert got[0].shape == (row_shape if per_row else shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", [*REALS, np.longdouble], ids=lambda k: np.dtype(k).name)
def test_dtypes_of_targets(kind, dtype):
    rng, integer = np.random.default_rng(5), np.dtype(kind).kind in "iu"
    for activation in ("softmax", "sigmoid", None):
        z, t = make(activation, "int", dtype, (5, 6), rng)
        check("focal", z, t.astype(kind), dtype, activation=activation)
        if np.dtype(kind).kind in "fV":
            check("focal", z, (t * 0.625).astype(kind), dtype, activation=activation)
        if integer:
            k = rng.integers(0, 6, 5).astype(kind)
            check("focal", z, k, dtype, activation=activation, ignore_index=int(k[2]))
        if integer and activation != "softmax":
            check("focal", z, t.astype(kind), dtype, activation=activation, ignore_index=1)
    if np.dtype(kind).kind == "u":  # the largest unsigned number as ignore_index
        top = min(np.iinfo(kind).max, 2**63 - 1)
        k[1] = top
        check("focal", z, k, dtype, activation=None, ignore_index=int(top))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [*REALS, np.longdouble], ids=lambda k: np.dtype(k).name)
def test_dtypes_of_weights(kind, dtype):
    """Weights of any real dtype are used, and do not change the dtype of the gradient."""
    rng = np.random.default_rng(6)
    numbers = rng.integers(0, 2 if kind is bool else 4, 6).astype(kind)
    for activation, names in (("softmax", ("weight", "sample_weight")),
                              ("sigmoid", ("weight", "pos_weight", "sample_weight"))):  # fmt: skip
        z, t = make(activation, "soft", dtype, (6, 6), rng)
        for name in names:
            check("focal", z, t, dtype, activation=activation, **{name: numbers})
        wide = {name: numbers.astype(np.float64) for name in names}
        a = fusedce.focal(z, t, activation=activation, **dict.fromkeys(names, numbers))
        b = fusedce.focal(z, t, activation=activation, **wide)
        assert a[1].dtype == z.dtype
        alike(fusedce, a, b)


def test_what_is_no_numpy_array(tmp_path):
    """Lists (read as float64), buffers, memory maps, torch tensors, objects with __array__."""
    rng = np.random.default_rng(7)
    z, t = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    want = check("cross_entropy", z, t, activation="softmax")
    for pair in ((z.tolist(), t.tolist()), (tuple(map(tuple, z)), list(t)), (z.data, t.data)):
        got = fusedce.cross_entropy(*pair, weight=[1, 1, 1, 1], sample_weight=[1.0] * 6)
        assert type(got[1]) is np.ndarray
        assert got[1].dtype == np.float64
        np.testing.assert_array_equal(got[1], want[1])
    for name, a in (("z", z), ("t", t)):
        np.save(tmp_path / f"{name}.npy", a)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "zt"]
    loss, grad = fusedce.cross_entropy(*maps)
    assert type(grad) is np.ndarray
    assert (loss, grad.tobytes()) == (want[0], want[1].tobytes())

    class Series:
        def __array__(self, dtype=None, copy=None):
            return t.astype(dtype or t.dtype)

    np.testing.assert_array_equal(fusedce.cross_entropy(z, Series())[1], want[1])
    torch = pytest.importorskip("torch")
    for tensor in (
        torch.from_numpy(z),
        torch.from_numpy(z.T.copy()).T,
        torch.from_numpy(z).expand(6, 4),
    ):
        got = fusedce.cross_entropy(tensor, torch.from_numpy(t))[1]
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, want[1])


def test_pandas():
    pd = pytest.importorskip("pandas")
    z, t = np.random.default_rng(8).normal(size=(6, 4)), np.array([0, 3, 1, 1, 2, 0])
    got = fusedce.cross_entropy(pd.DataFrame(z), pd.Series(t, index=range(6, 0, -1)))
    np.testing.assert_array_equal(got[1], fusedce.cross_entropy(z, t)[1])


@pytest.mark.parametrize("dtype", DTYPES)
@forms
def test_output_buffers(activation, form, dtype):
    """A buffer of any strides is filled and returned, and nothing beside it is written."""
    for shape, axis in (((9, 5), 1), ((2, 5, 3, 4), 1), ((3, 130), 1), ((5, 9), 0)):
        z, t = make(activation, form, dtype, shape, np.random.default_rng(9), axis)
        if form in ("index", "int"):
            t.flat[2] = -100  # ignored; its results are zeros
        options = {"activation": activation, "axis": axis, "reduction": "none"}
        want = check("focal", z, t, dtype, **options)
        for what, blank in layouts(np.zeros_like(z)):
            if what in ("read-only", "swapped"):
                continue
            outs = [b for b in (np.empty_like(want[0]), blank, *[
                next(b for w, b in layouts(np.zeros_like(z)) if w == what)])]  # fmt: skip
            around = [b.base for b in outs[1:] if what.startswith("sliced")]
            for b in outs:
                b[...] = np.nan
            got = fusedce.focal(z, t, loss_out=outs[0], grad_out=outs[1], hess_out=outs[2],
                                return_hessian=True, **options)  # fmt: skip
            for a, b, c in zip(got, outs, want, strict=True):
                assert a is b
                assert_near(a, c, what)
            place = next(b for w, b in layouts(z.copy()) if w == what)
            there = fusedce.focal(place, t, grad_out=place, **options)
            assert there[1] is place
            assert_near(place, want[1], what)
            for base in around:
                assert (base.astype(float) == 77).sum() == base.size - z.size
    alike(fusedce, [fusedce.focal(z, t, return_grad=False, **options)], want[:1])
    only = fusedce.focal(z, t, return_grad=False, return_hessian=True, **options)
    alike(fusedce, only, want[::2])


@forms
def test_order_and_kind_of_results(activation, form):
    """A gradient has the layout of the logits; a single loss is a NumPy scalar or the buffer."""
    z, t = make(activation, form, "float32", (7, 5), np.random.default_rng(10))
    for order in "CF":
        a = np.array(z, order=order)
        _, grad, hess = fusedce.focal(a, t, activation=activation, return_hessian=True)
        assert grad.strides == hess.strides == a.strides
    for dtype in DTYPES.values():
        loss, grad = fusedce.focal(z.astype(dtype), t, activation=activation)
        assert type(loss) is (np.float64 if dtype is np.float64 else np.float32)
        assert grad.dtype == dtype
    buffer = np.full((), np.nan, np.float32)
    result = fusedce.focal(z, t, activation=activation, loss_out=buffer)
    assert result[0] is buffer
    assert buffer[()] == fusedce.focal(z, t, activation=activation)[0]
    row = (z[:1], t[:1]) if activation == "sigmoid" else (z[0], t[0])
    assert type(fusedce.focal(*row, activation=activation, return_grad=False)) is np.float32
    if form != "index" and activation != "softmax":
        loss, grad = fusedce.focal(z[0, 0], t[0, 0], activation=activation, reduction="none")
        assert (type(loss), np.shape(grad)) == (np.float32, ())


@forms
@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_stay_as_they_were(activation, form, dtype):
    z, t = make(activation, form, dtype, (8, 6), np.random.default_rng(11))
    w, s = np.arange(1.0, 7), np.arange(8.0)
    inputs = (z, t, w, s)
    before = [hashlib.sha256(a.tobytes()).digest() for a in inputs]
    for reduction in ("mean", "sum", "none"):
        fusedce.focal(z, t, activation=activation, weight=w, sample_weight=s, reduction=reduction,
                      label_smoothing=0.1, return_hessian=True)  # fmt: skip
    for fn in (fusedce.softmax, fusedce.log_softmax, fusedce.sigmoid, fusedce.log_sigmoid):
        fn(z)
    assert [hashlib.sha256(a.tobytes()).digest() for a in inputs] == before


@forms
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(activation, form, reduction):
    for shape, axis in (((0, 4), 1), ((2, 3, 0), 1), ((4, 0), 0)):
        z, t = np.zeros(shape, np.float32), np.zeros(shape)
        if form != "soft":
            t = np.zeros(np.delete(shape, axis) if form == "index" else shape, int)
        loss, grad, hess = fusedce.cross_entropy(
            z, t, activation=activation, axis=axis, reduction=reduction, return_hessian=True
        )
        assert grad.shape == hess.shape == shape
        if reduction == "none":
            per_row = activation == "softmax" or (activation is None and form == "index")
            assert loss.shape == (tuple(np.delete(shape, axis)) if per_row else shape)
        else:
            np.testing.assert_array_equal(loss, np.nan if reduction == "mean" else 0)
        if reduction == "mean":
            given = fusedce.cross_entropy(z, t, activation=activation, axis=axis, denominator=2)
            assert given[0] == 0
