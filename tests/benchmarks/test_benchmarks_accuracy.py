"""The benchmark of accuracy: its oracle, its contenders, how errors are judged, its tables."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

pytest.importorskip("mpmath")

from benchmarks import accuracy, accuracy_contenders, accuracy_tables, oracle, program, results
from benchmarks.accuracy import INPUTS, LOSSES, MEASURED, combinations
from benchmarks.accuracy_contenders import CONTENDERS, Problem
from benchmarks.rivals import Rival
from tests.benchmarks.common import printed, write_into, written
from tests.exact import exact_logit, exact_softmax

TITLES = ("softmax cross-entropy", "sigmoid focal, γ = 2")
every_loss = pytest.mark.parametrize("title", LOSSES)


def silent(_):
    """Ignores the progress of a run."""


def public(loss):
    """The loss as tests.exact has it."""
    return ("focal", {"gamma": loss.gamma}) if loss.gamma else ("cross_entropy", {})


# ------------------------------------------------------------------------------------ oracle


@every_loss
def test_the_oracle_is_that_of_the_suite(title):
    """The formula's 50 digits agree with Taylor arithmetic on the definition, at hard inputs."""
    import mpmath

    loss, rule = LOSSES[title], public(LOSSES[title])
    with mpmath.workdps(accuracy.DIGITS):
        if loss.activation == "softmax":
            z = np.array([1.0, -1e4, 60.0, 59.0, -np.inf, 1e4 - 80])
            for row in (z[:4], z[[0, 1, 3]], z):
                for y in range(len(row)):
                    if row[y] == -np.inf:
                        continue
                    masked = [-1e9 if v == -np.inf else v for v in row]
                    want = exact_softmax(rule, masked, {y: 1}, range(len(row)))[1]
                    found = accuracy.true_row(loss, row, y)
                    for got, right in zip(found, want, strict=True):
                        limit = mpmath.mpf("1e-40") * abs(right) + mpmath.mpf("1e-99999")
                        assert abs(got - right) <= limit  # 1e-99999: a logit of -1e9 is no -inf
            return
        for z in (-1e4, -80.0, -0.3, 0.0, 16.0, 80.0):
            for y in (0, 1):
                share = 1.0 if loss.alpha is None else loss.alpha if y else 1 - loss.alpha
                right = exact_logit(rule, z, y, 1 - y)[1] * share
                got = accuracy.true_element(loss, z, y)
                assert abs(got - right) <= mpmath.mpf("1e-40") * abs(right)


@every_loss
def test_the_oracle_beside_float64(title):
    """At ordinary logits the analytic gradient in float64 is the same."""
    loss = LOSSES[title]
    asked = accuracy.problem(loss, "ordinary", "float64", 6)
    if loss.activation == "softmax":
        mass = (asked.targets[:, None] == np.arange(accuracy.CLASSES)).astype(float)
        want = oracle.softmax_rows(loss, asked.logits, mass)[1]
    else:
        want = oracle.sigmoid_elements(loss, asked.logits, asked.targets)[1]
    rounded, rest = accuracy.truth(asked)
    np.testing.assert_allclose(rounded, want, rtol=1e-12)
    assert (np.abs(rest) <= np.spacing(np.abs(rounded)) / 2).all()
    assert rest.any()


def test_a_row_of_one_class():
    """Without a rival the gradient is 0."""
    for loss in LOSSES.values():
        assert accuracy.true_row(loss, np.array([-np.inf, 3.0]), 1) == [0, 0]


# ------------------------------------------------------------------------------------ inputs


@pytest.mark.parametrize(
    ("name", "softmax"), [(n, s) for n in INPUTS for s in (True, False) if s or n != "masked"]
)
def test_inputs(name, softmax):
    """The inputs are what benchmarks/README.md says of them."""
    rows = 32
    z, y = INPUTS[name](np.random.default_rng(0), rows, softmax)
    assert z.shape == (rows, accuracy.CLASSES)
    assert y.shape == (z.shape[:1] if softmax else z.shape)
    if softmax:
        own = np.take_along_axis(z, y[:, None], 1)
        others = np.where(np.arange(z.shape[1]) == y[:, None], -np.inf, z)
        margin = own - np.logaddexp.reduce(others, axis=1, keepdims=True)
    else:
        margin = np.where(y == 1, z, -z)
    q = np.exp(-np.logaddexp(0, margin))
    if name == "ordinary":
        assert 0.9 < z.std() < 1.1
    elif name == "sure":
        assert 6e-7 < q.min() < 7e-7
        assert 9e-7 < q.max() < 1.01e-6
    elif name == "surest":
        assert q.max() < 1.01e-6
        assert 76 < margin.max() < 80.1
    elif name == "masked":
        assert np.isfinite(own).all()
        assert 0.4 < np.isinf(z).mean() < 0.6
        assert (np.isinf(z).sum(1) == z.shape[1] - 1).sum() == 2
    elif name == "large":
        assert np.abs(z).max() > 9900
        assert softmax or np.abs(z).min() >= 1000
        assert not softmax or z[::2].min() >= 9940


def test_every_case_once():
    cases = combinations(MEASURED)
    assert len(set(cases)) == len(cases) == 3 * (2 * 5 + 3 * 4)
    assert {title for _, title, inputs in cases if inputs == "masked"} == {
        "softmax cross-entropy",
        "softmax focal, γ = 2",
    }


# ------------------------------------------------------------------------------------ contenders


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.name)
def test_contenders(contender):
    """At ordinary logits every contender is right: the same loss is asked of all."""
    for module in contender.modules:
        pytest.importorskip(module)
    seen = 0
    for title, loss in LOSSES.items():
        for dtype, limit in (("float32", 1e-5), ("float64", 1e-13)):
            asked = accuracy.problem(loss, "ordinary", dtype, 16)
            grad = contender.prepare(asked)
            if grad is not None:
                assert grad.dtype == dtype or contender.name == "torch"
                found = accuracy.judged(grad, accuracy.truth(asked), asked)
                assert found["worst"] < limit, title
                assert found["counted"] == grad.size
                seen += 1
    assert seen == {"scikit-learn": 4, "optax": 8}.get(contender.name, 10)


def test_bars():
    """The bars are those of fusedce's documentation."""
    found = {(title, dtype): accuracy.bar(LOSSES[title], dtype) for title in LOSSES
             for dtype in MEASURED}  # fmt: skip
    page = (results.ROOT / "fusedce" / "README.md").read_text()
    assert "| float32 | 4·10⁻⁶ | 10⁻⁵ | 2·10⁻⁵ |\n| float64 | 2·10⁻¹³ | 2·10⁻¹³ | 2·10⁻¹³ |" in page
    for title, value in (
        ("sigmoid focal, γ = 2", 4e-6),
        ("softmax focal, γ = 2", 1e-5),
        ("sigmoid focal, γ = 1.5", 2e-5),
    ):
        assert found[title, "float32"] == value
        assert found[title, "bfloat16"] == value + 1 / 256
        assert found[title, "float64"] == 2e-13


def asked_of(*logits, dtype="float32"):
    """A problem of which only the shape and the dtype matter."""
    z = np.array([logits]).astype(dtype)
    return Problem(LOSSES["sigmoid cross-entropy"], z, np.zeros_like(z))


def test_judged():
    true = np.array([[1.0, -2.0, 1e-36, 0.0]]), np.zeros((1, 4))
    asked = asked_of(0, 0, 0, 0)
    got = np.array([[1.0, -2.5, 1.0, 1.0]], np.float32)  # true values that underflow do not count
    found = accuracy.judged(got, true, asked)
    assert found == {"worst": 0.25, "not_finite": 0, "counted": 2,
                     "at": {"row": 0, "class": 1, "true": -2.0, "got": -2.5}}  # fmt: skip
    got = np.array([[0.0, np.nan, np.inf, 1.0]], np.float32)
    found = accuracy.judged(got, true, asked)
    assert (found["worst"], found["not_finite"], found["counted"]) == (1.0, 2, 1)
    found = accuracy.judged(np.full((1, 4), np.nan), true, asked)
    assert found == {"worst": None, "not_finite": 4, "counted": 0}
    with pytest.raises(ValueError, match="gradient of shape"):
        accuracy.judged(np.zeros(4), true, asked)


def test_judged_to_less_than_a_rounding():
    """In float64 the true value is known to more digits than the result has."""
    true = np.array([[1.0]]), np.array([[1e-17]])
    found = accuracy.judged(np.array([[1.0]]), true, asked_of(0, dtype="float64"))
    assert found["worst"] == 1e-17


def test_a_broken_contender_is_shown():
    """A wrong result is shown with its error; what raises is left out with the reason."""

    def wrong(asked):
        return accuracy_contenders.by_fusedce(asked) * np.float32(1.01)

    def broken(asked):
        raise ArithmeticError("no digits left")

    asked = accuracy.problem(LOSSES[TITLES[0]], "ordinary", "float32", 4)
    named = [Rival("fusedce", (), accuracy_contenders.by_fusedce, ours=True)]
    named += [Rival("torch", (), wrong), Rival("optax", (), broken)]
    named += [Rival("NumPy", (), lambda asked: None)]
    found = accuracy.measure_case(asked, named)
    assert found["errors"]["torch"]["worst"] == 0.01
    assert set(found["errors"]) == {"fusedce", "torch"}
    assert list(found["skipped"]) == ["optax"]
    assert "no digits left" in found["skipped"]["optax"]
    with pytest.raises(ArithmeticError):
        accuracy.measure_case(asked, [Rival("fusedce", (), broken, ours=True)])


# ------------------------------------------------------------------------------------ tables


def case(dtype="float32", ours=3.14e-7, inputs="ordinary", loss=TITLES[0], **more):
    """A record of a case, in which torch is wrong and scikit-learn returns NaN."""
    errors = {"fusedce": {"worst": ours, "not_finite": 0, "counted": 8}}
    errors["torch"] = {"worst": 1.25, "not_finite": 0, "counted": 8}
    errors["scikit-learn"] = {"worst": None, "not_finite": 8, "counted": 0}
    errors["NumPy"] = {"worst": 0.0312, "not_finite": 3, "counted": 5}
    record = {"case": f"{loss}, {inputs}, {dtype}", "loss": loss, "inputs": inputs, "bar": 1e-5}
    return record | {"dtype": dtype, "errors": errors, "skipped": {}} | more


def synthetic():
    """A result without a measurement."""
    cases = [case(), case(inputs="large", ours=2e-5), case("float64", loss=TITLES[1], bar=2e-13)]
    del cases[2]["errors"]["NumPy"]
    settings = {"rows": 64, "classes": 64, "digits": 50, "seconds": 1}
    machine = {"processor": "Abacus"}
    result = {"schema": results.SCHEMA, "date": "2026-01-02", "commit": "abc", "settings": settings}
    result |= {"machine": machine, "versions": {"python": "3.12"}, "cases": cases}
    return result | {"missing_rivals": {"optax": "not installed: pip install optax"}}


def test_tables():
    single, double = accuracy_tables.page_tables(synthetic())
    assert [column.head for column in single.columns] == [
        "case", "fusedce and its bar", "torch", "scikit-learn", "NumPy",
    ]  # fmt: skip
    assert single.rows()[0][1:] == [
        ("3.1e-7 ≤ 1e-5", True), ("1.2e0", None), ("8 NaN or ∞", None),
        ("3.1e-2, 3 NaN or ∞", None),
    ]  # fmt: skip
    assert single.rows()[1][1] == ("2.0e-5 > 1e-5 ✗", False)
    assert double.title == "In float64:"
    assert [column.head for column in double.columns][-1] == "scikit-learn"
    assert double.rows()[0][1] == ("3.1e-7 > 2e-13 ✗", False)


def test_nan_misses_the_bar():
    record = case()
    record["errors"]["fusedce"]["not_finite"] = 1
    assert accuracy_tables.ours(record) == ("3.1e-7, 1 NaN or ∞ > 1e-5 ✗", False)
    record["errors"]["fusedce"] = {"worst": 0.0, "not_finite": 0, "counted": 1}
    assert accuracy_tables.ours(record) == ("0 ≤ 1e-5", True)


def test_summary():
    """README.md has a part of the cases, and says what was left out."""
    title, table, origin = accuracy_tables.summary(synthetic())
    assert title == "Worst relative error of a component of the gradient, in float32:"
    assert len(table.splitlines()) == 3
    assert "| softmax cross-entropy: ordinary | 3.1e-7 ≤ 1e-5 | 1.2e0 |" in table
    assert origin.startswith("Abacus; python 3.12; 2026-01-02, commit abc. ")
    assert origin.endswith("Left out: optax, not installed: pip install optax.")


@pytest.mark.parametrize("width", [40, 80, 160])
def test_tables_fit_a_screen(width):
    words = "".join(printed(width, *accuracy_tables.tables(synthetic())).split())
    assert "3.1e-2,3NaNor∞" in words


# ------------------------------------------------------------------------------------ program


@pytest.fixture(name="few")
def few_cases(monkeypatch, tmp_path):
    """Two losses on few rows of two kinds of inputs; results go into a temporary folder."""
    write_into(tmp_path, monkeypatch)
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(accuracy, "LOSSES", {title: LOSSES[title] for title in TITLES})
    monkeypatch.setattr(accuracy, "INPUTS", {k: INPUTS[k] for k in ("ordinary", "large")})
    monkeypatch.setattr(accuracy, "ROWS", 4)
    return tmp_path


def test_program(few, monkeypatch, capsys):
    """Libraries that are not installed are named; a full run writes a result, --quick none."""
    found = importlib.util.find_spec
    absent = "torch", "jax", "optax", "sklearn"
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else found(n))
    assert accuracy.main(["--quick"]) == 0
    assert list(few.iterdir()) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1/4 accuracy: softmax cross-entropy, ordinary, float32"
    for name, package in (("torch", "torch"), ("optax", "jax"), ("scikit-learn", "scikit-learn")):
        assert any(line.startswith(f"skipped: {name}, not installed: pip install {package}")
                   for line in lines)  # fmt: skip
    assert accuracy.main([]) == 0
    result = results.read(few / "runs" / "accuracy.json")
    assert {record["dtype"] for record in result["cases"]} == set(MEASURED)
    assert set(result["missing_rivals"]) == {"torch", "optax", "scikit-learn"}
    assert {name for record in result["cases"] for name in record["errors"]} == {
        "fusedce", "NumPy",
    }  # fmt: skip


def test_a_missed_bar_is_told(few, monkeypatch, capsys):
    """The exit status is 1 then."""
    monkeypatch.setattr(accuracy, "CONTENDERS", accuracy.CONTENDERS[:1])
    monkeypatch.setattr(accuracy, "bar", lambda loss, dtype: 1e-12)
    assert accuracy.main(["--quick"]) == 1
    told = "✗ fusedce misses its bar: softmax cross-entropy, ordinary, float32"
    assert told in capsys.readouterr().out


def test_readme(tmp_path, monkeypatch):
    """--readme writes both pages from the JSON result alone."""
    write_into(tmp_path, monkeypatch)
    monkeypatch.setattr(accuracy, "measure_all", None)
    results.write(synthetic(), tmp_path / "accuracy.json")
    text = written(accuracy.main, [], tmp_path, "accuracy")
    assert text.count("| --- |") == 2
    assert "| --- |" in (tmp_path / "README.md").read_text()


def test_the_result_on_disk():
    """The pages show the result on disk: every case and contender; fusedce misses no bar."""
    suite = accuracy.Accuracy(accuracy.parse([]))
    kept = results.read(results.FOLDER / suite.file)
    for page, text in program.render(suite, kept).items():
        assert (results.ROOT / page).read_text() == text
    assert [(r["dtype"], r["loss"], r["inputs"]) for r in kept["cases"]] == combinations(MEASURED)
    named = {name for record in kept["cases"] for name in record["errors"]}
    assert named == {each.name for each in CONTENDERS}
    assert kept["settings"]["rows"] == accuracy.ROWS
    assert all(accuracy_tables.met(record) for record in kept["cases"])


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        accuracy.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for part in ("Writes: ", "Takes:  ", "--readme", "--out FILE"):
        assert part in text
