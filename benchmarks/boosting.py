"""Measure fusedce's objectives of gradient boosting: Hessians, accuracy and speed.

Three parts: which positive Hessian trains the best models with LightGBM and
XGBoost; the errors of gradient and Hessian relative to 50 digits, also of
recipes that others published; the time of a call beside NumPy's, and its share
of a round of LightGBM's training.

Writes: benchmarks/runs/boosting.json. A run of fewer seeds, data sets or rows
        writes only where --out says. --readme writes the tables of
        benchmarks/README.md.
Takes:  seven minutes on two cores; --accuracy alone half a minute.

For example:
  python -m benchmarks.boosting --speed
      only the times; the other parts stay as they are in the last result
  python -m benchmarks.boosting --surrogates --seeds 2 --data "wine (10%)"
      the Hessians on one data set, drawn twice
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightgbm as lgb
import numpy as np
from rich.console import Console

from benchmarks import boosting_formulas as formulas
from benchmarks import boosting_surrogates as surrogates
from benchmarks import boosting_tables, program, results, screen
from benchmarks.boosting_formulas import Formula
from benchmarks.boosting_tables import BLOCKS, GAMMAS, OURS, SCORES, WHOLE
from benchmarks.data import Array
from benchmarks.measure import Contender, Effort, take_turns
from benchmarks.results import Record
from benchmarks.screen import Tell, say
from fusedce.adapters.boosting import SigmoidFocal, SoftmaxFocal

Calls = dict[str, Callable[[], Any]]

DISTRIBUTIONS = ("fusedce", "numba", "numpy", "scikit-learn", "lightgbm", "xgboost-cpu", "xgboost")
SEEDS = 10
PARTS = {
    "surrogates": "compare positive Hessians by the models that they train",
    "accuracy": "compare gradient and Hessian with 50 digits",
    "speed": "measure the time of a call, and its share of a round of LightGBM's training",
}


# --------------------------------------------------------------------- accuracy


def fused(dtype: Any) -> Formula:
    """fusedce's objective in this dtype with the exact Hessian."""

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
    """The largest error relative to ``size``, and how many numbers are not finite.

    Errors count where the number is finite and ``size`` is a normal number of the dtype.
    """
    broken = ~np.isfinite(got)
    seen = (size >= np.finfo(dtype).tiny) & ~broken
    error = np.abs(got[seen].astype(np.float64) - want[seen]) / size[seen]
    return {"worst": float(f"{error.max():.2g}"), "not_finite": int(broken.sum())}


def measure_accuracy(tell: Tell) -> list[Record]:
    """Worst errors of gradient and Hessian over SCORES, both labels and GAMMAS."""
    records = []
    truths = {}
    for gamma in GAMMAS:
        tell(f"50 digits, gamma {gamma:g}")
        found = [formulas.exact(float(z), y, gamma) for y in (0, 1) for z in SCORES]
        grad, convex, slope = np.array(found, dtype=object).T
        sums = [convex + slope, np.abs(convex) + slope, np.abs(grad)]
        truths[gamma] = [part.astype(np.float64) for part in (grad, *sums)]
    z, y = np.tile(SCORES, 2), np.repeat([0.0, 1.0], len(SCORES))
    for name, (formula, dtype) in CONTENDERS.items():
        tell(name)
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


def agree(right: Any, got: Any) -> None:
    """Raise unless gradients and Hessians agree within a tolerance."""
    for one, other in zip(got, right, strict=True):
        bar = 1e-3 if one.dtype == np.float32 else 1e-8
        if not np.allclose(one, other, rtol=bar, atol=bar * np.abs(other).max() * 1e-2):
            raise SystemExit("NumPy and fusedce do not agree")


def timed(calls: Calls, rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, after its result was compared with NumPy's."""
    check = partial(agree, calls[WHOLE]())
    found = [Contender(name, call).enter(check) for name, call in calls.items()]
    take_turns(found, Effort(rounds=rounds, least=rounds))
    return {c.name: float(f"{1e3 * np.median(c.times):.3g}") for c in found}


def contenders(ours: Any, formula: Callable[..., Any], y: Array, *arguments: Any) -> Calls:
    """The same call by fusedce, by NumPy on whole arrays, and on blocks that fit the cache."""
    raw = arguments[0]
    found: Calls = {OURS: partial(ours, y, raw)}
    for name, block in ((WHOLE, None), (BLOCKS, formulas.BLOCK)):
        found[name] = partial(formula, raw, y, *arguments[1:], block=block)
    return found


def cases(shrink: int) -> dict[str, Calls]:
    """Focal loss of gamma 2 on raw scores in the layouts of XGBoost and LightGBM."""
    rng, gamma = np.random.default_rng(0), 2.0
    found: dict[str, Calls] = {}
    n = 1_000_000 // shrink
    y, z = (rng.random(n) < 0.1).astype(np.float32), rng.normal(-2, 2, n)
    for where, raw in (("LightGBM", z), ("XGBoost", z.astype(np.float32))):
        title = f"1 M rows, {raw.dtype} ({where})"
        found[title] = contenders(SigmoidFocal(gamma), formulas.sigmoid_objective, y, raw, gamma)
    n = 200_000 // shrink
    y, z = rng.integers(0, 10, n).astype(np.float32), rng.normal(0, 2, (n, 10))
    layouts = ("LightGBM", np.asfortranarray(z), 10 / 9), ("XGBoost", z.astype(np.float32), 2.0)
    for where, raw, factor in layouts:
        title, focal = f"200000 × 10 classes, {raw.dtype} ({where})", SoftmaxFocal(gamma)
        found[title] = contenders(focal, formulas.softmax_objective, y, raw, gamma, factor)
    return found


def shares(shrink: int, rounds: int) -> list[Record]:
    """The objective's share of the time of a LightGBM round with 100 features."""
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

        def clocked(raw: Array, rows: Any, focal: Any = focal, inside: Any = inside) -> Any:
            start = time.perf_counter()
            derivatives = focal(raw, rows)
            inside.append(time.perf_counter() - start)
            return derivatives

        whole = []
        for _ in range(rounds + 2):
            start = time.perf_counter()
            model.update(fobj=clocked)
            whole.append(time.perf_counter() - start)
        call, update = (1e3 * float(np.median(t[2:])) for t in (inside, whole))
        share = float(np.median(np.divide(inside[2:], whole[2:])))
        found.append({"case": f"{title}, 100 features", "call_ms": float(f"{call:.3g}"),
                      "round_ms": float(f"{update:.3g}"), "share": round(share, 4)})  # fmt: skip
    return found


def measure_speed(tell: Tell, shrink: int = 1, rounds: int = 15) -> Record:
    """Times of calls beside NumPy's, and of calls within training."""
    calls = []
    for title, case in cases(shrink).items():
        tell(title)
        ms = timed(case, rounds)
        ratios = {name: round(ms[name] / ms[OURS], 1) for name in (WHOLE, BLOCKS)}
        calls.append({"case": title, "ms": ms, "ratios": ratios})
    tell("rounds of LightGBM")
    return {"calls": calls, "rounds": shares(shrink, rounds)}


# --------------------------------------------------------------------- program


class Boosting(program.Suite):
    """``python -m benchmarks.boosting``: three parts instead of cases."""

    name = "boosting"
    page_tables = staticmethod(boosting_tables.tables)
    caption = staticmethod(boosting_tables.caption)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = screen.Parser("python -m benchmarks.boosting", __doc__)
    add = parser.add_argument
    for name, text in PARTS.items():
        add(f"--{name}", action="store_true", help=f"{text} (default: all three parts)")
    add("--seeds", type=screen.whole, default=SEEDS, metavar="N",
        help=f"draw each data set N times (default: {SEEDS})")  # fmt: skip
    named = ", ".join(surrogates.SOURCES).replace("%", "%%")
    add("--data", action="append", choices=surrogates.SOURCES, metavar="NAME",
        help=f"train on this data set only: {named}; may be repeated (default: all)")  # fmt: skip
    add("--shrink", type=screen.whole, default=1, metavar="N",
        help="divide the rows that are timed by N (default: 1)")  # fmt: skip
    parser.add_output()
    return parser.parse_args(argv)


def measure(console: Console, options: argparse.Namespace) -> Record:
    """The parts that the options name: under one progress bar, or with a line for each step."""
    sources = options.data or list(surrogates.SOURCES)
    models = len(surrogates.LIBRARIES) * len(surrogates.GAMMAS) * len(surrogates.SURROGATES)
    parts: dict[str, tuple[int, Callable[[Tell], Any]]] = {
        "surrogates": (
            len(sources) * models, lambda tell: surrogates.measure(options.seeds, sources, tell),
        ),
        "accuracy": (len(GAMMAS) + len(CONTENDERS), measure_accuracy),
        "speed": (5, lambda tell: measure_speed(tell, options.shrink)),
    }  # fmt: skip
    named = [part for part in parts if getattr(options, part)]
    found: Record = {}
    with screen.counter(console) as bar:
        for part in named or parts:
            count, run = parts[part]
            found[part] = run(screen.stepper(console, bar, part, count))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options, console = parse(argv), screen.console()
    if options.readme:
        return program.renew(Boosting(options), console)
    file = f"{Boosting.name}.json"
    partial_run = options.data or options.seeds != SEEDS or options.shrink != 1
    path = results.destination(options.out, bool(partial_run), file)
    last = options.out or results.latest(file)
    kept = results.read(last) if path and last.exists() else {}
    result = kept | results.origin(DISTRIBUTIONS) | measure(console, options)
    for grid in boosting_tables.tables(result):
        console.print(grid)
    if path:
        results.write(result, path)
        say(console, f"result: {screen.place(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
