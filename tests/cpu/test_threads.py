"""Calls from many threads, and in forked and spawned processes: right results, no deadlock."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba.np.ufunc import parallel

import fusedce

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300  # seconds, after which a script counts as hung; each takes a few


def bits(result):
    return [np.asarray(a).tobytes() for a in result]


def test_calls_from_eight_threads():
    """50 large and small calls from each of 8 threads at once have the bits of calls one by one."""
    rng = np.random.default_rng(1)
    jobs = []
    for shape in ((4, 5), (300, 300), (40_000, 3), (2, 70_000)):
        z = rng.normal(size=shape).astype(np.float32)
        t = rng.integers(0, shape[1], shape[0])
        jobs += [(fusedce.cross_entropy, z, t), (fusedce.focal, z, (z > 1).astype(np.float32))]
    want = [bits(fn(z, t)) for fn, z, t in jobs]

    def work(first):
        for k in range(first, first + 50):
            fn, z, t = jobs[k % len(jobs)]
            if bits(fn(z, t)) != want[k % len(jobs)]:
                return k
        return None

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8), timeout=LIMIT)) == [None] * 8


def test_no_call_waits_for_the_lock_that_numba_shares_with_forked_children():
    """A call must not need that lock: a process killed while holding it never releases it."""
    z, t = np.zeros((40_000, 30), np.float32), np.zeros(40_000, int)
    want = bits(fusedce.cross_entropy(z, t))  # this starts Numba's threads
    with ThreadPoolExecutor(1) as pool, parallel._backend_init_process_lock:
        assert bits(pool.submit(fusedce.cross_entropy, z, t).result(timeout=20)) == want


def test_first_calls_at_once():
    """Several threads that call a function for the first time at the same moment agree."""
    run_script("""
        import threading
        import numpy as np, fusedce
        z = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
        t = np.arange(200)
        results, start = [None] * 6, threading.Barrier(6)
        def work(k):
            start.wait()
            results[k] = fusedce.cross_entropy(z, t)[1].tobytes()
        threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(set(results)) == 1 and results[0] is not None
    """)


COMMON = """
import os, signal, sys, time, warnings
import numpy as np, fusedce
from fusedce.kernels import tuning
tuning.SERIAL_BELOW = 1 << 15  # so that a small call goes into the threads
z = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)
t = np.arange(400) % 300
def call():
    loss, grad = fusedce.cross_entropy(z, t)
    y = fusedce.focal(z, z > 0)[1]
    return loss.tobytes() + grad.tobytes() + y.tobytes()
def check(found):
    x = z.astype(float)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    grad = np.frombuffer(found[4:480004], np.float32).reshape(400, 300)
    assert np.allclose(grad * 400, p - (t[:, None] == np.arange(300)), 1e-5, 1e-9)
def in_fork(work):
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(200)  # a hang ends here
        code = 1
        try:
            os.write(write, work())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    out = b""
    while part := os.read(read, 1 << 16):
        out += part
    assert os.waitpid(child, 0)[1] == 0, "the child failed or hung"
    return out
"""


def run_script(text, before="", **variables):
    """Run a script in a new interpreter, and return what it prints."""
    source = before + textwrap.dedent(text)
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=LIMIT, env=env,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@needs_fork
def test_fork_after_first_use():
    """After the parent has used its threads, a child, its own child and the parent agree."""
    run_script("""
        want = call()
        check(want)
        assert in_fork(call) == want
        assert in_fork(lambda: in_fork(call)) == want
        assert call() == want
        assert in_fork(call) == want
    """, COMMON)  # fmt: skip


@needs_fork
def test_fork_before_first_use():
    run_script("""
        want = in_fork(call)
        check(want)
        assert call() == want
        assert in_fork(call) == want
    """, COMMON)  # fmt: skip


@needs_fork
def test_fork_while_a_thread_is_inside_a_call():
    """A fork while another thread is in a call, as of a data loader during training."""
    run_script("""
        import threading
        want = call()
        big = np.zeros((4000, 1000), np.float32)
        stop = []
        def train():
            while not stop:
                fusedce.cross_entropy(big, np.zeros(4000, int))
        thread = threading.Thread(target=train)
        thread.start()
        try:
            for _ in range(8):
                assert in_fork(call) == want
        finally:
            stop.append(1)
            thread.join()
    """, COMMON)  # fmt: skip


@pytest.mark.slow(reason="forks for six seconds")
@needs_fork
def test_threads_while_forked_children_are_killed():
    """Threads call while others fork children that call too; half of the children are killed.

    No lock may be shared with a child. After a deadlock faulthandler prints all stacks, and the
    test fails.
    """
    run_script("""
        import faulthandler, random, threading
        from concurrent.futures import ThreadPoolExecutor
        from fusedce.kernels.compiling import compiling
        faulthandler.dump_traceback_later(150, exit=True)
        warnings.simplefilter("ignore")  # of forks beside threads
        want = call()
        end = time.monotonic() + 6
        def once():
            assert call() == want
            with compiling():  # the compiler's lock: forks wait for it
                time.sleep(1e-4)
        def work():
            while time.monotonic() < end:
                once()
        def fork(seed):
            chance, killed = random.Random(seed), 0
            while time.monotonic() < end:
                child = os.fork()
                if child == 0:
                    signal.alarm(40)  # a hang ends here
                    code = 1
                    try:
                        for _ in range(3):
                            once()
                        code = 0
                    finally:
                        os._exit(code)
                if doomed := chance.random() < 0.5:
                    time.sleep(chance.uniform(0, 0.02))
                    os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                assert status == 0 or (doomed and status == signal.SIGKILL), status
                killed += status != 0
            return killed
        with ThreadPoolExecutor(7) as pool:
            workers = [pool.submit(work) for _ in range(4)]
            killed = [pool.submit(fork, k).result for k in range(3)]
            assert sum(result() for result in killed) > 5
            [worker.result() for worker in workers]
        once()
        faulthandler.cancel_dump_traceback_later()
    """, COMMON, NUMBA_NUM_THREADS="2")  # fmt: skip


LATE = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")  # of forks beside threads
import numpy as np
def in_fork(alone, depth=1):
    "fusedce imported, and a large call, in a process forked from this one, or from its fork."
    child = os.fork()
    if child == 0:
        signal.alarm(100)  # a hang ends here
        code = 1
        try:
            if depth > 1:
                in_fork(alone, depth - 1)
            else:
                import fusedce
                from fusedce.kernels.cpu import runtime
                rng = np.random.default_rng(0)
                z, t = rng.normal(size=(40_000, 30)).astype("f4"), np.arange(40_000) % 30
                x = z.astype(float)
                want = np.log(np.exp(x).sum(axis=1)).mean() - x[np.arange(len(x)), t].mean()
                assert np.isclose(fusedce.cross_entropy(z, t)[0], want, 1e-6)
                assert runtime._taken[0] == alone, "wrong about whether to work alone"
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with status {status}"
"""
NUMBA = """
import numba
@numba.njit(parallel=True)
def total(n):
    s = 0
    for k in numba.prange(n):
        s += k
    return s
assert total(10) == 45
"""
linux_alone = pytest.mark.skipif(
    sys.platform != "linux", reason="forks before the import are noticed where OpenMP is GNU's"
)


@linux_alone
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_fork_before_the_import_after_parallel_numba(layer):
    """A child forked after parallel Numba code imports fusedce, and runs alone under GNU OpenMP.

    GNU OpenMP terminates a child that enters it, and a child's own child would hang.
    """
    run_script(f"""
        import numba
        try:
            numba.get_num_threads()
        except ValueError:
            sys.exit()  # the machine has no OpenMP
        {textwrap.indent(NUMBA, " " * 8).lstrip()}
        for depth in (1, 2):
            in_fork({int(layer == "omp")}, depth)
        assert total(10) == 45
    """, LATE, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")  # fmt: skip


@linux_alone
def test_fork_before_the_import_after_lightgbm():
    """A child forked after LightGBM has used GNU OpenMP, which Numba uses too, runs alone."""
    pytest.importorskip("lightgbm")
    run_script("""
        import lightgbm
        x = np.random.default_rng(0).uniform(size=(2000, 5))
        data = lightgbm.Dataset(x, (x[:, 0] > 0.5).astype(int))
        lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 2}, data, 3)
        in_fork(1)
    """, LATE, NUMBA_NUM_THREADS="2")  # fmt: skip


@needs_fork
def test_fork_before_the_import_of_a_parent_without_threads():
    """A child of a parent that used no threads, such as a fork server, uses its own threads."""
    run_script("import numba; in_fork(0)", LATE, NUMBA_NUM_THREADS="2")


SPAWNED = """
import multiprocessing, sys
import numpy as np, fusedce
def call(seed):
    z = np.random.default_rng(seed).normal(size=(400, 300)).astype(np.float32)
    return fusedce.cross_entropy(z, np.arange(400) % 300)[1].tobytes()
if __name__ == "__main__":
    want = [call(k) for k in range(3)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map_async(call, range(3)).get(200) == want
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_pools(method, tmp_path):
    if method != "spawn" and not hasattr(os, "fork"):
        pytest.skip("this platform has no fork")
    (tmp_path / "pool.py").write_text(SPAWNED)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", str(tmp_path / "pool.py"), method]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
