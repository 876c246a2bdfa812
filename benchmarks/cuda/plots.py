"""Two pictures of a result on a GPU, in the style of the CPU's."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from benchmarks.cuda.cases import GRADIENT
from benchmarks.cuda.report import OTHERS, caption, measured
from benchmarks.plots import COLOURS, OURS, Plot, draw_all, finish, times_longer
from benchmarks.results import Record

DTYPES = "bfloat16", "float32", "float16"


def of_dtype(result: Record, dtype: str) -> list[Record]:
    """Loss and gradient of every shape in one dtype."""
    return [r for r in measured(result["cases"], GRADIENT) if r["dtype"] == dtype]


def shape(record: Record) -> str:
    """The name of a cluster of bars, in two lines."""
    words = record["title"].removesuffix(record["dtype"]).split()
    return "\n".join((" ".join(words[:2]), " ".join(words[2:]))).strip()


def plot_copy(result: Record, path: Path) -> bool:
    """Bandwidth of fusedce and the rivals relative to a copy, a panel for each dtype."""
    panels = [(d, found) for d in DTYPES if (found := of_dtype(result, d))]
    if not panels:
        return False
    names = [n for n in (OURS, *OTHERS) if any(n in r["of_copy"] for _, p in panels for r in p)]
    ours = [100 * r["of_copy"][OURS] for _, records in panels for r in records]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(14, 1.2 + 3.1 * len(panels)), layout="constrained", squeeze=False,
        sharey=True,
    )  # fmt: skip
    for axis, (dtype, records) in zip(axes[:, 0], panels, strict=True):
        at = np.arange(len(records))
        for k, name in enumerate(names):
            heights = [r["of_copy"].get(name, np.nan) for r in records]
            offset = 0.86 * ((k + 0.5) / len(names) - 0.5)
            axis.bar(at + offset, heights, 0.8 / len(names), color=COLOURS[name])
        axis.axhline(1, color=COLOURS["copy"], lw=2.5, ls=(0, (4, 2)))
        axis.set(xticks=at, ylabel=dtype)
        axis.set_xticklabels([shape(r) for r in records], fontsize=12)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(axis="y", alpha=0.25)
        axis.set_axisbelow(True)
    axes[0, 0].legend(
        [Patch(color=COLOURS[n]) for n in names], names, frameon=False, loc="lower left",
        bbox_to_anchor=(-0.01, 1), ncols=len(names),
    )  # fmt: skip
    title = f"Loss and gradient: {min(ours):.0f}–{max(ours):.0f}% of the bandwidth of a copy"
    figure.suptitle(title, weight="bold", fontsize=19)
    finish(figure, caption(result), path)
    return True


def plot_rivals(result: Record, path: Path) -> bool:
    """The ratio of each rival's time to ours in bfloat16."""
    records = [r for r in of_dtype(result, DTYPES[0]) if r["times_faster"]]
    if records:
        times_longer(records, caption(result), path)
    return bool(records)


PLOTS: dict[str, Plot] = {"cuda-copy.png": plot_copy, "cuda-rivals.png": plot_rivals}


def draw(result: Record, folder: Path) -> list[str]:
    """Draw the pictures that the result has figures for; returns the names of the files."""
    return draw_all(PLOTS, result, folder)
