"""Compiled code on disk: never stale, never in the way, right whoever writes it at the same time.

``fusedce.sigmoid`` stands for all kernels: it is the one that compiles fastest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.test_threads import LIMIT, ROOT, needs_fork

START = """
import json, sys
import numpy as np, numba, ml_dtypes, fusedce
from fusedce.kernels.cpu import compile as compiler
def call(*dtypes):
    for dtype in dtypes:
        z = np.linspace(-3, 3, 1 << 8).astype(dtype)
        assert np.allclose(fusedce.sigmoid(z), 1 / (1 + np.exp(-z.astype(float))), 1e-6), dtype
def show(**more):
    fresh = [name for name, _, from_disk in compiler.COMPILED if not from_disk]
    print(json.dumps({"kernels": len(compiler.COMPILED), "fresh": len(fresh)} | more))
"""


def start(text, cache, tree=ROOT, **variables):
    """A script in a process of its own, with a cache of its own."""
    env = os.environ | {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache)} | variables
    command = [sys.executable, "-c", START + textwrap.dedent(text)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=env, cwd=tree, **pipes)


def shown(process):
    """What a script shows at its end."""
    with process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def run(text, cache, tree=ROOT, **variables):
    return shown(start(text, cache, tree, **variables))


def files(cache):
    return sorted(p for p in Path(cache).rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache that holds the kernel of float32."""
    folder = tmp_path_factory.mktemp("cache")
    assert run("call('float32'); show()", folder)["fresh"] > 0
    return folder


@pytest.fixture
def cache(warm, tmp_path):
    """A copy of it."""
    return shutil.copytree(warm, tmp_path / "cache")


def test_second_process(cache):
    """It loads all and compiles nothing; the figures are printed, their place is the benchmarks."""
    found = run("""
        import time
        start = time.perf_counter()
        call("float32")
        show(seconds=time.perf_counter() - start)
    """, cache)  # fmt: skip
    assert found["kernels"] > 0
    assert found["fresh"] == 0
    print(f"first call of a second process: {found['seconds']:.2f} s")
    assert found["seconds"] < 5


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The sources, to be edited."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("fusedce", "kernels"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=left_out)
    return folder


def test_stamp_sees_every_source(tree, tmp_path):
    """An edit of any file that is compiled from, another Numba, another llvmlite."""
    copy = shutil.copytree(tree, tmp_path / "tree", symlinks=True)
    run("""
        import llvmlite, os
        from pathlib import Path
        stamp = compiler.source_stamp.__wrapped__
        home = Path(compiler.__file__).resolve().parents[1]
        sources = [*home.rglob("*.py"), *(Path(fusedce.__file__).parent / "losses").glob("*.py")]
        assert len(sources) > 20, sources
        assert all(path.is_relative_to(os.getcwd()) for path in sources)
        stamps = {stamp()}
        for n, path in enumerate(sources, 1):
            path.write_text(path.read_text() + "# an edit")
            stamps.add(stamp())
            assert len(stamps) == n + 1, path
        for n, module in enumerate((numba, llvmlite), n + 1):
            module.__version__ += ".1"
            stamps.add(stamp())
            assert len(stamps) == n + 1, module
        show()
    """, tmp_path / "cache", copy)  # fmt: skip


def test_edits_are_never_stale(tree, tmp_path):
    """One cache for the package before an edit, after it, and before it again. The line stands in
    another file than the kernel, which calls it: Numba's own cache would not look there.
    """
    source = tree / "kernels/link.py"
    head, tail = source.read_text().split("def sigmoid_outcomes(")
    line = "return logp, logq, p, q\n"
    assert line in tail
    values = []
    for edited in (line, "return logp, logq, p + p, q\n", line):
        source.write_text(f"{head}def sigmoid_outcomes({tail.replace(line, edited, 1)}")
        value = "value=float(fusedce.sigmoid(np.float32(0)))"
        values.append(run(f"show({value})", tmp_path / "cache", tree))
    assert [v["value"] for v in values] == [0.5, 1.0, 0.5]
    assert values[-1]["fresh"] == 0


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "a flipped bit": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "garbage": lambda data: b"\x80garbage" + data[::-1],
}


@pytest.mark.parametrize("first", [0, 2])
def test_damaged_files(cache, first):
    """Each file damaged in another way: compiled again, right, and whole afterwards."""
    ways = list(DAMAGE.values())
    for k, path in enumerate(files(cache), first):
        path.write_bytes(ways[k % len(ways)](path.read_bytes()))
    found = run("call('float32'); show()", cache)
    assert found["fresh"] == found["kernels"] > 0
    assert run("call('float32'); show()", cache)["fresh"] == 0


def test_cache_that_cannot_be_written(tmp_path):
    """A file stands where the home should: the call works, and leaves nothing behind."""
    file, temporary = tmp_path / "file", tmp_path / "temporary"
    file.write_text("")
    temporary.mkdir()
    places = {"HOME": str(file), "XDG_CACHE_HOME": str(file / "cache"), "TMPDIR": str(temporary)}
    found = run("call('float32'); show()", "", **places)
    assert found["fresh"] == found["kernels"] > 0
    assert list(temporary.iterdir()) == []


def test_full_disk(cache):
    """No byte can be written: what is there is loaded, the rest is compiled, no part stays."""
    resource = pytest.importorskip("resource")
    assert resource.RLIMIT_FSIZE
    before = files(cache)
    found = run("""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        call("float32", "float64")
        show()
    """, cache)  # fmt: skip
    assert 0 < found["fresh"] < found["kernels"]
    assert files(cache) == before


def test_readable_but_not_writable(cache):
    """A cache warmed when an image was built, used by a process that may not write."""
    folders = [p for p in Path(cache).rglob("*") if p.is_dir()]
    try:
        for folder in folders:
            folder.chmod(0o555)
        found = run("call('float32'); show()", cache)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert found["fresh"] == 0


def test_two_processes_at_once(tmp_path):
    """Both compile the same into an empty cache; a third compiles nothing."""
    both = [start("call('float32'); show()", tmp_path) for _ in range(2)]
    for process in both:
        assert shown(process)["kernels"] > 0
    assert run("call('float32'); show()", tmp_path)["fresh"] == 0


def test_any_mixture_of_two_writers(warm, tmp_path):
    """Two processes store kernels of two dtypes at once. Each file is written whole, by one of the
    two: whichever was last for each, no dtype may get the other's code. (Numba's own index of
    numbered files fails here. The seed gives both dtypes the same symbol names as well.)
    """
    seed = {"PYTHONHASHSEED": "0"}
    writers = {}
    for dtype in ("float32", "float64"):
        run(f"call('{dtype}'); show()", tmp_path / dtype, **seed)
        writers[dtype] = {p.relative_to(tmp_path / dtype): p for p in files(tmp_path / dtype)}
    a, b = writers.values()
    common = sorted(a.keys() & b.keys())
    for parity in (0, 1):
        last = {name: (a, b)[(k + parity) % 2][name] for k, name in enumerate(common)}
        mixed = tmp_path / f"mixed{parity}"
        for name, path in (a | b | last).items():
            (mixed / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, mixed / name)
        run("call('float32', 'float64'); show()", mixed, **seed)


@needs_fork
def test_fork_while_a_thread_compiles(tmp_path):
    """The compiler's lock is taken at that moment; the child has something to compile too."""
    run("""
        import os, signal, threading, time, warnings
        warnings.simplefilter("ignore")  # of forks beside threads
        from numba.core.compiler_lock import global_compiler_lock as lock
        thread = threading.Thread(target=call, args=("float32",))
        thread.start()
        while lock._lock.acquire(blocking=False):
            lock._lock.release()
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            signal.alarm(200)  # a hang ends here
            call("float64")
            os._exit(0)
        thread.join()
        status = os.waitpid(child, 0)[1]
        assert status == 0, f"the child ended with status {status}"
        show()
    """, tmp_path)  # fmt: skip
