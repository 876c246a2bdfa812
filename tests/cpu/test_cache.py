"""The cache of compiled code on disk: never stale, never the cause of an error, safe to share.

The tests use ``fusedce.sigmoid``, since its kernel compiles fastest.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import marshal
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fusedce.kernels import cache as cache_module
from tests.cpu.test_threads import LIMIT, ROOT, needs_fork

pytestmark = pytest.mark.slow(reason="processes compile into caches of their own")

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
    """Start a script in a new process that uses this cache."""
    env = os.environ | {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache)} | variables
    command = [sys.executable, "-c", START + textwrap.dedent(text)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=env, cwd=tree, **pipes)


def shown(process):
    """What a script prints by ``show``, its last line."""
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
    """Fixture: a cache that holds the kernel for float32."""
    folder = tmp_path_factory.mktemp("cache")
    assert run("call('float32'); show()", folder)["fresh"] > 0
    return folder


@pytest.fixture
def cache(warm, tmp_path):
    """Fixture: a copy of ``warm``."""
    return shutil.copytree(warm, tmp_path / "cache")


def test_second_process(cache):
    """A second process loads all kernels from the cache and compiles none, in less than 5 s."""
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
    """Fixture: a copy of the sources that tests may edit."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("fusedce", "kernels"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=left_out)
    return folder


def test_stamp_sees_every_source(tree, tmp_path):
    """The stamp changes with any source file and with the versions of Numba and llvmlite."""
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
    """One cache serves the package before an edit, after it, and after the edit is undone.

    The edited function is not in the kernel's file: Numba's own cache would not notice the edit.
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


SIGMOID = "return logp, logq, p, q\n"
VALUE = "show(value=float(fusedce.sigmoid(np.float32(0))))"


def version(tree, place, line):
    """A copy of the tree without symbolic links, with this last line in ``sigmoid_outcomes``."""
    copy = shutil.copytree(tree, place)
    source = copy / "fusedce/kernels/link.py"
    head, tail = source.read_text().split("def sigmoid_outcomes(")
    source.write_text(f"{head}def sigmoid_outcomes({tail.replace(SIGMOID, line, 1)}")
    return copy


def without_sources(copy):
    """Replace the .py files of a copy by .pyc files."""
    assert compileall.compile_dir(copy, quiet=1, legacy=True)
    for source in copy.rglob("*.py"):
        source.unlink()
    return copy


def zipped(copy):
    return Path(shutil.make_archive(str(copy), "zip", copy))


# Imports code objects without files, as in an application made by PyInstaller.
FROZEN = """
import importlib.abc, importlib.util, marshal, sys
from pathlib import Path
CODES = marshal.loads(Path(__file__).with_name("codes").read_bytes())
class Frozen(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def find_spec(self, name, path=None, target=None):
        if name in CODES:
            inside = self.is_package(name)
            return importlib.util.spec_from_loader(name, self, is_package=inside)
    def is_package(self, name):
        return any(other.startswith(name + ".") for other in CODES)
    def get_code(self, name):
        return CODES[name]
    def get_source(self, name):
        return None
sys.meta_path.insert(0, Frozen())
"""


def frozen(copy):
    """A folder whose sitecustomize.py makes the modules of the copy importable."""
    codes = {}
    for source in copy.rglob("*.py"):
        parts = source.relative_to(copy).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        codes[name] = compile(source.read_text(), f"frozen/{name}", "exec")
    place = copy.with_name(copy.name + "-frozen")
    place.mkdir()
    (place / "codes").write_bytes(marshal.dumps(codes))
    (place / "sitecustomize.py").write_text(FROZEN)
    return place


@pytest.mark.parametrize("made", [without_sources, zipped], ids=["pyc", "zip"])
def test_versions_without_sources(made, tree, tmp_path):
    """Two versions share one cache: each loads its own code and never the other's."""
    values = []
    places = [
        made(version(tree, tmp_path / name, line))
        for name, line in (("old", SIGMOID), ("new", "return logp, logq, p + p, q\n"))
    ]
    for place in (*places, *places):
        script = f"assert fusedce.__file__.startswith({str(place)!r}); {VALUE}"
        values.append(run(script, tmp_path / "cache", tmp_path, PYTHONPATH=str(place)))
    assert [v["value"] for v in values] == [0.5, 1.0, 0.5, 1.0]
    assert [v["fresh"] == 0 for v in values] == [False, False, True, True]


def test_frozen_application(tree, tmp_path):
    """Without files two versions cannot be told apart: nothing is cached, and doctor says so."""
    for line, value in ((SIGMOID, 0.5), ("return logp, logq, p + p, q\n", 1.0)):
        place = frozen(version(tree, tmp_path / str(value), line))
        found = run(f"""
            from fusedce.tools import doctor
            assert not hasattr(fusedce, "__file__")
            said = list(doctor.cache())
            {VALUE[:-1]}, said=said)
        """, tmp_path / "cache", tmp_path, PYTHONPATH=str(place))  # fmt: skip
        assert found["value"] == value
        ((name, said),) = found["said"]
        assert name == "cache"
        assert said.startswith("nothing can be kept, since fusedce's .py or .pyc files cannot be")
    assert files(tmp_path / "cache") == []


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "a flipped bit": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "garbage": lambda data: b"\x80garbage" + data[::-1],
}


@pytest.mark.parametrize("first", [0, 2])
def test_damaged_files(cache, first):
    """Kernels whose cache files are damaged are compiled again, and the files are replaced."""
    ways = list(DAMAGE.values())
    for k, path in enumerate(files(cache), first):
        path.write_bytes(ways[k % len(ways)](path.read_bytes()))
    found = run("call('float32'); show()", cache)
    assert found["fresh"] == found["kernels"] > 0
    assert run("call('float32'); show()", cache)["fresh"] == 0


def test_cache_that_cannot_be_written(tmp_path):
    """With a file in place of the home directory a call works, and leaves no files behind."""
    file, temporary = tmp_path / "file", tmp_path / "temporary"
    file.write_text("")
    temporary.mkdir()
    places = {"HOME": str(file), "XDG_CACHE_HOME": str(file / "cache"), "TMPDIR": str(temporary)}
    found = run("call('float32'); show()", "", **places)
    assert found["fresh"] == found["kernels"] > 0
    assert list(temporary.iterdir()) == []


def test_full_disk(cache):
    """On a full disk cached kernels load, others are compiled, and no partial file remains."""
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
    """A cache filled earlier, as for a container image, is used by a process that may not write."""
    folders = [p for p in Path(cache).rglob("*") if p.is_dir()]
    try:
        for folder in folders:
            folder.chmod(0o555)
        found = run("call('float32'); show()", cache)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert found["fresh"] == 0


needs_users = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owners here")


@needs_users
@pytest.mark.parametrize(
    ("owner", "mode", "me", "read"),
    [
        (1000, 0o100644, 1000, True),
        (1000, 0o100664, 1000, False),  # a group may have other members
        (1000, 0o100666, 1000, False),
        (0, 0o100644, 1000, True),
        (0, 0o100664, 1000, False),
        (0, 0o100666, 1000, False),
        (0, 0o040755, 1000, True),
        (0, 0o040777, 1000, False),
        (0, 0o041777, 1000, True),  # sticky: other users cannot replace our files
        (3333, 0o100644, 1000, False),
        (3333, 0o040755, 1000, False),
        (3333, 0o041777, 1000, False),
        (3333, 0o100644, 0, False),
        (0, 0o100666, 0, False),
    ],
)
def test_whose_files_are_read(owner, mode, me, read, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: me)
    status = os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    assert cache_module.trusted(status) is read


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


CHANGES = {
    "another user's files": lambda path: path.is_file() and os.chown(path, 3333, 3333),
    "another user's folders": lambda path: path.is_dir() and os.chown(path, 3333, 3333),
    "files that others can write": lambda path: path.is_file() and path.chmod(0o666),
    "folders that others can write": lambda path: path.is_dir() and path.chmod(0o777),
}


@needs_users
@pytest.mark.parametrize("change", CHANGES)
def test_files_of_other_users(change, cache, tmp_path):
    """Files that others own or can write are not unpickled; new ones replace them if possible."""
    if "user's" in change and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    payload = pickle.dumps(Bomb(tmp_path / "bomb"))
    for path in files(cache):
        path.write_bytes(hashlib.sha256(payload).digest() + payload)
    for path in (cache / "fusedce").rglob("*"):
        CHANGES[change](path)
    found = run("""
        from fusedce.tools import doctor
        said = list(doctor.cache())
        call("float32")
        show(said=said)
    """, cache)  # fmt: skip
    assert not (tmp_path / "bomb").exists()
    assert found["fresh"] == found["kernels"] > 0
    said = found["said"][2][1]
    if "files" in change:
        many = len(files(cache))
        assert said == f"{many} of them are not read, since other users own or can write them"
        assert run("call('float32'); show()", cache)["fresh"] == 0
    else:
        assert said.startswith(f"nothing can be kept, since {cache}")
        assert "belongs to another user or can be written by others" in said
        assert all(path.read_bytes().endswith(payload) for path in files(cache))


@needs_users
def test_what_is_kept_can_be_written_by_its_user_alone(tmp_path):
    """Whatever the umask, only the owner can write cache files: else they would not be read."""
    run("import os; os.umask(0); call('float32'); show()", tmp_path)
    kept = list((tmp_path / "fusedce").rglob("*"))
    assert len(kept) > 1
    assert not any(p.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) for p in kept)
    assert run("call('float32'); show()", tmp_path)["fresh"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
@pytest.mark.parametrize("given", [None, "", "relative"])
def test_user_without_a_home(given, tmp_path):
    """Without a home directory no folder, named ~ or otherwise, is made in the current one."""
    (tmp_path / "here").mkdir()
    given = {} if given is None else {"XDG_CACHE_HOME": given}
    found = run(f"""
        import os, pwd
        from fusedce.tools import doctor
        os.chdir({str(tmp_path / "here")!r})
        for name in ("HOME", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        os.environ.update({given})
        def unknown(uid):
            raise KeyError(uid)
        pwd.getpwuid = unknown
        said = list(doctor.cache())
        fusedce.sigmoid(np.ones(3, "f4"))
        show(said=said, here=os.listdir())
    """, "")  # fmt: skip
    assert found["here"] == []
    ((name, said),) = found["said"]
    assert name == "cache"
    assert said.startswith("nothing can be kept, since this user has no home; set NUMBA_CACHE_DIR")


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
@pytest.mark.parametrize("given", ["", "relative"])
def test_relative_folders_of_caches_are_ignored(given, tmp_path):
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": given}
    found = run("show(folder=compiler.cache_folder())", "", **home)
    assert Path(found["folder"]).parent == tmp_path / ".cache/fusedce/fusedce"
    found = run("show(folder=compiler.cache_folder())", "folder")
    assert Path(found["folder"]).parent == ROOT / "folder/fusedce"


def test_two_processes_at_once(tmp_path):
    """Two processes fill an empty cache with the same kernels; a third compiles nothing."""
    both = [start("call('float32'); show()", tmp_path) for _ in range(2)]
    for process in both:
        assert shown(process)["kernels"] > 0
    assert run("call('float32'); show()", tmp_path)["fresh"] == 0


def test_any_mixture_of_two_writers(warm, tmp_path):
    """Two processes store kernels of two dtypes at once, and no dtype may get the other's code.

    Each file is written whole by one of the two, so the test mixes files of both. (Numba's own
    index of numbered files fails here. The seed gives both dtypes the same symbol names as well.)
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
    """A child forked while a thread holds the compiler's lock can compile without a deadlock."""
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
