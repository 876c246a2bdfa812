"""The tests cover each loss in the list of losses: a wrong one that is added to it fails."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import fusedce
from fusedce.losses import LOSSES
from fusedce.options import DEFAULTS
from tests.house.mutation import copied

TEMPLATE = '''
from typing import NamedTuple

from fusedce.call import run
from fusedce.kernels.rule import rule
from fusedce.losses.declaration import Loss, declare
from fusedce.options import Traits, with_options


class Parameters(NamedTuple):
    """No parameters."""


@rule(Parameters)
def _rule(logp, logq, p, q, params):
    """f = q, the mean absolute error."""
    return q, {slope}, -p


@with_options
def {name}(logits, targets, **options):
    """The mean absolute error."""
    return run(Parameters(), Traits("{name}"), logits, targets, **options)


def _reference(p, xp):
    return 1 - p


declare(Loss({name}, {reference}activations=("softmax", "sigmoid")))
'''
STATED = "reference=_reference, "


@pytest.mark.parametrize("name", LOSSES)
def test_a_listed_loss_states_its_definition(name):
    loss = LOSSES[name]
    assert loss.reference is not None or loss.alias_of is not None, (
        f"{name} is listed in fusedce/losses/__init__.py without a definition to test it against: "
        f"give Loss({name}, ...) its reference="
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_listed_loss_has_a_line_and_a_source_for_the_readme(name):
    assert LOSSES[name].summary
    assert LOSSES[name].source


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("form", ["index", "soft"])
@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.alias_of is not None])
def test_an_alias_is_the_same_loss(name, form, dtype):
    """The same bits for each activation, with and without options."""
    rng, loss = np.random.default_rng(0), LOSSES[name]
    z = rng.normal(size=(5, 4)).astype(dtype)
    t = rng.integers(0, 4, 5) if form == "index" else rng.random(z.shape)
    weighted = {"weight": rng.random(4), "label_smoothing": 0.1, "reduction": "none"}
    for activation in loss.activations:
        for options in ({}, weighted, {"softcap": 3.0, "sample_weight": rng.random(5)}):
            call = options | {"activation": activation, "return_hessian": True}
            if activation != "softmax" and "sample_weight" in call:
                call["sample_weight"] = call["sample_weight"][:, None]
            ours = getattr(fusedce, name)(z, t, **call)
            other = getattr(fusedce, loss.alias_of)(z, t, **call)
            for a, b in zip(ours, other, strict=True):
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    np.testing.assert_array_equal(
        getattr(fusedce, name)(z, t)[1],
        getattr(fusedce, name)(z, t, activation=loss.activations[0])[1],
    )


# Shared with other losses; test_losses.py asks for them in every case.
ASKED_EVERYWHERE = {"alpha", "soft_labels"}


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.alias_of is None])
def test_every_own_option_is_tested_with_several_values(name):
    """A loss's options are in its declaration, and each value gives another loss."""
    loss, rng = LOSSES[name], np.random.default_rng(0)
    z, t = rng.normal(size=(5, 4)), rng.random((5, 4))
    parameters = inspect.signature(loss.function).parameters
    for option in set(parameters) - set(DEFAULTS) - {"logits", "targets"} - ASKED_EVERYWHERE:
        usual = parameters[option].default
        values = {one.get(option, usual) for one in (*loss.options, *loss.more_options)}
        assert len(values) > 1, (
            f"{option} of {name} is tested with {values} alone: give Loss({name}, ...) options= or "
            "more_options= with other values"
        )
        found = {float(getattr(fusedce, name)(z, t, **{option: v})[0]) for v in values}
        assert len(found) == len(values), f"{option} of {name} changes nothing"


# The tests that are run in the copy: each activation, finite differences, mpmath and the oracle.
CHOSEN = (
    "mae and (states_its or (every_option and index-float64) or (test_sigmoid and hard-float64) or "
    "(sigmoid_elements and 0.3) or (are_derivatives and True and (softmax or sigmoid)))"
)
FILES = ("listed", "losses", "properties", "accuracy", "reference")


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Fixture: pytest's report in a copy of the tree with three more losses in the list."""
    tree = copied(tmp_path_factory.mktemp("listed"))
    folder = tree / "fusedce" / "losses"
    listed = (folder / "__init__.py").read_text()
    for name, slope, reference in (
        ("mae", "-p", STATED), ("mae_wrong_sign", "p", STATED), ("mae_unstated", "-p", ""),
    ):  # fmt: skip
        text = TEMPLATE.format(name=name, slope=slope, reference=reference)
        (folder / f"{name}.py").write_text(text)
        line = f"from fusedce.losses.{name} import {name} as {name}\n"
        listed = listed.replace("\n__all__", f"{line}\n__all__")
    (folder / "__init__.py").write_text(listed)
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=line", "-p", "no:cacheprovider"]
    command += ["-k", CHOSEN, *(f"tests/core/test_{name}.py" for name in FILES)]
    done = subprocess.run(
        command, cwd=tree, env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow(reason="the suite of a copy, and kernels of three more losses")
def test_a_wrong_sign_fails_by_numbers(verdicts):
    """A loss with the wrong sign of a derivative fails the tests that the correct loss passes."""
    said = dict(line.split(" ", 1)[::-1] for line in verdicts.splitlines()
                if line.startswith(("PASSED", "FAILED")))  # fmt: skip
    said = {test.split(" - ")[0]: outcome for test, outcome in said.items()}
    right = [t for t in said if "mae" in t and "mae_" not in t]
    assert {said[test] for test in right} == {"PASSED"}
    for test in right:
        outcome = said[test.replace("mae", "mae_wrong_sign")]
        about_references = "states_its" in test or "test_reference" in test
        assert outcome == ("PASSED" if about_references else "FAILED"), test
    assert len(right) == 8
    number = r"np\.float64\((-?[0-9.e-]+)\)"
    ours, true = re.search(rf"grad\[.*\] {number}, not {number}", verdicts).groups()
    assert float(ours) == pytest.approx(-float(true))


@pytest.mark.slow(reason="the same suite")
def test_a_loss_without_a_definition_is_one_failure(verdicts):
    failed = [v for v in verdicts.splitlines() if v.startswith("FAILED") and "mae_unstated" in v]
    assert len(failed) == 1
    assert (
        "mae_unstated is listed in fusedce/losses/__init__.py without a definition to test it "
        "against: give Loss(mae_unstated, ...) its reference="
    ) in verdicts
