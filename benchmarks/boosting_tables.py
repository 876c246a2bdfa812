"""The tables of ``benchmarks.boosting``, the same for a terminal and for benchmarks/README.md."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import boosting_surrogates as surrogates
from benchmarks import results
from benchmarks.results import Record
from benchmarks.tables import MISSED, NOTES, Cell, Column, Grid, judged

GAMMAS = (0.5, 1.0, 2.0, 3.7, 5.0)
SCORES = np.linspace(-100, 100, 801)
OURS, WHOLE, BLOCKS = "fusedce", "NumPy", "NumPy in blocks"
SPEED_BAR, SHARE_BAR = 5.0, 0.1


def mean(records: list[Record], key: str) -> float:
    """The mean over data sets and seeds."""
    return float(np.mean([value for record in records for value in record[key]]))


def precision_and_loss(surrogate: str, models: tuple[str, Any, list[Record]]) -> str:
    """Means over the data sets: average precision, log loss."""
    some = [record for record in models[2] if record["surrogate"] == surrogate]
    return f"{mean(some, 'average_precision'):.3f} / {mean(some, 'log_loss'):.4f}"


def gamma_of(models: tuple[str, Any, list[Record]]) -> str:
    """The gamma of a row."""
    return "all" if models[1] is None else f"{models[1]:g}"


def surrogate_table(records: list[Record]) -> Grid:
    """A row for each library and gamma, and one for all models; a column for each surrogate."""
    seeds = len(records[0]["trees"])
    sets = ", ".join(dict.fromkeys(r["data"] for r in records))
    notes = [compared(records, "bound", other) for other in ("clip", "slope")]
    title = (
        "Average precision / log loss of focal loss on held-out rows: means over the data sets "
        f"{sets}, which are named with their share of positives, and {seeds} seeds each. "
        f"{' '.join(notes)}"
    )
    rows: list[tuple[str, Any, list[Record]]] = [
        (library, gamma, [r for r in records if (r["library"], r["gamma"]) == (library, gamma)])
        for library, gamma in sorted({(r["library"], r["gamma"]) for r in records})
    ]
    columns = [Column("library", lambda models: models[0]), Column("γ", gamma_of)]
    for name in surrogates.SURROGATES:
        columns.append(Column(name, partial(precision_and_loss, name)))
    return Grid(title, columns, [*rows, ("both", None, records)])


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
        words.append(
            f"{title} {some:+.4f}, standard error {error:.4f} ({len(differing)} of {len(gain)} "
            "models differ)"
        )
    return f"Mean of {one} − {other} over the models that differ: {'; '.join(words)}."


def worst(key: str, record: Record) -> str:
    """The largest error over all gammas."""
    return f"{max(part['worst'] for part in record[key]):.1e}"


def not_finite(record: Record) -> str:
    """The share of numbers that are NaN or infinite."""
    lost = sum(part["not_finite"] for key in ("gradient", "hessian") for part in record[key])
    return f"{lost / (4 * len(SCORES) * len(record['gradient'])):.1%}" if lost else "none"


def accuracy_table(records: list[Record]) -> Grid:
    """A row for each formula."""
    title = (
        f"Worst relative error for scores from −100 to 100, both labels, γ from "
        f"{min(GAMMAS):g} to {max(GAMMAS):g}; that of the Hessian is relative to the sum of the "
        "absolute values of its two terms."
    )
    columns = (
        Column("formula", lambda record: str(record["formula"])),
        Column("gradient", partial(worst, "gradient")),
        Column("Hessian", partial(worst, "hessian")),
        Column("NaN or infinite", not_finite),
    )
    return Grid(title, columns, records)


def takes(name: str, call: Record) -> Cell:
    """How many times as long NumPy takes, and the bar."""
    ratio = call["ratios"][name]
    if name != WHOLE:
        return f"{ratio:g}×", None
    return judged(f"{ratio:g}×", f"≥ {SPEED_BAR:g}", bool(ratio >= SPEED_BAR))


def speed_table(calls: list[Record]) -> Grid:
    """A row for each call."""

    def milliseconds(name: str) -> Callable[[Record], str]:
        return lambda call: f"{call['ms'][name]:g}"

    columns = (
        Column("call", lambda call: str(call["case"])),
        Column("fusedce,\nms", milliseconds(OURS)),
        Column("NumPy,\nms", milliseconds(WHOLE)),
        Column("NumPy takes\nN × as long", partial(takes, WHOLE), right=False),
        Column("in blocks,\nms", milliseconds(BLOCKS)),
        Column("in blocks takes\nN × as long", partial(takes, BLOCKS), right=False),
    )
    title = (
        "Gradient and Hessian of focal loss, γ = 2: medians; NumPy on whole arrays, and in blocks "
        "that fit into the cache."
    )
    return Grid(title, columns, calls)


def share(record: Record) -> Cell:
    """The objective's share of the time of a round, and the bar."""
    text = f"{record['share']:.1%}"
    return judged(text, f"≤ {SHARE_BAR:.0%}", record["share"] <= SHARE_BAR)


def share_table(rounds: list[Record]) -> Grid:
    """A row for each model that LightGBM trains."""
    columns = (
        Column("training", lambda record: str(record["case"])),
        Column("call, ms", lambda record: f"{record['call_ms']:g}"),
        Column("round, ms", lambda record: f"{record['round_ms']:g}"),
        Column("call / round", share, right=False),
    )
    title = "A call of that objective within a round of LightGBM's training."
    return Grid(title, columns, rounds, [f"{MISSED}: {NOTES[MISSED]}"])


def tables(result: Record) -> list[Grid]:
    """A table, titled by a sentence, for each part that was measured."""
    found = []
    if "surrogates" in result:
        found.append(surrogate_table(result["surrogates"]))
    if "accuracy" in result:
        found.append(accuracy_table(result["accuracy"]))
    if "speed" in result:
        found += [speed_table(result["speed"]["calls"]), share_table(result["speed"]["rounds"])]
    return found


def caption(result: Record) -> str:
    """Where the figures come from, in one line."""
    where = result["machine"]
    place = f"{where['processor']}, {where['threads']} threads"
    return results.caption(result, place, result["versions"])
