"""The benchmark as a program: who may be timed, what a run leaves behind, what it calls slower."""

import copy
import dataclasses
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import cases, data, floor, measure, oracle, plain, plots, report, results, rivals
from benchmarks.measure import Contender, Effort

FEW = Effort(rounds=3, budget=0.01, least=1, shrink=1 << 14)
TINY = ["--quick", "--shrink", "65536", "--rival", "numpy"]
ONE = [*TINY, "--case", "small-32x10"]
NUMPY = rivals.RIVALS[0]


def case(name):
    return next(c for c in cases.CASES if c.name == name)


def problem(name, shrink=1 << 14):
    return data.make(case(name).divided(shrink))


def agrees(rival, what):
    """Whether a rival computes what the oracle does."""
    what.grad[...] = np.nan
    call, read = rival.prepare(what, 1)
    oracle.check(oracle.answer(what), what, *read(call()))


# --------------------------------------------------------------------- cases, oracle, rivals


def test_cases():
    names = [c.name for c in cases.CASES]
    assert len(set(names)) == len(names)
    assert all(len(c.title) <= 28 for c in cases.CASES)
    assert [c.name for c in cases.chosen(0, ["softmax-*10", "focal-1"])] == [
        "softmax-2000000x10", "focal-1.5"
    ]  # fmt: skip
    assert [c.name for c in cases.chosen(0, ["rows"])] == ["rows"]  # a name, not a part of one
    quick, usual, everything = (set(cases.chosen(level, [])) for level in range(3))
    assert quick < usual < everything == set(cases.CASES)


@pytest.mark.parametrize("what", cases.CASES, ids=lambda c: c.name)
def test_arrays(what):
    """As many bytes as the case claims, and rows that repeat as the oracle believes."""
    p = data.make(what.divided(1 << 14))
    assert p.logits.nbytes + p.targets.nbytes == p.case.bytes_read
    assert p.logits.shape == p.grad.shape == p.case.arrays.shape
    rows, (block, _) = data.last(p.logits, p.axis), p.block
    assert np.array_equal(rows, block[np.arange(len(rows)) % len(block)])
    if rivals.refused_by_numpy(p.case) is None:
        agrees(NUMPY, p)


def test_rows_repeat_and_so_does_the_oracle(monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 7000)
    for name in ("weights", "segmentation", "sigmoid-focal", "transposed"):
        p = problem(name, 4096)
        assert len(p.block[0]) < p.rows or p.axis == 1
        agrees(NUMPY, p)


@pytest.mark.parametrize("rival", rivals.RIVALS[1:], ids=lambda r: r.name)
def test_rivals_agree(rival):
    if rival.compiles or rival.missing():
        pytest.skip(rival.missing() or rivals.SELDOM)
    names = ["softmax-65536x1000", "distribution", "sigmoid-focal", "bce-bool", "retinanet"]
    if rival.name != "jax.jit":  # compiles each
        names += [c.name for c in cases.CASES if c.group == "size" and c.name not in names]
    names.append("loss-only")
    for p in map(problem, names):
        if rival.refuses(p.case) is None:
            agrees(rival, p)


def test_oracle_sees_what_is_wrong():
    p = problem("softmax-focal")
    right = oracle.answer(p)
    loss, grad = p.fused(None)
    oracle.check(right, p, loss, grad)
    with pytest.raises(oracle.Disagreement, match="loss"):
        oracle.check(right, p, 1.01 * loss, grad)
    with pytest.raises(oracle.Disagreement, match="shape"):
        oracle.check(right, p, loss, grad.T)
    second = np.abs(grad[-1]).argsort()[-2]
    for wrong in (1.01 * grad[-1, second], np.nan):
        spoilt = grad.copy()
        spoilt[-1, second] = wrong
        with pytest.raises(oracle.Disagreement, match="gradient"):
            oracle.check(right, p, loss, spoilt)


def liar(spoil):
    """Plain NumPy, but ``spoil`` gets at the answer."""

    def prepare(p, threads):
        return lambda: spoil(plain.mean_loss(p), p.grad), lambda got: (got, p.grad)

    return dataclasses.replace(NUMPY, name="liar", prepare=prepare)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda loss, grad: 2 * loss,
        lambda loss, grad: np.negative(grad, out=grad) is None or loss,
        lambda loss, grad: grad.fill(0) or loss,
        lambda loss, grad: grad[:, 3].fill(1e-3) or loss,
    ],
)
def test_who_disagrees_is_not_timed(spoil):
    record = measure.measure(case("softmax-200000x80"), [liar(spoil), NUMPY], FEW)
    assert "does not agree" in record["skipped"]["liar"]
    assert set(record["times_faster"]) == {"NumPy"}
    assert "liar" not in record["ms"]


def test_who_writes_nothing_is_not_timed():
    idle = dataclasses.replace(NUMPY, prepare=lambda p, n: (lambda: None, lambda got: (
        oracle.answer(p).loss, p.grad)))  # fmt: skip
    record = measure.measure(case("softmax-200000x80"), [idle], FEW)
    assert "gradient nan" in record["skipped"]["NumPy"]
    assert record["times_faster"] == {}


def test_fusedce_must_agree_too(monkeypatch):
    true = cases.Loss.__call__
    monkeypatch.setattr(cases.Loss, "__call__", lambda *a, **k: (1.0, true(*a, **k)[1]))
    with pytest.raises(SystemExit, match="fusedce is wrong, small-32x10: loss"):
        program.main(ONE)


def test_a_rival_that_breaks_or_is_too_large_is_skipped(monkeypatch):
    def broken(p, threads):
        raise RuntimeError("no compiler\nand more")

    broken = dataclasses.replace(NUMPY, name="broken", prepare=broken)
    large = dataclasses.replace(NUMPY, name="large", memory=lambda c: 1e9)
    record = measure.measure(case("small-32x10"), [broken, large], FEW)
    assert record["skipped"]["broken"] == "RuntimeError: no compiler"
    assert record["skipped"]["large"] == "needs some 1280 GB"
    monkeypatch.setattr(measure, "PATIENCE", 0.0)
    record = measure.measure(case("small-32x10"), [NUMPY], FEW)
    assert "s a call" in record["skipped"]["NumPy"]


# --------------------------------------------------------------------- clocks and copies


def test_floors_move_every_byte():
    source, other = np.arange(1, 10_001, dtype=np.uint64), np.arange(777, dtype=np.uint64)
    for move in (floor.plain_copy, floor.library_copy):
        for threads in (1, 3):
            target = np.zeros_like(source)
            move(source, target, threads)
            assert np.array_equal(source, target)
    target = np.zeros_like(source)
    assert floor.plain_copy_and_read(source, other, target, 2) == other.sum()
    assert np.array_equal(source, target)
    floor.plain_add(source, source[::-1].copy(), target, 2)
    assert (target == 10_001).all()
    assert floor.plain_read(source, 3) == source.sum()


def test_floors_work_on_the_arrays_of_the_case():
    for name, ways in (("fortran", 2), ("sigmoid-focal", 2), ("bce-bool", 1), ("loss-only", 1)):
        p = problem(name, 4096)
        assert len(floor.moves(p)) == ways
        for move in floor.copies(p).values():
            p.grad[...] = 0
            move()
            assert np.array_equal(p.grad, p.logits)


def test_turns_are_even():
    calls = []
    seconds = {"a": 0.1, "b": 9.0}  # of the call that tells how many rounds there may be
    clocks = [Contender(n, lambda n=n: calls.append(n), 0, seconds[n], n == "b") for n in "ab"]
    measure.take_turns(clocks, Effort(rounds=9, budget=1.0, least=3))
    assert [len(c.times) for c in clocks] == [c.rounds for c in clocks] == [9, 3]
    assert [k for k, name in enumerate(calls) if name == "b"] == pytest.approx([3, 7, 11], abs=1)
    calls.clear()
    clocks = [Contender(n, lambda n=n: calls.append(n), 0, 1.0) for n in "abc"]
    measure.take_turns(clocks, Effort(rounds=3))
    assert "".join(calls) == "abcbcacab"  # nobody always follows the same neighbour


# --------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(status, text, result) of a small run."""
    path = tmp_path_factory.mktemp("run") / "result.json"
    names = ["softmax-200000x80", "sigmoid-focal", "threads-softmax", "small-32x10"]
    chosen = [word for name in names for word in ("--case", name)]
    with pytest.MonkeyPatch.context() as patch:
        ghost = dataclasses.replace(NUMPY, name="ghost", module="no_such_module_at_all")
        patch.setattr(rivals, "RIVALS", (*rivals.RIVALS, ghost))
        text = []
        patch.setattr(program.Console, "print", spy(program.Console.print, text))
        status = program.main([*TINY, "--rival", "ghost", "--rival", "scikit", *chosen,
                               "--out", str(path)])  # fmt: skip
    return status, text, path


def spy(true, text):
    """``Console.print`` that also keeps what is printed."""

    def print_and_keep(console, *objects, **options):
        text.extend(str(o) for o in objects)
        true(console, *objects, **options)

    return print_and_keep


def test_result(run):
    status, _, path = run
    assert status == 0
    result = results.read(path)
    assert set(result) == {"schema", "date", "commit", "machine", "versions", "settings",
                           "peak_memory_gb", "missing_rivals", "cases"}  # fmt: skip
    assert {"processor", "cores", "threads", "caches", "vector_bits"} <= set(result["machine"])
    assert {"python", "fusedce", "numba", "numpy"} <= set(result["versions"])
    found = {record["case"]: record for record in result["cases"]}
    assert list(found)[-1] == "small-32x10"
    for record in result["cases"]:
        for ms in record.get("ms", {}).values():
            assert 0 < ms["p20"] <= ms["p50"] <= ms["p80"]
            assert ms["first"] > 0
            assert ms["rounds"] >= 1
    record = found["softmax-200000x80"]
    assert set(record["ms"]) == {"fusedce", "fusedce, new output", "copy", "NumPy", "scikit-learn"}
    assert record["ratio"]["of"] == "copy"
    assert record["ratio"]["bar"] == 1.25
    moved = sum(record["bytes"].values()) / record["ms"]["fusedce"]["p50"] / 1e6
    assert record["gb_per_s"] == pytest.approx(moved, rel=0.01)
    faster = record["ms"]["NumPy"]["p50"] / record["ms"]["fusedce"]["p50"]
    assert record["times_faster"]["NumPy"] == pytest.approx(faster, rel=0.01)
    assert set(found["sigmoid-focal"]["floor_ways"]) == {"copy", "floor"}
    assert found["small-32x10"]["ratio"]["of"] == "NumPy"


def test_result_names_no_place(run):
    text = run[2].read_text()
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert str(results.ROOT) not in text
    assert str(Path.home()) not in text.replace('"/"', "")


def test_the_missing_are_named(run):
    _, text, path = run
    missing = "not installed: pip install no_such_module_at_all"
    assert f"skipped: ghost, {missing}" in text
    assert "skipped: scikit-learn, has no such loss (sigmoid-focal)" in text
    assert results.read(path)["missing_rivals"] == {"ghost": missing}


def test_table_fits_a_screen(run):
    console = program.Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    records = results.read(run[2])["cases"]
    console.print(report.table(records))
    lines = console.export_text().splitlines()
    console.file.close()
    for record in records:
        assert any(line.startswith(f" {record['title']}") for line in lines)
    assert "…" not in "".join(lines)


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULT", tmp_path / "throughput.json")
    assert program.main(ONE) == 0
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------- one run against another


def shifted(result, factor):
    """The same result with ratios that are so many times as large."""
    result = copy.deepcopy(result)
    for record in result["cases"]:
        for key in ("p20", "value", "p80"):
            record["ratio"][key] *= factor
    return result


def test_regressions():
    old = synthetic()
    names = {record["case"] for record in old["cases"]}
    assert results.regressions(old, old) == []
    assert results.regressions(old, shifted(old, 1.04)) == []  # within the spread
    assert results.regressions(old, shifted(old, 0.5)) == []
    assert {line["case"] for line in results.regressions(old, shifted(old, 1.5))} == names
    noisy = shifted(old, 1.5)
    for record in noisy["cases"]:
        record["ratio"]["p20"] /= 1.5  # a fifth of the rounds were as fast as before
    assert results.regressions(old, noisy) == []


def test_against(tmp_path, capsys):
    path = tmp_path / "old.json"
    assert program.main([*ONE, "--out", str(path)]) == 0
    old = results.read(path)
    results.write(shifted(old, 1e-3), path)
    assert program.main([*ONE, "--against", str(path)]) == 1
    assert "slower: softmax 32 × 10" in capsys.readouterr().out
    results.write(shifted(old, 1e3), path)
    assert program.main([*ONE, "--against", str(path)]) == 0
    results.write(old | {"cases": []}, path)
    assert program.main([*ONE, "--against", str(path)]) == 2
    path.write_text('{"schema": 0}')
    with pytest.raises(SystemExit, match=r"old\.json is no result of this benchmark"):
        program.main([*ONE, "--against", str(path)])
    with pytest.raises(SystemExit, match="no case is called nothing"):
        program.main(["--case", "nothing"])


# --------------------------------------------------------------------- README and plots


def synthetic():
    """A result of the usual cases with invented times."""
    rng, records = np.random.default_rng(0), []
    for c in cases.chosen(cases.USUAL, []):
        seconds = {"fusedce": 1.1, measure.FRESH: 1.5, "copy": 1.0, "floor": 1.0, "NumPy": 9.0}
        seconds |= {"torch": 20.0} | ({c.bar.of: 1.0} if c.bar else {})
        scale = c.bytes_read / 4e10
        clocks = [Contender(n, None, s, s, False, list(s * scale * rng.uniform(0.95, 1.05, 15)), 15)
                  for n, s in seconds.items()]  # fmt: skip
        records.append(measure.summarize(c, clocks, {"NumPy", "torch"}))
    return json.loads(json.dumps(results.document(records, {}, {"shrink": 1})))


def test_readme(tmp_path, monkeypatch, capsys):
    """Drawn and written from the JSON alone, and no different the second time."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "RESULT", tmp_path / "throughput.json")
    readme = tmp_path / "README.md"
    readme.write_text("# before\n<!-- throughput -->old<!-- /throughput -->\nafter\n")
    results.write(synthetic(), results.RESULT)
    assert program.main(["--readme"]) == 0
    first = readme.read_text()
    assert first.startswith("# before\n<!-- throughput -->\n")
    assert first.endswith("<!-- /throughput -->\nafter\n")
    assert "old" not in first
    for record in report.measured(results.read(results.RESULT)):
        assert f"| {record['title']} | " in first
    assert "16 M in" not in first  # a point of a curve
    for name in plots.PLOTS:
        assert tmp_path.joinpath(name).stat().st_size > 20_000
    for name in report.PICTURES:
        assert f"(benchmarks/results/{name})" in first
    assert program.main(["--readme"]) == 0
    assert readme.read_text() == first
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="has no place for the table"):
        program.main(["--readme"])
    capsys.readouterr()


def test_readme_of_the_repository():
    """Its table is that of the result beside it."""
    text = (results.ROOT / "README.md").read_text()
    assert report.render(text, results.read(results.RESULT), results.FOLDER) == text


def test_no_plot_without_points(tmp_path):
    result = synthetic()
    result["cases"] = [r for r in result["cases"] if r["group"] == "small"]
    assert plots.draw(result, tmp_path) == []


def test_list(capsys):
    assert program.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(cases.CASES) + len(rivals.RIVALS)
