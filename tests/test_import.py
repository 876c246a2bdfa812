"""Importing fusedce is cheap and drags no framework along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = ("scipy", "torch", "jax", "jaxlib", "cupy", "pandas", "sklearn", "matplotlib")
LIMIT = 0.2  # seconds beyond `import numba`


def python(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def modules(code):
    """What is loaded after some code, and not by NumPy and Numba alone (which try scipy)."""
    show = "; import sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(python(code + show))) - set(json.loads(python(BASE + show)))


BASE = "import numpy, numba, ml_dtypes"


@pytest.mark.parametrize("call", [False, True], ids=["import", "call"])
def test_loads_no_framework_and_no_cuda(call):
    code = "import numpy as np, fusedce"
    if call:
        options = "np.zeros((2, 3), np.float16), np.array([0, 1]), activation='softmax'"
        code += f"; fusedce.focal({options})"
    loaded = modules(code)
    assert "fusedce" in loaded
    frameworks = FRAMEWORKS[call:]  # a compilation makes Numba load scipy, where there is one
    assert [name for name in loaded if name.split(".")[0] in frameworks] == []
    assert [name for name in loaded if name.startswith(("numba.cuda", "numba_cuda"))] == []


def test_import_time():
    code = (
        "import time, numpy, numba\n"
        "start = time.perf_counter()\n"
        "import fusedce\n"
        "print(time.perf_counter() - start)"
    )
    seconds = [float(python(code)) for _ in range(3)]
    assert min(seconds) < LIMIT, seconds


def test_compiles_nothing_at_import():
    code = "import fusedce\nfrom fusedce.kernels.cpu.compile import COMPILED\nprint(len(COMPILED))"
    assert int(python(code)) == 0


@pytest.mark.parametrize("name", ["cross_entropy", "softmax", "rule", "apply", "prior_bias"])
def test_public_names_are_there(name):
    assert python(f"import fusedce; print(callable(fusedce.{name}))").strip() == "True"
