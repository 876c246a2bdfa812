"""The CPU benchmark: which rivals are timed, the result of a run, and comparing two results."""

import copy
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import (
    cases,
    data,
    floor,
    measure,
    oracle,
    plain,
    plots,
    report,
    results,
    rivals,
    screen,
    tables,
    throughput,
)
from benchmarks import program as shared
from benchmarks.frameworks import Frameworks
from benchmarks.frameworks import parse as frameworks_options
from benchmarks.measure import Contender, Effort
from tests.benchmarks.common import fits, printed, write_into, written

FEW = Effort(rounds=3, budget=0.01, least=1, shrink=1 << 14)
TINY = ["--quick", "--shrink", "65536", "--rival", "numpy"]
ONE = [*TINY, "--case", "small-32x10"]
NUMPY = rivals.RIVALS[0]
RESULT = "throughput.json"


def case(name):
    return next(c for c in cases.CASES if c.name == name)


def problem(name, shrink=1 << 14):
    return data.make(case(name).divided(shrink))


def agrees(rival, what):
    """Check that a rival computes the loss and gradient of the oracle."""
    what.grad[...] = np.nan
    call, read = rival.prepare(what, 1)
    oracle.check(oracle.answer(what), what, *read(call()))


# --------------------------------------------------------------------- cases, oracle, rivals


def test_cases():
    names = [c.name for c in cases.CASES]
    assert len(set(names)) == len(names)
    assert all(len(c.title) <= 28 for c in cases.CASES)
    names = [c.name for c in cases.chosen(0, ["softmax-*10", "focal-1"], cases.CASES)]
    assert names == ["softmax-2000000x10", "focal-1.5"]
    (rows,) = cases.chosen(0, ["rows"], cases.CASES)  # an exact name does not match "rows-10"
    assert rows.name == "rows"
    quick, usual, everything = (set(cases.chosen(level, [], cases.CASES)) for level in range(3))
    assert quick < usual < everything == set(cases.CASES)


@pytest.mark.parametrize("what", cases.CASES, ids=lambda c: c.name)
def test_arrays(what):
    """The arrays have the bytes that the case states; their rows repeat as the oracle assumes."""
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
    if rival.name != "jax.jit":  # it compiles for every shape
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
    """Plain NumPy whose answer is changed by ``spoil``."""

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
    record = throughput.measured(case("softmax-200000x80"), [liar(spoil), NUMPY], FEW)
    assert "does not agree" in record["skipped"]["liar"]
    assert set(record["times_faster"]) == {"NumPy"}
    assert "liar" not in record["ms"]


def test_who_writes_nothing_is_not_timed():
    idle = dataclasses.replace(NUMPY, prepare=lambda p, n: (lambda: None, lambda got: (
        oracle.answer(p).loss, p.grad)))  # fmt: skip
    record = throughput.measured(case("softmax-200000x80"), [idle], FEW)
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
    record = throughput.measured(case("small-32x10"), [broken, large], FEW)
    assert record["skipped"]["broken"] == "RuntimeError: no compiler"
    assert record["skipped"]["large"] == "needs some 1280 GB"
    monkeypatch.setattr(throughput, "PATIENCE", 0.0)
    record = throughput.measured(case("small-32x10"), [NUMPY], FEW)
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
    seconds = {"a": 0.1, "b": 9.0}  # of the second call, from which the number of rounds follows
    clocks = [Contender(n, lambda n=n: calls.append(n), 0, seconds[n], n == "b") for n in "ab"]
    measure.take_turns(clocks, Effort(rounds=9, budget=1.0, least=3))
    assert [len(c.times) for c in clocks] == [c.rounds for c in clocks] == [9, 3]
    assert [k for k, name in enumerate(calls) if name == "b"] == pytest.approx([3, 7, 11], abs=1)
    calls.clear()
    clocks = [Contender(n, lambda n=n: calls.append(n), 0, 1.0) for n in "abc"]
    measure.take_turns(clocks, Effort(rounds=3))
    assert "".join(calls) == "abcbcacab"  # no contender always follows the same other one


# --------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(status, text, path of the result) of a small run."""
    path = tmp_path_factory.mktemp("run") / "result.json"
    names = ["softmax-200000x80", "sigmoid-focal", "threads-softmax", "small-32x10"]
    chosen = [word for name in names for word in ("--case", name)]
    with pytest.MonkeyPatch.context() as patch:
        ghost = dataclasses.replace(NUMPY, name="ghost", modules=("no_such_module_at_all",))
        patch.setattr(rivals, "RIVALS", (*rivals.RIVALS, ghost))
        text = []
        patch.setattr(screen.Console, "print", spy(screen.Console.print, text))
        status = program.main([*TINY, "--rival", "ghost", "--rival", "scikit", *chosen,
                               "--out", str(path)])  # fmt: skip
    return status, text, path


def spy(true, text):
    """``Console.print`` that also appends what is printed to ``text``."""

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


def markdown(result):
    return "\n".join(grid.markdown() for grid in report.page_tables(result))


@pytest.mark.parametrize("width", [30, 40, 60, 72, 80, 100, 160, 200])
def test_table_fits_a_screen(width):
    """No figure is cut or left out: columns move to a second table, or each row is a list."""
    text = fits(width, *report.tables(report.measured(synthetic())))
    assert ("More columns of the same table" in text) == (width in (60, 72))
    assert ("  ms: " in text) == (width < 72)


def test_every_sign_and_heading_is_explained():
    text = printed(100, *report.tables(report.measured(synthetic())))
    for head in ("of copy", "time / other call", "ms", "±", "✗"):
        assert text.count(f"\n{head}: ") == 1
    assert "middle 60% of the rounds (20th to 80th percentile)" in " ".join(text.split())


def test_what_is_left_out_is_named():
    records = report.measured(synthetic())[:2]
    records.append({"title": "2 threads", "group": "threads", "left_out": "there is one thread"})
    shown = printed(100, *report.tables(records))
    assert "Left out: 2 threads, there is one thread." in shown


def test_a_missed_bar_is_told_in_words():
    """A missed bar is marked by text, not only by colour, on a terminal and in README.md."""
    result = synthetic()
    record = next(r for r in result["cases"] if r["ratio"]["bar"] and r.get("best_rival"))
    ratio, best = record["ratio"], record["best_rival"]
    ratio |= {"value": 1.5, "bar": 1.25, "of": "copy", "met": False}
    best |= {"times": 4.4, "bar": 5, "met": False, "name": "torch"}
    assert report.share(record) == ("67% < 80% ✗", False)
    assert report.to_other(record) == ("-", None)
    assert report.best_rival(record) == ("torch 4.40× < 5 ✗", False)
    for text in (printed(100, *report.tables([record])), markdown(result)):
        assert "67% < 80% ✗" in text
        assert "torch 4.40× < 5 ✗" in text
    assert record["case"] in report.SUMMARY
    assert "| 67% ✗ | torch 4.40× ✗ | " in report.summary(result)[0]
    ratio |= {"value": 1.1, "met": True, "of": "float32"}
    best |= {"times": 14.4, "met": True}
    assert report.share(record) == ("-", None)
    assert report.to_other(record) == ("1.10 × float32 ≤ 1.25", True)
    assert report.best_rival(record) == ("torch 14.4× ≥ 5", True)
    ratio |= {"value": 1.3, "met": False}
    assert report.to_other(record) == ("1.30 × float32 > 1.25 ✗", False)
    best["bar"] = None
    assert report.best_rival(record) == ("torch 14.4×", None)
    assert report.to_other(record | {"ratio": ratio | {"bar": None, "met": None}})[1] is None


def test_rounding_never_hides_that_a_bar_is_missed():
    assert tables.of_copy(0.831, 1 / 1.2, False)[0] == "83.1% < 83.3% ✗"
    assert tables.of_copy(0.8, 0.8, True)[0] == "80% ≥ 80%"
    assert tables.times_as_long(2.499, 2.5, False)[0] == "2.499× < 2.5 ✗"
    assert tables.times_as_long(2.5, 2.5, True, "torch")[0] == "torch 2.50× ≥ 2.5"


def test_one_column_has_one_meaning():
    """Figures relative to a copy are in one table, those relative to another call in another."""
    result = synthetic()
    for copied, other in (report.tables(report.measured(result)), report.page_tables(result)):
        heads = [{column.line for column in grid.columns} for grid in (copied, other)]
        assert heads[0] ^ heads[1] == {"of copy", "time / other call"}
        assert {r["ratio"]["of"] for r in copied.records} == {"copy"}
        assert "copy" not in {r["ratio"]["of"] for r in other.records}
        assert len(copied.records) + len(other.records) == len(report.measured(result))
    for text in (printed(200, *report.tables(report.measured(result))), markdown(result)):
        assert "the fastest other" in text
        assert "÷" not in text
        assert "faster" not in text


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    write_into(tmp_path, monkeypatch)
    assert program.main(ONE) == 0
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------- one run against another


def shifted(result, factor):
    """The same result with all ratios multiplied by a factor."""
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
        record["ratio"]["p20"] /= 1.5  # a fifth of the rounds was as fast as before
    assert results.regressions(old, noisy) == []


def test_against(tmp_path, capsys):
    path = tmp_path / "old.json"
    assert program.main([*ONE, "--out", str(path)]) == 0
    old = results.read(path)
    results.write(shifted(old, 1e-3), path)
    assert program.main([*ONE, "--against", str(path)]) == 1
    assert "✗ slower: softmax 32 × 10, 0.00 × NumPy before, " in capsys.readouterr().out
    results.write(shifted(old, 1e3), path)
    assert program.main([*ONE, "--against", str(path)]) == 0
    results.write(old | {"cases": []}, path)
    assert program.main([*ONE, "--against", str(path)]) == 2
    path.write_text('{"schema": 0}')
    with pytest.raises(SystemExit, match=r"old\.json is no result of this benchmark"):
        program.main([*ONE, "--against", str(path)])


def test_how_fast_a_case_was():
    """A change is told in the unit of the tables."""
    ratio = {"of": "copy", "value": 1.25}
    assert shared.relative({"ratio": ratio}) == "80% of copy"
    assert shared.relative({"ratio": ratio, "of_copy": {"fusedce": 0.9}}) == "90% of copy"
    assert shared.relative({"ratio": {"of": "float32", "value": 0.5}}) == "0.50 × float32"


def test_names_that_nobody_has(capsys):
    """Each unknown name is an error, which lists the known names or the option that lists them."""
    known = ", ".join(r.name for r in rivals.RIVALS)
    for words, says in (
        (["--rival", "nope"], f"no rival is called nope; there are {known}"),
        (["--rival", "numpy", "--rival", "nope"], "no rival is called nope"),
        (["--case", "nope"], "no case is called nope; --list names them"),
        (["--case", "focal", "--case", "nope"], "no case is called nope"),
        (["--device", "cuda", "--rival", "nope"], "no rival is called nope; there are torch, "),
        (["--device", "cuda", "--case", "nope"], "no case is called nope"),
    ):
        with pytest.raises(SystemExit, match=re.escape(says)):
            program.main(words)
    suite = throughput.Throughput(program.parse(["--rival", "none"]), rivals.RIVALS)
    assert shared.asked_rivals(suite) == ([], {})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("rival", ["none", "scikit"])
def test_against_small_cases(rival, tmp_path, capsys):
    """--against compares small cases by the ratio to NumPy, timed with any choice of rivals."""
    words = ["--quick", "--rival", rival, "--case", "small-32x10"]
    path = tmp_path / "old.json"
    assert program.main([*words, "--out", str(path)]) == 0
    old = results.read(path)
    assert old["cases"][0]["ratio"]["of"] == "NumPy"
    assert "NumPy" not in old["cases"][0]["times_faster"]
    results.write(shifted(old, 1e3), path)
    capsys.readouterr()
    assert program.main([*words, "--against", str(path)]) == 0
    assert "0 of 1 cases slower than before" in capsys.readouterr().out


def test_what_cannot_be_compared_is_said_why():
    old = synthetic()
    new = copy.deepcopy(old)
    first, second, third, fourth, fifth = new["cases"][:5]
    first["case"] = "other"
    second["shape"] = [3, 4]
    third["ratio"] = None
    fourth["ratio"]["of"] = "NumPy"
    del fifth["ms"]
    pairs, others = results.comparable(old, new)
    assert len(pairs) == len(new["cases"]) - 5
    there = " × ".join(f"{n:,}" for n in old["cases"][1]["shape"])
    assert dict(others) == {
        first["title"]: "the other result lacks it",
        second["title"]: f"3 × 4 here, {there} there",
        third["title"]: "no reference for its time was timed in the same run",
        fourth["title"]: f"relative to NumPy here, to {old['cases'][3]['ratio']['of']} there",
        fifth["title"]: "it was left out",
    }


# --------------------------------------------------------------------- shapes of --shape


@pytest.mark.slow(reason="every case is measured")
def test_shapes_of_ones_own(tmp_path, capsys):
    """--shape measures each loss on each shape in each dtype, with all rows and with rivals."""
    path = tmp_path / "own.json"
    words = "--quick --rival numpy --rival torch --shape 300x2000 --shape 3,5×4 --dtype bfloat16"
    words += " --dtype float32 --loss focal --loss softmax_focal"
    assert program.main([*words.split(), "--out", str(path)]) == 0
    found = {r["case"]: r for r in results.read(path)["cases"]}
    assert len(found) == 2 * 2 * 2
    record = found["300x2000-focal-bfloat16"]
    assert record["title"] == "300 × 2,000 focal bfloat16"
    assert (record["shape"], record["dtype"]) == ([300, 2000], "bfloat16")
    assert record["skipped"]["NumPy"] == "half precision"
    assert record["ratio"]["of"] == "copy"
    for record in found.values():
        small = record["shape"] == [3, 5, 4]
        assert record["group"] == ("small" if small else "own")
        whys = record["skipped"].values()
        assert all(why == "half precision" or why.startswith("not installed") for why in whys)
    assert "300 × 2,000 focal bfloat16" in capsys.readouterr().out


def test_shapes_that_cannot_be(monkeypatch, capsys):
    for words, says in (
        ("--shape 8x", "a shape is written like 8192x50257, got '8x'"),
        ("--shape 0x3", "got '0x3'"),
        ("--dtype float64", "--dtype needs a --shape"),
        ("--loss focal", "--loss needs a --shape"),
        ("--shape 8x8 --loss hinge", "invalid choice: 'hinge'"),
        ("--shrink 0", "a whole number from 1 is needed, got '0'"),
        ("--seconds 3", "--seconds needs --device cuda"),
    ):
        with pytest.raises(SystemExit) as stopped:
            program.main(words.split())
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
    with pytest.raises(
        SystemExit, match="softmax_focal needs rows and classes, for example --shape 8x10"
    ):
        program.main(["--shape", "8", "--loss", "softmax_focal"])
    assert program.main(["--shape", "10000000x1000000", "--quick"]) == 0
    shown = capsys.readouterr().out
    assert "Left out: 10,000,000 × 1,000,000 cross_entropy float32, needs some 120000 GB" in shown


def test_rivals_agree_on_every_kind_of_shape():
    """Plain NumPy agrees with the oracle on rows, images (classes on axis 1) and elements."""
    losses = [name for name in cases.LOSSES if name not in cases.LISTED]
    some = cases.own([(70, 9), (6, 5, 7), (2, 3, 4, 5)], ["float32", "float64"], losses)
    some += cases.own([(1000,)], ["float32"], ["focal", "binary_cross_entropy"])
    for what in some:
        agrees(NUMPY, data.make(what))


# --------------------------------------------------------------------- progress, Ctrl-C


def test_a_file_has_a_line_for_each_step(run, capsys):
    _, text, _ = run
    assert "1/4 softmax 200,000 × 80" in text
    assert "4/4 softmax 32 × 10" in text


PROGRAMS = (
    ["benchmarks", "--rival", "none"],
    ["benchmarks.digits", "--out", "/dev/null/nowhere.json"],
    ["benchmarks.frameworks", "--quick"],
    ["benchmarks.boosting", "--accuracy", "--out", "/dev/null/nowhere.json"],
)


# A background job of a shell may ignore SIGINT, and its children inherit that.
HEARD = ["env", "--default-signal=INT"] if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("words", PROGRAMS, ids=lambda words: words[0])
@pytest.mark.parametrize("begun", [False, True], ids=["importing", "measuring"])
def test_interrupted(words, begun, tmp_path):
    """Ctrl-C, during the imports and later, prints one line and ends with status 130."""
    if not begun:
        for name in ("numba", "matplotlib", "lightgbm"):
            kill = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
            tmp_path.joinpath(f"{name}.py").write_text(kill)
    with subprocess.Popen(
        [*HEARD, sys.executable, "-m", *words], cwd=results.ROOT, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as process:  # fmt: skip
        if begun:
            assert "1/" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "interrupted\n")


# --------------------------------------------------------------------- README and plots


def synthetic():
    """A result of the usual cases with invented times."""
    rng, records = np.random.default_rng(0), []
    for c in cases.chosen(cases.USUAL, [], cases.CASES):
        seconds = {"fusedce": 1.1, throughput.FRESH: 1.5, "copy": 1.0, "floor": 1.0, "NumPy": 9.0}
        seconds |= {"torch": 20.0} | ({c.bar.of: 1.0} if c.bar else {})
        scale = c.bytes_read / 4e10
        clocks = [Contender(n, None, s, s, False, list(s * scale * rng.uniform(0.95, 1.05, 15)), 15)
                  for n, s in seconds.items()]  # fmt: skip
        records.append(throughput.summarize(c, clocks, {"NumPy", "torch"}))
    return json.loads(json.dumps(results.document(records, {}, {"shrink": 1})))


def test_readme(tmp_path, monkeypatch):
    """--readme draws the pictures and writes README.md from the JSON result alone."""
    write_into(tmp_path, monkeypatch)
    results.write(synthetic(), tmp_path / RESULT)
    text = written(program.main, [], tmp_path, "throughput")
    for record in report.measured(results.read(tmp_path / RESULT)):
        assert f"| {record['title']} | " in text
    assert "16 M in" not in text  # a point of a curve
    for name in plots.PLOTS:
        assert tmp_path.joinpath(name).stat().st_size > 20_000
    for name, _ in report.PICTURES:
        assert f"(results/{name})" in text


def test_readme_of_the_repository():
    """The tables in the pages are those of the results in benchmarks/results."""
    suites = [throughput.Throughput(program.parse([])), Frameworks(frameworks_options([]))]
    for suite in suites:
        result = results.read(results.FOLDER / suite.file)
        for page, text in shared.render(suite, result).items():
            assert (results.ROOT / page).read_text() == text


def test_the_kept_result_has_all_cases():
    """The curves include torch.compile, which takes part with --all only."""
    kept = results.read(results.FOLDER / RESULT)["cases"]
    assert {r["case"] for r in kept} == {c.name for c in cases.CASES}
    for record in kept:
        assert record["group"] not in ("classes", "rows") or "torch.compile" in record["ms"]


def test_only_the_readme_changes_what_git_keeps(tmp_path, monkeypatch, capsys):
    """A full run writes into a folder that git ignores; --readme reads from there."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    options = program.parse([])
    assert shared.destination(options, "x.json") == tmp_path / "runs" / "x.json"
    for words in (
        ["--quick"],
        ["--case", "a"],
        ["--rival", "b"],
        ["--shape", "3"],
        ["--shrink", "2"],
    ):
        assert shared.destination(program.parse(words), "x.json") is None
    assert shared.destination(program.parse(["--quick", "--out", "y"]), "x.json") == Path("y")
    old, new = synthetic(), synthetic() | {"commit": "new"}
    results.write(old, tmp_path / "results" / "x.json")
    assert results.latest("x.json") == tmp_path / "results" / "x.json"
    results.write(new, tmp_path / "runs" / "x.json")
    assert results.latest("x.json") == tmp_path / "runs" / "x.json"
    assert results.shown(results.latest("x.json"), "x.json") == new
    assert results.read(tmp_path / "results" / "x.json") == new
    ignored = Path(__file__).parents[2].joinpath(".gitignore").read_text().splitlines()
    assert "benchmarks/runs/" in ignored


def test_no_plot_without_points(tmp_path):
    result = synthetic()
    result["cases"] = [r for r in result["cases"] if r["group"] == "dtype"]
    assert plots.draw(result, tmp_path) == []


def test_list(capsys):
    assert program.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(cases.CASES) + len(rivals.RIVALS)
