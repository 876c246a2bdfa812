"""The training demo, benchmarks.digits; README.md shows its results."""

from __future__ import annotations

import pytest

from benchmarks import digits, results


def test_a_run(tmp_path, monkeypatch, capsys):
    """Without a terminal it prints a line for each seed and a table, and draws into --out."""
    monkeypatch.setattr(digits, "SEEDS", range(2))
    monkeypatch.setattr(digits, "EPOCHS_TEN", 25)
    monkeypatch.setattr(digits, "EPOCHS_ONE", 2)
    path = tmp_path / "folder" / "some.png"
    assert digits.main(["--out", str(path)]) == 0
    assert path.stat().st_size > 20_000
    lines = capsys.readouterr().out.splitlines()
    steps = [line.rpartition(": ")[0] for line in lines[:6]]
    assert steps == [
        f"{k}/2 {name}"
        for name in (
            "ten classes, accuracy",
            "detector, cross-entropy, average precision",
            "detector, focal, γ = 2, average precision",
        )
        for k in (1, 2)
    ]
    assert lines[-1].startswith(f"picture: {path}, ")
    monkeypatch.setattr(digits, "EPOCHS_TEN", 1)
    with pytest.raises(SystemExit, match="of the worst seed is not above"):
        digits.main(["--out", str(path)])


def test_help_does_not_train(monkeypatch, capsys):
    monkeypatch.setattr(digits, "run_all", None)
    with pytest.raises(SystemExit) as stopped:
        digits.main(["--help"])
    assert stopped.value.code == 0
    assert "--out FILE" in capsys.readouterr().out


def test_the_picture_of_the_readme_changes_only_where_asked():
    assert digits.parse([]).out == results.RUNS / "digits.png"
    makefile = results.ROOT.joinpath("Makefile").read_text()
    readme = makefile.split("\nreadme:")[1].split("\n\n")[0]
    assert makefile.count("benchmarks/results") == readme.count("benchmarks/results") == 1
