"""The benchmark of the adapters: which libraries are timed, the memory, and the table."""

import copy
import dataclasses
import json
import subprocess
import sys
import types
from functools import partial
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from benchmarks import data, frameworks, frameworks_table, oracle, plain, results, screen
from benchmarks.frameworks import CASES, COPY, OURS, OURS_COMPILED, OURS_JAX, WAYS
from benchmarks.measure import Effort
from benchmarks.rivals import Rival
from tests.benchmarks.common import fits, write_into, written

SMALL = 1 << 12
NO_CASE = f"no case is called unknown; there are {', '.join(t.name for t in CASES)}"
FEW = Effort(rounds=3, budget=0.01, least=1, shrink=SMALL)
ARGUMENTS = ["--quick", "--shrink", str(SMALL)]
RESULT = "frameworks.json"


def case(name):
    return next(c for c in CASES if c.name == name)


def by_numpy(problem, spoil=lambda loss, grad: (loss, grad)):
    """NumPy in place of a framework; ``spoil`` changes the result."""
    upstream = np.float32(problem.case.upstream)
    logits = problem.logits.astype(np.float32)  # NumPy itself has no bfloat16
    problem = dataclasses.replace(problem, logits=logits, grad=np.empty_like(logits))

    def call():
        return spoil(float(plain.mean_loss(problem)), problem.grad * upstream)

    return call, lambda got: got


def stand_ins(**spoiled):
    """The ways of the benchmark with NumPy in place of the frameworks; ``spoiled`` are wrong."""
    spoiled = {name.replace("_", "."): spoil for name, spoil in spoiled.items()}
    return [
        dataclasses.replace(
            way, modules=(), compiles=False, needs=lambda: None,
            prepare=partial(by_numpy, spoil=spoiled[way.name]) if way.name in spoiled else by_numpy,
        )
        for way in WAYS
    ]  # fmt: skip


def timed(name, ways):
    return frameworks.timed(case(name), ways, FEW, lambda what: None)


# --------------------------------------------------------------------- tasks


def test_tasks():
    """The cases have these shapes, dtypes and bars, each with a loss and with a scaled loss."""
    assert len({t.name for t in CASES}) == len(CASES) == 8
    sizes = {(t.arrays.shape, t.arrays.dtype) for t in CASES}
    assert sizes == {((4096, 32_000), "float32"), ((65_536, 1000), "float32"),
                     ((200_000, 80), "float32"), ((65_536, 1000), "bfloat16")}  # fmt: skip
    assert [t.upstream for t in CASES] == [1.0, 65536.0] * 4
    for t in CASES:
        if t.name.startswith("softmax"):
            assert t.bars == {"torch": 4.0, "torch.compile": 2.5, "optax": 2.0}
        if t.name.startswith("focal"):
            assert t.bars["torch"] == 3.0
            assert (t.loss.alpha, t.loss.gamma) == (0.25, 2.0)  # torchvision's defaults


def unscaled(problem):
    return dataclasses.replace(problem, case=dataclasses.replace(problem.case, upstream=1.0))


@pytest.mark.parametrize("what", CASES, ids=lambda t: t.name)
def test_what_is_right_is_scaled(what):
    """The oracle multiplies the gradient by the upstream gradient, and not the loss."""
    problem = data.make(what.divided(SMALL))
    right, plainly = oracle.answer(problem), oracle.answer(unscaled(problem))
    assert right.loss == plainly.loss
    assert np.array_equal(right.grad, plainly.grad * what.upstream)
    call, read = by_numpy(problem)
    oracle.check(right, problem, *read(call()))


# --------------------------------------------------------------------- who is timed


@pytest.mark.parametrize("name", ["softmax-65536x1000", "focal-scaled", "bfloat16"])
def test_record(name):
    record = timed(name, stand_ins())
    assert set(record["ms"]) == {COPY, *(way.name for way in WAYS)}
    assert record["skipped"] == {}
    for ms in record["ms"].values():
        assert 0 < ms["p20"] <= ms["p50"] <= ms["p80"]
    pairs = [(line["ours"], line["theirs"]) for line in record["ratios"]]
    assert pairs == [(ours, theirs) for ours, theirs, _ in frameworks_table.COMPARED]
    for line in record["ratios"]:
        ratio = record["ms"][line["theirs"]]["p50"] / record["ms"][line["ours"]]["p50"]
        assert line["value"] == pytest.approx(ratio, rel=0.01)
        assert line["p20"] <= line["p80"]
        assert line["bar"] == case(name).bars.get(line["theirs"])
        assert line["met"] == (None if line["bar"] is None else line["value"] >= line["bar"])


def test_ratio_of_medians():
    times = {OURS: [2.0, 1.0, 9.0], "torch": [8.0, 16.0, 9.0], OURS_JAX: [1.0], "optax": [1.9, 1.0]}
    torch, optax = frameworks.ratios(case("softmax-4096x32000"), times)
    assert (torch["value"], torch["bar"], torch["met"]) == (4.5, 4.0, True)
    assert 1 < torch["p20"] < torch["p80"] < 16
    assert (optax["value"], optax["bar"], optax["met"]) == (1.45, 2.0, False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda loss, grad: (1.01 * loss, grad),
        lambda loss, grad: (loss, -grad),
        lambda loss, grad: (loss, grad / 65536),  # without the upstream gradient
        lambda loss, grad: (loss, grad.T),
        lambda loss, grad: (loss, np.where(grad == grad[0, 0], np.nan, grad)),
    ],
)
def test_who_disagrees_is_not_timed(spoil):
    record = timed("focal-scaled", stand_ins(torch=spoil))
    assert record["skipped"]["torch"].startswith("does not agree: ")
    assert "torch" not in record["ms"]
    assert "torch.compile" in record["ms"]
    with pytest.raises(SystemExit, match=r"fusedce\.torch, focal-scaled: does not agree: "):
        timed("focal-scaled", stand_ins(fusedce_torch=spoil))


def test_who_breaks_is_named():
    def broken(loss, grad):
        raise RuntimeError("no such operation\nand more")

    record = timed("focal", stand_ins(optax=broken))
    assert record["skipped"] == {"optax": "RuntimeError: no such operation"}
    with pytest.raises(SystemExit, match=r"fusedce\.jax, focal: RuntimeError: no such operation"):
        timed("focal", stand_ins(fusedce_jax=broken))


def test_the_missing_are_named():
    way = Rival("ghost", ("json", "no_such_module_at_all"), by_numpy)
    assert way.missing() == "not installed: pip install no_such_module_at_all"
    assert Rival("numpy", ("numpy",), by_numpy).missing() is None


# --------------------------------------------------------------------- the frameworks themselves

torch_ways = [way for way in WAYS if way.modules[0] == "torch" and not way.compiles]
each_torch_way = pytest.mark.parametrize("way", torch_ways, ids=lambda w: w.name)
jax_ways = [way for way in WAYS if way.modules[0] == "jax"]
each_jax_way = pytest.mark.parametrize("way", jax_ways, ids=lambda w: w.name)
each_task = pytest.mark.parametrize("what", CASES, ids=lambda t: t.name)


def agrees(way, what):
    """Check that a way of the benchmark agrees with the oracle and does not change the logits."""
    if way.missing():
        pytest.skip(way.missing())
    problem = data.make(what.divided(SMALL))
    right = oracle.answer(problem)
    before = problem.logits.copy()
    call, read = way.prepare(problem)
    for _ in range(2):
        oracle.check(right, problem, *read(call()))
    assert np.array_equal(problem.logits, before)


@each_torch_way
@each_task
def test_torch(way, what):
    agrees(way, what)


@each_jax_way
@each_task
def test_jax(way, what):
    agrees(way, what)


def test_torchs_own_formula():
    """The rival's focal loss is torchvision's, also for soft labels."""
    torch = pytest.importorskip("torch")
    z, y = torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([0.0, 0.75, 1.0])
    loss = frameworks.torch_loss(case("focal").loss, ours=False)(z, y)
    p, x = 1 / (1 + np.exp([3.0, -0.5, -2.0])), y.numpy()
    p_t = p * x + (1 - p) * (1 - x)
    entropy = -(x * np.log(p) + (1 - x) * np.log(1 - p))
    want = ((0.25 * x + 0.75 * (1 - x)) * (1 - p_t) ** 2 * entropy).mean()
    assert float(loss) == pytest.approx(want, rel=1e-5)


def test_adapters_are_called_by_their_public_names(monkeypatch):
    """The benchmark calls these public functions of the torch adapter with these arguments."""
    pytest.importorskip("torch")
    calls = []

    def module(name, *functions):
        made = types.ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        for f in functions:
            setattr(made, f, lambda *a, f=f, **k: calls.append((f, len(a), k)))
        monkeypatch.setitem(sys.modules, name, made)

    module("fusedce.adapters.torch", "cross_entropy", "sigmoid_focal_loss")
    frameworks.torch_loss(case("bfloat16").loss, ours=True)(0, 0)
    frameworks.torch_loss(case("focal").loss, ours=True)(0, 0)
    assert calls == [
        ("cross_entropy", 2, {}),
        ("sigmoid_focal_loss", 2, {"alpha": 0.25, "gamma": 2.0, "reduction": "mean"}),
    ]


# --------------------------------------------------------------------- memory

HELD = """
import numpy as np
from benchmarks.frameworks import high_water
def call():
    first = np.ones(10_000_000)  # 80 MB
    second = first + 1
    del first
    return second, second - 1
print(high_water(call))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_high_water():
    """high_water is 160 MB for two arrays of 80 MB, also if more memory was in use before."""
    for spike in ("", "import numpy as np; np.ones(60_000_000)\n"):
        done = subprocess.run([sys.executable, "-c", spike + HELD], cwd=results.ROOT,
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert int(done.stdout) == pytest.approx(160e6, rel=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_of_a_process_of_its_own():
    """weigh measures the memory in a new process; a failure is recorded with its reason."""
    pytest.importorskip("torch")
    record = {"ms": {"torch": {}}, "skipped": {}}
    frameworks.weigh(record, case("bfloat16"), 2)
    assert record["skipped"] == {}
    assert set(record["memory"]) == {"torch"}
    assert 2 < record["memory"]["torch"] < 4.5  # log_softmax and two gradients
    frameworks.weigh(record, dataclasses.replace(case("focal"), name="unknown"), 1)
    assert record["memory"] == {}
    assert record["skipped"] == {"memory of torch": NO_CASE}


# --------------------------------------------------------------------- a run, its tables


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The program with NumPy in place of the frameworks, writing into a temporary folder."""
    monkeypatch.setattr(frameworks, "WAYS", tuple(stand_ins()))
    write_into(tmp_path, monkeypatch)
    return tmp_path


def test_run(small, capsys, monkeypatch):
    ghost = dataclasses.replace(WAYS[3], modules=("no_such_module_at_all",))
    monkeypatch.setattr(frameworks, "WAYS", (*frameworks.WAYS[:3], ghost, *frameworks.WAYS[4:]))
    path = small / "some.json"
    assert frameworks.main([*ARGUMENTS, "--case", "focal", "--out", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "skipped: torch.compile, not installed" not in shown  # --quick skips all compilers
    assert "skipped: torch.compile, seconds of compilation for every shape; not in --quick" in shown
    assert "sigmoid focal 16 M" in shown
    result = results.read(path)
    assert [record["case"] for record in result["cases"]] == ["focal"]
    assert set(result["missing_rivals"]) == {"torch.compile"}
    assert "memory" not in result["cases"][0]  # it is not measured for small arrays
    assert {"python", "numpy", "fusedce"} <= set(result["versions"])
    assert not (small / RESULT).exists()
    with pytest.raises(SystemExit, match="no case is called nothing"):
        frameworks.main(["--case", "nothing"])


def test_only_a_full_run_has_a_place(small, monkeypatch):
    bare = {"case": "", "title": "bare", "ms": {}, "ratios": [], "skipped": {}}
    monkeypatch.setattr(frameworks, "timed", lambda *a: dict(bare))
    for arguments in (["--quick"], ["--case", "focal"], ["--shrink", "2"]):
        assert frameworks.main(arguments) == 0
    assert list(small.iterdir()) == []
    assert frameworks.main([]) == 0
    assert list(small.iterdir()) == [small / RESULT]


def synthetic():
    """A result with invented times."""
    records = []
    for t in CASES:
        times = {COPY: [0.5] * 3, OURS: [1.0, 1.25, 1.5], OURS_COMPILED: [1.5] * 3, OURS_JAX: [1.0]}
        times |= {"torch": [6.0] * 3, "torch.compile": [3.5] * 3, "optax": [1.8]}
        ms = {name: dict(zip(("p20", "p50", "p80"), np.percentile(v, (20, 50, 80)), strict=True))
              for name, v in times.items()}  # fmt: skip
        record = {"case": t.name, "title": t.title, "ms": ms, "skipped": {}}
        record |= {"ratios": frameworks.ratios(t, times), "memory": {OURS: 1.01, "torch": 3.0}}
        records.append(record)
    records[1]["skipped"]["optax"] = "does not agree: loss 1 instead of 2"
    missing = {"ghost": "not installed: ghost"}
    return json.loads(json.dumps(results.document(records, missing, {"shrink": 1})))


def test_cells():
    page = frameworks_table.columns(page=True)
    row = {name: {column.line: column.of(synthetic()["cases"][0]) for column in columns}
           for name, columns in page.items()}  # fmt: skip
    assert row["torch"] == {
        "case": ("softmax 4,096 × 32,000", None),
        "ms (middle 60%)": ("1.25 (1.10–1.40)", None),
        "of a new copy": ("40%", None),
        "torch takes": ("4.80× ≥ 4", True),
        "torch.compile takes": ("2.80× ≥ 2.5", True),
        "torch.compile takes, both compiled": ("2.33× < 2.5 ✗", False),
        "memory": ("1.01 ≤ 3.00", True),
    }
    assert row["jax"] == {
        "case": ("softmax 4,096 × 32,000", None),
        "ms (middle 60%)": ("1.00 (1.00–1.00)", None),
        "optax takes": ("1.80× < 2 ✗", False),
    }
    record = synthetic()["cases"][0]
    record["memory"] = {OURS: 3.1, "torch": 3.0}
    assert frameworks_table.memory_cell(record) == ("3.10 > 3.00 ✗", False)
    record["memory"] = {OURS: 3.01, "torch": 3.0}
    assert frameworks_table.memory_cell(record)[1] is True  # within the slack
    bare = {"title": "bare", "ms": {}, "ratios": [], "skipped": {}}
    for _, *columns in frameworks_table.columns(page=False).values():
        assert {column.of(bare)[0] for column in columns} == {"-"}


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_tables_fit_a_screen(width):
    """No figure is cut or left out."""
    text = fits(width, *frameworks_table.tables(synthetic()["cases"], 1))
    for head in ("of a new copy", "takes", "both compiled", "memory", "ms", "±", "✗"):
        assert f"\n{head}: " in text


def test_readme(small, monkeypatch):
    """--readme writes README.md from the JSON result alone."""
    monkeypatch.setattr(frameworks, "timed", None)
    results.write(synthetic(), small / RESULT)
    first = written(frameworks.main, [], small, "frameworks")
    title = frameworks_table.TITLES["torch"]
    assert first.startswith(f"# before\n<!-- frameworks -->\n{title}:\n\n| case | ")
    for t in CASES:
        assert f"| {t.title} | 1.25 (1.10–1.40) | 40% |" in first
        assert f"| {t.title} | 1.00 (1.00–1.00) | 1.80×" in first
    wrong = "optax, does not agree: loss 1 instead of 2 (softmax-4096x32000-scaled)"
    assert f"Left out: ghost, not installed: ghost; {wrong}." in first
    assert {line.count("|") for line in first.splitlines() if line.startswith("|")} == {8, 4}
    (small / RESULT).write_text("{}")
    with pytest.raises(SystemExit, match="is no result of this benchmark"):
        frameworks.main(["--readme"])


def test_each_reason_once():
    records = copy.deepcopy(synthetic()["cases"][:3])
    for record in records:
        record["skipped"] = {"optax": "broken"}
    names = [record["case"] for record in records]
    assert screen.skipped({"jax": "absent"}, records) == [
        "jax, absent",
        f"optax, broken ({names[0]}, {names[1]}, ...)",
    ]
    assert screen.skipped({}, records[:1]) == [f"optax, broken ({names[0]})"]
