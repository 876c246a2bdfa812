"""The benchmark of the boosting objectives: its formulas, a small run, and its tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("lightgbm")
pytest.importorskip("xgboost")
pytest.importorskip("sklearn")

from benchmarks import boosting, boosting_surrogates, boosting_tables, program, results
from benchmarks import boosting_formulas as formulas
from fusedce.adapters.boosting import SigmoidFocal, SoftmaxFocal
from tests.benchmarks.common import fits, write_into, written

GAMMAS = (0.5, 1.0, 2.0, 3.7, 5.0)
gammas = pytest.mark.parametrize("gamma", GAMMAS)


def silent(_):
    """Ignores the progress of a run."""


@gammas
def test_the_digits_are_derivatives(gamma):
    """The 50-digit formulas are derivatives of -(1 - p)^gamma log p; differences in 80 digits."""
    import mpmath

    with mpmath.workdps(80):

        def loss(z):
            p = 1 / (1 + mpmath.exp(-z))
            return -((1 - p) ** mpmath.mpf(gamma)) * mpmath.log(p)

        for z in (-20.0, -2.5, 0.0, 3.0, 30.0):
            for y, sign in ((1, 1), (0, -1)):
                grad, convex, slope = formulas.exact(sign * z, y, gamma)
                first, second = (mpmath.diff(loss, mpmath.mpf(z), k) for k in (1, 2))
                assert abs(grad - sign * first) < 1e-12 * abs(first)
                assert abs(convex + slope - second) < 1e-10 * (abs(convex) + slope)


@gammas
def test_formulas(gamma):
    """The formulas used for timing and training are exact.

    The public recipes are approximately right at the moderate scores here.
    """
    z, y = np.tile(np.linspace(-5, 5, 21), 2), np.repeat([0.0, 1.0], 21)
    found = [formulas.exact(float(v), int(t), gamma) for v, t in zip(z, y, strict=True)]
    grad, convex, slope = np.array(found, dtype=float).T
    for formula, relative, absolute in (
        (formulas.stable, 1e-13, 1e-15),
        (formulas.by_shifted_logarithm, 1e-6, 1e-8),
        (formulas.by_differences, 1e-3, 5e-2),
    ):
        first, second = formula(z, y, gamma)
        np.testing.assert_allclose(first, grad, rtol=relative, atol=absolute)
        np.testing.assert_allclose(second, convex + slope, rtol=relative, atol=absolute)
    up = SigmoidFocal(gamma)(y, z)
    for block in (None, 7):
        for got, want in zip(formulas.sigmoid_objective(z, y, gamma, block), up, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-11)
    rows = np.asfortranarray(np.random.default_rng(0).normal(size=(30, 4)) * 3)
    labels = np.arange(30) % 4
    want = SoftmaxFocal(gamma)(labels, rows)
    for block in (None, 44):
        got = formulas.softmax_objective(rows, labels, gamma, 4 / 3, block)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)


def test_the_surrogate_that_won_is_ours():
    z, y = np.linspace(-8, 8, 65), np.ones(65)
    grad, convex, slope = formulas.terms(z, y, 2.0)
    ours = SigmoidFocal(2.0)(y, z)
    np.testing.assert_allclose(
        ours[1], boosting_surrogates.SURROGATES["bound"](convex, slope), 1e-11
    )
    assert (boosting_surrogates.SURROGATES["exact"](convex, slope) < 0).any()
    share = formulas.posterior(np.array(SigmoidFocal(2.0).init_score([1, 0, 0, 0])), 2.0)
    np.testing.assert_allclose(share, 0.25, rtol=1e-9)


def test_accuracy():
    records = {r["formula"]: r for r in boosting.measure_accuracy(silent)}
    ours, theirs = records["fusedce, float64"], records["differences, dx = 1e-6"]
    for key in ("gradient", "hessian"):
        assert max(part["worst"] for part in ours[key]) < 2e-13
        assert max(part["worst"] for part in records["fusedce, float32"][key]) < 2e-5
        assert not sum(part["not_finite"] for part in ours[key])
        assert sum(part["not_finite"] for part in theirs[key])
    rows = boosting_tables.accuracy_table(list(records.values())).rows()
    assert [len(row) for row in rows] == [4] * len(boosting.CONTENDERS)
    assert rows[0][-1] == ("none", None)


@pytest.fixture(name="result", scope="module")
def small_result(tmp_path_factory):
    """A run of all parts with few rows and seeds."""
    path = tmp_path_factory.mktemp("boosting") / "boosting.json"
    stages = boosting_surrogates.STAGES
    boosting_surrogates.STAGES = (2, 4)
    try:
        small = ["--seeds", "2", "--data", "wine (10%)", "--shrink", "1000", "--out", str(path)]
        assert boosting.main(small) == 0
    finally:
        boosting_surrogates.STAGES = stages
    return path


@pytest.mark.slow(reason="every library trains a model")
def test_program(result, capsys):
    read = results.read(result)
    assert len(read["surrogates"]) == 2 * 4 * 4
    assert {r["data"] for r in read["surrogates"]} == {"wine (10%)"}
    for record in read["surrogates"]:
        assert len(record["trees"]) == 2
        assert all(0 < value <= 1 for value in record["average_precision"])
    for call in read["speed"]["calls"]:
        assert set(call["ms"]) == {"fusedce", boosting.WHOLE, boosting.BLOCKS}
    for part in read["speed"]["rounds"]:
        assert 0 < part["call_ms"] < part["round_ms"]
    assert boosting.main(["--accuracy", "--out", str(result)]) == 0
    again = results.read(result)
    assert again["surrogates"] == read["surrogates"]  # parts that were not measured are kept
    assert "Worst relative error" in capsys.readouterr().out


@pytest.mark.slow(reason="the same models")
def test_readme(result, tmp_path, monkeypatch):
    write_into(tmp_path, monkeypatch)
    text = written(boosting.main, ["--out", str(result)], tmp_path, "boosting")
    assert len([line for line in text.splitlines() if line.startswith("| --- |")]) == 4


def test_a_missed_bar_is_told_in_words():
    call = {"case": "c", "ms": {"fusedce": 1, boosting.WHOLE: 4, boosting.BLOCKS: 2}}
    call |= {"ratios": {boosting.WHOLE: 4.0, boosting.BLOCKS: 2.0}}
    part = {"case": "r", "call_ms": 2, "round_ms": 10, "share": 0.2}
    for table, want in (
        (boosting_tables.speed_table([call]), ["c", "1", "4", "4× < 5 ✗", "2", "2×"]),
        (boosting_tables.share_table([part]), ["r", "2", "10", "20.0% > 10% ✗"]),
    ):
        assert [text for text, _ in table.rows()[0]] == want
        assert f"| {' | '.join(want)} |" in table.markdown()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_tables_fit_a_screen(width):
    """No figure is cut or left out."""
    fits(width, *boosting_tables.tables(results.read(results.FOLDER / "boosting.json")))


def test_a_part_leaves_no_result_unasked(tmp_path, monkeypatch, capsys):
    """A run with fewer seeds or rows does not overwrite the result of a full run."""
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(boosting, "GAMMAS", (2.0,))
    assert boosting.main(["--accuracy", "--shrink", "2"]) == 0
    assert list(tmp_path.iterdir()) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1/6 accuracy: 50 digits, gamma 2"  # a file has a line for each step
    assert boosting.main(["--accuracy"]) == 0
    assert [p.name for p in tmp_path.rglob("*.json")] == ["boosting.json"]
    assert not (tmp_path / "results").exists()


def test_who_disagrees_is_not_timed():
    wrong = {
        "fusedce": lambda: (np.ones(3), np.ones(3)),
        "NumPy": lambda: (np.ones(3), np.zeros(3)),
    }
    with pytest.raises(SystemExit, match="do not agree"):
        boosting.timed(wrong, 1)
    for calls in boosting.cases(shrink=2000).values():
        assert set(boosting.timed(calls, 1)) == set(calls)


def test_the_result_on_disk():
    """The result that the pages show has all parts and all data sets."""
    suite = boosting.Boosting(boosting.parse([]))
    for page, text in program.render(suite, results.read(results.FOLDER / suite.file)).items():
        assert (results.ROOT / page).read_text() == text
    kept = json.loads((results.FOLDER / "boosting.json").read_text(encoding="utf-8"))
    assert {"surrogates", "accuracy", "speed"} <= kept.keys()
    assert {r["data"] for r in kept["surrogates"]} == set(boosting_surrogates.SOURCES)
    assert min(len(r["trees"]) for r in kept["surrogates"]) >= 5
