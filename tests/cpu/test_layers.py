"""Calls from threads, forks, spawned processes, data loaders and autograd, in each threading layer.

The layers are Numba's. workqueue aborts when two threads enter it, GNU OpenMP when a fork does.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpu.test_threads import COMMON, LIMIT, ROOT, SPAWNED, needs_fork, run_script

LIBRARIES = str(Path(sys.prefix) / "lib")  # pip's libtbb is here; the loader does not search it


def variables(layer):
    """Environment variables for a process that uses this layer and two threads."""
    found = os.pathsep.join(filter(None, [LIBRARIES, os.environ.get("LD_LIBRARY_PATH")]))
    return {
        "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", "LD_LIBRARY_PATH": found,
        "NUMBA_THREADING_LAYER_PRIORITY": "tbb omp workqueue",
    }  # fmt: skip


LOADS = "import numba; numba.get_num_threads()"


def installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module", params=["workqueue", "omp", "tbb"])
def layer(request):
    """Fixture: each layer that can be loaded.

    On Linux x86-64 each must be, except tbb where it is not installed; the extra `test` has it.
    """
    command = [sys.executable, "-c", LOADS]
    env = os.environ | variables(request.param)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env=env, check=False
    )
    if done.returncode:
        here = sys.platform == "linux" and platform.machine() == "x86_64"
        assert not here or (request.param == "tbb" and not installed("tbb")), done.stderr
        pytest.skip(f"the layer {request.param} cannot be loaded here")
    return request.param


USED = """
import numba
assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"]
"""

MIXED = """
import itertools, os, threading
import numpy as np, numba, fusedce
rng = np.random.default_rng(3)
jobs = []
shapes = ((4, 5), (1, 3000), (300, 300), (30_000, 3), (2, 70_000))
for shape, dtype in itertools.product(shapes, ("f4", "f8", "f2")):
    z = rng.normal(size=shape).astype(dtype)
    t = rng.integers(0, shape[1], shape[0])
    jobs += [(fusedce.cross_entropy, z, t), (fusedce.focal, z, (z > 1).astype("f4"))]
def bits(job):
    loss, grad = job[0](*job[1:])
    return loss.tobytes() + grad.tobytes()
want = [bits(job) for job in jobs]
"""


def test_eight_threads(layer):
    """200 mixed calls from each of 8 threads at once have the bits of calls one by one."""
    run_script("""
        wrong = []
        def work(first):
            for k in range(first, first + 200):
                if bits(jobs[k % len(jobs)]) != want[k % len(jobs)]:
                    wrong.append(k)
        threads = [threading.Thread(target=work, args=(7 * k,)) for k in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not wrong, wrong
        numba.set_num_threads(1)
        assert [bits(job) for job in jobs] == want
    """, MIXED + USED, **variables(layer))  # fmt: skip


@needs_fork
def test_forks(layer):
    """Forks before and after the first call, of a child, and while a thread is inside a call."""
    run_script(f"""
        import threading
        want = in_fork(call)
        check(want)
        assert call() == want
        {USED.strip().replace(chr(10), "; ")}
        for _ in range(3):
            assert in_fork(call) == want
            assert in_fork(lambda: in_fork(call)) == want
            assert call() == want
        stop = []
        def train():
            while not stop:
                call()
        thread = threading.Thread(target=train)
        thread.start()
        try:
            for _ in range(8):
                assert in_fork(call) == want
        finally:
            stop.append(1)
            thread.join()
        assert call() == want
    """, COMMON, **variables(layer))  # fmt: skip


def test_spawned(layer, tmp_path):
    (tmp_path / "pool.py").write_text(SPAWNED)
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables(layer)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "pool.py"), "spawn"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env=env, check=False
    )
    assert done.returncode == 0, done.stderr


TORCH = """
import torch
warnings.simplefilter("ignore")  # of forks beside threads
torch.set_num_threads(1)
class Gradients(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, k):
        rows = slice(100 * k, 100 * (k + 1))
        return torch.from_numpy(fusedce.cross_entropy(z[rows], t[rows])[1])
def serial():
    return [Gradients()[k].numpy().tobytes() for k in range(4)]
def loaded():
    loader = torch.utils.data.DataLoader(
        Gradients(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=200
    )
    return [row.numpy().tobytes() for row in loader]
class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tensor(fusedce.cross_entropy(x.detach().numpy(), t, return_grad=False))
    @staticmethod
    def backward(ctx, up):
        (x,) = ctx.saved_tensors
        return up * torch.from_numpy(fusedce.cross_entropy(x.detach().numpy(), t)[1])
def train():
    x = torch.tensor(z, requires_grad=True)
    CrossEntropy.apply(x).backward()
    return x.grad.numpy().tobytes()
"""


@needs_fork
def test_torch(layer):
    """Data loader workers before and after the first call, and backward passes in threads."""
    pytest.importorskip("torch")
    run_script("""
        from concurrent.futures import ThreadPoolExecutor
        first = loaded()
        want, grad = serial(), fusedce.cross_entropy(z, t)[1].tobytes()
        assert first == want
        assert loaded() == want
        assert train() == grad
        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(train) for _ in range(40)]
            assert loaded() == want
            assert {f.result(200) for f in found} == {grad}
        assert loaded() == want
    """, COMMON + TORCH, **variables(layer))  # fmt: skip
