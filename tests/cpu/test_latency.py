"""Repeated calls are replayed from a cache of prepared calls: same bits, and no array is kept."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fusedce
from fusedce.backends import cpu_replay
from fusedce.kernels.cpu import runtime
from fusedce.losses.focal import RealFocal
from fusedce.losses.generalized_cross_entropy import GeneralizedCrossEntropy
from tests.cpu.latency import FLOATS, bits, count_ordinary_calls, data, forget

__all__ = ["count_ordinary_calls"]  # the fixture

ARRAYS = {  # options that are arrays, new for each call
    "weight": lambda rng: rng.random(5) + 0.5,
    "pos_weight": lambda rng: rng.random(5).astype(np.float32) + 0.5,
    "sample_weight": lambda rng: rng.normal(size=7),
}
CASES = [  # function, targets, options
    ("cross_entropy", "index", {}),
    ("cross_entropy", "index", {"reduction": "none", "return_hessian": True}),
    ("cross_entropy", "index", {"reduction": "sum", "return_grad": False}),
    ("cross_entropy", "index", {"label_smoothing": 0.1, "ignore_index": 2, "z_loss": 1e-3}),
    ("cross_entropy", "index", {"weight": ..., "sample_weight": ...}),
    ("cross_entropy", "index", {"weight": ..., "label_smoothing": 0.25, "denominator": 3}),
    ("cross_entropy", "index", {"softcap": 5.0, "logit_scale": 0.5, "validate": True}),
    ("cross_entropy", "soft", {"denominator": 2.5}),
    ("cross_entropy", "soft", {"normalize_targets": True, "weight": ...}),
    ("cross_entropy", "probabilities", {"activation": None, "return_hessian": True}),
    ("binary_cross_entropy", "index", {"weight": ...}),
    ("binary_cross_entropy", "soft", {"pos_weight": ..., "sample_weight": ...}),
    ("binary_cross_entropy", "uint8", {"ignore_index": 1}),
    ("focal", "float32", {}),
    ("focal", "bool", {"alpha": 0.25, "gamma": 1.5, "reduction": "sum"}),
    ("focal", "int64", {"alpha": 0.25, "weight": ..., "pos_weight": 2.0}),
    ("focal", "soft", {"soft_labels": "torchvision", "sample_weight": ...}),
    ("focal", "index", {"activation": "softmax", "return_hessian": True}),
    ("poly1", "index", {"epsilon": -0.5}),
    ("asymmetric", "uint8", {"clip": 0.1}),
    ("generalized_cross_entropy", "soft", {"q": 0.5, "axis": 1}),
]  # fmt: skip
each_case = pytest.mark.parametrize(
    ("name", "form", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(v)
)


def filled(options, seed):
    """The options, with a new random array in place of each `...`."""
    rng = np.random.default_rng(seed)
    return {k: ARRAYS[k](rng) if v is ... else v for k, v in options.items()}


@each_case
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: np.dtype(d).name)
def test_same_bits(name, form, options, dtype, ordinary):
    """A replayed call with other arrays gives the same bits as a call that is prepared anew."""
    fn = getattr(fusedce, name)
    calls = [(data(form, dtype, seed), filled(options, seed)) for seed in range(3)]
    want = []
    for args, given in calls:
        forget()
        want.append(bits(fn(*args, **given)))
    assert len(ordinary) == len(calls)
    for (args, given), expected in zip(calls, want, strict=True):
        before = [a.tobytes() for a in (*args, *given.values()) if isinstance(a, np.ndarray)]
        assert bits(fn(*args, **given)) == expected
        after = [a.tobytes() for a in (*args, *given.values()) if isinstance(a, np.ndarray)]
        assert before == after
    assert len(ordinary) == len(calls)  # none of the repeated calls was prepared anew


@each_case
def test_outputs_of_the_caller(name, form, options, ordinary):
    """Output buffers are filled and returned; the gradient may be written over the logits."""
    fn = getattr(fusedce, name)
    options = options | {"return_grad": True, "return_hessian": True}
    args, given = data(form, np.float32, 0), filled(options, 0)
    want = bits(fn(*args, **given))
    shape = np.shape(fn(*args, **given)[0])
    for in_place in (False, False, True, True):
        z, t = (a.copy() for a in args)
        loss, grad, hess = np.empty(shape, np.float32), np.empty_like(z), np.empty_like(z)
        buffers = {"loss_out": loss, "grad_out": z if in_place else grad, "hess_out": hess}
        got = fn(z, t, **given, **buffers)
        assert all(a is b for a, b in zip(got, buffers.values(), strict=True))
        assert [b[0] for b in bits(got)] == [w[0] for w in want]
    assert len(ordinary) == 3  # without buffers, with buffers, and in place


@pytest.mark.parametrize("form", ["elements", "classes", "softmax"])
def test_ignored_or_not(form, ordinary):
    """One signature, with no label, one label or every label equal to ignore_index, in turn."""
    fn = fusedce.cross_entropy if form == "softmax" else fusedce.binary_cross_entropy
    z = np.random.default_rng(0).normal(size=(60, 4))
    t = (z > 0).astype(np.int64) if form == "elements" else np.arange(60) % 4
    some, none = t.copy(), np.full_like(t, -100)
    some[7] = -100
    losses, grads = fn(z, t, reduction="none")
    for k in (0, 1, 2, 1, 0, 2, 0):
        labels = (t, some, none)[k]
        kept = np.broadcast_to((labels >= 0).reshape(60, -1), z.shape)
        counted = losses[kept if losses.shape == z.shape else kept[:, 0]]
        loss, grad = fn(z, labels)
        if k == 2:
            assert np.isnan(loss)
        else:
            assert np.isclose(loss, counted.mean(), 1e-13)
        expected = np.where(kept, grads, 0) / max(1, counted.size)
        np.testing.assert_allclose(grad, expected, 1e-13, 1e-300)
    assert len(ordinary) == 2


LAYOUTS = {
    "C": lambda a: a,
    "F": np.asfortranarray,
    "stepping": lambda a: np.repeat(a, 3, axis=-1)[..., ::3],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "backwards in both": lambda a: a[..., ::-1].copy()[..., ::-1],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "unaligned": lambda a: np.frombuffer(b"." + a.tobytes(), a.dtype, -1, 1).reshape(a.shape),
    "swapped": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "spread": lambda a: np.broadcast_to(a[:1], a.shape),
    "matrix of a subclass": lambda a: a.view(type("Own", (np.ndarray,), {})),
    "list": lambda a: a.tolist(),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_layouts(name, kind):
    """Results are right for each layout after calls with all others of the same shape and dtype."""
    fn, form = getattr(fusedce, name), "index" if name == "cross_entropy" else "float64"
    for seed in (0, 1):
        for other in LAYOUTS.values():
            fn(*map(other, data(form, np.float64, 2)))
        args = data(form, np.float64, seed)
        arranged = [LAYOUTS[kind](a) for a in args]
        plain = [np.array(a) for a in arranged]
        got = fn(*arranged)
        forget()
        loss, grad = fn(*plain)
        np.testing.assert_allclose(got[0], loss, 1e-14)
        np.testing.assert_allclose(got[1], grad, 1e-13, 1e-300)


def test_what_takes_the_ordinary_way(ordinary):
    """Inputs that must be copied, or are not plain arrays, are never replayed."""
    z, t = data("index", np.float64, 0)
    for kind in ("unaligned", "swapped", "matrix of a subclass", "list"):
        for args in ((LAYOUTS[kind](z), t), (z, LAYOUTS[kind](t))):
            fusedce.cross_entropy(z, t)
            before = len(ordinary)
            for _ in range(2):
                fusedce.cross_entropy(*args)
            assert len(ordinary) == before + 2


def test_dtypes_beside_each_other():
    """Arrays of equal shape and layout but different dtypes do not share a prepared call."""
    z = np.random.default_rng(0).normal(size=(6, 4))
    y = (z > 0).astype(np.int64)
    labels = [y, y.astype(np.float64), y.astype(np.uint64), y.astype(np.float64) / 2]
    logits = [z.astype(dtype) for dtype in FLOATS]
    for a in logits:
        for t in labels:
            forget()
            want = bits(fusedce.focal(a, t))
            for others in (logits, labels):
                for other in others:
                    fusedce.focal(
                        other if others is logits else a, other if others is labels else t
                    )
            assert bits(fusedce.focal(a, t)) == want


def test_rules_beside_each_other():
    """Two rules with equal parameters, both called by `apply`, do not share a prepared call."""
    z, t = data("index", np.float64, 0)
    rules = [RealFocal(0.5), GeneralizedCrossEntropy(0.5)]
    want = []
    for rule in rules:
        forget()
        want.append(bits(fusedce.apply(rule, z, t)))
    assert want[0] != want[1]
    for k in (0, 1, 0, 1):
        assert bits(fusedce.apply(rules[k], z, t)) == want[k]


def test_one_class_of_no_weight():
    """One class, with weight 1 and 0 in turn: weight 0 gives loss 0 even where a logit is -inf."""
    z, y = np.ones((40, 1)), np.ones((40, 1))
    z[3] = -np.inf
    for weight in (1.0, 0.0, 1.0, 0.0):
        loss, grad = fusedce.binary_cross_entropy(z, y, weight=np.array([weight]))
        assert loss == (np.inf if weight else 0.0)
        assert not np.isnan(grad).any()


def test_shapes_beside_each_other():
    """Different shapes and axes, many with the same number of elements, do not share a call."""
    for shape in ((6, 4), (4, 6), (24, 1), (1, 24), (2, 3, 4), (0, 4), (2, 0, 3), (6, 4)):
        for axis in range(len(shape)):
            z = np.random.default_rng(1).normal(size=shape)
            if shape[axis] == 0:
                continue
            t = np.zeros(shape[:axis] + shape[axis + 1 :], int)
            want = np.log(np.exp(z).sum(axis=axis)) - z.take(0, axis)
            for _ in range(2):
                got = fusedce.cross_entropy(z, t, axis=axis, reduction="none")[0]
                np.testing.assert_allclose(got, want, 1e-13, 1e-15)


def test_results_are_new():
    """Results of different calls share no memory with each other, the inputs or the cache."""
    z, t = data("index", np.float32, 0)
    results = [fusedce.cross_entropy(z, t, reduction="none", return_hessian=True) for _ in "abcd"]
    arrays = [a for r in results for a in r]
    for k, a in enumerate(arrays):
        assert a.flags.owndata
        assert a.flags.writeable
        assert not any(np.may_share_memory(a, b) for b in (z, t, *arrays[:k]))
    first = bits(results[0])
    for a in results[1]:
        a[...] = 7
    assert bits(fusedce.cross_entropy(z, t, reduction="none", return_hessian=True)) == first


def test_other_rules_and_parameters(ordinary):
    """Losses and parameters that differ do not share a prepared call."""
    z, y = data("float32", np.float32, 0)
    jobs = [
        (fusedce.focal, {"gamma": gamma, "alpha": alpha, "soft_labels": soft})
        for gamma in (0.0, 1.0, 2.0, 2.5)
        for alpha in (None, 0.0, 0.25)
        for soft in ("split", "torchvision")
    ]
    jobs += [(fusedce.asymmetric, {"clip": c, "gamma_neg": g}) for c in (0.0, 0.1) for g in (1, 2)]
    want = []
    for fn, options in jobs:
        forget()
        want.append(bits(fn(z, y, **options)))
    for _ in range(2):
        for (fn, options), expected in zip(jobs, want, strict=True):
            assert bits(fn(z, y, **options)) == expected


def test_eight_threads_on_one_signature():
    """Eight threads that replay the same prepared call at once get the bits of single calls."""
    jobs = [data("index", np.float32, seed, (64, 50)) for seed in range(8)]
    want = [bits(fusedce.cross_entropy(*job)) for job in jobs]
    start = threading.Barrier(8)

    def work(k):
        start.wait()
        return all(bits(fusedce.cross_entropy(*jobs[k])) == want[k] for _ in range(300))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_no_more_than_so_many(monkeypatch):
    """At most MAX_PREPARED calls are kept, and results are right while others are dropped."""
    monkeypatch.setattr(cpu_replay, "MAX_PREPARED", 4)
    for _ in range(2):
        for n in range(1, 12):
            z, t = data("index", np.float64, n, (n, 3))
            loss = fusedce.cross_entropy(z, t, return_grad=False)
            want = np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(n), t])
            assert np.isclose(loss, want, 1e-13, 0)
            assert 1 <= len(cpu_replay._PREPARED) <= 4


def test_no_array_is_kept():
    """A prepared call keeps no argument array and no copy of one, such as 100,000 weights."""

    class Seen(np.ndarray):
        """A subclass for the base arrays, so that weak references show whether they are kept."""

    def call_once(n):
        base = [np.zeros(n).view(Seen) for _ in range(4)]
        z, g, w, s = (np.asarray(a) for a in base)
        t = np.zeros(1, int)
        fusedce.cross_entropy(z.reshape(1, n), t, weight=w + 1, sample_weight=s[:1],
                              grad_out=g.reshape(1, n))  # fmt: skip
        return [weakref.ref(a) for a in base]

    seen = call_once(1000)
    gc.collect()
    assert [r() for r in seen] == [None] * 4
    assert len(cpu_replay._PREPARED) <= 1
    sizes = [sum(a.nbytes for a in arrays_of(p)) for p in cpu_replay._PREPARED.values()]
    call_once(100_000)
    assert [sum(a.nbytes for a in arrays_of(p)) for p in cpu_replay._PREPARED.values()][:1] == sizes
    assert all(size < 4096 for size in sizes)


def arrays_of(thing, seen=None):
    """Every array that can be reached from an object of fusedce."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type):
        return
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        yield thing
    elif isinstance(thing, tuple | list):
        for part in thing:
            yield from arrays_of(part, seen)
    elif type(thing).__module__.startswith("fusedce"):
        names = getattr(type(thing), "__slots__", ()) or vars(thing)
        for name in names:
            yield from arrays_of(getattr(thing, name), seen)


def test_taken_threads_change_nothing():
    """A call that finds the threads taken runs on one thread, and leaves them marked as taken."""
    z, t = data("index", np.float32, 0, (700, 300))
    want = bits(fusedce.cross_entropy(z, t))
    assert runtime._taken[0] == 0
    runtime._taken[0] = 1
    try:
        assert bits(fusedce.cross_entropy(z, t)) == want
        forget()
        assert bits(fusedce.cross_entropy(z, t)) == want
        assert runtime._taken[0] == 1
    finally:
        runtime._taken[0] = 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no timers")
def test_interrupts_leave_the_threads_free():
    """After a KeyboardInterrupt at any moment, the threads are free and the next call is right."""
    z, t = data("index", np.float32, 0, (3000, 300))
    want = bits(fusedce.cross_entropy(z, t))
    count = 0

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for k in range(60):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (k + 1))
                for _ in range(20):
                    fusedce.cross_entropy(z, t)
            except KeyboardInterrupt:
                count += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert runtime._taken[0] == 0
    finally:
        signal.signal(signal.SIGALRM, before)
    assert count > 30
    assert bits(fusedce.cross_entropy(z, t)) == want
