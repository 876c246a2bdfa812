"""Build the sdist and from it the wheel, install that into a new environment, and call it.

Nothing is downloaded: a .pth file makes the dependencies of the running environment importable.
`make wheel-test` does the same with downloads; the code of the call is taken from the Makefile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {".git", ".venv", "build", "dist", "__pycache__"}


def run(*command, cwd, **options):
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hook(name, source, target):
    """Call a hook of the build backend, as `python -m build --no-isolation` does."""
    code = f"from setuptools import build_meta; print(build_meta.{name}({str(target)!r}))"
    run(sys.executable, "-c", code, cwd=source)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel), the wheel built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    copy, dist = folder / "copy", folder / "dist"
    dist.mkdir()

    def skipped(_, names):
        return [n for n in names if n in LEFT_OUT or n.endswith(("_cache", ".egg-info"))]

    shutil.copytree(ROOT, copy, symlinks=True, ignore=skipped)
    hook("build_sdist", copy, dist)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        # Before Python 3.11.4, extractall has no argument filter.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(folder / "unpacked")
    (source,) = (folder / "unpacked").iterdir()
    hook("build_wheel", source, dist)
    (wheel,) = dist.glob("*.whl")
    return sdist, wheel


def sources():
    """The files that the wheel must contain, by the checkout."""
    packages = {
        f"fusedce/{path.relative_to(ROOT / 'fusedce').as_posix()}"
        for pattern in ("*.py", *(f"{p}/*.py" for p in ("adapters", "backends", "losses", "tools")))
        for path in (ROOT / "fusedce").glob(pattern)
    }
    kernels = {
        f"fusedce/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "kernels").rglob("*.py")
    }
    return packages | kernels | {"fusedce/py.typed", "fusedce/__init__.pyi"}


def test_contents_of_the_wheel(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    held = {name for name in names if ".dist-info/" not in name}
    assert held == sources()
    assert "fusedce/kernels/cpu/rows.py" in held
    assert {name.split("/")[0] for name in held} == {"fusedce"}


def test_contents_of_the_sdist(built):
    with tarfile.open(built[0]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "kernels/cpu/rows.py"} <= names


def test_metadata(built):
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().split("\n\n")[0].splitlines()
    needs = [line.split(": ")[1] for line in lines if line.startswith("Requires-Dist")]
    core = {n.split(">")[0] for n in needs if "extra" not in n}
    assert core == {"numba", "numpy", "ml-dtypes"}
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra")}
    assert extras >= {
        "cuda12",
        "cuda13",
        "torch",
        "jax",
        "boosting",
        "bench",
        "docs",
        "test",
        "dev",
    }


def test_the_wheel_works_where_the_checkout_is_not(built, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    install = ("install", "--quiet", "--no-index", "--no-deps", built[1])
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    makefile = (ROOT / "Makefile").read_text()
    code = makefile.split("define WHEEL_CALL\n")[1].split("\nendef")[0]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = run(python, "-c", code, cwd=tmp_path, env=env)
    assert "from its wheel: ok" in said
    where = run(python, "-c", "import fusedce; print(fusedce.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(tmp_path)
