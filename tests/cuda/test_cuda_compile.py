"""From a kernel factory to a cubin, without a GPU: compilation, the disk cache, error messages.

A kernel of a few lines stands for all; the kernels of the package have other tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import fusedce
from fusedce.kernels.rule import evaluate
from fusedce.kernels.vector import Single, Wide, numbers, sum_of_lanes
from tests.cpu.test_cache import DAMAGE
from tests.cpu.test_cache import run as run_script
from tests.cpu.test_threads import LIMIT, ROOT

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
from llvmlite import ir

from fusedce.kernels.cuda import compile as compiler
from fusedce.kernels.cuda.compile import cubin
from fusedce.kernels.cuda.kernel_args import SLOT, Kernel, KernelArgs
from fusedce.kernels.cuda.toolchain import dispatcher, intrinsic, types

FLOAT32 = (np.float32,)


@intrinsic
def put(typingctx, address, value):
    """Write an integer to memory."""

    def codegen(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer(1)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def tiny(T):
    def kernel(args):
        put(args.logits, args.p7 + args.outer)

    return kernel


def test_one_word_a_field():
    """The launcher writes the fields in order: each is one parameter of eight bytes."""
    ptx = compiler._ptx(Kernel(tiny, FLOAT32), 96, (9, 0))
    assert ptx.count(".param .u64") == len(KernelArgs._fields)
    assert ptx.count(".param ") == ptx.count(".param .u64")
    read = {int(k) for k in re.findall(r"ld\.param\.u64.*_param_(\d+)\]", ptx)}
    assert read == {SLOT[name] for name in ("logits", "p7", "outer")}
    assert ".maxntid 96, 1, 1" in ptx
    assert re.search(r"\.target sm_90\b", ptx)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_cubin(capability):
    """A cubin is machine code with an entry of a fixed name; the assembler's log is kept."""
    made = cubin(Kernel(tiny, FLOAT32), 128, capability)
    assert made.code.startswith(b"\x7fELF")
    assert f".text.{compiler.ENTRY}".encode() in made.code
    assert f"for 'sm_{capability[0]}{capability[1]}'" in made.log
    assert re.search(r"Used \d+ registers", made.log)
    assert " 0 bytes spill stores, 0 bytes spill loads" in made.log
    assert cubin(Kernel(tiny, FLOAT32), 128, capability) is made


@pytest.mark.parametrize("capability", [(3, 5), (14, 7)])
def test_unknown_device(capability):
    """Devices older than the compiler supports, or newer than it knows, raise RuntimeError."""
    with pytest.raises(RuntimeError, match=r"3\.5 is not supported|does not know .*sm_147"):
        cubin(Kernel(tiny, FLOAT32), 128, capability)


def test_key(monkeypatch):
    """The cache key depends on everything that the machine code depends on."""
    kernel = Kernel(tiny, (np.float32, 3, Wide))
    start = kernel, 128, (9, 0)
    keys = [
        compiler._key(*start),
        compiler._key(kernel, 64, (9, 0)),
        compiler._key(kernel, 128, (8, 0)),
        compiler._key(Kernel(tiny, (np.float64, 3, Wide)), 128, (9, 0)),
        compiler._key(Kernel(tiny, (np.float32, 4, Wide)), 128, (9, 0)),
        compiler._key(Kernel(tiny, (np.float32, 3, Single)), 128, (9, 0)),
        compiler._key(Kernel(test_key, (np.float32, 3, Wide)), 128, (9, 0)),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(compiler, "__version__", "0.30.99")
        keys.append(compiler._key(*start))
    for k, _ in enumerate(compiler.toolchain()):
        with monkeypatch.context() as patched:
            versions = list(compiler.toolchain())
            versions[k] = "another"
            patched.setattr(compiler, "toolchain", lambda found=tuple(versions): found)
            keys.append(compiler._key(*start))
    assert max(Counter(keys).values()) == 1
    assert compiler._key(*start) == keys[0]


class Chosen(NamedTuple):
    """A rule with an ``if``."""

    t: float = 0.5


@fusedce.rule(Chosen)
def chosen(logp, logq, p, q, params):
    if p > params.t:
        return -logp, -q / q, q * 0
    return -logq, q / q, q * 0


class Smooth(NamedTuple):
    """A rule without an ``if``."""

    t: float = 0.5


@fusedce.rule(Smooth)
def smooth(logp, logq, p, q, params):
    return -logp, -q / q, q * 0


def ruled(rule, T, lanes):
    def kernel(args):
        N = numbers(lanes, T)
        p = N(T(args.p0))
        f, _, _ = evaluate(p, p, p, p, rule(T(args.p1)))
        put(args.loss, types.int64(sum_of_lanes(f)))

    return kernel


def test_rules_that_no_vector_can_take(monkeypatch):
    """A rule with an ``if`` is tried once for vectors, then compiled for scalars only."""
    tried = []
    kept = compiler._kept
    monkeypatch.setattr(compiler, "_kept", lambda k, *a: (tried.append(k.types), kept(k, *a))[1])
    for threads in (32, 64):
        made = cubin(Kernel(ruled, (Chosen, np.float32, Wide)), threads, (9, 0))
        assert made.name == "ruled(Chosen, float32, Single)"
    made = cubin(Kernel(ruled, (Smooth, np.float32, Wide)), 32, (9, 0))
    assert made.name == "ruled(Smooth, float32, Wide)"
    assert [types[0] for types in tried] == [Chosen, Chosen, Chosen, Smooth]
    assert [types[2] for types in tried] == [Wide, Single, Single, Wide]


def broken(T, lanes):
    if T is np.float32 and lanes is Single:
        return tiny(T)

    def kernel(args):
        put(args.loss, "not a number")

    return kernel


@pytest.mark.parametrize("rule", [Smooth, np.float32])
def test_other_errors_are_told(rule):
    """Compile errors are raised if scalars do not help the rule, or the kernel has no rule."""
    with pytest.raises(compiler.NumbaError, match="Cannot cast"):
        cubin(Kernel(broken, (rule, Wide)), 32, (9, 0))
    assert Smooth not in compiler._SCALAR_RULES


def test_threads_compile_once():
    """Eight threads ask for the same kernel; one compiles it."""
    before = len(compiler.COMPILED)
    kernel = Kernel(tiny, (np.float64,))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: cubin(kernel, 512, (8, 9)), range(8)))
    assert all(m is made[0] for m in made)
    assert len(compiler.COMPILED) == before + 1


def test_other_threads_keep_their_device():
    """While a kernel is compiled for an absent device, other threads that use numba-cuda do not see
    that device.
    """
    seen = []

    def look():
        try:
            seen.append(dispatcher.get_current_device().compute_capability)
        except Exception as error:  # where no driver is
            seen.append(type(error))

    before = dispatcher.get_current_device
    with compiler._device((5, 5)):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
    assert seen[0] != (5, 5)
    assert seen[1] == (5, 5)
    assert dispatcher.get_current_device is before


# The source of a new process; the factory is in a copy of the package.
TINY = """
from llvmlite import ir
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.cuda.helper import magic
@intrinsic
def put(typingctx, address, value):
    def codegen(context, builder, sig, args):
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer(1)))
        return context.get_dummy_value()
    return types.void(types.int64, types.int64), codegen
def tiny(T):
    def kernel(plan):
        put(plan.logits, magic(plan.p7))
    return kernel
"""
HELPER = """
from fusedce.kernels.scalar import scalar
@scalar
def magic(x):
    return x + 0x1234567
"""
START = """
import json, sys
import numpy as np
from fusedce.kernels.cuda import compile as compiler
from fusedce.kernels.cuda.kernel_args import Kernel
from fusedce.kernels.cuda.tiny import tiny
def show(*types):
    made = compiler.cubin(Kernel(tiny, types or (np.float32,)), 64, (9, 0))
    magic = [n for n in (0x1234567, 0x7654321) if n.to_bytes(4, "little") in made.code]
    print(json.dumps({"magic": magic, "from_disk": made.from_disk, "log": made.log}))
"""


def run(text, cache, tree):
    return run_script(START + textwrap.dedent(text), cache, tree)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Fixture: a copy of the package with one more kernel and its helper."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("fusedce", "kernels"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=left_out)
    (folder / "kernels/cuda/tiny.py").write_text(TINY)
    (folder / "kernels/cuda/helper.py").write_text(HELPER)
    return folder


def kept(cache):
    return sorted(Path(cache).rglob("cuda-tiny-*"))


def test_edits_are_never_stale(tree, tmp_path):
    """One cache serves the package before an edit of a helper, after it, and after its undoing."""
    helper = tree / "kernels/cuda/helper.py"
    found = []
    for text in (HELPER, HELPER.replace("0x1234567", "0x7654321"), HELPER):
        helper.write_text(text)
        found.append(run("show()", tmp_path, tree))
    assert [f["magic"] for f in found] == [[0x1234567], [0x7654321], [0x1234567]]
    assert [f["from_disk"] for f in found] == [False, False, True]
    assert found[0]["log"].splitlines()[1] == found[2]["log"].splitlines()[1]
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files(damage, tmp_path, monkeypatch):
    """A damaged file in the cache is compiled again and replaced by a complete one."""
    monkeypatch.setattr(compiler, "cache_folder", lambda: str(tmp_path))
    monkeypatch.setattr(compiler, "ours", lambda *things: True)
    job = Kernel(tiny, FLOAT32), 64, (9, 0)
    first = compiler._kept(*job)
    (path,) = kept(tmp_path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    again, third = compiler._kept(*job), compiler._kept(*job)
    assert [made.from_disk for made in (first, again, third)] == [False, False, True]
    assert first.code == third.code
    assert again.log == third.log
    assert kept(tmp_path) == [path]


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(compiler, "cache_folder", lambda: str(tmp_path / "file"))
    monkeypatch.setattr(compiler, "ours", lambda *things: True)
    assert not compiler._kept(Kernel(tiny, FLOAT32), 64, (9, 0)).from_disk


def test_what_is_not_ours_is_not_kept(tree, tmp_path):
    """A user's rule is not cached on disk: its source is not a part of the stamp."""
    found = run("""
        class Mine: pass
        show(Mine)
    """, tmp_path, tree)  # fmt: skip
    assert found["magic"] == [0x1234567]
    assert kept(tmp_path) == []
    run("show(np.float64)", tmp_path, tree)
    assert len(kept(tmp_path)) == 1


def python(text, *options, **variables):
    """Run a new Python process; (its output, the last line of its errors)."""
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(text)], cwd=ROOT, text=True,
        capture_output=True, timeout=LIMIT, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    return done.stdout.strip(), (done.stderr.splitlines() or [""])[-1]


def test_numpy_without_row_stack():
    """Kernels compile with a NumPy without row_stack (2.5), and it is not left defined after."""
    said, error = python("""
        import numpy as np
        if hasattr(np, "row_stack"):
            del np.row_stack
            np.__all__ = [name for name in np.__all__ if name != "row_stack"]
        from tests.cuda.test_cuda_compile import FLOAT32, Kernel, cubin, tiny
        print(len(cubin(Kernel(tiny, FLOAT32), 64, (9, 0)).code) > 1000, hasattr(np, "row_stack"))
    """)
    assert said == "True False", error


HIDDEN = """
    import sys
    sys.meta_path = [f for f in sys.meta_path if type(f).__name__ != "NumbaCudaFinder"]
    sys.modules.pop("_numba_cuda_redirector", None)
"""
NAMED = "from fusedce.kernels.cuda.toolchain import cuda; print(cuda.implementation)"


def test_numba_cuda_installed_without_its_pth():
    """numba-cuda without its .pth file, as pip --target installs it, is found."""
    assert python(f"{HIDDEN}\n    {NAMED}")[0] == "NVIDIA"


@pytest.mark.filterwarnings("ignore")
def test_the_numba_cuda_inside_numba():
    """If the numba.cuda inside Numba was imported first, an ImportError says so."""
    said, error = python(f"{HIDDEN}\n    import numba.cuda\n    {NAMED}", "-W", "ignore")
    assert said == ""
    assert error.startswith("ImportError: numba.cuda is the one inside Numba")


@pytest.mark.parametrize("name", ["_numba_cuda_redirector", "numba_cuda", "cuda.bindings"])
def test_numba_cuda_is_missing(name):
    """The ImportError says in one sentence what to install."""
    said, error = python(f"""
        import sys
        sys.modules["{name}"] = None
        import fusedce.kernels.cuda.compile
    """)
    assert said == ""
    assert error.startswith("ImportError: ")
    assert "pip install 'fusedce[cuda13]', or 'fusedce[cuda12]' for a driver of CUDA 12" in error


def test_simulator():
    said, error = python(NAMED, NUMBA_ENABLE_CUDASIM="1")
    assert said == ""
    assert error.endswith("unset NUMBA_ENABLE_CUDASIM")


def test_compilers_are_missing(monkeypatch):
    """NVVM and nvJitLink are separate libraries; if one is missing, the error names the package."""

    def absent(name):
        raise RuntimeError(f"no {name}\nsearched here\nand there")

    monkeypatch.setattr(compiler, "load_nvidia_dynamic_lib", absent)
    with pytest.raises(ImportError, match=r"\(no nvvm\): pip install 'fusedce\[cuda13\]'"):
        compiler.toolchain.__wrapped__()
