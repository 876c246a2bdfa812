"""Signatures and annotations describe the calls; type checkers are run on typed_calls.py."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fusedce
from fusedce.losses import LOSSES as DECLARED
from fusedce.options import Options
from tests.house import stubs

ROOT = Path(__file__).resolve().parents[2]
LOSSES = [
    n for n in fusedce.__all__ if "targets" in inspect.signature(getattr(fusedce, n)).parameters
]


@pytest.mark.parametrize("name", LOSSES)
def test_help_lists_the_options(name):
    """Each option is in the signature with its default; only that of activation differs."""
    assert set(LOSSES) == {"apply", *DECLARED}
    found = inspect.signature(getattr(fusedce, name)).parameters
    assert "options" not in found
    for option, default in Options._field_defaults.items():
        own = option == "activation" and name in DECLARED
        usual = DECLARED[name].activations[0] if own else default
        assert found[option].default == usual, option


def test_annotations_are_up_to_date():
    assert stubs.PATH.read_text() == stubs.stubs(), (
        "fusedce/__init__.pyi does not fit the signatures: python -m tests.house.stubs writes it"
    )


@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_checkers(checker):
    """The type checkers accept typed_calls.py, as in `make check`; skipped if not installed."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    command = [sys.executable, "-m", checker, "tests/house/typed_calls.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
