"""The figures of ``benchmarks.boosting``: tables for the terminal and for the README."""

import re
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import boosting_surrogates as surrogates
from benchmarks.screen import Column, Grid, judged

Record = dict[str, Any]
Rows = list[list[str]]  # a head and lines

START, END = "<!-- boosting -->", "<!-- /boosting -->"
GAMMAS = (0.5, 1.0, 2.0, 3.7, 5.0)
SCORES = np.linspace(-100, 100, 801)
WHOLE, BLOCKS = "NumPy", "NumPy in blocks"
SPEED_BAR, SHARE_BAR = 5.0, 0.1


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
        whole = judged(f"{ms[WHOLE]:g} ({ratios[WHOLE]:g}×)", "", ratios[WHOLE] >= SPEED_BAR)[0]
        others = [whole, f"{ms[BLOCKS]:g} ({ratios[BLOCKS]:g}×)"]
        rows.append([call["case"], f"{ms['fusedce']:g}", *others])
    return rows


def share_rows(record: Record) -> Rows:
    """Milliseconds of a round of LightGBM's, and of the call in it."""
    rows = [["training", "call, ms", "round, ms", f"share < {SHARE_BAR:.0%}"]]
    for part in record["rounds"]:
        share = judged(f"{part['share']:.1%}", "", part["share"] < SHARE_BAR)[0]
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
        columns = [Column(name) for name in head]
        console.print(Grid(title, columns, [[(text, None) for text in line] for line in lines]))
        console.print()
