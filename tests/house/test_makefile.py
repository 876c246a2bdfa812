"""`make`: every target has its line of help; torch is installed as a CPU build or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP = """#!/bin/sh
echo "$*" >> "$0.log"
case "$*" in
  *--no-index*) exit {local};;
  *--extra-index-url*) exit {index};;
esac
"""


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@needs_make
@pytest.mark.parametrize("words", [["make"], ["make", "help"]], ids=" ".join)
def test_help(words):
    """A line for each target: what it does, what it writes, how long it takes."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    (phony,) = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert list(lines) == phony.split()
    for line in lines.values():
        does, writes, takes = line.split("; ")
        assert re.match(r"make [a-z-]+ +[A-Z]", does), line
        assert writes.startswith("writes "), line
        assert re.search("second|minute|hour|no time", takes), line


@needs_make
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI's torch is for the CPU")
@pytest.mark.parametrize(("local", "index"), [(0, 1), (1, 0), (1, 1)])
def test_torch(local, index, tmp_path):
    """`make` takes torch from what is installed, from find-links or from the index of CPU builds.

    If there is none, it says so and does not fail.
    """
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP.format(local=local, index=index))
    python.chmod(0o755)
    (tmp_path / ".venv" / ".pip").touch()
    done = subprocess.run(["make", ".venv/.torch"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = python.with_name("python.log").read_text().splitlines()
    asked = [re.findall("torch==[^ ]*", call) for call in calls]
    assert all("--no-deps" in call for call in calls[: 2 if local else 1])
    there = not (local and index)
    assert (tmp_path / ".venv" / ".torch").exists() == there
    pinned = asked[0]
    assert asked == [pinned] + [[f"{pinned[0]}+cpu"]] * local + [pinned] * there
    assert ("the tests that need torch are skipped" in done.stdout) == (not there)


def test_no_extra_brings_torch_unasked():
    """Only the extra "torch" depends on torch."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = {e: {re.match("[A-Za-z0-9_.-]*", n)[0] for n in needs} for e, needs in extras.items()}
    assert {extra for extra, needs in names.items() if "torch" in needs} == {"torch"}
