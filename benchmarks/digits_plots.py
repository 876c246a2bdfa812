"""The picture of the digits: accuracy, the two detectors seed by seed, and training steps."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from benchmarks.digits_tables import accuracy, gain, precisions
from benchmarks.measure import NUMPY, OURS
from benchmarks.plots import COLOURS, Plot, draw_all, duration, head, place, save, span
from benchmarks.results import Record

REST = "#bbbbbb"


def draw_accuracy(axis: Axes, result: Record) -> None:
    """The accuracy after each epoch: a thin line for each seed, a thick one for their mean."""
    looks: dict[str, Any] = {"training": {"color": COLOURS["torch"], "ls": (0, (4, 1.5))},
                             "held out": {"color": COLOURS[OURS]}}  # fmt: skip
    for name, look in looks.items():
        curves = np.array(result["accuracy"][name])
        epochs = np.arange(1, curves.shape[1] + 1)
        axis.plot(epochs, curves.T, color=look["color"], lw=0.8, alpha=0.4)
        axis.plot(epochs, curves.mean(axis=0), lw=3, label=name, **look)
    share = f"{100 * accuracy(result).mean():.1f}%"
    seeds = len(result["settings"]["seeds"])
    axis.set_title(
        f"Ten digits: on average {share} of the\nheld-out scans are right ({seeds} seeds)"
    )
    axis.set(xlabel="epoch", ylabel="accuracy", ylim=(0.8, 1.005))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, loc="lower right", handlelength=2.5)


def draw_pairs(axis: Axes, result: Record) -> None:
    """A line for each seed, from the average precision of one loss to that of the other."""
    found = precisions(result)
    for pair in zip(*found.values(), strict=True):
        axis.plot((0, 1), pair, "o-", color=COLOURS[OURS], lw=2, ms=8)
    mean, error = gain(result)
    digit = result["settings"]["digit"]
    axis.set_title(f"Detector of the digit {digit}, a line per seed:\n"
                   f"mean change {mean:+.3f}, std. error {error:.3f}")  # fmt: skip
    axis.set(xlim=(-0.35, 1.35), ylabel="average precision")
    axis.set_xticks((0, 1), list(found))
    axis.grid(axis="y", alpha=0.25)


def draw_step(axis: Axes, record: Record) -> None:
    """A bar for the step with each loss: the loss, then the rest."""
    whole = {name: sum(record["ms"][name].values()) for name in (NUMPY, OURS)}
    for at, name in enumerate(whole):
        loss, rest = (record["ms"][name][part] for part in ("loss", "rest"))
        axis.barh(at, rest, 0.6, left=loss, color=REST, hatch="//", edgecolor="white",
                  label=None if at else "rest of the step")  # fmt: skip
        axis.barh(at, loss, 0.6, color=COLOURS[OURS], label=None if at else "loss")
    losses = [record["ms"][name]["loss"] for name in (NUMPY, OURS)]
    unit, size = ("ms", 1) if max(losses) >= 1 else ("µs", 1000)
    before, after = (f"{size * loss:.3g} {unit}" for loss in losses)
    axis.set_title(f"Training step, {record['batch']} × {record['classes']:,} logits: \n"
                   f"loss {before} before, {after} after")  # fmt: skip
    axis.set(xlim=(0, 1.05 * max(whole.values())), xlabel="time of a training step")
    axis.set_ylim(1.5, -0.5)
    axis.set_yticks((0, 1), ["before:\nNumPy", "after:\nfusedce"])
    axis.xaxis.set_major_formatter(lambda ms, _: duration(ms) if ms else "0")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.grid(axis="x", alpha=0.25)


def title(result: Record) -> str:
    """The accuracy, and the time of the loss before and after."""
    parts = [100 * r["ms"][OURS]["loss"] / r["ms"][NUMPY]["loss"] for r in result["steps"]]
    times = span(parts, "{:.0f}".format)
    share = f"{100 * accuracy(result).mean():.1f}%"
    return f"{share} of the held-out digits are right; the loss takes {times}% of NumPy's time"


def plot_digits(result: Record, path: Path) -> bool:
    """Four panels."""
    with plt.rc_context({"font.size": 16, "axes.titlesize": 17}):
        layout = ConstrainedLayoutEngine(w_pad=0.15, hspace=0.06)
        figure, axes = plt.subplots(2, 2, figsize=(12, 10.5), height_ratios=(3, 2), layout=layout)
        draw_accuracy(axes[0, 0], result)
        draw_pairs(axes[0, 1], result)
        for axis, record in zip(axes[1], result["steps"], strict=True):
            draw_step(axis, record)
        handles, labels = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower right", ncols=2,
                      frameon=False)  # fmt: skip
        head(figure, title(result), place(result))
        save(figure, path)
    return True


PLOTS: dict[str, Plot] = {"digits.png": plot_digits}


def draw(result: Record, folder: Path) -> list[str]:
    """Draw the picture; returns the name of its file."""
    return draw_all(PLOTS, result, folder)
