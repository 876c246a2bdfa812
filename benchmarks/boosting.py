"""fusedce under gradient boosting: which Hessian, how exact, how fast.

python -m benchmarks.boosting                  all three, some seven minutes
python -m benchmarks.boosting --surrogates     positive Hessians by what models learn with them
python -m benchmarks.boosting --accuracy       errors against 50 digits, public recipes beside it
python -m benchmarks.boosting --speed          time of a call, and its share of a round of LightGBM
python -m benchmarks.boosting --readme         no measurement: README from the last result

Results go to benchmarks/runs; those of fewer seeds, data sets or rows only where --out says.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from rich.console import Console

from benchmarks import boosting_formulas as formulas
from benchmarks import boosting_surrogates as surrogates
from benchmarks import results, screen
from benchmarks.boosting_formulas import Array, Formula
from benchmarks.boosting_tables import BLOCKS, GAMMAS, SCORES, WHOLE, render, show
from benchmarks.screen import say
from fusedce.adapters.boosting import SigmoidFocal, SoftmaxFocal

Record = dict[str, Any]
Calls = dict[str, Callable[[], Any]]

RESULT = "boosting.json"
DISTRIBUTIONS = ("fusedce", "numba", "numpy", "scikit-learn", "lightgbm", "xgboost-cpu", "xgboost")
SEEDS = 10
PART = "measure this part, or those named; the others stay as they were in the last result"


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


# --------------------------------------------------------------------- program


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = screen.Parser("python -m benchmarks.boosting", __doc__)
    add = parser.add_argument
    for name in ("surrogates", "accuracy", "speed"):
        add(f"--{name}", action="store_true", help=PART)
    add("--seeds", type=screen.whole, default=SEEDS, metavar="N",
        help=f"draws of each data set (default: {SEEDS})")  # fmt: skip
    add("--data", action="append", choices=surrogates.SOURCES, metavar="NAME",
        help="only this data set (may be repeated), of: "
        + ", ".join(surrogates.SOURCES).replace("%", "%%"))  # fmt: skip
    add("--shrink", type=screen.whole, default=1, metavar="N", help="divide the timed rows by N")
    add("--out", type=Path, metavar="FILE", help="where the result goes (JSON)")
    add("--readme", action="store_true",
        help="measure nothing: README.md from the last result, or that of --out")  # fmt: skip
    return parser.parse_args(argv)


def measure(console: Console, options: argparse.Namespace) -> Record:
    """The parts asked for: under one progress bar, or with a line for each step."""
    every = not (options.surrogates or options.accuracy or options.speed)
    sources = options.data or list(surrogates.SOURCES)
    counts = {
        "surrogates": len(sources) * len(surrogates.LIBRARIES) * len(surrogates.GAMMAS)
        * len(surrogates.SURROGATES),
        "accuracy": len(GAMMAS) + len(CONTENDERS),
        "speed": 5,
    }  # fmt: skip
    found: Record = {}
    with screen.counter(console) as bar:
        for part, count in counts.items():
            if not (every or getattr(options, part)):
                continue
            task, steps = bar.add_task(part, total=count), itertools.count(1)

            def tick(what: str, task: Any = task, steps: Any = steps, of: str = f"{count} {part}:"
                     ) -> None:  # fmt: skip
                bar.update(task, description=what, advance=1)
                if not console.is_terminal:
                    say(console, f"{next(steps)}/{of} {what}")

            if part == "surrogates":
                found[part] = surrogates.measure(options.seeds, sources, tick)
            elif part == "accuracy":
                found[part] = measure_accuracy(tick)
            else:
                found[part] = measure_speed(tick, options.shrink)
    return found


def renew(path: Path) -> None:
    """The result of the README, and the README from it."""
    readme, result = results.ROOT / "README.md", results.shown(path, RESULT)
    readme.write_text(render(readme.read_text(encoding="utf-8"), result), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status."""
    options, console = parse(argv), screen.console()
    last = options.out or results.latest(RESULT)
    if options.readme:
        renew(last)
        say(console, f"README.md renewed from {screen.place(last)}")
        return 0
    narrow = options.data or options.seeds != SEEDS or options.shrink != 1
    path = options.out or (None if narrow else results.RUNS / RESULT)
    kept = results.read(last) if path and last.exists() else {}
    found = measure(console, options)
    result = kept | {
        "schema": results.SCHEMA, "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": results.commit(), "machine": results.machine(),
        "versions": results.versions(DISTRIBUTIONS), **found,
    }  # fmt: skip
    show(console, result)
    if path:
        results.write(result, path)
        say(console, f"result: {screen.place(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
