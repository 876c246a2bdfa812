"""Tests that need a GPU: its arrays, streams, graphs, threads, devices, and large arrays."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import fusedce
from tests.core.test_losses import DTYPES, alike, near
from tests.cuda.gpu import case, imported_cupy, missing, on_the_gpu, same_bits
from tests.reference import reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing() or "")]
FIXTURES = imported_cupy, on_the_gpu
SPIN = r"""
extern "C" __global__ void spin(long long ticks) {
    long long start = clock64();
    while (clock64() - start < ticks) { }
}
"""
RNG = np.random.default_rng


@pytest.fixture(scope="module", name="spin")
def spinning_kernel(cupy):
    """Fixture: a kernel that keeps the current stream busy for about half a second."""
    kernel = cupy.RawKernel(SPIN, "spin")
    kernel((1,), (1,), (1,))  # compiled and loaded

    def run(ticks=1_000_000_000):
        kernel((1,), (1,), (np.int64(ticks),))

    return run


# --------------------------------------------------------------------- arrays in and out


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_cupys(gpu, cupy, dtype):
    """Results are CuPy arrays, also a loss without axes; given outputs are returned."""
    z, t = map(gpu.put, case((9, 5), dtype))
    loss, grad, hess = fusedce.cross_entropy(z, t, return_hessian=True)
    assert all(type(a) is cupy.ndarray for a in (loss, grad, hess))
    assert loss.shape == ()
    assert loss.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert grad.dtype == hess.dtype == DTYPES[dtype]
    assert grad.shape == hess.shape == (9, 5)
    outs = {"loss_out": cupy.empty_like(loss), "grad_out": gpu.put(np.zeros((9, 5), grad.dtype))}
    got = fusedce.cross_entropy(z, t, **outs)
    assert got[0] is outs["loss_out"]
    assert got[1] is outs["grad_out"]
    want = [gpu.get(a) for a in (loss, grad)]
    alike(gpu, [gpu.get(a) for a in got], want)
    place = fusedce.cross_entropy(z, t, grad_out=z)
    assert place[1] is z
    alike(gpu, [gpu.get(a) for a in place], want)


def test_mixed_arguments():
    cupy = pytest.importorskip("cupy")
    z, t = np.zeros((4, 3), np.float32), np.zeros(4, int)
    with pytest.raises(TypeError, match=r"logits.*targets|targets.*logits"):
        fusedce.cross_entropy(cupy.asarray(z), t)
    with pytest.raises(TypeError, match=r"logits.*targets|targets.*logits"):
        fusedce.cross_entropy(z, cupy.asarray(t))
    with pytest.raises(TypeError, match="sample_weight"):
        fusedce.cross_entropy(cupy.asarray(z), cupy.asarray(t), sample_weight=np.ones(4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensors(gpu, dtype):
    """Tensors in and out, also in bfloat16; a tensor that requires grad raises TypeError."""
    torch = pytest.importorskip("torch")
    z, t = case((33, 100), dtype)
    bits = z.view(np.int16) if dtype == "bfloat16" else z
    there = torch.from_numpy(bits).cuda()
    there = there.view(torch.bfloat16) if dtype == "bfloat16" else there
    labels = torch.from_numpy(t).cuda()
    want = gpu.cross_entropy(z, t)
    for _ in range(2):
        loss, grad = fusedce.cross_entropy(there, labels)
        assert isinstance(loss, torch.Tensor)
        assert isinstance(grad, torch.Tensor)
        assert grad.dtype == there.dtype
        assert grad.device == there.device
        assert loss.item() == want[0]
        back = grad.view(torch.int16) if dtype == "bfloat16" else grad
        assert back.cpu().numpy().tobytes() == want[1].tobytes()
    with pytest.raises(TypeError):
        fusedce.cross_entropy(there.clone().requires_grad_(), labels)
    with torch.cuda.stream(torch.cuda.Stream()):
        loss, _ = fusedce.cross_entropy(there, labels)
        assert loss.item() == want[0]


def test_numba_and_nobodys_arrays(gpu, cupy):
    z, t = case((33, 100))
    want = gpu.cross_entropy(z, t)
    cuda = pytest.importorskip("numba.cuda")
    for _ in range(2):
        loss, grad = fusedce.cross_entropy(cuda.to_device(z), cuda.to_device(t))
        assert cuda.is_cuda_array(grad)
        assert loss.copy_to_host()[()] == want[0]
        assert grad.copy_to_host().tobytes() == want[1].tobytes()

    class Nobodys:
        def __init__(self, a):
            self.kept = cupy.asarray(a)

        @property
        def __cuda_array_interface__(self):
            return self.kept.__cuda_array_interface__

    loss, grad = fusedce.cross_entropy(Nobodys(z), Nobodys(t))
    assert type(grad) is cupy.ndarray
    same_bits(gpu, (loss, grad), [gpu.put(np.asarray(a)) for a in want])


# --------------------------------------------------------------------- labels


@pytest.mark.parametrize(("activation", "bad"), [("softmax", 5), ("softmax", -1), ("sigmoid", 6),
                                                 ("softmax", 2**62)])  # fmt: skip
def test_bad_labels(gpu, activation, bad):
    """A wrong label makes only its row NaN, raises with ``validate``, and causes no CUDA error."""
    z, t = case((9, 5))
    good = gpu.cross_entropy(z, t, activation=activation, reduction="none")
    t[3] = bad
    for _ in range(2):
        loss, grad = gpu.cross_entropy(z, t, activation=activation, reduction="none")
        assert np.isnan(loss[3]).all()
        assert np.isnan(grad[3]).all()
        rest = np.arange(9) != 3
        assert loss[rest].tobytes() == good[0][rest].tobytes()
        assert grad[rest].tobytes() == good[1][rest].tobytes()
    assert np.isnan(gpu.cross_entropy(z, t, activation=activation)[0])
    with pytest.raises(IndexError) as ours:
        gpu.cross_entropy(z, t, activation=activation, validate=True)
    with pytest.raises(IndexError) as theirs:
        fusedce.cross_entropy(z, t, activation=activation)
    assert str(ours.value) == str(theirs.value)
    t[3] = -100
    for a, b in zip(gpu.cross_entropy(z, t, activation=activation, validate=True),
                    gpu.cross_entropy(z, t, activation=activation), strict=True):  # fmt: skip
        assert a.tobytes() == b.tobytes()


# --------------------------------------------------------------------- streams, graphs, threads


def test_nothing_waits(gpu, cupy, spin):
    """A call returns while the device is still busy with earlier work."""
    z, t = map(gpu.put, case())
    calls = [
        lambda: fusedce.cross_entropy(z, t),
        lambda: fusedce.cross_entropy(z, t, reduction="none", return_hessian=True),
        lambda: fusedce.cross_entropy(z, t, ignore_index=1, denominator=cupy.ones(())),
        lambda: fusedce.focal(z, t, sample_weight=1.5),
        lambda: fusedce.softmax(z),
    ]
    for call in calls:
        call()
        call()
        cupy.cuda.runtime.deviceSynchronize()
        done = cupy.cuda.Event()
        spin()
        done.record()
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        assert not done.done, "the call waited for the kernel before it"
        assert took < 0.1
        cupy.cuda.runtime.deviceSynchronize()


def test_the_current_stream(gpu, cupy, spin):
    """A call's work is ordered on the current stream: after earlier work, before later work."""
    z, t = case()
    want = gpu.cross_entropy(z, t)
    there, labels, late = gpu.put(np.zeros_like(z)), gpu.put(t), gpu.put(z)
    for stream in (cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(), cupy.cuda.Stream.ptds):
        for _ in range(3):
            with stream:
                there.fill(0)
                spin(200_000_000)
                there[...] = late
                loss, grad = fusedce.cross_entropy(there, labels)
                after = grad.copy()
            stream.synchronize()
            assert loss.get() == want[0]
            assert after.get().tobytes() == want[1].tobytes()


def test_a_graph(gpu, cupy):
    """A captured graph computes with the values that the arrays have at each launch."""
    z, t = case()
    there, labels = gpu.put(z), gpu.put(t)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        for _ in range(2):
            fusedce.cross_entropy(there, labels)
        stream.begin_capture()
        loss, grad = fusedce.cross_entropy(there, labels)
        graph = stream.end_capture()
        for seed in range(3):
            other = case(seed=seed)[0]
            there.set(other)
            graph.launch(stream)
            stream.synchronize()
            want = gpu.cross_entropy(other, t)
            assert loss.get() == want[0]
            assert grad.get().tobytes() == want[1].tobytes()


def test_threads(gpu, cupy):
    """Eight threads, each on its own stream; some calls are the first of their kind."""
    shapes = [(33 + k % 3, 100 + k % 4) for k in range(8)]
    data = [case(shape, seed=k) for k, shape in enumerate(shapes)]
    want = [gpu.focal(z, t, gamma=1.25, activation="softmax") for z, t in data]
    fusedce.backends.cpu_replay._PREPARED.clear()
    failures = []

    def work(k):
        try:
            with cupy.cuda.Stream(non_blocking=True) as stream:
                z, t = map(gpu.put, data[k])
                for _ in range(50):
                    loss, grad = fusedce.focal(z, t, gamma=1.25, activation="softmax")
                    stream.synchronize()
                    assert loss.get() == want[k][0]
                    assert grad.get().tobytes() == want[k][1].tobytes()
        except BaseException as error:
            failures.append(error)

    pool = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert not failures, failures[0]


def test_two_devices(gpu, cupy):
    """The work is done on the device of the arrays, even if another is current."""
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one GPU")
    z, t = case()
    want = gpu.cross_entropy(z, t)
    with cupy.cuda.Device(1):
        there, labels = gpu.put(z), gpu.put(t)
    for _ in range(2):
        loss, grad = fusedce.cross_entropy(there, labels)
        assert loss.device.id == grad.device.id == 1
        assert cupy.cuda.runtime.getDevice() == 0
        assert loss.get() == want[0]
        assert grad.get().tobytes() == want[1].tobytes()
    with pytest.raises(ValueError, match="logits is on GPU 1 and targets on GPU 0"):
        fusedce.cross_entropy(there, gpu.put(t))


def test_memory_does_not_grow(gpu, cupy):
    z, t = map(gpu.put, case())
    pool = cupy.get_default_memory_pool()
    for _ in range(3):
        fusedce.cross_entropy(z, t)
    held = pool.used_bytes(), pool.total_bytes()
    for _ in range(500):
        fusedce.cross_entropy(z, t)
    assert (pool.used_bytes(), pool.total_bytes()) == held


# --------------------------------------------------------------------- sizes


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_more_than_two_to_the_31_elements(gpu, cupy, activation):
    """In place in float16: all rows repeat the first thousand, which equal the reference."""
    if cupy.cuda.runtime.memGetInfo()[0] < 12 << 30:
        pytest.skip("less than 12 GB of memory are free")
    rng = RNG(5)
    tile, labels = (rng.normal(size=(1000, 1000)) * 3).astype(np.float16), rng.permutation(1000)
    rows, name = 2**31 // 1000 + 2000, "cross_entropy" if activation == "softmax" else "focal"
    block, logits = gpu.put(tile), cupy.empty((rows, 1000), np.float16)
    for start in range(0, rows, 1000):
        logits[start : start + 1000] = block[: rows - start]
    targets = gpu.put(np.resize(labels, rows))
    own = {} if activation == "softmax" else {"gamma": 2.0}
    call = {"activation": activation, "reduction": "sum"}
    want = getattr(fusedce, name)(block, gpu.put(labels), **call)
    some = [0, 1, 482, 483, 999]
    right = reference((name, own), tile[some], labels[some], activation=activation,
                      reduction="none")  # fmt: skip
    np.testing.assert_allclose(
        want[1][cupy.asarray(some)].get().astype(float), right[1], 1e-3, 1e-7
    )
    loss, grad = getattr(fusedce, name)(logits, targets, grad_out=logits, **call)
    assert grad is logits
    first = want[1].view(np.uint16)
    for start in range(0, rows, 1000):
        part = grad[start : start + 1000].view(np.uint16)
        assert bool((part == first[: len(part)]).all()), start
    whole, rest = divmod(rows, 1000)
    part = getattr(fusedce, name)(block[:rest], gpu.put(labels[:rest]), **call)[0]
    assert float(loss) == pytest.approx(whole * float(want[0]) + float(part), rel=1e-6)


def test_rows_far_apart(gpu, cupy):
    """Inputs and outputs with rows, or classes, far apart: offsets exceed 2**32 bytes."""
    if cupy.cuda.runtime.memGetInfo()[0] < 16 << 30:
        pytest.skip("less than 16 GB of memory are free")
    z, t = case((3, 5), "float16")
    want = gpu.cross_entropy(z, t)
    far = [cupy.zeros((3, 2**30 + 64 + 2**29), np.float16) for _ in range(2)]
    for view in (lambda a: a[:, -5:], lambda a: a[:, : 5 * 2**28 : 2**28]):
        there, out = map(view, far)
        there[...] = gpu.put(z)
        loss, grad = fusedce.cross_entropy(there, gpu.put(t), grad_out=out)
        assert grad is out
        near("float32", loss.get(), want[0])
        near("float16", gpu.get(out.copy()), want[1])
