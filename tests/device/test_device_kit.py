"""tests/device, the prepared run for a GPU machine, as far as it can run without one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from tests.cpu.test_threads import LIMIT, ROOT

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the GPU machine and its scripts are Linux's"
)

from fusedce.kernels.cuda import compile as compiler  # noqa: E402
from tests.cuda import calls  # noqa: E402
from tests.device import deadline, names, rename, smoke, unpack, wanted  # noqa: E402
from tests.device.smoke_cases import Case, Size, cases  # noqa: E402
from tests.emulator import programs  # noqa: E402
from tests.emulator.device import Emulated  # noqa: E402

FOLDER = ROOT / "tests/device"
SHOWN = 12_000  # bytes of output


def run(*command, **variables):
    env = os.environ | {name: str(value) for name, value in variables.items()}
    return subprocess.run(
        command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=LIMIT, check=False
    )


# --------------------------------------------------------------------- kernels


def test_names():
    """Every kernel of the usual calls is found by its written name; an unknown name is an error."""
    found = {(e.kernel, e.threads): 0 for c in calls.calls() for e in calls.launched(c)}
    assert len(found) > 150
    for each in found:
        line = json.loads(json.dumps(names.written(*each)))
        assert names.found(*line) == each
    with pytest.raises(LookupError):
        names.found([line[0][0], "no_such_kernel"], *line[1:])


def test_every_kernel_is_in_the_smoke_test():
    found = {e.kernel.factory for c in calls.calls() for e in calls.launched(c)}
    assert found == {kernel.factory for kernel, _ in wanted.launched(wanted.smoke)}


@pytest.mark.skipif(bool(programs.missing()), reason=programs.missing() or "")
@pytest.mark.parametrize("name", ["index rows", "distribution columns", "elements, weighted",
                                  "label pass: distributions", "log_softmax"])  # fmt: skip
def test_smoke_is_right(name, monkeypatch):
    """The smallest call of a family, emulated, passes the smoke test; a wrong result does not."""
    case = min((c for c in cases(name) if c.dtype == "float32"), key=lambda c: np.prod(c.shape))
    gpu = Emulated()
    assert smoke.check(gpu, case)[0] < 1
    true = gpu.call

    def spoilt(*args):
        found = true(*args)
        return (found[0], found[1] * 1.001) if isinstance(found, tuple) else found * 1.001

    monkeypatch.setattr(gpu, "call", spoilt)
    assert smoke.check(gpu, case)[0] > 1


def test_repeated_rows(monkeypatch):
    """The smoke test compares all repeated blocks of an array, and both of its two runs."""
    case = Case("sigmoid", "float64", Size((3, 5), 4))
    right = SimpleNamespace(sigmoid=lambda z: smoke.activated("sigmoid", z, 1).astype(float))
    assert smoke.check(right, case)[0] < 1

    def spoilt(z):
        found = right.sigmoid(z)
        found[-1, -1] += 1e-6
        return found

    with pytest.raises(AssertionError, match="equal rows have different results"):
        smoke.check(SimpleNamespace(sigmoid=spoilt), case)
    runs = iter((1.0, 1 + 1e-15))
    with pytest.raises(AssertionError, match="two runs differ"):
        smoke.check(SimpleNamespace(sigmoid=lambda z: right.sigmoid(z) * next(runs)), case)


@pytest.mark.parametrize("group", ["facts", "sanitized", "benchmark", "sweep"])
def test_wanted(group):
    """Each group of checks launches kernels, and all of them are the package's own."""
    found = wanted.launched(getattr(wanted, group))
    assert len(found) > (3 if group == "facts" else 20)
    assert len(wanted.written(found)) == len(found)


@pytest.mark.slow(reason="a run of pytest that records every launch")
def test_tests_are_recorded(tmp_path):
    """The recorder notes the launches of the GPU tests without a GPU, and no test fails."""
    some = "test_results_are_cupys or test_images or test_a_graph or test_as_the_cpu and 1023"
    tests = "tests/cuda/test_gpu.py", "tests/cuda/test_gpu_numbers.py", "-k", some
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
               "-p", "tests.device.recorder", "--assert=plain", "-W", "default", *tests,
               PYTHONOPTIMIZE=1, RECORD=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stdout
    (path,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) > 50
    assert [line[-1] for line in lines] == sorted((line[-1] for line in lines), reverse=True)
    kernels = [names.found(*line[:-1]) for line in lines]
    assert len({kernel.factory for kernel, _ in kernels}) > 5


@pytest.fixture(scope="module", name="kit")
def compiled_kit(tmp_path_factory):
    """Fixture: a folder with two kernels compiled ahead; one of them has no vectors."""
    folder = tmp_path_factory.mktemp("kit")
    chosen = "focal-float32-probability-index", "cross_entropy-float32-many"
    launches = [calls.launched(c)[-1] for c in calls.calls() if c.name in chosen]
    lines = [json.dumps(names.written(e.kernel, e.threads)) for e in launches]
    (folder / "wanted").write_text("".join(f"{line}\n" for line in lines))
    command = (sys.executable, "-m", "tests.device.compile_ahead")
    done = run(*command, folder / "wanted", folder / "out", "60", "1", NUMBA_CACHE_DIR=folder / "a")
    assert done.returncode == 0, done.stderr
    assert "2 cubins of 2 kernels" in done.stdout
    late = run(*command, folder / "wanted", folder / "late", "-1", NUMBA_CACHE_DIR=folder / "b")
    assert "0 cubins of 2 kernels" in late.stdout
    assert "2 were left out" in late.stdout
    return folder / "out", launches


@pytest.mark.parametrize("nvvm", ["the same", "another", "missing"])
def test_cubins_are_placed(kit, nvvm, tmp_path, monkeypatch):
    """Kernels compiled ahead are loaded from disk, whatever compilers the GPU machine has."""
    folder, launches = kit
    (tmp_path / "kit").mkdir()
    for path in folder.iterdir():
        os.link(path, tmp_path / "kit" / path.name) if path.is_file() else os.symlink(
            path, tmp_path / "kit" / path.name
        )
    stamp = json.loads((folder / "manifest.json").read_text())["stamp"]
    for module in (rename, compiler):
        monkeypatch.setattr(module, "cache_folder", lambda: str(tmp_path / "cache" / stamp))
    monkeypatch.setattr(compiler, "_MADE", {})
    true = compiler.toolchain()
    tools = {"the same": true, "another": ((2, 0, 3, 1), (13, 9), 1, 2)}.get(nvvm)

    def toolchain():
        if tools is None:
            raise ImportError("NVVM cannot be loaded")
        return tools

    monkeypatch.setattr(compiler, "toolchain", toolchain)
    placed, number, said = rename.rename(tmp_path / "kit")
    assert (placed, number) == (2, 2)
    assert ("not that of the cubins" in said) == (nvvm == "another")
    for each in launches:
        assert compiler.cubin(each.kernel, each.threads, (9, 0)).from_disk
    if nvvm == "missing":
        code = "from fusedce.kernels.cuda import compile; print(compile.toolchain())"
        path = tmp_path / "kit/toolchain"
        done = run(sys.executable, "-c", code, PYTHONPATH=FOLDER, FUSEDCE_TOOLCHAIN=path)
        assert done.stdout.strip() == repr(true), done.stderr


def test_cubins_of_other_sources(kit, tmp_path, monkeypatch):
    """Cubins of other sources are not placed: they may be the code of other kernels."""
    monkeypatch.setattr(rename, "cache_folder", lambda: str(tmp_path / "another"))
    placed, number, said = rename.rename(kit[0])
    assert (placed, number) == (0, 2)
    assert "other sources" in said
    assert list(tmp_path.iterdir()) == []


def test_what_is_carried():
    assert unpack.needed("numba/core/types.py")
    assert unpack.needed("numba_cuda/numba/cuda/a.pyx")
    for name in ("numba/tests/test_a.py", "numba/", "cuda/core/a.pyi", "x.data/scripts/numba"):
        assert not unpack.needed(name)


# --------------------------------------------------------------------- stages


def test_scripts_parse():
    scripts = sorted(FOLDER.glob("*.sh"))
    assert len(scripts) == 4
    for path in scripts:
        assert run("bash", "-n", path).stderr == ""


PREPARING = """
    echo "$*" >>{log}
    case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip download "*) echo no warning ;;
    *unpack.py*) mkdir -p "$3" && echo package >"$3/package.py" ;;
    *device.wanted*) echo '["a kernel"]' >"$3" ;;
    *device.newest*) echo code >"$4" ;;
    *compile_ahead*) mkdir -p "$4/cubins" && echo 1 | tee "$4/cubins/a" >"$4/manifest.json" ;;
    esac
"""


def test_preparing(tmp_path):
    """prepare.sh with fake programs; a second run downloads, packs and searches nothing again."""
    program, log = tmp_path / "python", tmp_path / "log"
    program.write_text("#!/bin/bash\n" + textwrap.dedent(PREPARING).format(log=log))
    program.chmod(0o755)
    for steps in (7, 2):
        log.unlink(missing_ok=True)
        done = run("bash", "tests/device/prepare.sh", JOBS=1, GPU_KIT=tmp_path / "kit",
                   FUSEDCE_STORE=tmp_path / "store", PYTHON_OF_TESTS=program,
                   PYTHON312=program)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert re.search(r"^to be sent: \d+\.\d MiB of 64$", done.stdout, re.MULTILINE)
        assert len(log.read_text().splitlines()) == steps
    held = {"cubins.tar.xz": {"manifest.json", "cubins/a"},
            "site.tar.xz": {"site/package.py", "site/sitecustomize.py"}}  # fmt: skip
    for name, files in held.items():
        with tarfile.open(tmp_path / "kit" / name) as archive:
            assert files <= set(archive.getnames())
    assert (tmp_path / "kit/newest.cubin").exists()


def test_page_and_script_agree_on_the_limits():
    script = (FOLDER / "check.sh").read_text()
    stages = re.findall(r"\bstage ([\w-]+) (\d+) \d+ ", script)
    assert len(stages) == 10
    page = (FOLDER / "README.md").read_text()
    for name, limit in stages:
        assert re.search(rf"^\| {name} \(\w+\) \| {limit} \|", page, re.MULTILINE), name


PYTHON = """
    case "$*" in
    "-c import xdist") exit {xdist} ;;
    "-c"*) exit 0 ;;
    "- "*) echo unpacked; exit 0 ;;
    *tests.device.smoke*) {smoke} ;;
    *benchmarks*) echo "STAGE_SECONDS=$STAGE_SECONDS $*" >>"$OUT/../asked"; exit 0 ;;
    *test_gpu*) echo "$*" >>"$OUT/../asked" ;;
    *sanitized*) echo "128 calls are right"; exit 0 ;;
    esac
    head -c 300000 /dev/zero | tr '\\0' x
    yes 'a line of output' | head -n 9000
    echo the end of "$*"
"""


@pytest.fixture(name="check")
def run_check(tmp_path):
    """Fixture: check.sh with fake programs on the PATH; (process, their arguments, files)."""

    def program(name, text):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/bash\n" + textwrap.dedent(text))
        path.chmod(0o755)

    def call(what, xdist=0, smoke="exit 3", **limits):
        program("python3", PYTHON.format(xdist=xdist, smoke=smoke))
        program("nvidia-smi", "echo NVIDIA H100 80GB HBM3, 580.1, 5 MiB, 345 MHz, 2619 MHz, 30")
        program("compute-sanitizer", 'shift 4; exec "$@"')
        program("ncu", "exit 0")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = run("bash", "tests/device/check.sh", what, PATH=path, KIT=tmp_path / "kit",
                   OUT=tmp_path / "out", **limits)  # fmt: skip
        asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
        return done, asked, {path.name for path in (tmp_path / "out").iterdir()}

    return call


def last(done):
    """The last line of output, after a check that the output is not too long."""
    assert len(done.stdout.encode()) < SHOWN
    return done.stdout.splitlines()[-1]


def test_a_stage_that_fails(check):
    """A failing stage stops no other; logs are kept whole and their ends shown; the status is 1."""
    done, asked, files = check("A")
    assert "failed: smoke; under $OUT: all-A.log" in last(done)
    assert done.returncode == 1
    assert "== smoke        0 s, ended with 3" in done.stdout
    assert done.stdout.count("the end of -m pytest") == 2
    assert files == {"all-A.log"}
    assert "-p xdist -n 14" in asked
    assert "--seconds 35 --quick --out" in asked
    assert "torch.compile --seconds 60 --out" in asked


@pytest.mark.slow(reason="waits for a deadline")
def test_a_stage_that_hangs(check):
    """A hanging stage is killed; the stages without time are named, and the summary is printed."""
    done, _, _ = check("A", smoke="trap '' INT; sleep 60", LIMIT=6, SPARE=1)
    named = "smoke gpu-tests quick suite compiled; under"
    assert f"failed: {named}" in last(done)
    assert int(re.search(r"check.sh A: (\d+) s", last(done))[1]) < 30
    assert "ended with 137" in done.stdout
    assert "== suite left out: no time" in done.stdout


def test_all_that_is_measured(check):
    done, asked, files = check("B", xdist=1)
    assert "failed: nothing; under $OUT: all-B.log memcheck.txt racecheck.txt" in last(done)
    assert done.returncode == 0
    assert "STAGE_SECONDS=205" in asked
    assert "--out " in asked
    assert "/nvidia-h100-80gb-hbm3.json" in asked
    assert "--sweep" in asked
    assert "128 calls are right" in done.stdout
    assert len(files) <= 5  # beside facts, the benchmark's result and its two pictures


def test_without_xdist(check):
    _, asked, _ = check("T", xdist=1)
    assert "xdist" not in asked
    assert "test_gpu_numbers.py" in asked


@pytest.mark.slow(reason="waits for a deadline")
def test_deadline(tmp_path):
    """Tests are not started after the deadline, and pytest says how many have passed."""
    pytest.importorskip("xdist")
    path = tmp_path / "test_slow.py"
    path.write_text("import time, pytest\n@pytest.mark.parametrize('k', range(99))\n"
                    "def test_a(k):\n    time.sleep(0.5)\n")  # fmt: skip
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", "-n",
               "2", "-p", "tests.device.deadline", path, PYTEST_DISABLE_PLUGIN_AUTOLOAD=1,
               STAGE_SECONDS=deadline.LEAVE + 6)  # fmt: skip
    assert "no time left" in done.stdout
    assert re.search(r"\b[1-9]\d? passed", done.stdout)
    session = SimpleNamespace(shouldstop=False, config=SimpleNamespace(getoption=lambda *_: None))
    plugin = deadline.Deadline(0.0)
    plugin.pytest_sessionstart(session)
    plugin.pytest_runtest_logreport(None)
    assert session.shouldstop == "no time left"
