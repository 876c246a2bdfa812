"""Interrupts, sizes beyond 32 bits and long runs; threads and forks are in test_layers.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fusedce
from tests.reference import reference
from tests.test_threads import ROOT, run_script

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
    """100 times Ctrl-C, sent at any moment of a call: the next call is right."""
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
    """Python sees to signals when a function begins and when one in C returns: at each of these."""
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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_soak():
    """The short form of `make soak`."""
    command = [sys.executable, "-m", "tests.soak", "--seconds", "5"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory grew by" in done.stdout


def available():
    """Bytes of memory that can be had without swapping, or 0 where nobody knows."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


@pytest.mark.big
@pytest.mark.skipif(available() < 12e9, reason="less than 12 GB of memory are available")
def test_more_than_two_to_the_31_elements():
    """4.3 GB of float16, in place: every row is that of the first thousand, and these are right."""
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
