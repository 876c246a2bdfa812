"""fusedce under gradient boosting: which Hessian, how exact, how fast.

python -m benchmarks.boosting                  all three, some seven minutes
python -m benchmarks.boosting --surrogates     positive Hessians by what models learn with them
python -m benchmarks.boosting --accuracy       errors against 50 digits, public recipes beside it
python -m benchmarks.boosting --speed          time of a call, and its share of a round of LightGBM
python -m benchmarks.boosting --readme         no measurement: README from the last result
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import boosting_formulas as formulas
from benchmarks import boosting_surrogates as surrogates
from benchmarks import results
from benchmarks.boosting_formulas import Array, Formula
from fusedce.adapters.boosting import SigmoidFocal, SoftmaxFocal

Record = dict[str, Any]
Rows = list[list[str]]  # a head and lines
Calls = dict[str, Callable[[], Any]]

RESULT = results.FOLDER / "boosting.json"
START, END = "<!-- boosting -->", "<!-- /boosting -->"
DISTRIBUTIONS = ("fusedce", "numba", "numpy", "scikit-learn", "lightgbm", "xgboost-cpu", "xgboost")
SEEDS = 10
GAMMAS = (0.5, 1.0, 2.0, 3.7, 5.0)
SCORES = np.linspace(-100, 100, 801)
WHOLE, BLOCKS = "NumPy", "NumPy in blocks"
SPEED_BAR, SHARE_BAR = 5.0, 0.1


# --------------------------------------------------------------------- accuracy


def fused(dtype: Any) -> Formula:
    """fusedce's objective in this dtype, its Hessian the exact one."""

    def call(z: Array, y: Array, gamma: float) -> tuple[Array, Array]:
        return SigmoidFocal(gamma, hessian="exact")(y, z.astype(dtype))

    return call


CONTENDERS: dict[str, tuple[Formula, Any]] = {
    "fusedce, float32": (fused(np.float32), np.float32),
    "fusedce, float64": (fused(np.float64), np.float64),
    "NumPy, log1p and 1 − p as a sigmoid": (formulas.stable, np.float64),
    "closed form with log(p + 1e-9)": (formulas.by_shifted_logarithm, np.float64),
    "differences, dx = 1e-6": (formulas.by_differences, np.float64),
}


def worst(got: Array, want: Array, size: Array, dtype: Any) -> Record:
    """The largest error relative to ``size`` where that is a normal number; what is not finite."""
    normal = size >= np.finfo(dtype).tiny
    broken = ~np.isfinite(got)
    seen = normal & ~broken
    error = np.abs(got[seen].astype(np.float64) - want[seen]) / size[seen]
    return {"worst": float(f"{error.max():.2g}"), "not_finite": int(broken.sum())}


def measure_accuracy(tick: Callable[[str], None]) -> list[Record]:
    """Worst errors of gradient and Hessian over SCORES, both labels and GAMMAS."""
    records = []
    truths = {}
    for gamma in GAMMAS:
        tick(f"50 digits, gamma {gamma:g}")
        found = [formulas.exact(float(z), y, gamma) for y in (0, 1) for z in SCORES]
        grad, bend, flat = np.array(found, dtype=object).T
        sums = [bend + flat, np.abs(bend) + flat, np.abs(grad)]
        truths[gamma] = [part.astype(np.float64) for part in (grad, *sums)]
    z, y = np.tile(SCORES, 2), np.repeat([0.0, 1.0], len(SCORES))
    for name, (formula, dtype) in CONTENDERS.items():
        tick(name)
        record: Record = {"formula": name, "gradient": [], "hessian": []}
        for gamma in GAMMAS:
            with np.errstate(all="ignore"):
                first, second = formula(z, y, gamma)
            grad, hess, terms, size = truths[gamma]
            record["gradient"].append(worst(first, grad, size, dtype))
            record["hessian"].append(worst(second, hess, terms, dtype))
        records.append(record)
    return records


# --------------------------------------------------------------------- speed


def interleaved(calls: Calls, rounds: int) -> dict[str, float]:
    """Median milliseconds of each, one call of each a round, after one that compiles."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(0.01)
            start = time.perf_counter()
            calls[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(f"{np.median(t):.3g}") for name, t in times.items()}


def contenders(ours: Any, formula: Callable[..., Any], y: Array, *arguments: Any) -> Calls:
    """The same call by fusedce, by NumPy on whole arrays, and on parts that stay in the cache."""
    raw = arguments[0]
    found: Calls = {"fusedce": partial(ours, y, raw)}
    for name, block in ((WHOLE, None), (BLOCKS, formulas.BLOCK)):
        found[name] = partial(formula, raw, y, *arguments[1:], block=block)
    return found


def cases(shrink: int) -> dict[str, Calls]:
    """Focal loss of gamma 2 on rows as XGBoost and LightGBM hand them over."""
    rng, gamma = np.random.default_rng(0), 2.0
    found: dict[str, Calls] = {}
    n = 1_000_000 // shrink
    y, z = (rng.random(n) < 0.1).astype(np.float32), rng.normal(-2, 2, n)
    for where, raw in (("LightGBM", z), ("XGBoost", z.astype(np.float32))):
        title = f"1 M rows, {raw.dtype} ({where})"
        found[title] = contenders(SigmoidFocal(gamma), formulas.sigmoid_objective, y, raw, gamma)
    n = 200_000 // shrink
    y, z = rng.integers(0, 10, n).astype(np.float32), rng.normal(0, 2, (n, 10))
    for where, raw, factor in (
        ("LightGBM", np.asfortranarray(z), 10 / 9), ("XGBoost", z.astype(np.float32), 2.0),
    ):  # fmt: skip
        title = f"200000 × 10 classes, {raw.dtype} ({where})"
        focal = SoftmaxFocal(gamma)
        found[title] = contenders(focal, formulas.softmax_objective, y, raw, gamma, factor)
    return found


def agree(calls: Calls) -> None:
    """Raise unless all compute the same."""
    ours, *others = (call() for call in calls.values())
    for one, other in zip(ours * len(others), sum(others, ()), strict=True):
        bar = 1e-3 if one.dtype == np.float32 else 1e-8
        if not np.allclose(one, other, rtol=bar, atol=bar * np.abs(other).max() * 1e-2):
            raise SystemExit("NumPy and fusedce do not agree")


def shares(shrink: int, rounds: int) -> list[Record]:
    """What part of a round of LightGBM's at 100 features the objective takes."""
    rng = np.random.default_rng(1)
    found = []
    for title, n, classes in (("1 M rows", 1_000_000, 1), ("200000 × 10 classes", 200_000, 10)):
        n //= shrink
        x = rng.normal(size=(n, 100)).astype(np.float32)
        score = x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=n)
        edges = np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1] if classes > 1 else [0.9])
        focal = SigmoidFocal(2.0) if classes == 1 else SoftmaxFocal(2.0)
        data = lgb.Dataset(x, np.digitize(score, edges), params={"verbosity": -1})
        model = lgb.Booster({"objective": "none", "num_class": classes, "verbosity": -1}, data)
        inside: list[float] = []

        def timed(raw: Array, rows: Any, focal: Any = focal, inside: Any = inside) -> Any:
            start = time.perf_counter()
            derivatives = focal(raw, rows)
            inside.append(time.perf_counter() - start)
            return derivatives

        whole = []
        for _ in range(rounds + 2):
            start = time.perf_counter()
            model.update(fobj=timed)
            whole.append(time.perf_counter() - start)
        call, update = (1e3 * float(np.median(t[2:])) for t in (inside, whole))
        share = float(np.median(np.divide(inside[2:], whole[2:])))
        found.append({"case": f"{title}, 100 features", "call_ms": float(f"{call:.3g}"),
                      "round_ms": float(f"{update:.3g}"), "share": round(share, 4)})  # fmt: skip
    return found


def measure_speed(tick: Callable[[str], None], shrink: int = 1, rounds: int = 15) -> Record:
    """Calls against NumPy, and calls within training."""
    calls = []
    for title, case in cases(shrink).items():
        tick(title)
        agree(case)
        ms = interleaved(case, rounds)
        ratios = {name: round(ms[name] / ms["fusedce"], 1) for name in (WHOLE, BLOCKS)}
        calls.append({"case": title, "ms": ms, "ratios": ratios})
    tick("rounds of LightGBM")
    return {"calls": calls, "rounds": shares(shrink, rounds)}


# --------------------------------------------------------------------- tables


def mean(records: list[Record], key: str) -> float:
    """Over data sets and seeds."""
    return float(np.mean([value for record in records for value in record[key]]))


def surrogate_rows(records: list[Record]) -> Rows:
    """Means over the data sets: average precision, log loss."""
    names = list(surrogates.SURROGATES)
    rows = [["library", "γ", *(f"`{n}`" if n == "exact" else n for n in names)]]
    settings = sorted({(r["library"], r["gamma"]) for r in records})
    for library, gamma in [*settings, ("both", None)]:
        chosen = [
            r for r in records if gamma is None or (r["library"], r["gamma"]) == (library, gamma)
        ]
        line = [library, "all" if gamma is None else f"{gamma:g}"]
        for name in names:
            some = [r for r in chosen if r["surrogate"] == name]
            precision, loss = mean(some, "average_precision"), mean(some, "log_loss")
            line.append(f"{precision:.3f} / {loss:.4f}")
        rows.append(line)
    return rows


def compared(records: list[Record], one: str, other: str) -> str:
    """The mean difference of two surrogates where they differ at all, with its standard error."""
    pairs = {name: [r for r in records if r["surrogate"] == name] for name in (one, other)}
    words = []
    for key, title in (("average_precision", "average precision"), ("log_loss", "log loss")):
        values = [np.concatenate([r[key] for r in pairs[name]]) for name in (one, other)]
        gain = np.subtract(*values)
        differing = gain[gain != 0]
        error = differing.std(ddof=1) / np.sqrt(len(differing)) if len(differing) > 1 else 0.0
        some = differing.mean() if len(differing) else 0.0
        words.append(f"{title} {some:+.4f} ± {error:.4f} ({len(differing)} of {len(gain)} models)")
    return f"{one} − {other}, where they differ: {'; '.join(words)}"


def accuracy_rows(records: list[Record]) -> Rows:
    """The worst over all gammas, and how many numbers are NaN or infinite."""
    rows = [["formula", "gradient", "Hessian", "NaN or infinite"]]
    for record in records:
        line = [record["formula"]]
        for key in ("gradient", "hessian"):
            line.append(f"{max(part['worst'] for part in record[key]):.1e}")
        lost = sum(part["not_finite"] for key in ("gradient", "hessian") for part in record[key])
        count = 4 * len(SCORES) * len(record["gradient"])
        rows.append([*line, f"{lost / count:.1%}" if lost else "none"])
    return rows


def speed_rows(record: Record) -> Rows:
    """Milliseconds of a call, and how many times as long others take."""
    rows = [["call", "fusedce, ms", f"NumPy, ms (≥ {SPEED_BAR:g}×)", "NumPy in blocks, ms"]]
    for call in record["calls"]:
        ms, ratios = call["ms"], call["ratios"]
        others = [f"{ms[name]:g} ({ratios[name]:g}×)" for name in (WHOLE, BLOCKS)]
        rows.append([call["case"], f"{ms['fusedce']:g}", *others])
    return rows


def share_rows(record: Record) -> Rows:
    """Milliseconds of a round of LightGBM's, and of the call in it."""
    rows = [["training", "call, ms", "round, ms", f"share < {SHARE_BAR:.0%}"]]
    for part in record["rounds"]:
        share = f"{part['share']:.1%}"
        rows.append([part["case"], f"{part['call_ms']:g}", f"{part['round_ms']:g}", share])
    return rows


def tables(result: Record) -> list[tuple[str, Rows]]:
    """A sentence and a table for each part that was measured."""
    found = []
    if "surrogates" in result:
        records = result["surrogates"]
        seeds = len(records[0]["trees"])
        sets = ", ".join(dict.fromkeys(r["data"] for r in records))
        notes = [compared(records, "bound", other) for other in ("clip", "slope")]
        title = (
            "Held-out average precision / log loss of focal loss, means over "
            f"{sets} positives and {seeds} seeds each; `psd` is bound"
        )
        found.append((f"{title}. {'. '.join(notes)}.", surrogate_rows(records)))
    if "accuracy" in result:
        title = (
            f"Worst relative error for scores from −100 to 100, both labels, γ from "
            f"{min(GAMMAS):g} to {max(GAMMAS):g}; of the Hessian relative to its two terms"
        )
        found.append((f"{title}.", accuracy_rows(result["accuracy"])))
    if "speed" in result:
        title = "Gradient and Hessian of focal loss, γ = 2, medians"
        found.append((f"{title}.", speed_rows(result["speed"])))
        found.append(("A round of LightGBM's with that objective.", share_rows(result["speed"])))
    return found


def markdown(rows: Rows) -> str:
    """A table for the README."""
    head, *lines = rows
    sides = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, sides, *lines))


def render(readme: str, result: Record) -> str:
    """The README with the tables of a result between its markers."""
    if START not in readme or END not in readme:
        raise SystemExit(f"README.md has no place for the tables: {START} and {END}")
    parts = [part for title, rows in tables(result) for part in (title, markdown(rows))]
    text = "\n\n".join([START, *parts, f"{origin(result)}.", END])
    marked = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    return marked.sub(lambda _: text.replace(f"\n\n{END}", f"\n{END}"), readme)


def origin(result: Record) -> str:
    """Where the figures come from, in one line."""
    where = result["machine"]
    used = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    place = f"{where['processor']}, {where['threads']} threads"
    return f"{place}; {used}; {result['date']}, commit {result['commit'] or 'unknown'}"


def show(console: Console, result: Record) -> None:
    """The tables in the terminal."""
    for title, (head, *lines) in tables(result):
        table = Table(title=title)
        for k, name in enumerate(head):
            table.add_column(name, justify="right" if k else "left")
        for line in lines:
            table.add_row(*line)
        console.print(table)


# --------------------------------------------------------------------- program


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.boosting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for name in ("surrogates", "accuracy", "speed"):
        add(f"--{name}", action="store_true", help="this part; the others stay as they were")
    add("--readme", action="store_true", help="renew the README from the last result, and end")
    add("--seeds", type=int, default=SEEDS, help=f"draws of each data set, {SEEDS}")
    add("--data", action="append", choices=surrogates.SOURCES, help="only these sets")
    add("--shrink", type=int, default=1, help="divide the rows that are timed")
    add("--out", type=Path, default=RESULT, help="where the result goes")
    return parser.parse_args(argv)


def measure(console: Console, options: argparse.Namespace) -> Record:
    """The parts asked for, under one progress bar."""
    every = not (options.surrogates or options.accuracy or options.speed)
    sources = options.data or list(surrogates.SOURCES)
    counts = {
        "surrogates": len(sources) * len(surrogates.LIBRARIES) * len(surrogates.GAMMAS)
        * len(surrogates.SURROGATES),
        "accuracy": len(GAMMAS) + len(CONTENDERS),
        "speed": 5,
    }  # fmt: skip
    columns = BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn()
    found: Record = {}
    with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
        for part, count in counts.items():
            if not (every or getattr(options, part)):
                continue
            task = bar.add_task(part, total=count)

            def tick(what: str, task: Any = task) -> None:
                bar.update(task, description=what, advance=1)

            if part == "surrogates":
                found[part] = surrogates.measure(options.seeds, sources, tick)
            elif part == "accuracy":
                found[part] = measure_accuracy(tick)
            else:
                found[part] = measure_speed(tick, options.shrink)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status."""
    options, console = parse(argv), Console()
    if not console.is_terminal:
        console = Console(width=100)
    if options.readme:
        path = results.ROOT / "README.md"
        text = render(path.read_text(encoding="utf-8"), results.read(options.out))
        path.write_text(text, encoding="utf-8")
        return 0
    kept = results.read(options.out) if options.out.exists() else {}
    found = measure(console, options)
    result = kept | {
        "schema": results.SCHEMA, "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": results.commit(), "machine": results.machine(),
        "versions": results.versions(DISTRIBUTIONS), **found,
    }  # fmt: skip
    results.write(result, options.out)
    show(console, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
