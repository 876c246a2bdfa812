"""python -m fusedce: warmup compiles kernels in advance, doctor describes the installation."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from functools import partial

import pytest

from fusedce import __main__, __version__
from fusedce.tools import doctor, warmup
from tests.cpu.test_cache import run as run_script
from tests.cpu.test_threads import LIMIT, ROOT
from tests.cuda import sanitized, slots
from tests.house import docs, mutation, same_code, soak, stubs
from tests.house.test_pages import PARSERS


def run(*arguments, **variables):
    command = [sys.executable, "-m", "fusedce", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True,
        timeout=LIMIT, check=False,
    )  # fmt: skip


USUAL = """
    z = np.zeros((300, 300), "f4")
    fusedce.log_sigmoid(z)
    fusedce.log_sigmoid(z[:, :7])
    fusedce.log_sigmoid(z.T[::-2])
    show(folder=compiler.cache_folder())
"""


def test_warmup(tmp_path):
    """Later processes load the kernels that warmup compiled and compile none of them again."""
    done = run("warmup", "--loss", "log_sigmoid", "--dtype", "float32", NUMBA_CACHE_DIR=tmp_path)
    assert done.returncode == 0, done.stderr
    found = run_script(USUAL, tmp_path)
    assert found["kernels"] > 0
    assert found["fresh"] == 0
    said = " ".join(done.stdout.split())
    assert "log_sigmoid float32" in said
    assert f"{found['kernels']} kernels ({found['kernels']} compiled, 0 already there) in" in said
    assert found["folder"] in "".join(done.stdout.split())
    again = run("warmup", "--loss", "log_sigmoid", "--dtype", "float32", NUMBA_CACHE_DIR=tmp_path)
    assert f"(0 compiled, {found['kernels']} already there)" in " ".join(again.stdout.split())


@pytest.mark.slow(reason="compiles kernels into an empty cache")
def test_warmup_for_a_gpu(tmp_path):
    """warmup --cuda compiles for an architecture that is not here; the second time from disk."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    chosen = ("--loss", "log_softmax", "--dtype", "float16")
    for fresh in (True, False):
        done = run("warmup", "--cuda", "sm_120", *chosen, NUMBA_CACHE_DIR=tmp_path)
        assert done.returncode == 0, done.stderr
        said = " ".join(done.stdout.split())
        kept = list(tmp_path.rglob("cuda-softmax_*"))
        assert len(kept) > 4
        counts = (len(kept), 0) if fresh else (0, len(kept))
        assert "{} kernels ({} compiled, {} already there)".format(len(kept), *counts) in said
    done = run("warmup", "--cuda", "sm_999", *chosen, NUMBA_CACHE_DIR=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m fusedce warmup: nvJitLink ")
    assert len(done.stderr.splitlines()) == 1


def test_warmup_covers_every_function():
    """warmup covers each public function that has kernels, in every dtype."""
    import fusedce
    from tests.house.test_house import PUBLIC

    assert set(warmup.LOSSES) == PUBLIC - {"apply", "rule", "prior_bias"}
    assert {str(step).split()[0] for step in warmup.steps()} == set(warmup.LOSSES)
    assert {step.dtype for step in warmup.steps("focal")} == set(warmup.DTYPES)
    assert {step.loss for step in warmup.steps(dtype="float64")} == set(warmup.LOSSES)
    assert all(hasattr(fusedce, name) for name in warmup.LOSSES)


COVERED = """
    from fusedce.tools import warmup
    for step in [*warmup.steps("cross_entropy", "float32"), *warmup.steps("focal", "float32")]:
        step.run()
    ready = len(compiler.COMPILED)
    rng = np.random.default_rng(0)
    for shape in ((1, 2), (32, 10), (64, 80), (3, 97), (4000, 300), (20_000, 21), (2, 50_000)):
        z = rng.normal(size=shape).astype("f4")
        t = rng.integers(0, shape[1], len(z))
        y = (z > 1).astype("u1")
        w = rng.uniform(size=shape[1])
        for loss in (fusedce.cross_entropy, fusedce.focal):
            for activation in ("softmax", "sigmoid"):
                for options in (
                    {}, {"weight": w}, {"reduction": "none"}, {"return_grad": False},
                    {"label_smoothing": 0.1}, {"sample_weight": 2.0}, {"logit_scale": 0.5},
                ):
                    loss(z, t, activation=activation, **options)
                    loss(z, y.astype("f4"), activation=activation, **options)
                loss(np.asfortranarray(z), t, activation=activation)
                loss(z[:, ::-1], t, activation=activation, grad_out=np.empty(shape, "f4"))
                loss(z.T, t, activation=activation, axis=0)
            fusedce.binary_cross_entropy(z, y, pos_weight=w)
            fusedce.focal(z, y, alpha=0.25)
    image = rng.normal(size=(2, 21, 64, 64)).astype("f4")
    for dtype in ("i8", "u1", "i4"):
        fusedce.cross_entropy(image, np.zeros((2, 64, 64), dtype), axis=1)
    show(later=[name for name, *_ in compiler.COMPILED[ready:]])
"""


def test_warmup_covers_usual_calls():
    """After warmup, calls with usual shapes, layouts and options compile nothing."""
    found = run_script(COVERED, os.environ.get("NUMBA_CACHE_DIR", ""))
    assert found["later"] == []


@pytest.mark.parametrize("rich", [True, False])
def test_warmup_has_a_line_for_each_step(rich, monkeypatch, capsys):
    """Without a terminal or without rich, warmup prints a line for each step, and no bar."""
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert __main__.main(["warmup", "--loss", "sigmoid", "--dtype", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1/1 sigmoid float32"
    assert len(lines) == 2


def test_warmup_of_a_cache_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    done = run("warmup", NUMBA_CACHE_DIR=str(file))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("python -m fusedce warmup: nothing can be kept, since")
    assert line.endswith("set NUMBA_CACHE_DIR to a folder that can")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "the following arguments are required"),
        (("wormup",), "invalid choice: 'wormup'"),
        (("warmup", "--dtype", "int8"), "argument --dtype: invalid choice: 'int8'"),
        (("warmup", "--loss", "hinge"), "argument --loss: invalid choice: 'hinge'"),
        (("warmup", "--cuda", "sm90"), "an architecture is written like sm_90, got 'sm90'"),
        (("doctor", "--fast"), "unrecognized arguments: --fast"),
    ],
)
def test_errors(arguments, says, capsys):
    """A wrong argument gives status 2 and an error of one line, without the usage."""
    with pytest.raises(SystemExit) as stopped:
        __main__.main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_doctor():
    """doctor prints all facts in fewer than 48 lines of 80 columns.

    That is twice a screen of 24 lines, because the paths here are long.
    """
    done = run("doctor", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) < 48
    for word in (
        __version__, "numpy", "numba", "llvmlite", "ml_dtypes", "Python", "CPU", "bits", "cores",
        "threads", "layers", "workqueue", "cache", "MB", "GPU", "GPU compiler",
    ):  # fmt: skip
        assert word in done.stdout, word


@pytest.mark.parametrize("columns", [20, 60, 200])
def test_doctor_cuts_nothing(columns, tmp_path):
    """doctor prints a path unchanged in one line, also with spaces and on a narrow screen."""
    folder = tmp_path / "a folder of a long name, as on Windows" / "x" / "another one that is long"
    done = run("doctor", COLUMNS=str(columns), NUMBA_CACHE_DIR=str(folder))
    lines = done.stdout.splitlines()
    assert "…" not in done.stdout
    assert "\xa0" not in done.stdout
    assert any(f"{folder}{os.sep}" in line for line in lines)
    for line in lines:
        if len(line) > max(40, columns):  # only a path or a single word may be longer
            assert os.sep in line or len(line[14:].split()) == 1


def test_doctor_in_a_file(monkeypatch, capsys):
    """In a file each fact is one line of any length, so that it can be searched and sent."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert __main__.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = doctor.facts()
    assert len(lines) == len(facts)
    for line, (name, fact) in zip(lines, facts, strict=True):
        assert line.startswith(name)
        assert line.endswith(fact.split(";")[-1].split(", ")[-1].replace("\xa0", " "))


def test_help_reads_as_sentences(capsys):
    """--help describes each command and its options in sentences, without lists of choices."""
    for words, says in (
        (["--help"], "compile the usual kernels now"),
        (["warmup", "--help"], "compile for this loss or activation only: cross_entropy"),
        (["doctor", "--help"], "Print versions, threads"),
    ):
        with pytest.raises(SystemExit) as stopped:
            __main__.main(words)
        assert stopped.value.code == 0
        assert says in " ".join(capsys.readouterr().out.split())


PROGRAMS = {
    **{f"fusedce {word}".strip(): partial(__main__.main, [*word.split(), "--help"])
       for word in ("", "warmup", "doctor")},
    **{name: partial(parse, ["--help"]) for name, parse in PARSERS.items() if name != "fusedce"},
    **{f"tests.{name}": partial(module.parser().parse_args, ["--help"]) for name, module in {
        "cuda.sanitized": sanitized, "cuda.slots": slots, "house.mutation": mutation,
        "house.docs": docs, "house.same_code": same_code, "house.soak": soak, "house.stubs": stubs,
    }.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_has_one_form(name, monkeypatch, capsys):
    """What a program does, what it writes, how long it takes, an example, every option."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        PROGRAMS[name]()
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    usage, first, *rest = text.split("\n\n")
    assert usage.startswith(f"usage: python -m {name}")
    assert re.fullmatch(r"[A-Z].*[.]", first)
    assert all(len(line) <= 80 for line in text.splitlines())
    about = "\n".join(rest)
    parts = "Writes: ", "Takes:  ", "For example:"
    writes, takes, example = map(about.index, parts)
    assert writes < takes < example < about.index("\noptions:")
    assert re.search("second|minute|hour|measured", about[takes:example])
    assert f"python -m {name}" in about[example:]
    options = re.split(r"\n  (?=-)", about[about.index("\noptions:") :].partition("\ncommands:")[0])
    for option in options[1:]:
        words = option.split("  ", 1)
        assert len(words) == 2, f"{option} is not explained"
        help_text = " ".join(words[1].split())
        assert re.match(r"[a-z].*[^.]$", help_text), help_text


def test_doctor_imports_nothing_heavy():
    """doctor finds out which GPU libraries are installed without importing them."""
    code = "import sys; from fusedce.tools import doctor; doctor.facts(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "jax", "cupy", "numba_cuda", "matplotlib", "sklearn"}


def test_doctor_of_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("doctor", NUMBA_CACHE_DIR=str(tmp_path / "file"))
    assert done.returncode == 0
    assert "cannot be written" in " ".join(done.stdout.replace("│", " ").split())


def plain(facts):
    """Facts with ordinary spaces."""
    return [(name, text.replace("\xa0", " ")) for name, text in facts]


class Driver:
    """Stub of the CUDA driver: by default version 12.8, with two GPUs."""

    def __init__(self, code=0, version=12080):
        self.code, self.version = code, version

    def cuInit(self, flags):
        return self.code

    def cuDriverGetVersion(self, number):
        number._obj.value = self.version

    def cuDeviceGetCount(self, number):
        number._obj.value = 2

    def cuDeviceGetName(self, name, size, device):
        name.value = b"GPU number %d" % device


@pytest.mark.parametrize(("version", "extra"), [(12080, "cuda12"), (13010, "cuda13")])
def test_doctor_of_gpus(version, extra, monkeypatch):
    """doctor prints the names of the GPUs, the driver's version and which extra to install."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(version=version))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    facts = list(doctor.gpu())
    assert facts[:2] == [("GPU", "GPU number 0"), ("", "GPU number 1")]
    shown = f"{version // 1000}.{version % 1000 // 10}"
    assert facts[2] == ("CUDA driver", shown)
    command = f"pip install '.[{extra}]' in a checkout"
    assert plain(facts[3:]) == [("", f"numba_cuda and cupy missing: {command}")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert list(doctor.gpu())[2:] == [("CUDA driver", shown)]


def test_doctor_of_gpu_compilers(monkeypatch):
    """doctor prints the versions of the GPU compilers and which libraries are not found."""
    versions = {"numba-cuda": "0.30.4", "cupy-cuda13x": "14.2.0"}

    def version(name):
        if name in versions:
            return versions[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    assert plain(doctor.gpu_compiler()) == [
        ("GPU compiler", "numba-cuda 0.30.4, cupy-cuda13x 14.2.0"),
        ("", "NVVM is missing: pip install '.[cuda13]' in a checkout"),
        ("", "nvJitLink is missing: pip install '.[cuda13]' in a checkout"),
    ]
    del versions["numba-cuda"]
    ((name, said),) = plain(doctor.gpu_compiler())
    assert name == "GPU compiler"
    assert said.startswith("none, since numba-cuda is missing; only GPUs need it: pip install ")


def test_doctor_without_gpus(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(code=100))
    found = "none: NVIDIA's driver finds no GPU (cuInit returns error 100)"
    assert list(doctor.gpu()) == [("GPU", f"{found}; only arrays on a GPU need one")]

    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    ((_, said),) = doctor.gpu()
    assert said.startswith("none: NVIDIA's driver is not installed (")
