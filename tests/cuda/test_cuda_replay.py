"""Replayed GPU calls: what they launch, what they allocate, what they check again."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fusedce
from fusedce.backends import array_libraries, cpu_replay, cuda_replay
from tests.core.test_errors import K, Z, dense
from tests.cuda.fakes import fake_gpu
from tests.cuda.test_dispatch import LAYOUTS, at

__all__ = ["fake_gpu"]  # the fixture

OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none", "return_hessian": True},
    {"return_grad": False},
    {"weight": np.ones(3), "sample_weight": np.ones(4, np.float32)},
    {"denominator": np.array(3.0)},
    {"denominator": 2.5, "axis": 1, "label_smoothing": 0.1},
    {"denominator": np.float32(3)},
    {"activation": "sigmoid", "pos_weight": np.ones(3), "validate": False},
    {"activation": "sigmoid", "pos_weight": 2.0},
]


def filled(gpu, options):
    """The options with GPU arrays of their own."""
    return {k: gpu.array(v.copy()) if isinstance(v, np.ndarray) else v for k, v in options.items()}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
def test_the_same_launches(options, gpu):
    """Other arrays reuse the program: the same launches, with their addresses and new outputs."""
    before = None
    for _ in range(4):
        z, t, more = gpu.array(Z()), gpu.array(K()), filled(gpu, options)
        results = fusedce.cross_entropy(z, t, **more)
        results = results if isinstance(results, tuple) else (results,)
        where = gpu.where
        assert (where.logits, where.targets) == (at(z), at(t))
        for name in ("weight", "pos_weight", "sample_weight"):
            assert getattr(where, name) == (at(more[name]) if hasattr(more.get(name), "memory")
                                            else 0)  # fmt: skip
        if hasattr(more.get("denominator"), "memory"):
            assert where.user_denominator == at(more["denominator"])
        placed = [where.loss or where.total, where.grad, where.hess]
        assert [at(r) for r in results] == [p for p in placed if p]
        assert len(gpu.problems) == 1
        assert gpu.launches[-1][1] == gpu.launches[0][1]
        shapes = [(r.memory.shape, r.memory.strides, r.memory.dtype) for r in results]
        assert before in (None, shapes)
        places = {at(z), at(t), *map(at, results)}
        assert len(places) == 2 + len(results)
        before = shapes


def test_the_same_tuple_of_launches(gpu, monkeypatch):
    """The tuple of launches is the same object, by which the launcher finds what it has loaded."""
    seen = []
    monkeypatch.setattr(
        array_libraries, "launch", lambda library, launches, *_: seen.append(launches)
    )
    monkeypatch.setattr(gpu, "plan", lambda *_, **__: program_of_one_launch())
    for _ in range(3):
        fusedce.cross_entropy(gpu.array(Z()), gpu.array(K()))
        fusedce.softmax(gpu.array(Z()))
    assert seen[0] is seen[2] is seen[4]
    assert seen[1] is seen[3] is seen[5]


def program_of_one_launch():
    from fusedce.kernels.cuda.kernel_args import Plan

    return Plan(("label_pass",), ("losses",), 64)


def variants(gpu):
    """Calls, no two of which may share a program."""
    z, t = Z(), K()
    yield (z, t), {}
    for memory in LAYOUTS.values():
        if memory.shape == (6, 4):
            yield (memory, np.zeros(6, np.int64)), {}
    yield (Z().T.copy().T, t), {}
    yield (z, t.astype(np.int32)), {}
    yield (z, t.astype(np.uint32)), {}
    yield (z, np.repeat(t, 2)[::2]), {}
    yield (z, dense()), {}
    for k in range(1, 4):  # an address that is no multiple of 16
        yield (np.zeros(16, np.float32)[k : k + 12].reshape(4, 3), t), {}
    for options in (
        {"ignore_index": 0}, {"ignore_index": 1}, {"reduction": "sum"}, {"reduction": "none"},
        {"label_smoothing": 0.0}, {"label_smoothing": -0.0}, {"label_smoothing": 0.5},
        {"label_smoothing": 1}, {"normalize_targets": False}, {"denominator": 1},
        {"denominator": 1.0}, {"denominator": np.float32(1)}, {"denominator": np.float64(1)},
        {"denominator": np.array(1.0)}, {"denominator": np.array(1)}, {"axis": 1},
        {"return_hessian": True}, {"return_grad": False}, {"weight": np.ones(3)},
        {"weight": np.ones(3, np.float32)}, {"weight": np.ones(6)[::2]}, {"validate": False},
        {"sample_weight": np.ones(4)}, {"activation": "sigmoid"}, {"activation": None},
        {"activation": "sigmoid", "weight": np.ones(3)},
        {"activation": "sigmoid", "pos_weight": np.ones(3)},
        {"grad_out": z}, {"grad_out": Z()}, {"loss_out": np.zeros((), np.float32)},
    ):  # fmt: skip
        yield (z, t), options


def test_other_calls_are_other_programs(gpu):
    """Everything that may change the launches is a part of the signature."""
    calls = list(variants(gpu))
    for count in range(2):
        for n, (args, options) in enumerate(calls):
            fusedce.cross_entropy(*map(gpu.array, args), **moved(gpu, options))
            assert len(gpu.problems) == (n + 1 if count == 0 else len(calls)), options
    for alpha in (None, 0.0, -0.0, 0.25):
        for gamma in (0.0, 2.0, 3.0):
            before = len(gpu.problems)
            fusedce.focal(gpu.array(Z()), gpu.array(dense()), gamma=gamma, alpha=alpha)
            assert len(gpu.problems) == before + 1
    before = len(gpu.problems)
    fusedce.cross_entropy(gpu.array(Z(), device=1), gpu.array(K(), device=1))
    fusedce.cross_entropy(gpu.other.array(Z()), gpu.array(K()))
    assert len(gpu.problems) == before + 2


def moved(gpu, options):
    return {k: gpu.array(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}


def test_what_takes_the_ordinary_way(gpu, monkeypatch):
    """Calls that copy arrays or numbers to the device, or that validate, are not replayed."""
    z, t = gpu.array(Z()), gpu.array(K())
    odd = gpu.array(np.zeros(49, np.uint8)[1:].view(np.float32).reshape(4, 3))
    crop = gpu.array(np.zeros((2, 3, 5, 7), np.float32)[:, :, :4, :5])
    labels = gpu.array(np.zeros((2, 4, 5), np.int64))
    for args, options in (
        ((odd, t), {}), ((crop, labels), {"axis": 1}), ((z, t), {"validate": True}),
        ((z, t), {"sample_weight": 0.5}),
    ):  # fmt: skip
        for _ in range(2):
            before = len(gpu.problems)
            fusedce.cross_entropy(*args, **options)
            assert len(gpu.problems) == before + 1
    assert not cpu_replay._PREPARED


def test_new_arrays_off_sixteen(gpu, monkeypatch):
    """If the allocator aligns to less than 16 bytes, calls are planned anew, for that offset."""
    z, t = gpu.array(Z()), gpu.array(K())
    fusedce.cross_entropy(z, t)
    aligned = gpu.library.empty

    def empty(shape, dtype, strides, device):
        whole = aligned((128,), np.uint8, None, device).memory
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return gpu.array(whole[8 : 8 + size].view(dtype).reshape(shape))

    monkeypatch.setattr(gpu.library, "empty", empty)
    for n in range(2):
        _, grad = fusedce.cross_entropy(z, t)
        assert gpu.where.grad == at(grad)
        assert at(grad) % 16 == 8
        assert len(gpu.problems) == 2 + n
    cpu_replay._PREPARED.clear()
    fusedce.cross_entropy(z, t)
    assert not cpu_replay._PREPARED  # a call with unaligned outputs is not kept


def test_errors_of_known_signatures(gpu):
    """A repeated call raises the same errors as an ordinary one."""
    memory = np.zeros(64, np.float32)

    def z():
        return gpu.array(memory[:12].reshape(4, 3))

    t = gpu.array(K())
    far, near = memory[32:44].reshape(4, 3), memory[4:16].reshape(4, 3)
    for options in ({"grad_out": far}, {"hess_out": far, "return_hessian": True}):
        fusedce.cross_entropy(z(), t, **moved(gpu, options))
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"{name} overlaps logits in memory"):
            fusedce.cross_entropy(z(), t, **moved(gpu, options | {name: near}))
    fusedce.cross_entropy(z(), t, grad_out=gpu.array(far), sample_weight=gpu.array(memory[16:20]))
    with pytest.raises(ValueError, match="grad_out overlaps sample_weight in memory"):
        fusedce.cross_entropy(z(), t, grad_out=gpu.array(far),
                              sample_weight=gpu.array(memory[32:36]))  # fmt: skip
    both = {"grad_out": gpu.array(far), "hess_out": gpu.array(memory[48:60].reshape(4, 3))}
    fusedce.cross_entropy(z(), t, return_hessian=True, **both)
    with pytest.raises(ValueError, match="grad_out overlaps hess_out in memory"):
        fusedce.cross_entropy(
            z(), t, return_hessian=True, **(both | {"hess_out": both["grad_out"]})
        )
    with pytest.raises(ValueError, match="logits is on GPU 0 and targets on GPU 1"):
        fusedce.cross_entropy(z(), gpu.array(K(), device=1))
    fusedce.softmax(z(), out=gpu.array(far))
    with pytest.raises(ValueError, match="out overlaps logits in memory"):
        fusedce.softmax(z(), out=gpu.array(near))
    for name in ("return_grad", "return_hessian", "normalize_targets"):
        fusedce.cross_entropy(z(), t, **{name: False})
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 0"):
            fusedce.cross_entropy(z(), t, **{name: 0})
    launched = len(gpu.launches)
    assert fusedce.softmax(z(), out=z()).memory.ctypes.data == memory.ctypes.data
    assert len(gpu.launches) == launched + 1


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sigmoid", "log_sigmoid"])
def test_activations(name, gpu):
    """Each activation has a program per axis, dtype and kind of output (new, given, in place)."""
    fn = getattr(fusedce, name)
    axes = ({}, {"axis": 0}, {"axis": 1}) if name.endswith("softmax") else ({},)
    for count in range(2):
        for n, options in enumerate(axes):
            for k, memory in enumerate((Z(), Z(np.float64))):
                out = fn(gpu.array(memory), **options)
                assert gpu.where.grad == at(out)
                assert out.memory.dtype == memory.dtype
                if not count:
                    assert len(gpu.problems) == 2 * n + k + 1
    assert len(gpu.problems) == 2 * len(axes)
    z = gpu.array(Z())
    for _ in range(2):
        assert fn(z, out=z) is z
        buffer = gpu.array(Z())
        assert fn(z, out=buffer) is buffer
    assert len(gpu.problems) == 2 * len(axes) + 2
    assert fn(gpu.array(Z()[0]), **({"axis": np.int64(0)} if len(axes) > 1 else {})) is not None


def test_no_array_is_kept(gpu):
    def call_once():
        arrays = [gpu.array(Z()), gpu.array(K()), gpu.array(np.ones(3)), gpu.array(Z())]
        z, t, w, g = arrays
        loss, _ = fusedce.cross_entropy(z, t, weight=w, grad_out=g)
        gpu.problems.clear()
        gpu.options.clear()
        return [weakref.ref(a) for a in (*arrays, loss)]

    seen = call_once()
    gc.collect()
    assert [r() for r in seen] == [None] * 5
    assert len(cpu_replay._PREPARED) == 1
    (kept,) = cpu_replay._PREPARED.values()
    assert type(kept) is cuda_replay.Prepared


def test_no_more_than_so_many(gpu, monkeypatch):
    monkeypatch.setattr(cpu_replay, "MAX_PREPARED", 4)
    for n in range(1, 12):
        for _ in range(2):
            fusedce.cross_entropy(gpu.array(Z(shape=(n, 3))), gpu.array(np.zeros(n, int)))
            assert 1 <= len(cpu_replay._PREPARED) <= 4
    assert len(gpu.problems) == 11


def test_eight_threads(gpu):
    """Each of eight threads launches with the addresses of its own arrays."""
    start = threading.Barrier(8)
    seen = threading.local()

    def launch(library, launches, addresses, device, stream):
        seen.addresses = addresses

    array_libraries.launch = launch  # put back by the fixture

    def work(_):
        start.wait()
        for _ in range(200):
            z, t = gpu.array(Z()), gpu.array(K())
            loss, grad = fusedce.cross_entropy(z, t)
            if [seen.addresses[k] for k in (0, 1, 7, 9)] != [at(a) for a in (z, t, grad, loss)]:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_cpu_calls_in_between(gpu):
    """CPU and GPU calls with the same shapes and options do not affect each other."""
    want = fusedce.cross_entropy(Z(), K())
    for _ in range(3):
        fusedce.cross_entropy(gpu.array(Z()), gpu.array(K()))
        got = fusedce.cross_entropy(Z(), K())
        assert got[0] == want[0]
        np.testing.assert_array_equal(got[1], want[1])
    assert len(gpu.launches) == 3
