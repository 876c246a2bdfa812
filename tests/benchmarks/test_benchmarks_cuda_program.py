"""The GPU benchmark as a program, without a GPU: the result of a run, and the bars."""

import copy
import json
import re
import sys
import types
from fnmatch import fnmatch

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import results
from benchmarks.cuda import cases, device, measure, plots, report, rivals, sweep
from benchmarks.cuda import program as cuda
from benchmarks.measure import OURS
from benchmarks.rivals import Rival
from fusedce.kernels import tuning
from tests.benchmarks.common import fits, write_into, written
from tests.benchmarks.test_benchmarks_cuda import COPY, FACTS, FEW, Host, named, record_of


def test_no_gpu(monkeypatch, capsys):
    """The program ends with one sentence if the driver, the GPU or CuPy is missing."""

    class CUDARuntimeError(RuntimeError):
        pass

    def none():
        raise CUDARuntimeError("cudaErrorInsufficientDriver")

    runtime = types.SimpleNamespace(getDeviceCount=none, CUDARuntimeError=CUDARuntimeError)
    fake = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime), __spec__=object())
    monkeypatch.setitem(sys.modules, "cupy", fake)
    for words in (["--device", "cuda"], ["--device", "cuda", "--quick"],
                  ["--device", "cuda", "--sweep"]):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            program.main(words)
        assert stopped.value.code == "There is no GPU to measure: cudaErrorInsufficientDriver."
    runtime.getDeviceCount = lambda: 0
    with pytest.raises(SystemExit, match="There is no GPU to measure"):
        program.main(["--device", "cuda"])
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs CuPy: pip install 'fusedce"):
        program.main(["--device", "cuda"])
    with pytest.raises(SystemExit) as stopped:
        program.main(["--sweep"])
    assert stopped.value.code == 2
    assert "--sweep needs --device cuda" in capsys.readouterr().err


def test_a_run(tmp_path, monkeypatch, capsys):
    """A run prints its tables and bars, writes its result and draws the pictures."""
    monkeypatch.setattr(device, "find", Host)
    monkeypatch.setattr(device, "bandwidth", lambda gpu: COPY)
    ghost = Rival("ghost", ("no_such_module_at_all",), rivals.prepare_cupy)
    monkeypatch.setattr(rivals, "RIVALS", (named("CuPy"), ghost))
    path = tmp_path / "cuda.json"
    words = ["--device", "cuda", "--shrink", "16384", "--out", str(path), "--case", "4096x4096"]
    assert program.main([*words, "--case", "focal-float32"]) == 0
    text = capsys.readouterr().out
    assert "skipped: ghost, not installed: pip install no_such_module_at_all" in text
    assert "not measured: torch takes at least 1 × as long" in text
    assert "Made Up, 1.0 GB, driver unknown, copy of 4.3 GB: 4000.0 GB/s" in text
    result = results.read(path)
    assert result["machine"]["gpu"] == "Made Up"
    assert result["copy"] == COPY
    assert len(result["cases"]) == 12
    for record in result["cases"]:
        assert set(record["ms"]) == {OURS, "copy", "CuPy"}
        ms, copied = record["ms"][OURS], record["ms"]["copy"]
        assert 0 < ms["p20"] <= ms["p50"] <= ms["p80"]
        assert ms["host_us"] == 10.0
        assert ms["memory_mb"] == 1
        moved = sum(record["bytes"].values())
        assert record["gb_per_s"] == pytest.approx(moved / ms["p50"] / 1e6, rel=0.01)
        share = moved / ms["p50"] * copied["p50"] / (2 * logits_bytes(record))
        assert record["of_copy"][OURS] == pytest.approx(share, rel=0.01, abs=1e-3)
    assert (tmp_path / "cuda-copy.png").stat().st_size > 20_000
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    assert program.main([*words[:6], "--rival", "none", "--case", "4096x4096-float16-loss"]) == 0
    said = f"result: {path}; --readme draws the pictures"
    assert said in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(device, "find", Host)
    monkeypatch.setattr(device, "bandwidth", lambda gpu: COPY)
    results.write(result, path)
    assert program.main([*words, "--against", str(path)]) in (0, 1)
    with pytest.raises(SystemExit, match="no case is called nothing"):
        program.main(["--device", "cuda", "--case", "nothing"])
    assert program.main(["--device", "cuda", "--list"]) == 0


def test_shapes_of_ones_own(tmp_path, monkeypatch, capsys):
    """--shape measures the three questions about each shape, with all rows and without bars."""
    monkeypatch.setattr(device, "find", Host)
    monkeypatch.setattr(device, "bandwidth", lambda gpu: COPY)
    monkeypatch.setattr(rivals, "RIVALS", (named("CuPy"),))
    words = "--device cuda --shape 40x300 --shape 3x5x7 --dtype bfloat16 --loss focal --loss "
    words += f"cross_entropy --shrink 4 --out {tmp_path / 'own.json'}"
    assert program.main(words.split()) == 0
    found = {r["case"]: r for r in results.read(tmp_path / "own.json")["cases"]}
    assert len(found) == 2 * 2 * 3
    record = found["40x300-focal-bfloat16-gradient"]
    assert record["title"] == "40 × 300 focal bfloat16"
    assert record["shape"] == [40, 300]
    assert record["bars"] == {}
    assert "CuPy" in record["ms"]
    assert found["3x5x7-cross_entropy-bfloat16-loss"]["shape"] == [3, 5, 7]
    shown = capsys.readouterr().out
    assert "40 × 300 focal bfloat16" in shown
    assert "divided" not in shown


def logits_bytes(record):
    return int(np.prod(record["shape"])) * (4 if record["dtype"] == "float32" else 2)


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "find", Host)
    monkeypatch.setattr(device, "bandwidth", lambda gpu: COPY)
    write_into(tmp_path, monkeypatch)
    words = "--device cuda --shrink 16384 --rival none --case 4096x4096-float16-loss"
    assert program.main(words.split()) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_clock_runs_out():
    suite = cuda.CudaThroughput(program.parse(["--device", "cuda", "--quick", "--seconds", "-1"]))
    wanted, suite.gpu = suite.cases(), Host()
    found = suite.measure(wanted, [], FEW, lambda what: None)
    assert [r["left_out"] for r in found] == ["no time left"] * len(wanted)


def test_seconds(monkeypatch, tmp_path, capsys):
    """Cases that would start after --seconds are left out and named.

    The table and the result are still written.
    """
    monkeypatch.setattr(device, "find", Host)
    monkeypatch.setattr(device, "bandwidth", lambda gpu: COPY)
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    words = f"--device cuda --seconds -1 --case 4096x4096 --out {tmp_path / 'found.json'}"
    assert program.main(words.split()) == 0
    found = results.read(tmp_path / "found.json")
    assert {r["left_out"] for r in found["cases"]} == {"no time left"}
    assert len(found["cases"]) == 9
    capsys.readouterr()
    assert program.main(["--device", "cuda", "--sweep", "--seconds", "-1"]) == 0
    assert "no time left: " in capsys.readouterr().out


# --------------------------------------------------------------------- what the bars say


def invented():
    """A result with invented times."""
    rng, records = np.random.default_rng(0), []
    for question in cases.CASES:
        slow = {OURS: 1.1, "copy": 1.0, "torch": 3.0, "torch.compile": 1.9, "CuPy": 9.0}
        if rivals.rows_only(question) is None:
            slow["Liger-Kernel"] = 1.7
        scale = (question.bytes_read + question.bytes_written) / 4e12
        contenders = []
        for name, factor in slow.items():
            times = list(factor * scale * rng.uniform(0.99, 1.01, 9))
            clock = measure.Timed(name, None, factor, factor, times=times, rounds=9)
            clock.host = [1e-5]
            if name == "copy":
                ratio = 2 * question.arrays.logits_bytes / 4e12 / scale
                clock.times = [t * ratio for t in times]
            contenders.append(clock)
        found = measure.summarize(question, contenders, set(slow) - {OURS, "copy"})
        records.append(found | {"skipped": {}})
    result = results.document(records, {}, {"shrink": 1})
    result |= {"machine": result["machine"] | FACTS, "copy": COPY}
    return json.loads(json.dumps(result))


def test_verdicts():
    records = invented()["cases"]
    found = report.verdicts(records)
    assert len(found) == 6
    assert all(met for _, met in found)
    texts = [text for text, _ in found]
    assert any(
        "72 of 72 cases: torch takes at least 1 × as long; least 2.7" in text for text in texts
    )
    assert any("at least 75% of copy" in text for text in texts)
    spoilt = copy.deepcopy(records)
    bar = next(r for r in spoilt if r["case"] == "65536x1000-float32-gradient")["bars"]["copy"]
    bar |= {"value": 0.5, "met": False}
    found = report.verdicts(spoilt)
    missed = [text for text, met in found if not met]
    assert len(missed) == 1
    assert missed[0].startswith("✗ missed, ")
    assert missed[0].endswith("least 50%; 65,536 × 1,000 float32 (gradient) 50%")
    for record in spoilt:
        record["bars"].get("Liger-Kernel", {}).update(value=None, met=None)
    assert (f"not measured: {report.demand('Liger-Kernel', 1.3)}", None) in report.verdicts(spoilt)


def test_bars_are_taken_from_the_figures():
    by_name = {r["case"]: r for r in invented()["cases"]}
    bars = by_name["8192x128256-bfloat16-gradient"]["bars"]
    assert bars["copy"]["value"] == pytest.approx(1 / 1.1, abs=0.02)
    assert bars["Liger-Kernel"]["value"] == pytest.approx(1.7 / 1.1, abs=0.04)
    assert bars["torch.compile"]["value"] == pytest.approx(1.9 / 1.1, abs=0.04)
    assert by_name["focal-float32-gradient"]["bars"]["copy"]["value"] == pytest.approx(
        1 / 1.1, abs=0.02
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_tables_fit_a_screen(width):
    """Figures are never cut, and a missed bar is marked by a sign, not only by colour."""
    records = invented()["cases"]
    records[1]["bars"]["torch"]["met"] = False
    records[0] = {"case": "x", "title": "y", "group": "gradient", "left_out": "no time left"}
    text = fits(width, *report.tables(records))
    assert "Left out: y, no time left." in text
    cell, met = report.takes("torch", records[1])
    assert not met
    assert cell.endswith("< 1 ✗")
    assert cell in text
    assert cell in report.line(records[1])


def test_readme(tmp_path, monkeypatch):
    """--readme draws the pictures and writes README.md from the JSON result alone."""
    write_into(tmp_path, monkeypatch)
    results.write(invented(), tmp_path / "cuda.json")
    text = written(program.main, ["--device", "cuda"], tmp_path, "cuda")
    assert "| 8,192 × 128,256 bfloat16 | " in text
    assert re.search(
        r"\n<!-- cuda -->\n.*: loss and gradient at \d+% to \d+% of the speed of a copy; "
        r"the fastest other takes 1\.\d+× to \d+\.\d+× as long \(",
        (tmp_path / "README.md").read_text().replace("# before", "\n"),
    )
    for name in plots.PLOTS:
        assert tmp_path.joinpath(name).stat().st_size > 20_000
        assert f"(results/{name})" in text


# --------------------------------------------------------------------- launch sizes


class Clock(Host):
    """A device whose measured time depends only on tuning.ROWS."""

    def seconds(self, call, before):
        before()
        call()
        return {1024: 3e-3, 4096: 1e-3, 16384: 2e-3}[tuning.ROWS], 0.0


def test_sweep(monkeypatch, capsys):
    """Every candidate is set and timed, the best is printed, and the size is restored."""
    before, seen = tuning.ROWS, []
    size = sweep.Size("ROWS", (1024, 4096, 16384), ("4096x4096-*-gradient", "65536x1000-bf*-loss"))
    monkeypatch.setattr(sweep, "SIZES", (size,))
    monkeypatch.setattr(device, "find", Clock)
    true = tuning.rows_per_block
    monkeypatch.setattr(tuning, "rows_per_block", lambda *a: seen.append(tuning.ROWS) or true(*a))
    record_of("4096x4096-bfloat16-gradient")  # the prepared call is cached
    seen.clear()
    assert program.main(["--device", "cuda", "--sweep", "--shrink", str(FEW.shrink)]) == 0
    text = capsys.readouterr().out
    assert seen[0] == 1024
    assert "1024: 3, 4096: 1 *, 16384: 2" in text
    assert "ROWS = 4096: 0.0% above the best of each case, over 4 cases" in text
    assert before == tuning.ROWS
    assert set(seen) == {1024, 4096, 16384}, "no plan is made for a size"


def test_sweep_leaves_out_what_fails_or_is_wrong(monkeypatch, capsys):
    size = sweep.Size("ROWS", (1024, 4096, 16384), ("4096x4096-float32-gradient",))
    monkeypatch.setattr(sweep, "SIZES", (size,))
    monkeypatch.setattr(device, "find", Clock)
    true = cases.Loss.__call__

    def spoilt(*args, **options):
        if tuning.ROWS == 1024:
            raise RuntimeError("CUDA: too many resources\nrequested")
        loss, grad = true(*args, **options)
        return (2 * loss, grad) if tuning.ROWS == 4096 else (loss, grad)

    monkeypatch.setattr(cases.Loss, "__call__", spoilt)
    assert program.main(["--device", "cuda", "--sweep", "--shrink", "4096"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "16384: 2 *, 1024: RuntimeError: CUDA: too many resources, 4096: Disagreement" in text
    assert "ROWS = 16384" in text


def test_sizes_to_sweep_exist():
    for size in sweep.SIZES:
        assert hasattr(tuning, size.name)
        assert size.now in size.values
        for pattern in size.patterns:
            assert sum(fnmatch(c.name, pattern) for c in cases.CASES) == 1, pattern
