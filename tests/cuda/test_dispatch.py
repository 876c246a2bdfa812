"""Calls with GPU arrays: what reaches the kernels, which arrays come back, and every error.

The libraries are fakes (``tests.cuda.fakes``), and the kernels only record their arguments.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import fusedce
from fusedce.backends import array_libraries
from fusedce.losses.cross_entropy import CrossEntropy
from tests.core.test_errors import COMMON, DEFAULT, LOSSES, NUMBERS, OWN, K, Z, dense
from tests.core.test_errors_outputs import INDICES, PAIRS
from tests.cuda.fakes import Array, fake_gpu

__all__ = ["fake_gpu"]  # the fixture
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def at(array):
    return array.memory.ctypes.data


def bare(array):
    """The layout of the NumPy view of a device array: address, shape, strides, dtype."""
    return (array.ctypes.data, array.shape, array.strides, array.dtype)


ROOM = np.zeros((8, 12, 10), np.float32)
LAYOUTS = {
    "C": ROOM[0],
    "F": np.zeros((5, 4), np.float32, order="F"),
    "sliced": ROOM[1, ::2, ::3],
    "backwards": ROOM[2, ::-1, ::-1],
    "spread": np.broadcast_to(ROOM[3, :1], (12, 10)),
    "half": np.zeros((6, 4), np.float16),
    "bfloat16": np.zeros((6, 4), BFLOAT16)[:, ::2],
    "double": np.zeros((6, 4)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_reaches_the_kernels(name, gpu):
    """The caller's addresses and strides, and new results laid out as np.empty_like does."""
    memory = LAYOUTS[name]
    z, t = gpu.array(memory), gpu.array(np.zeros(len(memory), np.int32))
    s = gpu.array(np.ones(len(memory), np.float64))
    loss, grad, hess = fusedce.cross_entropy(
        z, t, sample_weight=s, reduction="none", return_hessian=True
    )
    (problem,) = gpu.problems
    rows, classes = memory.shape
    assert problem.logits.shape == (rows, classes, 1)
    assert problem.logits.strides[:2] == memory.strides
    assert problem.logits.dtype == memory.dtype
    where = gpu.where
    assert (where.logits, where.targets, where.sample_weight) == (at(z), at(t), at(s))
    assert (where.loss, where.grad, where.hess) == (at(loss), at(grad), at(hess))
    assert (
        where.total
        == where.weight
        == where.pos_weight
        == where.user_denominator
        == where.scratch
        == 0
    )
    assert problem.compute is (np.float64 if name == "double" else np.float32)
    assert all(a.library is gpu.library for a in (loss, grad, hess))
    assert loss.memory.dtype == problem.compute
    for a in (grad, hess):
        assert a.memory.dtype == memory.dtype
        assert a.memory.strides == np.empty_like(memory).strides
        assert a.memory.shape == memory.shape
    assert gpu.options[0]["divisor"] == 1.0
    assert gpu.options[0]["total"] is None


def test_class_axis_in_the_middle(gpu):
    """Channels first and channels last are viewed as three axes, without a copy."""
    for strided in (np.zeros((2, 3, 4, 5)), np.zeros((2, 4, 5, 3)).transpose(0, 3, 1, 2)):
        z, t = gpu.array(strided), gpu.array(np.zeros((2, 4, 5), np.int64))
        _, grad = fusedce.cross_entropy(z, t, axis=1)
        problem = gpu.problems[-1]
        assert problem.logits.shape == (2, 3, 20)
        assert problem.targets.shape == (2, 1, 20)
        step = strided.strides
        assert problem.logits.strides == (step[0], step[1], step[3])
        assert grad.memory.strides == np.empty_like(strided).strides
    assert not [d for d in gpu.library.done if d[0] == "packed"]


@pytest.mark.parametrize("shape", [(), (3,), (3, 4), (1, 4), (3, 1), (2, 3, 4), (2, 1, 3, 2)])
def test_strides_of_new_arrays(shape):
    """New arrays have the strides of np.empty_like, for any order of the axes."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = rng.permutation(len(shape))
        a = np.zeros([shape[k] for k in order], np.float16).transpose(np.argsort(order))
        a = a[tuple(slice(None, None, rng.choice([-1, 1])) for _ in shape)]
        if rng.random() < 0.3 and a.ndim:
            a = np.broadcast_to(a[:1], shape)
        want = np.empty_like(a).strides
        assert array_libraries.strides_like(a) == want, (shape, a.strides)


REDUCED = [  # options, targets, divisor
    ({"reduction": "sum"}, "index", 1.0),
    ({}, "index", None),
    ({}, "soft", None),
    ({"reduction": "sum"}, "soft", 1.0),
    ({"denominator": 7}, "soft", 7.0),
    ({}, "bool", 4.0),
    ({"denominator": 7}, "index", 7.0),
    ({"normalize_targets": True}, "soft", None),
    ({"normalize_targets": True, "denominator": 2.5}, "soft", 2.5),
    ({"activation": "sigmoid"}, "soft", None),
    ({"activation": "sigmoid"}, "bool", 12.0),
    ({"activation": "sigmoid"}, "int", None),
    ({"activation": "sigmoid"}, "index", None),
    ({"activation": None}, "soft", None),
]


@pytest.mark.parametrize(("options", "form", "divisor"), REDUCED, ids=str)
def test_reductions(options, form, divisor, gpu):
    """A mean's divisor is known on the host or left to the label pass; the host never waits."""
    forms = {"index": K(), "soft": Z(), "bool": dense().astype(bool), "int": dense()}
    z, t = gpu.array(Z(np.float16)), gpu.array(forms[form])
    loss, grad = fusedce.cross_entropy(z, t, **options)
    assert gpu.options[0]["divisor"] == divisor
    assert gpu.options[0]["user_denominator"] is None
    assert (loss.memory.shape, loss.memory.dtype) == ((), np.float32)
    assert bare(gpu.options[0]["total"])[0] == gpu.where.total == at(loss)
    assert gpu.problems[0].loss is None
    assert gpu.where.grad == at(grad)
    assert (gpu.where.scratch != 0) == (divisor is None)
    assert gpu.launches[0][1] == (("label_pass", "losses") if divisor is None else ("losses",))
    assert len(gpu.launches) == 1
    assert gpu.reads == 0
    alone = fusedce.cross_entropy(z, t, return_grad=False, **options)
    assert isinstance(alone, Array)


def test_denominator_on_the_device(gpu):
    z, t, d = gpu.array(Z()), gpu.array(K()), gpu.array(np.array(3, np.int64))
    fusedce.cross_entropy(z, t, denominator=d)
    assert gpu.options[0]["divisor"] is None
    assert bare(gpu.options[0]["user_denominator"]) == (at(d), (), (), np.dtype(np.int64))
    assert gpu.where.user_denominator == at(d)
    fusedce.cross_entropy(z, t, denominator=np.array(3.0))  # a number of the host
    assert gpu.options[1]["divisor"] == 3.0
    for wrong in (np.ones(1), np.array("3")):
        with pytest.raises(TypeError, match="denominator must be a finite number > 0, got <GPU"):
            fusedce.cross_entropy(z, t, denominator=gpu.array(wrong))
    with pytest.raises(
        ValueError, match=r"denominator=<GPU .* has no meaning with reduction='sum'"
    ):
        fusedce.cross_entropy(z, t, denominator=d, reduction="sum")


def test_weights(gpu):
    """Weights are used in the caller's layout; a number on the host is passed as a number."""
    z, t = gpu.array(Z()), gpu.array(dense())
    w, p = gpu.array(np.ones(6, BFLOAT16)[::2]), gpu.array(np.ones(3, np.int8))
    fusedce.focal(z, t, weight=w, pos_weight=p, alpha=0.25)
    problem = gpu.problems[0]
    assert bare(problem.weight) == (at(w), (3,), (4,), BFLOAT16)
    assert bare(problem.pos_weight) == (at(p), (3,), (1,), np.dtype(np.int8))
    assert (problem.alpha, problem.pos_scale) == (0.25, 1.0)
    assert (gpu.where.weight, gpu.where.pos_weight) == (at(w), at(p))
    single = gpu.array(np.array(2.0))
    fusedce.focal(z, t, pos_weight=single)
    assert gpu.problems[1].pos_weight.size == 1
    assert gpu.where.pos_weight == at(single)
    for number in (3, 3.0, np.float32(3), np.array(3)):
        fusedce.focal(z, t, pos_weight=number)
        assert gpu.problems[-1].pos_weight is None
        assert gpu.problems[-1].pos_scale == 3.0
        assert gpu.where.pos_weight == 0
    with pytest.raises(ValueError, match="pos_weight must be finite, got nan at 0"):
        fusedce.focal(z, t, pos_weight=math.nan)
    s = gpu.array(np.arange(4.0))
    fusedce.focal(z, t, sample_weight=s)
    assert gpu.problems[-1].sample_weight.strides[:2] == (8, 0)
    fusedce.focal(z, t, sample_weight=0.5)
    assert ("fill", 0.5) in gpu.library.done
    assert gpu.problems[-1].sample_weight.shape[0] in (1, 4)


def test_buffers_of_the_caller(gpu):
    """Outputs of any library are filled and returned; the gradient may replace the logits."""
    z, t = gpu.array(Z()), gpu.array(K())
    loss = gpu.array(np.zeros((), np.float32))
    grad, hess = gpu.other.array(Z()), gpu.array(Z().T.copy().T)
    for _ in range(2):  # the second call is a repeated one
        got = fusedce.cross_entropy(z, t, loss_out=loss, grad_out=grad, hess_out=hess,
                                    return_hessian=True)  # fmt: skip
        assert all(a is b for a, b in zip(got, (loss, grad, hess), strict=True))
        where = gpu.where
        assert (where.total, where.grad, where.hess) == (at(loss), at(grad), at(hess))
    for _ in range(2):
        assert fusedce.cross_entropy(z, t, grad_out=z)[1] is z
        assert gpu.where.grad == gpu.where.logits == at(z)
    assert len(gpu.problems) == 2
    rows = gpu.array(np.zeros(4, np.float32))
    assert fusedce.cross_entropy(z, t, reduction="none", loss_out=rows)[0] is rows
    assert gpu.where.loss == at(rows)


def test_buffers_refused(gpu):
    z, t = gpu.array(Z()), gpu.array(K())
    locked = Z()
    locked.flags.writeable = False
    wanted = r"grad_out must have shape \(4, 3\) and dtype float32, got "
    odd = np.zeros(49, np.uint8)[1:].view(np.float32).reshape(4, 3)
    for buffer, text in (
        (gpu.array(Z(np.float64)), wanted + r"\(4, 3\) and float64"),
        (gpu.array(Z(shape=(3, 4))), wanted + r"\(3, 4\) and float32"),
        (gpu.array(locked), "grad_out must be writeable, got a read-only array"),
        (Z(), "grad_out must be a GPU array, got numpy.ndarray"),
        (gpu.array(np.broadcast_to(Z()[:1], (4, 3))), "grad_out must be writeable|have a place"),
        (gpu.array(odd), "grad_out must lie at a multiple of 4 bytes, got an address that ends"),
        (gpu.array(Z(), device=1), "logits is on GPU 0 and grad_out on GPU 1: move one of them"),
    ):
        with pytest.raises(ValueError, match=text):
            fusedce.cross_entropy(z, t, grad_out=buffer)
    assert not gpu.launches


def test_overlaps(gpu):
    memory = np.zeros(40, np.float32)
    z = gpu.array(memory[:12].reshape(4, 3))
    t = gpu.array(K())
    text = "overlaps logits in memory: only grad_out=logits"
    for out in (memory[1:13].reshape(4, 3), memory[:12].reshape(4, 3)[::-1]):
        with pytest.raises(ValueError, match="grad_out " + text):
            fusedce.cross_entropy(z, t, grad_out=gpu.array(out))
    with pytest.raises(ValueError, match="hess_out " + text):
        fusedce.cross_entropy(z, t, hess_out=z, return_hessian=True)
    fusedce.cross_entropy(z, t, grad_out=gpu.array(memory[20:32].reshape(4, 3)))
    assert len(gpu.launches) == 1
    with pytest.raises(ValueError, match="grad_out " + text):  # of a known signature
        fusedce.cross_entropy(z, t, grad_out=gpu.array(memory[8:20].reshape(4, 3)))
    with pytest.raises(ValueError, match="grad_out overlaps sample_weight"):
        fusedce.cross_entropy(z, t, sample_weight=gpu.array(memory[20:24]),
                              grad_out=gpu.array(memory[20:32].reshape(4, 3)))  # fmt: skip
    d = gpu.array(memory[20:21].reshape(()))
    with pytest.raises(ValueError, match="loss_out overlaps denominator"):
        fusedce.cross_entropy(z, t, denominator=d, loss_out=d)
    lace = np.zeros((4, 6), np.float32)
    fusedce.cross_entropy(gpu.array(lace[:, ::2]), t, grad_out=gpu.array(lace[:, 1::2]))
    assert len(gpu.launches) == 2


def moved(gpu, x):
    return gpu.array(x) if isinstance(x, np.ndarray | list) else x


VALUES = "must be finite"
SAID = [(n, (Z(), K()), o) for o, _, text in COMMON if VALUES not in text for n in LOSSES]
SAID += [(n, (Z(), K()), {o: v}) for o, _, bad in NUMBERS for v in bad for n in ("focal", "apply")]
SAID += [(n, (Z(), K()), {o: v}) for n, o, _, bad in OWN for v in bad]
SAID += [(n, (Z(), K() if i else dense()), {"activation": a, **o}) for n, a, i, o, _ in PAIRS]
SAID += [(n, (Z(), K()), {"activation": a, **o}) for n, a, o, *_ in INDICES]
SAID += [("focal", (Z(kind), K()), {}) for kind in (np.int64, bool, np.complex64)]
SAID += [
    (n, (Z(), t), {})
    for n in LOSSES
    for t in (
        K(0, 1, 2),
        np.zeros((4, 1), int),
        np.zeros(()),
        K().astype(float),
        K().astype(complex),
    )
]
SAID += [(n, (Z(), K()), {"sample_weight": np.ones(3)}) for n in LOSSES]
SAID += [("cross_entropy", (Z(shape=(3, 0)), K(0, 0, 0)), {})]


@pytest.mark.parametrize("k", range(len(SAID)), ids=lambda k: f"{SAID[k][0]}-{SAID[k][2]!s:.40}")
def test_errors_are_those_of_the_cpu(k, gpu):
    """The same error texts, except that the numbers in GPU arrays are not read."""
    name, args, options = SAID[k]
    with pytest.raises((TypeError, ValueError)) as cpu:
        LOSSES[name](*args, **options)
    with pytest.raises(cpu.type) as there:
        LOSSES[name](
            *(gpu.array(a) for a in args), **{k: moved(gpu, v) for k, v in options.items()}
        )
    said, wanted = str(there.value), str(cpu.value)
    if "pos_weight=[1.0, 1.0, 1.0]" in wanted:
        wanted = wanted.replace("[1.0, 1.0, 1.0]", "<GPU array of shape (3,) and dtype float64>")
    assert type(there.value) is type(cpu.value)
    assert said == wanted
    assert not gpu.launches


@pytest.mark.parametrize("name", LOSSES)
def test_mixtures_with_the_cpu(name, gpu):
    fn, z, t, w = LOSSES[name], gpu.array(Z()), gpu.array(K()), gpu.array(np.ones(3))
    where, end = "is on a GPU (tests.Array) and", ": move one of them"
    numpy = "is not (numpy.ndarray)"
    for args, options, text in (
        ((z, K()), {}, f"logits {where} targets {numpy}"),
        ((z, [0, 1, 2, 1]), {}, f"logits {where} targets is not (builtins.list)"),
        ((Z(), t), {}, f"targets {where} logits {numpy}"),
        ((0.5, t), {}, f"targets {where} logits is not (builtins.float)"),
        ((z, t), {"weight": np.ones(3)}, f"logits {where} weight {numpy}"),
        ((z, t), {"sample_weight": [1.0] * 4},
         f"logits {where} sample_weight is not (builtins.list)"),
        ((Z(), K()), {"weight": w}, f"weight {where} logits {numpy}"),
        ((Z(), K()), {"denominator": w}, f"denominator {where} logits {numpy}"),
    ):  # fmt: skip
        with pytest.raises(TypeError) as caught:
            fn(*args, **options)
        assert str(caught.value) == text + end
    with pytest.raises(ValueError, match=r"must be a NumPy array, got tests\.Array"):
        fn(Z(), K(), grad_out=z)
    assert not gpu.launches


def test_two_libraries(gpu):
    """Inputs may be of any library; results are of the logits' library."""
    z, t = gpu.array(Z()), gpu.other.array(K())
    loss, grad = fusedce.cross_entropy(z, t)
    assert loss.library is grad.library is gpu.library
    loss, grad = fusedce.cross_entropy(gpu.other.array(Z()), gpu.array(K()))
    assert loss.library is grad.library is gpu.other
    assert [launch[0] for launch in gpu.launches] == [gpu.library, gpu.other]


def test_devices_and_streams(gpu):
    """All work is on the logits' device and its current stream, even if another is current."""
    gpu.library.streams = {0: 5, 1: 77}
    for _ in range(2):
        z, t = gpu.array(Z(), device=1), gpu.array(K(), device=1)
        loss, grad = fusedce.cross_entropy(z, t)
        assert loss.device == grad.device == 1
        assert gpu.launches[-1][3:] == (1, 77)
        assert all(d[-1] == 1 for d in gpu.library.done if d[0] == "empty")
    gpu.library.streams[1] = 78
    fusedce.cross_entropy(z, t)
    assert gpu.launches[-1][3:] == (1, 78)
    assert len(gpu.problems) == 1
    fusedce.cross_entropy(gpu.array(Z()), gpu.array(K()))
    assert gpu.launches[-1][3:] == (0, 5)
    for options in ({}, {"sample_weight": gpu.array(np.ones(4), device=1)}):
        first = gpu.array(K(), device=0 if options else 1)
        name = "sample_weight" if options else "targets"
        with pytest.raises(ValueError, match=f"logits is on GPU 0 and {name} on GPU 1: move one"):
            fusedce.cross_entropy(gpu.array(Z()), first, **options)


def test_waiting_for_other_streams(gpu):
    """Each call first waits for the stream that an array names, without blocking the host."""
    gpu.library.streams = {0: 5}
    z, t = gpu.array(Z()), gpu.array(K(), stream=9)
    for _ in range(2):
        gpu.waits.clear()
        fusedce.cross_entropy(z, t)
        assert set(gpu.waits) == {(5, 9, 0)}
    gpu.waits.clear()
    fusedce.softmax(gpu.array(Z(), stream=1))
    assert set(gpu.waits) == {(5, 1, 0)}
    gpu.waits.clear()
    gpu.other.streams = {0: 8}  # a copy waits for the kernels' stream, and that for the copy
    crop = np.zeros((2, 3, 5, 7), np.float32)[:, :, :4, :5]
    labels = gpu.array(np.zeros((2, 4, 5), np.int64))
    fusedce.cross_entropy(gpu.array(crop.copy()), labels, axis=1, grad_out=gpu.other.array(crop))
    assert gpu.waits == [(8, 5, 0), (5, 8, 0)]
    gpu.waits.clear()
    odd = np.zeros(33, np.uint8)[1:].view(np.int64)
    fusedce.cross_entropy(gpu.array(Z()), gpu.other.array(odd))
    assert gpu.waits == [(8, 5, 0), (5, 8, 0)]
    assert gpu.reads == 0


@pytest.mark.parametrize("label", [3, -1])
def test_validate(label, gpu):
    """``validate`` runs the label pass and reads one number before any output is written."""
    t = np.repeat(K(), 2).astype(np.int32)[::2]
    z, labels = Z(), gpu.array(t)
    for _ in range(2):
        fusedce.cross_entropy(gpu.array(z), labels, validate=True)
    assert [launch[1] for launch in gpu.launches] == [("label_pass",), ("losses",)] * 2
    assert gpu.options[-1]["validate"] is True
    assert gpu.reads == 2
    t[2], gpu.bad, gpu.reads = label, 2, 0
    gpu.launches.clear()
    with pytest.raises(IndexError) as cpu:
        fusedce.cross_entropy(z, t)
    with pytest.raises(IndexError) as caught:
        fusedce.cross_entropy(gpu.array(z), labels, validate=True)
    assert str(caught.value) == str(cpu.value)
    assert [launch[1] for launch in gpu.launches] == [("label_pass",)]
    fusedce.cross_entropy(gpu.array(z), labels)  # not validated
    assert gpu.options[-1]["validate"] is False
    assert gpu.reads == 2
    with pytest.raises(TypeError, match="validate must be True or False, got 2"):
        fusedce.cross_entropy(gpu.array(z), labels, validate=2)


def test_copies(gpu):
    """The caller's library copies arrays that are not three axes, and copies results back."""
    room = np.zeros((2, 3, 5, 7), np.float32)
    crop = room[:, :, :4, :5]
    z, t = gpu.array(crop), gpu.array(np.zeros((2, 4, 5), np.int64))
    _, grad = fusedce.cross_entropy(z, t, axis=1)
    assert ("packed", (2, 3, 4, 5)) in gpu.library.done
    assert gpu.where.logits != at(z)
    assert gpu.problems[-1].logits.shape == (2, 3, 20)
    assert gpu.where.grad == at(grad)
    fusedce.cross_entropy(gpu.array(crop.copy()), t, axis=1, grad_out=z)
    assert ("assign", (2, 3, 20)) in gpu.library.done
    assert gpu.where.grad != at(z)
    assert fusedce.softmax(gpu.array(crop.copy()), axis=1, out=z) is z
    assert gpu.library.done.count(("assign", (2, 3, 20))) == 2
    odd = np.zeros(49, np.uint8)[1:].view(np.float32).reshape(4, 3)
    before = len(gpu.library.done)
    fusedce.cross_entropy(gpu.array(odd), gpu.array(K()))
    assert ("packed", (4, 3)) in gpu.library.done[before:]
    assert gpu.where.logits % 4 == 0
    for args in ((Z(">f4"), K()), (Z(), K().astype(">i8")), (Z(), Z(np.longdouble))):
        with pytest.raises(TypeError, match=r"has dtype .*, which is not read on a GPU"):
            fusedce.cross_entropy(*map(gpu.array, args))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(reduction, gpu):
    """Nothing is launched, and the loss is that of the CPU."""
    for shape, form in (((0, 4), "index"), ((2, 3, 0), "soft")):
        z, t = np.zeros(shape), np.zeros(shape if form == "soft" else shape[:1], int)
        for options in ({}, {"denominator": 2}) if reduction == "mean" else ({},):
            options = {"activation": "sigmoid", "reduction": reduction, **options}
            want, _ = fusedce.cross_entropy(z, t, **options)
            loss, grad = fusedce.cross_entropy(gpu.array(z), gpu.array(t), **options)
            np.testing.assert_array_equal(loss.memory, want)
            assert loss.memory.shape == want.shape
            assert grad.memory.shape == shape
    assert fusedce.softmax(gpu.array(np.zeros((0, 4)))).memory.shape == (0, 4)
    assert not gpu.launches


def test_single_logit(gpu):
    """Arrays without axes, and labels that are numbers on the host."""
    z = gpu.array(np.array(0.5, np.float32))
    for t in (gpu.array(np.array(1)), 1, 1.0):
        loss, grad = fusedce.focal(z, t, sample_weight=0.5)
        assert loss.memory.shape == grad.memory.shape == ()
        assert gpu.problems[-1].logits.shape == (1, 1, 1)
        assert gpu.where.logits == at(z)
    out = gpu.array(np.array(0.0, np.float32))
    assert fusedce.focal(z, 1, grad_out=out)[1] is out
    assert gpu.where.grad == at(out)
    assert fusedce.sigmoid(z).memory.shape == ()
    with pytest.raises(ValueError, match="class axis, got a 0-d array"):
        fusedce.softmax(z)
    with pytest.raises(TypeError, match="targets must be integers, booleans or floats, got <U3"):
        fusedce.focal(z, "yes")


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sigmoid", "log_sigmoid"])
def test_activations(name, gpu):
    fn = getattr(fusedce, name)
    for memory in LAYOUTS.values():
        z = gpu.array(memory)
        out = fn(z)
        assert out.memory.strides == np.empty_like(memory).strides
        assert out.memory.dtype == memory.dtype
        assert (gpu.where.logits, gpu.where.grad) == (at(z), at(out))
        said, source, target, compute = gpu.problems[-1]
        assert (said, compute) == (name, np.float64 if memory.dtype == float else np.float32)
        assert source.ndim == target.ndim == 3
    z, buffer = gpu.array(Z()), gpu.array(Z())
    assert fn(z, out=buffer) is buffer
    assert fn(z, out=z) is z
    assert gpu.where.logits == gpu.where.grad == at(z)
    for options, text in (
        ({"out": Z()}, "out must be a GPU array, got numpy.ndarray"),
        ({"out": gpu.array(Z(np.float64))}, "out must have shape"),
        ({"out": gpu.array(z.memory[::-1])}, "out overlaps logits in memory: only out=logits"),
    ):
        with pytest.raises(ValueError, match=text):
            fn(z, **options)
    with pytest.raises(TypeError, match="logits must be float64, float32, float16 or bfloat16"):
        fn(gpu.array(K()))
    with pytest.raises(ValueError, match=r"must be a NumPy array, got tests\.Array"):
        fn(Z(), out=z)


def test_any_rule(gpu):
    fusedce.apply(CrossEntropy(), gpu.array(Z()), gpu.array(K()))
    for name, fn in LOSSES.items():
        loss, grad = fn(gpu.array(Z()), gpu.array(dense()), activation=DEFAULT[name])
        assert gpu.problems[-1].activation == DEFAULT[name]
        assert isinstance(loss, Array)
        assert isinstance(grad, Array)
    fusedce.cross_entropy(gpu.array(Z()), gpu.array(dense()), activation=None)
    assert gpu.problems[-1].compute is np.float64
