"""fusedce.adapters.jax compared with optax, with float64 and with fusedce's NumPy functions."""

from __future__ import annotations

import functools
import inspect
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import fusedce

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

from fusedce.adapters import jax as ours  # noqa: E402
from fusedce.adapters import jax_operators, jax_xla  # noqa: E402
from tests.cpu.test_threads import run_script  # noqa: E402
from tests.cuda import fakes  # noqa: E402
from tests.cuda.fakes import fake_gpu  # noqa: E402
from tests.exact import exact_logit, exact_softmax  # noqa: E402

__all__ = ["fake_gpu"]  # the fixture

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = ("float64", "float32", "float16", "bfloat16")
EPS = {"float64": 2e-13, "float32": 4e-6, "float16": 2**-11, "bfloat16": 2**-8}
BY_INDEX = "softmax_cross_entropy_with_integer_labels"
REFUSED = (ValueError, jax.errors.JaxRuntimeError)  # ValueError where JAX computes in this thread


def focal_by_optax(z, labels, gamma=2.0, axis=-1, where=None):
    """Softmax focal loss, which optax does not have, from optax's cross-entropy."""
    ce = getattr(optax, BY_INDEX)(z, labels, axis, where)
    return (-jnp.expm1(-ce)) ** gamma * ce


def theirs(name):
    return focal_by_optax if name == "softmax_focal_loss" else getattr(optax, name)


def draw(shape=(33, 7), dtype="float32", seed=0, scale=3.0):
    """Logits, class indices, distributions, hard and soft labels."""
    rng = np.random.default_rng(seed)
    z = (scale * rng.normal(size=shape)).astype(BFLOAT16 if dtype == "bfloat16" else dtype)
    q = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    soft = rng.uniform(size=shape)
    k = rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)
    return {"z": z, "index": k, "distribution": q, "hard": soft > 0.5, "soft": soft}


CASES = [
    (BY_INDEX, "index", {}),
    ("softmax_cross_entropy", "distribution", {}),
    ("softmax_focal_loss", "index", {}),
    ("softmax_focal_loss", "index", {"gamma": 0.5}),
    ("sigmoid_binary_cross_entropy", "hard", {}),
    ("sigmoid_binary_cross_entropy", "soft", {}),
    ("sigmoid_focal_loss", "hard", {}),
    ("sigmoid_focal_loss", "hard", {"alpha": 0.25, "gamma": 1.5}),
    ("sigmoid_focal_loss", "soft", {"alpha": 0.25}),
    ("sigmoid_focal_loss", "soft", {"gamma": 0.0}),
]
each_case = pytest.mark.parametrize(("name", "form", "options"), CASES, ids=str)


def targets(drawn, form, dtype):
    t = drawn[form]
    return t.astype(drawn["z"].dtype) if t.dtype.kind == "f" else t


def upstream_of(shape, dtype):
    """Upstream gradients: a linear range, preceded by 0, a large loss scale and 0.3."""
    u = np.linspace(-1, 2, max(1, int(np.prod(shape)))).reshape(shape)
    flat = u.reshape(-1)
    flat[:3] = [0.0, 1024.0 if dtype == "float16" else 65536.0, 0.3][: flat.size]
    return np.asarray(flat.reshape(shape), dtype=BFLOAT16 if dtype == "bfloat16" else dtype)


def both(loss, z, *args, **options):
    """The loss under jit, and its gradient as a function of the upstream gradient."""
    value, pull = jax.vjp(jax.jit(lambda z: loss(z, *args, **options)), z)
    return value, lambda u: pull(jnp.asarray(u, value.dtype))[0]


def check(got, want, dtype, terms=None):
    """The error is within the tolerance, relative to the value or to ``terms`` if larger.

    ``terms``: the size of the terms that cancel in the value.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    scale = np.abs(want) if terms is None else np.maximum(np.abs(want), terms)
    np.testing.assert_array_less(np.abs(got - want), EPS[dtype] * scale * 4 + 1e-37, strict=False)


@pytest.mark.parametrize("dtype", DTYPES)
@each_case
def test_like_optax(name, form, options, dtype):
    """Loss and gradient agree with optax in float64; the dtypes are those of optax."""
    with jax.enable_x64(True):
        drawn = draw(dtype=dtype)
        z, t = drawn["z"], targets(drawn, form, dtype)
        wide = t.astype(np.float64) if t.dtype.kind not in "iub" else t
        loss, pull = both(getattr(ours, name), jnp.asarray(z), jnp.asarray(t), **options)
        want, pull_wide = both(theirs(name), jnp.asarray(z.astype(np.float64)),
                               jnp.asarray(wide), **options)  # fmt: skip
        alike = jax.eval_shape(functools.partial(theirs(name), **options), z, t)
        assert (loss.shape, loss.dtype) == (alike.shape, alike.dtype)
        u = upstream_of(loss.shape, "float64" if dtype == "float64" else str(loss.dtype))
        grad, grad_wide = pull(u), pull_wide(u.astype(np.float64))
        assert grad.dtype == z.dtype
        check(loss, want, dtype, 1e-2)
        each = u.astype(np.float64) if u.ndim == z.ndim else u.astype(np.float64)[..., None]
        check(grad, grad_wide, dtype, np.abs(each) * 0.1)


@each_case
def test_exactly_the_engine(name, form, options):
    """The gradient is bit for bit fusedce's with the upstream gradient as sample_weight."""
    drawn = draw((31, 33))
    z, t = drawn["z"], targets(drawn, form, "float32")
    engine = fusedce.focal if "focal" in name else fusedce.cross_entropy
    activation = name.split("_")[0]
    more = dict(options, activation=activation)
    if form == "soft" and "focal" in name:
        more["soft_labels"] = "torchvision"
    shape = z.shape[:1] if activation == "softmax" else z.shape
    for u in (1.0, 65536.0, 0.3, upstream_of(shape, "f4")):
        u = np.broadcast_to(np.float32(u), shape)
        want, grad = engine(z, t, sample_weight=u, reduction="none", **more)
        plain = engine(z, t, reduction="none", return_grad=False, **more)
        loss, pull = both(getattr(ours, name), jnp.asarray(z), jnp.asarray(t), **options)
        assert np.asarray(loss).tobytes() == plain.tobytes()
        assert np.asarray(pull(u)).tobytes() == grad.tobytes()


@pytest.mark.parametrize("name", ["softmax_cross_entropy", BY_INDEX, "sigmoid_focal_loss",
                                  "sigmoid_binary_cross_entropy"])  # fmt: skip
def test_signatures(name):
    """Names, order, kinds and defaults of the arguments are optax's."""
    mine, other = (inspect.signature(getattr(m, name)).parameters for m in (ours, optax))
    assert [(p.name, p.kind, p.default) for p in mine.values()] == [
        (p.name, p.kind, p.default) for p in other.values()
    ]


def test_sure_predictions():
    """Where p is 0.999999 or closer to 1, each gradient component has full relative accuracy."""
    z = np.array([[14.0, 0.0, -3.0], [40.0, 1.0, 0.0], [-30.0, 30.0, 2.0]], np.float32)
    k = np.array([0, 0, 1], np.int32)
    rules = {BY_INDEX: ("cross_entropy", {}), "softmax_focal_loss": ("focal", {"gamma": 2.0})}
    for name, rule in rules.items():
        loss, pull = both(getattr(ours, name), jnp.asarray(z), jnp.asarray(k))
        grad = np.asarray(pull(np.ones(3)))
        for row in range(3):
            want, by_logit, _ = exact_softmax(rule, z[row], {k[row]: 1.0}, range(3))
            check(loss[row], float(want), "float32")
            check(grad[row], [float(g) for g in by_logit], "float32")
    s = np.array([14.0, -40.0, 60.0, -14.0], np.float32)
    y = np.array([1, 0, 1, 0], bool)
    loss, pull = both(ours.sigmoid_focal_loss, jnp.asarray(s), jnp.asarray(y), gamma=1.0)
    grad = np.asarray(pull(np.ones(4)))
    for j in range(4):
        want, by_logit, _ = exact_logit(("focal", {"gamma": 1.0}), s[j], float(y[j]), float(~y[j]))
        check(loss[j], float(want), "float32")
        check(grad[j], float(by_logit), "float32")


def test_masked_classes():
    """A logit of -inf has probability and gradient 0; at the target it makes the loss inf.

    NaN affects only its row.
    """
    z = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    z[0, 2:] = z[1, 0] = z[3] = -np.inf
    z[4, 1] = np.nan
    k = np.array([1, 0, 3, 2, 5], np.int32)
    loss, pull = both(getattr(ours, BY_INDEX), jnp.asarray(z), jnp.asarray(k))
    grad = np.asarray(pull(np.ones(5)))
    assert np.isfinite(loss[np.array([0, 2])]).all()
    assert np.isposinf(loss[1])
    assert np.isnan(loss[3:]).all()
    assert not grad[0, 2:].any()
    assert np.isfinite(grad[np.array([0, 2])]).all()


def wheres():
    rng = np.random.default_rng(3)
    rows = np.arange(33) % 3 > 0
    classes = rng.random((33, 7)) > 0.4
    classes[5] = False
    return {"rows": rows, "column": rows[:, None], "classes": classes, "one row": classes[:1]}


@pytest.mark.parametrize("form", wheres())
@pytest.mark.parametrize("name", [BY_INDEX, "softmax_cross_entropy", "softmax_focal_loss"])
def test_where(name, form):
    """Losses and gradients with ``where`` agree with optax.

    Excluded rows have loss 0, excluded classes have probability 0.
    """
    where, drawn = wheres()[form], draw()
    t = drawn["index" if name != "softmax_cross_entropy" else "distribution"]
    if form in ("classes", "one row") and name != "softmax_cross_entropy":
        shown = np.broadcast_to(where, (33, 7))
        # Each label is a class that is not excluded, if the row has one.
        t = np.where(shown.any(1), shown.argmax(1), t).astype(np.int32)
    t = t.astype(np.float32) if t.dtype.kind == "f" else t
    z, t, where = jnp.asarray(drawn["z"]), jnp.asarray(t), jnp.asarray(where)
    one, pull = both(getattr(ours, name), z, t, where=where)
    other, pull_other = both(theirs(name), z, t, where=where)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    u = upstream_of((33,), "float32")
    u[1] = 1.0
    got, want = np.asarray(pull(u)), np.asarray(pull_other(u))
    empty = ~np.broadcast_to(where if where.ndim == 2 else where[:, None], (33, 7)).any(1)
    assert not got[empty].any()
    np.testing.assert_allclose(got[~empty], want[~empty], rtol=1e-4, atol=1e-5)


def test_where_leaves_out_what_is_not_looked_at():
    """Excluded rows may have any label and NaN logits without an error or NaN in the result."""
    z = np.full((3, 4), np.nan, np.float32)
    z[1] = 0
    keep = jnp.array([False, True, False])
    for labels in (np.array([99, 2, -7], np.int32), np.array([255, 2, 250], np.uint8)):
        loss, pull = both(getattr(ours, BY_INDEX), jnp.asarray(z), jnp.asarray(labels), where=keep)
        np.testing.assert_allclose(loss, [0, np.log(4), 0], rtol=1e-6)
        np.testing.assert_allclose(pull(np.ones(3))[1], [0.25, 0.25, -0.75, 0.25], rtol=1e-6)
        assert not np.asarray(pull(np.ones(3)))[::2].any()
    where = jnp.array([[True, False]])  # excludes the label's own class
    assert np.isposinf(getattr(ours, BY_INDEX)(jnp.zeros((1, 2)), jnp.array([1]), where=where)[0])


@pytest.mark.parametrize("axis", [0, 1, 2, -3, (0, 2), (2, 1), (1,), None])
def test_axis(axis):
    rng = np.random.default_rng(1)
    z = jnp.asarray(rng.normal(size=(4, 3, 5)).astype(np.float32))
    q = jnp.asarray(rng.random((4, 3, 5)).astype(np.float32))
    one, pull = both(ours.softmax_cross_entropy, z, q, axis)
    other, pull_other = both(optax.softmax_cross_entropy, z, q, axis)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    u = upstream_of(one.shape, "float32")
    np.testing.assert_allclose(pull(u), pull_other(u), rtol=1e-4, atol=3e-3)
    if axis is not None:
        width = int(np.prod([z.shape[k] for k in np.atleast_1d(axis)]))
        k = jnp.asarray(rng.integers(0, width, one.shape))
        one, pull = both(getattr(ours, BY_INDEX), z, k, axis)
        other, pull_other = both(getattr(optax, BY_INDEX), z, k, axis)
        np.testing.assert_allclose(one, other, rtol=1e-5)
        np.testing.assert_allclose(pull(u), pull_other(u), rtol=1e-4, atol=3e-3)


@pytest.mark.slow(reason="XLA compiles for every shape")
def test_shapes():
    """A single row, a single logit, empty arrays, and labels that broadcast with the logits."""
    z = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        getattr(ours, BY_INDEX)(z, 2), getattr(optax, BY_INDEX)(z, jnp.asarray(2)), rtol=1e-6
    )
    np.testing.assert_allclose(jax.grad(ours.sigmoid_binary_cross_entropy)(0.5, 1), -0.37754068)
    for shape in ((0, 3), (2, 0, 3)):
        empty, labels = jnp.zeros(shape), jnp.zeros(shape[:-1], int)
        loss, pull = both(getattr(ours, BY_INDEX), empty, labels)
        assert loss.shape == labels.shape
        assert pull(np.zeros(labels.shape)).shape == shape
    assert ours.sigmoid_focal_loss(jnp.zeros((0, 4)), jnp.zeros((0, 4))).shape == (0, 4)
    drawn = draw((5, 6))
    for a, b in (((1, 5, 6), (4, 5, 6)), ((5, 6), (6,)), ((5, 6), (5, 1)), ((6,), (5, 6))):
        z = jnp.asarray(np.resize(drawn["z"], a))
        t = jnp.asarray(np.resize(drawn["soft"], b).astype(np.float32))
        pairs = ["softmax_cross_entropy", "sigmoid_binary_cross_entropy", "sigmoid_focal_loss"]
        for name in pairs:
            f, g = (
                jax.value_and_grad(lambda z, m=m, t=t, n=name: getattr(m, n)(z, t).sum())(z)
                for m in (ours, optax)
            )
            np.testing.assert_allclose(f[0], g[0], rtol=1e-5)
            np.testing.assert_allclose(f[1], g[1], rtol=1e-4, atol=1e-5)
    z, k = jnp.asarray(drawn["z"])[:, None], jnp.asarray(np.arange(20).reshape(5, 4) % 6)
    one, other = (getattr(m, BY_INDEX)(z, k) for m in (ours, optax))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "bool"])
def test_dtypes_of_labels(dtype):
    drawn = draw()
    z, y = jnp.asarray(drawn["z"]), jnp.asarray(drawn["hard"].astype(dtype))
    for name in ("sigmoid_binary_cross_entropy", "sigmoid_focal_loss", "softmax_cross_entropy"):
        np.testing.assert_allclose(
            getattr(ours, name)(z, y), getattr(optax, name)(z, y), rtol=1e-5, atol=1e-6
        )
    k = jnp.asarray(drawn["index"].astype(dtype))
    if dtype == "bool":
        with pytest.raises(TypeError, match="labels must be integers, got bool"):
            getattr(ours, BY_INDEX)(z, k)
    else:
        np.testing.assert_allclose(
            getattr(ours, BY_INDEX)(z, k), getattr(optax, BY_INDEX)(z, k), rtol=1e-5, atol=1e-6
        )


def mean_of(loss):
    return lambda z, t: loss(z, t).mean()


TRANSFORMS = {
    "jit": lambda f: lambda z, t: jax.jit(f)(z, t),
    "grad": lambda f: lambda z, t: jax.grad(mean_of(f))(z, t),
    "jit grad": lambda f: lambda z, t: jax.jit(jax.grad(mean_of(f)))(z, t),
    "value and grad": lambda f: lambda z, t: jax.jit(jax.value_and_grad(mean_of(f)))(z, t),
    "vmap": lambda f: lambda z, t: jax.vmap(f)(z, t),
    "vmap over logits": lambda f: lambda z, t: jax.vmap(f, (0, None))(z, t[0]),
    "vmap over labels": lambda f: lambda z, t: jax.vmap(f, (None, 0))(z[0], t),
    "vmap inside": lambda f: lambda z, t: jax.vmap(f, (2, None))(jnp.moveaxis(z, 0, 2), t[0]),
    "vmap out": lambda f: lambda z, t: jax.vmap(f, 0, -1)(z, t),
    "nested vmap": lambda f: lambda z, t: jax.vmap(jax.vmap(f, (0, None)), (None, 0))(
        z.reshape(3, -1, z.shape[-1])[:, 0], t.reshape(3, -1, *t.shape[2:])[:, 0]
    ),
    "grad of vmap": lambda f: lambda z, t: jax.grad(mean_of(jax.vmap(f)))(z, t),
    "vmap of grad": lambda f: lambda z, t: jax.jit(jax.vmap(jax.grad(mean_of(f))))(z, t),
    "jacobian": lambda f: lambda z, t: jax.jacrev(f)(z[0], t[0]),
    "remat": lambda f: lambda z, t: jax.grad(mean_of(jax.checkpoint(f)))(z, t),
    "scan": lambda f: lambda z, t: jax.lax.scan(
        lambda c, zt: (c + f(*zt).sum(), f(*zt)), 0.0, (z, t)
    ),
    "grad of scan": lambda f: lambda z, t: jax.jit(jax.grad(
        lambda z: jax.lax.scan(lambda c, zt: (c + f(*zt).sum(), None), 0.0, (z, t))[0]
    ))(z),
    "cond": lambda f: lambda z, t: jax.grad(
        lambda z: jax.lax.cond(z[0, 0, 0] > 9, lambda z: z.sum(), lambda z: f(z, t).sum(), z)
    )(z),
    "map": lambda f: lambda z, t: jax.lax.map(lambda zt: f(*zt), (z, t)),
    "linear layer": lambda f: lambda z, t: jax.jit(jax.grad(
        lambda w: f(jnp.tanh(z @ w), t).mean()
    ))(jnp.eye(z.shape[-1])),
}  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("name", "form"), [(BY_INDEX, "index"), ("sigmoid_focal_loss", "soft")])
def test_transforms(name, form, transform):
    drawn = draw((3, 4, 5))
    z, t = jnp.asarray(drawn["z"]), jnp.asarray(targets(drawn, form, "float32"))
    got, want = (TRANSFORMS[transform](f)(z, t) for f in (getattr(ours, name), theirs(name)))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_what_is_computed(monkeypatch):
    """Only what is asked for is computed, and once: the loss, the gradient, or both."""
    done, named = [], jax_operators.named

    def watched(call):
        function, options = named(call)
        return lambda *a, **o: (done.append(o.get("return_grad", True)), function(*a, **o))[
            1
        ], options

    monkeypatch.setattr(jax_operators, "named", watched)
    z, k = jnp.zeros((8, 3)), jnp.zeros(8, int)
    f = mean_of(getattr(ours, BY_INDEX))
    for call, want in ((f, [False]), (jax.grad(f), [True]), (jax.value_and_grad(f), [False, True])):
        done.clear()
        jax.block_until_ready(jax.jit(call)(z, k))
        assert sorted(done) == want


def test_labels_out_of_range():
    """A label out of range raises an error with label and position, inside and outside of jit.

    The next call with valid labels works.
    """
    z, good = jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0])
    f = getattr(ours, BY_INDEX)
    for call in (f, jax.jit(f), jax.jit(jax.grad(mean_of(f)))):
        for label in (3, -1):
            with pytest.raises(REFUSED, match=rf"target {label} at position 2 is out of range"):
                jax.block_until_ready(call(z, good.at[2].set(label)))
            assert np.isfinite(call(z, good)).all()
    with pytest.raises(REFUSED, match=r"target 7 at position \(1, 2\)"):
        jax.block_until_ready(jax.vmap(f)(jnp.stack([z, z]), jnp.stack([good, good.at[2].set(7)])))
    with pytest.raises(REFUSED, match="target 2 at position 1 is out of range: a label is 0 or 1"):
        jax.block_until_ready(ours.sigmoid_focal_loss(jnp.zeros(3), jnp.array([0, 2, 1])))
    assert f(z, good.at[2].set(-100))[2] == 0


NO_CLASSES = [
    ((4, 0), (4,), {}), ((0, 5), (5,), {"axis": 0}), ((4, 0, 2), (4,), {"axis": (1, 2)}),
    ((0, 0), (0,), {}), ((4, 0), (4,), {"where": (True, False, True, True)}),
]  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["", "jit"])
@pytest.mark.parametrize(("shape", "rows", "options"), NO_CLASSES)
def test_no_classes(shape, rows, options, wrap):
    """With no classes, losses and means are those of optax and the gradient is empty."""
    options = {k: jnp.array(v) if k == "where" else v for k, v in options.items()}
    z = jnp.zeros(shape)
    for name in (BY_INDEX, "softmax_cross_entropy", "softmax_focal_loss"):
        t = z if name == "softmax_cross_entropy" else jnp.zeros(rows, int)
        for reduce in (lambda x: x, jnp.mean):
            results = []
            for loss in (getattr(ours, name), theirs(name)):
                f = wrap(lambda z, loss=loss, t=t, r=reduce: r(loss(z, t, **options)))
                value, pull = jax.vjp(f, z)
                (grad,) = pull(jnp.ones_like(value))
                assert grad.shape == shape
                results.append(np.asarray(value))
            assert results[0].dtype == results[1].dtype
            np.testing.assert_array_equal(*results)


def test_no_classes_of_sigmoid():
    z = jnp.zeros((4, 0))
    for name in ("sigmoid_binary_cross_entropy", "sigmoid_focal_loss"):
        for reduce in (jnp.sum, jnp.mean):
            one, other = (reduce(getattr(m, name)(z, z)) for m in (ours, optax))
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("label", [255.0, 1.5, -0.5, -1.0, -100.0, np.nan])
@pytest.mark.parametrize("form", ["bce", "focal", "balanced"])
def test_labels_outside_of_0_and_1(form, label):
    """Any float label gives optax's formula, for the loss and the gradient."""
    name, options = {
        "bce": ("sigmoid_binary_cross_entropy", {}),
        "focal": ("sigmoid_focal_loss", {"gamma": 2.0}),
        "balanced": ("sigmoid_focal_loss", {"gamma": 1.5, "alpha": 0.3}),
    }[form]
    z = jnp.asarray(np.linspace(-12, 12, 24, dtype=np.float32))
    y = jnp.full(24, label).at[::3].set(1.0)
    with jax.enable_x64(True):
        results = []
        for m, dtype in ((ours, "float32"), (optax, "float64")):
            f = jax.jit(functools.partial(getattr(m, name), labels=y.astype(dtype), **options))
            loss, pull = jax.vjp(f, z.astype(dtype))
            results.append((loss, pull(jnp.ones_like(loss))[0]))
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


ONE_UNIT = [
    ((5, 1), (5,)),
    ((5, 1), (5, 1)),
    ((5, 1), (1, 5)),
    ((1,), (5, 6)),
    ((2, 1, 3), (2, 4, 3)),
]


@pytest.mark.parametrize("kind", ["float32", "int32"])
@pytest.mark.parametrize(("shape", "labels"), ONE_UNIT)
def test_one_unit(shape, labels, kind):
    """With one output unit, logits and labels broadcast as in optax, to the same numbers."""
    rng = np.random.default_rng(4)
    z = jnp.asarray(rng.normal(size=shape).astype(np.float32))
    y = jnp.asarray(rng.integers(0, 2, labels).astype(kind))
    for name in ("sigmoid_binary_cross_entropy", "sigmoid_focal_loss", "softmax_cross_entropy"):
        for axis in (-1, -2) if name == "softmax_cross_entropy" and len(shape) > 1 else (-1,):
            options = {"axis": axis} if name == "softmax_cross_entropy" else {}
            one, pull = both(getattr(ours, name), z, y, **options)
            other, pull_other = both(getattr(optax, name), z, y, **options)
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
            u = np.linspace(-1, 2, other.size).reshape(other.shape)
            np.testing.assert_allclose(pull(u), pull_other(u), rtol=1e-4, atol=1e-5)


def test_one_class_has_one_label():
    """With one class, the only valid class index is 0; 1 is an error (NaN in optax)."""
    z = jnp.array([[1.0], [-2.0], [0.5]])
    for name in (BY_INDEX, "softmax_focal_loss"):
        assert not np.asarray(getattr(ours, name)(z, jnp.zeros(3, int))).any()
        with pytest.raises(
            REFUSED, match="target 1 at position 1 is out of range: 0 <= target < 1"
        ):
            jax.block_until_ready(getattr(ours, name)(z, jnp.array([0, 1, 0])))


def test_labels_of_more_dimensions():
    """Labels with more dimensions than the logits need a negative axis.

    Counted from the front, it would be two different axes.
    """
    z, y = jnp.zeros((4, 3)), jnp.ones((2, 4, 3))
    for axis in (-1, -2, (-1, -2), None):
        one, other = (m.softmax_cross_entropy(z, y, axis) for m in (ours, optax))
        np.testing.assert_allclose(one, other, rtol=1e-6)
    with pytest.raises(ValueError, match="axis must be negative where labels have more dimensions"):
        ours.softmax_cross_entropy(z, y, axis=1)
    with pytest.raises(ValueError, match="where has 3 dimensions and logits have 2"):
        ours.softmax_cross_entropy(z, z, where=y)
    for where in (jnp.arange(4) > 1, jnp.arange(3) > 0, (jnp.arange(12) > 4).reshape(4, 3)):
        where = where[:, None] if where.shape == (4,) else where
        where = where[None] if where.ndim == 1 else where
        one, other = (m.softmax_cross_entropy(z, y, where=where) for m in (ours, optax))
        np.testing.assert_allclose(one, other, rtol=1e-6)
    # where= broadcasts the logits of one class to six classes.
    wide = jnp.asarray(np.random.default_rng(0).random((5, 6)) > 0.4)
    one, other = (m.softmax_cross_entropy(jnp.ones((5, 1)), jnp.ones((5, 6)), where=wide)
                  for m in (ours, optax))  # fmt: skip
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_one_mask_for_all():
    z, t = jnp.ones((3, 4)), jnp.full((3, 4), 0.25)
    for where in (True, False):
        want = optax.losses.softmax_cross_entropy(z, t, where=jnp.array(where))
        got = ours.softmax_cross_entropy(z, t, where=jnp.array(where))
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_errors():
    z, k = jnp.zeros((4, 3)), jnp.zeros(4, int)
    f = getattr(ours, BY_INDEX)
    with pytest.raises(TypeError, match=r"logits must be float64, float32, .*, got int32"):
        f(k[None], k[:1])
    with pytest.raises(TypeError, match="labels must be integers, got float32"):
        f(z, z[:, 0])
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\), got \(4, 3\)"):
        f(z, jnp.zeros((4, 3), int))
    with pytest.raises(ValueError, match="axis must be between -2 and 1, got 2"):
        f(z, k, axis=2)
    with pytest.raises(ValueError, match=r"gamma must be a finite number >= 0, got -1\.0"):
        ours.sigmoid_focal_loss(z, z, gamma=-1)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 2\.0"):
        ours.sigmoid_focal_loss(z, z, alpha=2)
    with pytest.raises(TypeError, match="gamma must be a number when the function is traced"):
        jax.jit(lambda g: ours.softmax_focal_loss(z, k, g))(2.0)
    assert ours.softmax_focal_loss(z, k, jnp.asarray(2.0)).shape == (4,)


NO_SECOND = r"have no second derivative: for jax\.hessian .* use the loss of the same name in optax"
NO_FORWARD = r"not differentiated in forward mode .*: use reverse mode .*, or the loss"
NOT_BY_LABELS = r"not differentiated by their labels: pass jax\.lax\.stop_gradient"


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["", "jit"])
def test_what_is_not_differentiated(wrap):
    """Second derivatives and derivatives by the labels raise NotImplementedError."""
    drawn = draw((4, 3))
    z, k, q = (jnp.asarray(drawn[x]) for x in ("z", "index", "distribution"))
    f = functools.partial(mean_of(getattr(ours, BY_INDEX)), t=k)
    soft = mean_of(ours.softmax_cross_entropy)
    for second in (jax.hessian(f), jax.grad(lambda z: jax.grad(f)(z)[0, 0]),
                   jax.jacrev(jax.jacrev(f)), lambda z: jax.jvp(jax.grad(f), (z,), (z,)),
                   jax.grad(lambda z: jax.jvp(f, (z,), (z,))[1])):  # fmt: skip
        with pytest.raises(NotImplementedError, match=NO_SECOND):
            wrap(second)(z)
    for argnums in (1, (0, 1)):
        with pytest.raises(NotImplementedError, match=NOT_BY_LABELS):
            wrap(jax.grad(soft, argnums))(z, q)
    with pytest.raises(NotImplementedError, match=NOT_BY_LABELS):
        wrap(jax.grad(lambda z: soft(z, jax.nn.softmax(z))))(z)
    wrap(jax.grad(lambda z: soft(z, jax.lax.stop_gradient(jax.nn.softmax(z)))))(z)


FORWARD = {
    "jvp": lambda f: lambda z: jax.jvp(f, (z,), (z,)),
    "jacfwd": jax.jacfwd,
    "linearize": lambda f: lambda z: jax.linearize(f, z)[1](z),
    "vmap of jvp": lambda f: jax.vmap(lambda v: jax.jvp(f, (v[:, :3],), (v[:, 3:],))[1]),
    "scan": lambda f: (
        lambda z: jax.jvp(
            lambda z: jax.lax.scan(lambda c, _: (c + f(z), None), 0.0, None, length=2)[0],
            (z,),
            (z,),
        )
    ),
    "remat": lambda f: lambda z: jax.jvp(jax.checkpoint(f), (z,), (z,)),
}


@pytest.mark.parametrize("inner", [lambda f: f, jax.jit], ids=["", "of jit"])
@pytest.mark.parametrize("outer", [lambda f: f, jax.jit], ids=["", "jit"])
@pytest.mark.parametrize("way", FORWARD)
def test_forward_mode(way, outer, inner):
    """Forward mode raises an error that says what to use instead, by any way to forward mode."""
    z = jnp.asarray(draw((4, 3))["z"])
    f = inner(lambda z: getattr(ours, BY_INDEX)(z, jnp.array([0, 1, 2, 0])).mean())
    x = jnp.stack([jnp.tile(z, 2)] * 2) if "vmap" in way else z
    with pytest.raises(NotImplementedError, match=NO_FORWARD):
        outer(FORWARD[way](f))(x)


def test_inputs_are_left_alone():
    """The logits are not changed; a donated array gives the same gradient."""
    drawn = draw()
    z, k = jnp.asarray(drawn["z"]), jnp.asarray(drawn["index"])
    f = mean_of(getattr(ours, BY_INDEX))
    want = jax.jit(jax.grad(f))(z, k)
    assert np.asarray(z).tobytes() == drawn["z"].tobytes()
    got = jax.jit(jax.grad(f), donate_argnums=0)(jnp.array(drawn["z"]), k)
    assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def test_threads():
    """Eight threads at once get bit for bit the results of sequential calls.

    Eager and compiled calls, small and large arrays.
    """
    jobs = []
    for shape in ((4, 5), (300, 300), (2, 40_000), (9000, 9)):
        drawn = draw(shape)
        f = jax.jit(jax.value_and_grad(mean_of(getattr(ours, BY_INDEX))))
        jobs.append((f, jnp.asarray(drawn["z"]), jnp.asarray(drawn["index"])))
        jobs.append((ours.sigmoid_focal_loss, jobs[-1][1], jnp.asarray(drawn["hard"])))

    def bits(job):
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(job[0](*job[1:]))]

    want = [bits(job) for job in jobs]

    def work(first):
        return [k for k in range(first, first + 40) if bits(jobs[k % 8]) != want[k % 8]]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8), timeout=200)) == [[]] * 8


def test_memory():
    """2000 calls increase the peak memory by less than 8 MB."""
    resource = pytest.importorskip("resource")
    z, k = jnp.zeros((64, 500)), jnp.zeros(64, int)
    f = jax.jit(jax.value_and_grad(mean_of(getattr(ours, BY_INDEX))))
    for _ in range(200):
        jax.block_until_ready(f(z, k))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2000):
        jax.block_until_ready(f(z, k))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


@pytest.mark.slow(reason="two processes import JAX and compile for two devices")
def test_several_devices():
    """pmap, shard_map and sharded arrays under jit agree with optax on two devices.

    With and without asynchronous dispatch.
    """
    for dispatch in ("true", "false"):
        run_script("""
            import os
            os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
            import jax, numpy as np, jax.numpy as jnp, optax
            from jax.sharding import PartitionSpec as P, NamedSharding
            from fusedce.adapters import jax as ours
            name = "softmax_cross_entropy_with_integer_labels"
            rng = np.random.default_rng(0)
            z = rng.normal(size=(2, 64, 50)).astype(np.float32)
            k = rng.integers(0, 50, (2, 64)).astype(np.int32)
            def mean(m):
                return lambda z, k: getattr(m, name)(z, k).mean()
            want = jax.vmap(jax.value_and_grad(mean(optax)))(z, k)
            for _ in range(3):
                got = jax.pmap(jax.value_and_grad(mean(ours)))(z, k)
            for a, b in zip(got, want): np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
            mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
            flat, labels = z.reshape(128, 50), k.reshape(128)
            want = jax.value_and_grad(mean(optax))(flat, labels)
            for spec in (P("x"), P(None, "x"), P()):
                put = jax.device_put(flat, NamedSharding(mesh, spec))
                got = jax.jit(jax.value_and_grad(mean(ours)))(put, labels)
                for a, b in zip(got, want): np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
            def local(z, k):
                return jax.grad(lambda z: getattr(ours, name)(z, k).sum())(z)
            got = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P("x"), P("x")),
                                        out_specs=P("x")))(flat, labels)
            np.testing.assert_allclose(got, want[1] * 128, rtol=1e-5, atol=1e-6)
        """, JAX_CPU_ENABLE_ASYNC_DISPATCH=dispatch)  # fmt: skip


def test_a_compiled_program_outlives_its_process(tmp_path):
    """A program in JAX's compilation cache works in another process.

    It holds only the text of the call, no address of this process.
    """
    text = """
        import jax, jax.numpy as jnp
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        from fusedce.adapters import jax as ours
        y = jnp.array([1, 0])
        f = jax.jit(jax.grad(lambda z: ours.sigmoid_focal_loss(z, y, gamma=3.7).sum()))
        print(f(jnp.array([0.5, -0.5])))
    """
    first, second = (run_script(text, JAX_COMPILATION_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first == second
    assert list(tmp_path.iterdir())


def test_on_a_gpu(gpu, monkeypatch):
    """Arrays on a GPU are passed to the GPU kernels and back by DLPack without a copy."""

    def from_dlpack(x):
        return gpu.array(np.from_dlpack(x))

    monkeypatch.setattr(
        fakes.Array, "__dlpack__", lambda a, **o: a.memory.__dlpack__(), raising=False
    )
    monkeypatch.setattr(
        fakes.Array, "__dlpack_device__", lambda a: a.memory.__dlpack_device__(), raising=False
    )
    monkeypatch.setattr(
        jax_operators.array_libraries, "_cupy", lambda: SimpleNamespace(from_dlpack=from_dlpack)
    )
    monkeypatch.setattr(jax_operators, "_on_gpu", lambda x: not isinstance(x, jax.core.Tracer))
    z, k = jnp.zeros((4, 3)), jnp.zeros(4, int)
    loss, pull = jax.vjp(lambda z: getattr(ours, BY_INDEX)(z, k), z)
    u = jnp.arange(4.0)
    (grad,) = pull(u)
    assert (loss.shape, grad.shape) == ((4,), (4, 3))
    forward, backward = (launch[2] for launch in gpu.launches)
    assert forward.logits == backward.logits == z.unsafe_buffer_pointer()
    assert forward.targets == backward.targets == k.unsafe_buffer_pointer()
    assert (forward.grad, backward.sample_weight) == (0, u.unsafe_buffer_pointer())
    assert forward.loss == loss.unsafe_buffer_pointer()
    assert backward.grad == grad.unsafe_buffer_pointer()


def test_on_a_gpu_inside_jit():
    """Inside jit on a GPU the registered handler raises an error that says what to do instead."""
    jax.ffi.register_ffi_target(
        "fusedce_elsewhere", jax.ffi.pycapsule(jax_operators._HANDLERS["CUDA"].address), "cpu"
    )
    call = jax.ffi.ffi_call("fusedce_elsewhere", jax.ShapeDtypeStruct((2,), np.float32))
    with pytest.raises(Exception, match=r"UNIMPLEMENTED: .*on a GPU call the loss outside of jit"):
        jax.block_until_ready(jax.jit(lambda z: call(z, call=""))(jnp.zeros(2)))


def test_version_of_the_interface(tmp_path):
    """A jaxlib with another major version of the FFI interface raises an ImportError."""
    folder = tmp_path / "xla" / "ffi" / "api"
    folder.mkdir(parents=True)
    text = "#define XLA_FFI_API_MAJOR {}\n#define XLA_FFI_API_MINOR 7\n"
    (folder / "c_api.h").write_text(text.format(0))
    assert jax_xla.version(str(tmp_path)) == (0, 7)
    (folder / "c_api.h").write_text(text.format(1))
    with pytest.raises(ImportError, match=r"version 1\.7, not 0\.x"):
        jax_xla.version(str(tmp_path))
