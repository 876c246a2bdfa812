"""Importing fusedce takes little time and imports no framework."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = ("scipy", "torch", "jax", "jaxlib", "cupy", "pandas", "sklearn", "matplotlib")
LIMIT = 0.2  # seconds after `import numba`


def python(code, **variables):
    """What a new interpreter prints when it runs the code."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=os.environ | variables,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def modules(code):
    """The modules that some code loads, without those of NumPy and Numba (which try scipy)."""
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
    frameworks = FRAMEWORKS[call:]  # when Numba compiles, it imports scipy if installed
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


@pytest.mark.parametrize("when", ["before", "after"])
def test_coverage_of_a_project_that_compiles_nothing(when):
    """With NUMBA_DISABLE_JIT=1, fusedce computes the same results.

    A user sets it to measure coverage: Numba then compiles none of the user's functions.
    """
    given = {"NUMBA_DISABLE_JIT": "1"} if when == "before" else {}
    python("""
        from typing import NamedTuple
        import os
        import numpy as np, numba, fusedce
        os.environ["NUMBA_DISABLE_JIT"] = "1"  # read by Numba's compiler the next time
        class Mine(NamedTuple):
            a: float = 2.0
        @fusedce.rule(Mine)
        def mine(logp, logq, p, q, params):
            a = params.a
            return -a * logp, -type(p)(a), type(p)(0)
        z = np.random.default_rng(0).normal(size=(30_000, 7))
        t = np.arange(30_000) % 7
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        want = -np.log(p[np.arange(30_000), t]).mean()
        for rule, a in ((Mine(), 2), (None, 1)):
            if rule is not None:
                loss, grad = fusedce.apply(rule, z, t, activation="softmax")
            else:
                loss, grad = fusedce.cross_entropy(z, t)
            assert np.isclose(loss, a * want, 1e-12, 0)
            assert np.allclose(grad, a * (p - (t[:, None] == np.arange(7))) / 30_000, 1e-9, 1e-15)
        assert numba.config.DISABLE_JIT == 1
        def theirs(): pass
        assert numba.njit(theirs) is theirs
    """, **given)  # fmt: skip
