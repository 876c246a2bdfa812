"""Interrupts, sizes beyond 32 bits and long runs; threads and forks are in test_layers.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusedce
from tests.cpu.test_threads import ROOT, run_script
from tests.reference import reference

INTERRUPTS = """
import os, random, signal, sys, threading, time
import numpy as np, numba, fusedce
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it from birth
z = np.random.default_rng(0).normal(size=(2000, 600)).astype(np.float32)
t = np.arange(2000) % 600
def call():
    loss, grad = fusedce.cross_entropy(z, t)
    return loss.tobytes() + grad.tobytes()
def others():
    "Seconds of work that threads other than this one did in a few calls."
    all, own = time.process_time(), time.thread_time()
    for _ in range(20):
        call()
    return (time.process_time() - all) - (time.thread_time() - own)
numba.set_num_threads(2)
want = call()
before = others()
assert before > 0, "a call of this size uses no second thread"
def still_right():
    assert call() == want
    after = others()
    assert after > before / 20, f"threads are lost: they worked {before:.3f} s, now {after:.3f} s"
"""
TWO = {"NUMBA_NUM_THREADS": "2"}


def test_interrupts_of_a_loop_of_calls():
    """After each of 100 interrupts (Ctrl-C) at random moments of a call, the next call is right."""
    run_script("""
        armed, done = threading.Event(), []
        def send():
            armed.wait()
            while not done:
                armed.clear()
                time.sleep(random.uniform(0, 0.003))
                os.kill(os.getpid(), signal.SIGINT)
                while not armed.wait(5) and not done:
                    os.kill(os.getpid(), signal.SIGINT)  # Python swallows those in a callback
        threading.Thread(target=send, daemon=True).start()
        for _ in range(100):
            try:
                armed.set()
                while True:
                    call()
            except KeyboardInterrupt:
                assert call() == want
        done.append(True)
        armed.set()
        still_right()
    """, INTERRUPTS, **TWO)  # fmt: skip


def test_interrupts_at_every_step():
    """An interrupt at each point of a call where Python handles signals: the next call is right.

    These points are where a function begins and where one written in C returns.
    """
    run_script("""
        def profile(frame, event, arg):
            global left
            left -= event in ("call", "c_return")
            if left == 0:
                raise KeyboardInterrupt
        steps = left = 0
        while left <= 0:
            steps = left = steps + 1
            sys.setprofile(profile)
            try:
                call()
            except KeyboardInterrupt:
                pass
            finally:
                sys.setprofile(None)
            assert call() == want
        assert steps > 20
        still_right()
    """, INTERRUPTS, **TWO)  # fmt: skip


# Ctrl-C in each of LLVM's callbacks, where Python prints an exception and then ignores it.
COMPILING = """
import os, signal, sys, threading
from numba.core import codegen
from numba.core.compiler_lock import global_compiler_lock
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it from birth
library, sent = codegen.JITCodeLibrary, []
def compiled(module, code, hook=library._object_compiled_hook):
    if not sent:
        sent.append(1)
        signal.raise_signal(signal.SIGINT)
    hook(module, code)
library._object_compiled_hook = compiled
def lock_is_free():
    found = []
    def take():
        found.append(global_compiler_lock._lock.acquire(timeout=5))
        global_compiler_lock._lock.release()
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found == [True]
"""


def test_interrupt_of_a_compilation(tmp_path):
    """Each Ctrl-C during compilation raises KeyboardInterrupt, and the call can be made again."""
    run_script("""
        import numpy as np, fusedce
        z = np.linspace(-3, 3, 256, dtype="f4")
        interrupts = 0
        while True:
            sent.clear()
            try:
                found = fusedce.sigmoid(z)
            except KeyboardInterrupt:
                interrupts += 1
                assert sent and lock_is_free()
                assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            else:
                break
        assert not sent and interrupts > 1, interrupts
        assert np.allclose(found, 1 / (1 + np.exp(-z.astype(float))), 1e-6)
        own = []  # a handler of the user's, which raises nothing
        signal.signal(signal.SIGINT, lambda *args: own.append(args))
        fusedce.sigmoid(z.astype("f8"))
        assert sent and len(own) == 1 and own[0][0] == signal.SIGINT
    """, COMPILING, NUMBA_CACHE_DIR=str(tmp_path))  # fmt: skip


def test_second_interrupt_of_a_compilation():
    """A first Ctrl-C is raised after the compilation, a second one at once."""
    run_script("""
        from fusedce.kernels.compiling import compiling
        for inside in (1, 2, 3):
            reached = 0
            try:
                with compiling():
                    for _ in range(inside):
                        reached += 1
                        signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("the interrupt is lost")
            assert reached == min(inside, 2)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert lock_is_free()
    """, COMPILING)  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--cuda", "sm_90")], ids=["cpu", "gpu"])
def test_interrupt_of_warmup(options, tmp_path):
    """After Ctrl-C, `warmup` prints one line, returns 130, and keeps the compiled kernels."""
    if options:
        pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    said = run_script(f"""
        import contextlib, io
        from fusedce import __main__
        from fusedce.kernels import compiling
        arguments = "warmup --loss sigmoid --dtype float32".split() + {list(options)}
        jit, sent[:] = compiling.config.reload_config, []
        def begun():
            jit()
            if not sent:
                sent.append(1)
                try:
                    signal.raise_signal(signal.SIGINT)
                except KeyboardInterrupt:
                    pass  # as in a callback
        compiling.config.reload_config = begun
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = __main__.main(arguments)
        print(status)
        print(errors.getvalue(), end="")
    """, COMPILING, NUMBA_CACHE_DIR=str(tmp_path))  # fmt: skip
    assert said.splitlines()[-2:] == ["130", "interrupted; what was compiled so far is kept"]
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


@pytest.mark.slow(reason="calls for five seconds")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_soak():
    """The test of `make soak`, for five seconds."""
    command = [sys.executable, "-m", "tests.house.soak", "--seconds", "5"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory grew by" in done.stdout


def available():
    """Bytes of memory available without swapping, or 0 where this is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.slow(reason="five gigabytes are written and read")
@pytest.mark.big
@pytest.mark.skipif(available() < 12e9, reason="less than 12 GB of memory are available")
def test_more_than_two_to_the_31_elements():
    """4.3 GB of float16, in place: 1000 rows are repeated, and so are their correct results."""
    rng = np.random.default_rng(5)
    tile, labels = (rng.normal(size=(1000, 1000)) * 3).astype(np.float16), rng.permutation(1000)
    logits = np.empty((2**31 // 1000 + 2000, 1000), np.float16)
    targets = np.resize(labels.astype(np.int32), len(logits))
    assert logits.size > 2**31
    calls = {
        "softmax": lambda z, t, **out: fusedce.cross_entropy(z, t, reduction="none", **out),
        "sigmoid": lambda z, t, **out: fusedce.focal(z, t, reduction="sum", **out),
    }
    rules = {"softmax": ("cross_entropy", {}), "sigmoid": ("focal", {"gamma": 2.0})}
    for activation, call in calls.items():
        for start in range(0, len(logits), 1000):
            logits[start : start + 1000] = tile[: len(logits) - start]
        want = call(tile, labels.astype(np.int32))
        some = [0, 1, 482, 483, 999]  # the last row is the tile's 482nd
        right = reference(rules[activation], tile[some], labels[some], activation=activation,
                          reduction="none")  # fmt: skip
        np.testing.assert_allclose(want[1][some].astype(float), right[1], 1e-3, 1e-7)
        loss, grad = call(logits, targets, grad_out=logits)
        assert grad is logits
        for start in range(0, len(logits), 1000):
            rows = slice(start, min(start + 1000, len(logits)))
            same = grad[rows].view(np.int16) == want[1][: rows.stop - start].view(np.int16)
            assert same.all(), (activation, start)
        if activation == "softmax":
            np.testing.assert_allclose(want[0][some], right[0], 1e-5)
            assert loss.tobytes() == np.resize(want[0], len(logits)).tobytes()
        else:
            whole, rest = divmod(len(logits), 1000)
            part = call(tile[:rest], labels[:rest].astype(np.int32))[0]
            assert loss == pytest.approx(whole * float(want[0]) + float(part), rel=1e-6)
