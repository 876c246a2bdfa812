"""Measure the worst relative error of a gradient component beside other libraries.

Writes: benchmarks/runs/accuracy.json; --quick writes only where --out says.
        --readme writes benchmarks/results/accuracy.json and the tables of
        README.md and benchmarks/README.md.
Takes:  half a minute, most of it for compilation by JAX; --quick ten seconds.

For example:
  python -m benchmarks.accuracy
      float32, bfloat16 and float64
  python -m benchmarks.accuracy --quick
      float32 alone
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import mpmath  # type: ignore[import-untyped]
import numpy as np

from benchmarks import accuracy_tables, measure, program, results, screen
from benchmarks.accuracy_contenders import CONTENDERS, OURS, Problem
from benchmarks.cases import CE, DTYPES, Loss
from benchmarks.data import Array
from benchmarks.frameworks import FOCAL
from benchmarks.results import Record
from benchmarks.rivals import Rival
from benchmarks.screen import Tell, say
from benchmarks.tables import MISSED

DISTRIBUTIONS = "fusedce", "numba", "numpy", "scikit-learn", "torch", "jax", "optax", "mpmath"
DIGITS = 50
ROWS, CLASSES = 64, 64
SURE = float(np.log(0.999999 / 0.000001))  # the logit of p = 0.999999
FARTHEST = 80.0  # exp(-80) is a normal number in float32
LARGE = 1e4
SMALLEST = 1024  # times the smallest normal number: smaller true values are not counted
MEASURED = "float32", "bfloat16", "float64"  # --quick: the first one
LOSSES = {
    "softmax cross-entropy": CE,
    "sigmoid cross-entropy": Loss("sigmoid"),
    "softmax focal, γ = 2": Loss("softmax", gamma=2.0),
    "sigmoid focal, γ = 2": FOCAL,
    "sigmoid focal, γ = 1.5": replace(FOCAL, gamma=1.5),
}


# --------------------------------------------------------------------- bars


def bar(loss: Loss, dtype: str) -> float:
    """The largest error that fusedce's documentation allows (fusedce/README.md)."""
    if dtype == "float64":
        return 2e-13
    single = 2e-5 if loss.gamma % 1 else 1e-5 if loss.activation == "softmax" else 4e-6
    return single + (2.0**-8 if dtype == "bfloat16" else 0.0)  # which is rounded once


# --------------------------------------------------------------------- inputs


def ordinary(rng: np.random.Generator, rows: int, softmax: bool) -> tuple[Array, Array]:
    """Normally distributed logits, any target."""
    z = rng.normal(size=(rows, CLASSES))
    y = rng.integers(0, CLASSES, rows) if softmax else rng.integers(0, 2, z.shape)
    return z, y


def confident(z: Array, y: Array, margin: Array, softmax: bool) -> tuple[Array, Array]:
    """The true outcomes get the probability whose logit is ``margin``."""
    if not softmax:
        return np.where(y == 1, margin, -margin), y
    others = np.exp(z)
    np.put_along_axis(others, y[:, None], 0.0, 1)
    np.put_along_axis(z, y[:, None], margin[:, :1] + np.log(others.sum(1, keepdims=True)), 1)
    return z, y


def sure(rng: np.random.Generator, rows: int, softmax: bool) -> tuple[Array, Array]:
    """The model gives the true outcome a probability of 0.999999 or slightly more."""
    margin = SURE + rng.uniform(0, 0.5, (rows, CLASSES))
    return confident(*ordinary(rng, rows, softmax), margin, softmax)


def surest(rng: np.random.Generator, rows: int, softmax: bool) -> tuple[Array, Array]:
    """The same with probabilities up to 1 - exp(-80)."""
    margin = np.linspace(SURE, FARTHEST, rows * CLASSES).reshape(rows, CLASSES)
    return confident(*ordinary(rng, rows, softmax), margin, softmax)


def masked(rng: np.random.Generator, rows: int, softmax: bool) -> tuple[Array, Array]:
    """Half of the classes have the logit -inf, in the first rows all except the target."""
    z, y = ordinary(rng, rows, softmax)
    out = rng.random(z.shape) < 0.5
    out[: rows // 16] = True
    np.put_along_axis(out, y[:, None], False, 1)
    z[out] = -np.inf
    return z, y


def large(rng: np.random.Generator, rows: int, softmax: bool) -> tuple[Array, Array]:
    """Logits from -10000 to 10000; in every other row of softmax from 9940 to 10000.

    Those of sigmoid are at least 1000 in magnitude, where p is 0 or 1 in every dtype.
    """
    z, y = ordinary(rng, rows, softmax)
    z = rng.uniform(-LARGE, LARGE, z.shape)
    if not softmax:
        return np.sign(z) * np.maximum(np.abs(z), LARGE / 10), y
    z[::2] = LARGE - rng.uniform(0, 60, z[::2].shape)
    return z, y


Inputs = Callable[[np.random.Generator, int, bool], tuple[Array, Array]]
INPUTS: dict[str, Inputs] = {
    "ordinary": ordinary, "sure": sure, "surest": surest, "masked": masked, "large": large,
}  # fmt: skip


def problem(loss: Loss, inputs: str, dtype: str, rows: int) -> Problem:
    """The arrays of a case, rounded to its dtype."""
    softmax = loss.activation == "softmax"
    z, y = INPUTS[inputs](np.random.default_rng(0), rows, softmax)
    z = z.astype(DTYPES[dtype])
    return Problem(loss, z, y.astype(np.int64) if softmax else y.astype(z.dtype))


# --------------------------------------------------------------------- the true gradient


def true_row(loss: Loss, z: Array, target: int) -> list[Any]:
    """The gradient of softmax cross-entropy or focal loss of a row.

    With p that of the target, q = 1 - p and g = gamma, it is
    q**(g - 1) (g p log p - q) ([j = target] - p_j), where q is the sum of the other probabilities.
    """
    top = float(z.max())
    e = [mpmath.exp(mpmath.mpf(float(v)) - top) if np.isfinite(v) else mpmath.mpf(0) for v in z]
    total, others = mpmath.fsum(e), mpmath.fsum(e[:target] + e[target + 1 :])
    if not others:
        return [mpmath.mpf(0)] * len(e)
    p, q, g = e[target] / total, others / total, mpmath.mpf(loss.gamma)
    slope = q ** (g - 1) * (-g * p * mpmath.log1p(others / e[target]) - q) if g else mpmath.mpf(-1)
    return [slope * (q if j == target else -each / total) for j, each in enumerate(e)]


def true_element(loss: Loss, z: Any, label: Any) -> Any:
    """The same of a sigmoid: of the logits z and 0, by z, times alpha or 1 - alpha."""
    yes, no = (1.0, 1.0) if loss.alpha is None else (loss.alpha, 1 - loss.alpha)
    return (yes if label else no) * true_row(loss, np.array([z, 0.0]), 0 if label else 1)[0]


def truth(asked: Problem) -> tuple[Array, Array]:
    """The gradient in 50 digits, rounded to float64, and what the rounding leaves over."""
    loss, z = asked.loss, asked.logits.astype(np.float64)
    pairs = zip(z, asked.targets, strict=True)
    with mpmath.workdps(DIGITS):
        if loss.activation == "softmax":
            grad = [true_row(loss, row, int(y)) for row, y in pairs]
        else:
            grad = [[true_element(loss, *pair) for pair in zip(*row, strict=True)] for row in pairs]
        exact = np.array(grad, dtype=object)
        rounded = exact.astype(np.float64)
        return rounded, (exact - rounded.astype(object)).astype(np.float64)


def judged(grad: Array, true: tuple[Array, Array], asked: Problem) -> Record:
    """The largest error relative to the true value, where it is, and how many are not finite.

    Errors count where the component is finite and the true value is SMALLEST times the smallest
    normal number or more: below, factors of the result may underflow, in XLA to 0.
    """
    if grad.shape != asked.logits.shape:
        raise ValueError(f"gradient of shape {grad.shape} instead of {asked.logits.shape}")
    got, (rounded, rest) = grad.astype(np.float64), true
    finite = np.isfinite(got)
    finfo: Any = ml_dtypes.finfo  # NumPy's does not know bfloat16
    smallest = SMALLEST * float(finfo(asked.logits.dtype).tiny)
    seen = finite & (np.abs(rounded) >= smallest)
    found: Record = {"worst": None, "not_finite": int((~finite).sum()), "counted": int(seen.sum())}
    if seen.any():
        where = np.nonzero(seen)
        error = np.abs((got[seen] - rounded[seen]) - rest[seen]) / np.abs(rounded[seen])
        k = tuple(int(axis[error.argmax()]) for axis in where)
        found["worst"] = float(f"{error.max():.3g}")
        found["at"] = {"row": k[0], "class": k[1], "true": float(rounded[k]), "got": float(got[k])}
    return found


# --------------------------------------------------------------------- program


def measure_case(asked: Problem, contenders: Sequence[Rival]) -> Record:
    """The errors of every contender that has the case; an exception is recorded as its text."""
    true = truth(asked)
    errors, skipped = {}, {}
    for contender in contenders:
        try:
            with np.errstate(all="ignore"):
                grad = contender.prepare(asked)
            if grad is not None:
                errors[contender.name] = judged(grad, true, asked)
        except Exception as error:  # whatever a library raises is recorded, and the run goes on
            if contender.ours:
                raise
            skipped[contender.name] = measure.why(error)
    return {"errors": errors, "skipped": skipped}


def measure_all(dtypes: Sequence[str], contenders: Sequence[Rival], tell: Tell) -> list[Record]:
    """A record for each loss, kind of inputs and dtype."""
    found = []
    for dtype, title, inputs in combinations(dtypes):
        tell(f"{title}, {inputs}, {dtype}")
        loss = LOSSES[title]
        asked = problem(loss, inputs, dtype, ROWS)
        case: Record = {"case": f"{title}, {inputs}, {dtype}", "loss": title, "inputs": inputs}
        case |= {"dtype": dtype, "bar": bar(loss, dtype)} | measure_case(asked, contenders)
        found.append(case)
    return found


def combinations(dtypes: Sequence[str]) -> list[tuple[str, str, str]]:
    """Dtype, loss and inputs of every case: classes are masked under softmax alone."""
    return [
        (dtype, title, inputs)
        for dtype in dtypes
        for title, loss in LOSSES.items()
        for inputs in INPUTS
        if inputs != "masked" or loss.activation == "softmax"
    ]


class Accuracy(program.Suite):
    """``python -m benchmarks.accuracy``, of which ``program`` writes the pages."""

    name = "accuracy"
    page_tables = staticmethod(accuracy_tables.page_tables)
    summary = staticmethod(accuracy_tables.summary)
    caption = staticmethod(accuracy_tables.caption)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = screen.Parser("python -m benchmarks.accuracy", __doc__)
    parser.add_argument("--quick", action="store_true",
        help=f"measure {MEASURED[0]} alone (default: {', '.join(MEASURED)})")  # fmt: skip
    parser.add_output()
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status, 1 where fusedce misses a bar."""
    options, console = parse(argv), screen.console()
    suite = Accuracy(options)
    if options.readme:
        return program.renew(suite, console)
    path = results.destination(options.out, options.quick, suite.file)
    missing = {each.name: why for each in CONTENDERS if (why := each.missing())}
    here = [each for each in CONTENDERS if each.name not in missing]
    dtypes, start = MEASURED[:1] if options.quick else MEASURED, time.perf_counter()
    with screen.counter(console) as progress:
        tell = screen.stepper(console, progress, suite.name, len(combinations(dtypes)))
        cases = measure_all(dtypes, here, tell)
    settings = {"rows": ROWS, "classes": CLASSES, "digits": DIGITS}
    settings["seconds"] = round(time.perf_counter() - start)
    result = results.origin(DISTRIBUTIONS) | {"settings": settings, "missing_rivals": missing}
    result["cases"] = cases
    for grid in accuracy_tables.tables(result):
        console.print(grid)
    for line in screen.skipped(missing, cases):
        say(console, f"skipped: {line}")
    missed = [case["case"] for case in cases if not accuracy_tables.met(case)]
    for name in missed:
        say(console, f"{MISSED} {OURS} misses its bar: {name}", "red")
    if path:
        results.write(result, path)
        say(console, f"result: {screen.place(path)}, {settings['seconds']} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
