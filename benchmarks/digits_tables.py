"""What was found on the digits, in words and tables, for a terminal and benchmarks/README.md."""

from dataclasses import replace
from textwrap import fill

import numpy as np

from benchmarks import results
from benchmarks.data import Array
from benchmarks.measure import NUMPY, OURS
from benchmarks.results import Record
from benchmarks.tables import Column, Grid, number

FUNCTIONS = "binary_cross_entropy", "focal"  # of the detectors, in the order of the result
WIDTH = 100  # columns of a paragraph


def spread(values: Array, digits: int = 3) -> str:
    """Mean ± standard deviation over the seeds."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def accuracy(result: Record) -> Array:
    """The accuracy of each seed on the held-out half."""
    return np.array(result["accuracy"]["held out"])[:, -1]


def precisions(result: Record) -> dict[str, Array]:
    """The average precision of each seed, by the loss of the detector."""
    return {name: np.array(found) for name, found in result["average_precision"].items()}


def gain(result: Record) -> tuple[float, float]:
    """Focal loss minus cross-entropy on the same seed: the mean, and its standard error."""
    entropy, focal = precisions(result).values()
    each = focal - entropy
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def difference(result: Record) -> str:
    """The mean difference of the detectors in a sentence."""
    mean, error = gain(result)
    seeds = len(result["settings"]["seeds"])
    text = f"Focal loss minus cross-entropy, for the same seed: {mean:+.3f} on average, standard "
    if abs(mean) > 2 * error:
        return f"{text}error {error:.3f}: more than two standard errors."
    return f"{text}error {error:.3f}; {seeds} seeds do not show a difference."


def prose(result: Record) -> str:
    """The paragraphs above the table."""
    settings, found = result["settings"], precisions(result)
    pairs = zip(FUNCTIONS, found.values(), strict=True)
    both = ", ".join(f"{spread(values)} with `{function}`" for function, values in pairs)
    intro = (
        "`python -m benchmarks.digits` trains a two-layer network, written in NumPy, on "
        "scikit-learn's 1797 scans of handwritten digits, half of which are held out. fusedce "
        "computes every loss and its gradient. The results are for the held-out half: means ± "
        f"standard deviations over {len(settings['seeds'])} seeds."
    )
    ten = f"- Ten digits with `cross_entropy`: accuracy {spread(accuracy(result))}."
    one = (
        f"- A detector of the digit {settings['digit']}, with {settings['prevalence']:.0%} of the "
        f"training rows positive: average precision {both}. {difference(result)}"
    )
    return "\n".join((fill(intro, WIDTH), "", ten, fill(one, WIDTH, subsequent_indent="  ")))


def step_name(record: Record) -> str:
    """A training step in words."""
    return f"batch of {record['batch']}, {record['classes']:,} classes"


def steps(result: Record) -> Grid:
    """The times of the training steps."""
    rows = [(step_name(r), name, r["ms"][name]) for r in result["steps"] for name in (NUMPY, OURS)]
    columns = (
        Column("training step", lambda row: str(row[0])),
        Column("loss by", lambda row: str(row[1]), right=False),
        Column("loss, ms", lambda row: number(row[2]["loss"])),
        Column("rest, ms", lambda row: number(row[2]["rest"])),
        Column("loss, % of the step",
               lambda row: f"{100 * row[2]['loss'] / (row[2]['loss'] + row[2]['rest']):.0f}%"),
    )  # fmt: skip
    return Grid("a training step: the loss with its gradient, and the rest, medians", columns, rows)


def page_tables(result: Record) -> list[Grid]:
    """The part of benchmarks/README.md."""
    about = (
        "Time of a training step, split into the loss with its gradient and the rest. The loss is "
        "ten lines of NumPy, or fusedce; the rest is the network in NumPy, whose matrix products "
        "use one thread. The inputs are random, the times are medians:"
    )
    return [replace(steps(result), title=f"{prose(result)}\n\n{fill(about, WIDTH)}")]


def terminal_tables(result: Record) -> list[Grid]:
    """The results of the last epoch, and the times."""
    settings = result["settings"]
    task = f"is it {settings['digit']}? ({settings['prevalence']:.0%} positive)"
    rows = [("ten digits", "cross-entropy", "accuracy", spread(accuracy(result)))]
    rows += [(task, name, "average precision", spread(values))
             for name, values in precisions(result).items()]  # fmt: skip
    title = "digits, last epoch, mean ± standard deviation over "
    title += f"{len(settings['seeds'])} seeds"
    columns = [Column("task", lambda row: str(row[0])),
               Column("loss", lambda row: str(row[1]), right=False),
               Column("held-out half", lambda row: str(row[2]), right=False),
               Column("result", lambda row: str(row[3]))]  # fmt: skip
    return [Grid(title, columns, rows), steps(result)]


def caption(result: Record) -> str:
    """Where the figures come from, in one line."""
    return results.caption(result, names=("python", "fusedce", "numba", "numpy", "scikit-learn"))
