"""`make emulate` itself, with a few of the GPU tests: the stand-in for CuPy, skips, counts."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("numba_cuda")

from tests.cpu.test_threads import ROOT
from tests.emulator import programs

if why := programs.missing():
    pytest.skip(why, allow_module_level=True)


def emulate(*args, **environment):
    """pytest with the emulator in place of a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
               "-W", "default", "-m", "gpu", "-p", "tests.emulator.plugin", *args]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True,
                          text=True, check=False, timeout=600)  # fmt: skip
    return done.returncode, done.stdout


def test_on_cupys_arrays():
    some = "float32 or sigmoid-6 or stream or graph or two_devices"
    code, said = emulate("tests/cuda/test_gpu.py", "-k", some, EMULATOR_ORDER="random")
    assert code == 0, said
    passed, skipped = map(int, re.findall(r"(\d+) (?:passed|skipped)", said))
    assert passed >= 2
    assert skipped >= 4
    for reason in ("needs streams that work goes on in", "needs tensors on a GPU", "one device"):
        assert reason in said
    assert re.search(r"emulated here: \d+ kernels", said)


def test_another_architecture():
    code, said = emulate("tests/cuda/test_gpu_numbers.py", "-k", "bfloat16_is_what_it_says",
                         EMULATOR_CAPABILITY="7.5", EMULATOR_UNITS="3")  # fmt: skip
    assert code == 0, said
    assert "1 passed" in said
