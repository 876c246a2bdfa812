"""The training demo, benchmarks.digits; benchmarks/README.md shows its results."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import digits, digits_steps, digits_tables, digits_training, results
from tests.benchmarks.common import write_into, written


@pytest.fixture
def short(monkeypatch):
    """Two seeds, few epochs, few rounds."""
    monkeypatch.setattr(digits, "SEEDS", range(2))
    monkeypatch.setattr(digits_training, "EPOCHS_TEN", 25)
    monkeypatch.setattr(digits_training, "EPOCHS_ONE", 2)
    monkeypatch.setattr(digits_steps.measure_steps, "__defaults__", (2,))


def invented(focal=(0.5, 0.7, 0.8)):
    """A result with made-up figures."""
    curves = np.linspace(0.5, 0.97, 4)[None] + np.array([[0.0], [0.01], [0.02]])
    ms = {"NumPy": {"loss": 2.0, "rest": 3.0}, "fusedce": {"loss": 0.5, "rest": 2.5}}
    return results.origin(digits.DISTRIBUTIONS) | {
        "settings": {"seeds": [0, 1, 2], "digit": 8, "prevalence": 0.01, "seconds": 1},
        "accuracy": {"training": curves.tolist(), "held out": (curves - 0.01).tolist()},
        "average_precision": {"cross-entropy": [0.5, 0.6, 0.7], "focal, γ = 2": list(focal)},
        "steps": [{"batch": 32, "classes": 10, "ms": ms}, {"batch": 9, "classes": 2000, "ms": ms}],
    }


def test_a_run(short, tmp_path, monkeypatch, capsys):
    """Without a terminal it prints a line for each seed and tables, and writes into --out."""
    path = tmp_path / "folder" / "some.json"
    assert digits.main(["--out", str(path)]) == 0
    assert path.with_name("digits.png").stat().st_size > 20_000
    lines = capsys.readouterr().out.splitlines()
    steps = [line.rpartition(": ")[0] for line in lines[:8]]
    assert steps == [
        f"{k}/2 {name}"
        for name in (
            "ten digits, accuracy",
            "detector, cross-entropy, average precision",
            "detector, focal, γ = 2, average precision",
            "training steps, loss",
        )
        for k in (1, 2)
    ]
    assert lines[-1].startswith(f"result: {path}, {path.with_name('digits.png')}, ")
    result = results.read(path)
    assert result["settings"]["seeds"] == [0, 1]
    assert {len(curve) for curve in result["accuracy"]["held out"]} == {25}
    assert {len(found) for found in result["average_precision"].values()} == {2}
    assert [(r["batch"], r["classes"]) for r in result["steps"]] == list(digits_steps.STEPS)
    for record in result["steps"]:
        assert all(part > 0 for ms in record["ms"].values() for part in ms.values())
    monkeypatch.setattr(digits_training, "EPOCHS_TEN", 1)
    with pytest.raises(SystemExit, match="of the worst seed is not above"):
        digits.main(["--out", str(path)])


def test_both_losses_of_a_step_agree(monkeypatch):
    for batch, classes in digits_steps.STEPS:
        digits_steps.agree(batch, classes)
    logits, labels = np.array([[3e4, 0.0], [0.0, -3e4]], np.float32), np.array([1, 0])
    loss, grad = digits_steps.numpy_cross_entropy(logits, labels)
    assert loss == 1.5e4
    assert np.array_equal(grad, [[0.5, -0.5], [0, 0]])
    wrong = {"NumPy": lambda z, t: (0.0, z), "fusedce": digits_steps.LOSSES["fusedce"]}
    monkeypatch.setattr(digits_steps, "LOSSES", wrong)
    with pytest.raises(SystemExit, match="do not agree"):
        digits_steps.agree(4, 3)


def test_readme(tmp_path, monkeypatch):
    """--readme trains nothing: the picture and the numbers of the page are from the JSON result."""
    monkeypatch.setattr(digits, "run_all", None)
    write_into(tmp_path, monkeypatch)
    results.write(invented(), tmp_path / "digits.json")
    text = written(digits.main, [], tmp_path, "digits")
    assert tmp_path.joinpath("digits.png").stat().st_size > 20_000
    assert "(results/digits.png)" in text
    words = " ".join(text.split())
    for part in (
        "accuracy 0.970 ± 0.010.",
        "0.600 ± 0.100 with `binary_cross_entropy`, 0.667 ± 0.153 with `focal`.",
        "+0.067 on average, standard error 0.033; 3 seeds do not show a difference.",
        "| batch of 9, 2,000 classes | NumPy | 2.00 | 3.00 | 40% |",
        "| batch of 9, 2,000 classes | fusedce | 0.500 | 2.50 | 17% |",
    ):
        assert part in words
    assert max(map(len, text.split("\n\n| ")[0].splitlines())) <= 100


@pytest.mark.parametrize(
    ("focal", "says"),
    [
        ((0.6, 0.7, 0.81), "+0.103 on average, standard error 0.003: more than two"),
        ((0.4, 0.5, 0.59), "-0.103 on average, standard error 0.003: more than two"),
        ((0.4, 0.8, 0.7), "+0.033 on average, standard error 0.088; 3 seeds do not show"),
    ],
)
def test_the_difference_is_judged_by_its_standard_error(focal, says):
    assert says in digits_tables.difference(invented(focal))


def test_readme_of_the_repository():
    """The section of the page is that of the result in benchmarks/results."""
    suite = digits.Digits(digits.parse([]))
    result = results.read(results.FOLDER / suite.file)
    for page, text in digits.program.render(suite, result).items():
        assert (results.ROOT / page).read_text() == text


def test_help_does_not_train(monkeypatch, capsys):
    monkeypatch.setattr(digits, "run_all", None)
    with pytest.raises(SystemExit) as stopped:
        digits.main(["--help"])
    assert stopped.value.code == 0
    assert "--out FILE" in capsys.readouterr().out


def test_what_git_keeps_changes_only_by_readme():
    """Every program that `make readme` runs takes the last result, and measures nothing."""
    makefile = results.ROOT.joinpath("Makefile").read_text()
    commands = makefile.split("\nreadme:")[1].split("\n\n")[0].splitlines()[1:]
    assert any("benchmarks.digits" in command for command in commands)
    assert all(command.endswith(" --readme") for command in commands)
    assert "benchmarks/results" not in makefile
