"""Two pictures of a result on a GPU, in the style of the CPU's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from benchmarks.cuda.cases import GRADIENT
from benchmarks.cuda.report import OTHERS, measured
from benchmarks.plots import (
    COLOURS,
    COPY,
    MARKS,
    OURS,
    Plot,
    draw_all,
    head,
    place,
    save,
    span,
    times_longer,
)
from benchmarks.results import Record

DTYPES = "bfloat16", "float32", "float16"


def of_dtype(result: Record, dtype: str) -> list[Record]:
    """Loss and gradient of every shape in one dtype."""
    return [r for r in measured(result["cases"], GRADIENT) if r["dtype"] == dtype]


def shape(record: Record) -> str:
    """The name of a row: the case without its dtype."""
    return str(record["title"]).removesuffix(record["dtype"]).strip()


def copy_title(records: Sequence[Record]) -> str:
    """The share of the bandwidth of a copy in everything that is drawn."""
    ours = [100 * r["of_copy"][OURS] for r in records]
    share = span(ours, "{:.0f}".format)
    return f"Loss and gradient: fusedce reaches {share}% of the bandwidth of a copy"


def plot_copy(result: Record, path: Path) -> bool:
    """Bandwidth of fusedce and the rivals relative to a copy, a panel for each dtype."""
    panels = [(d, found) for d in DTYPES if (found := of_dtype(result, d))]
    if not panels:
        return False
    names = [n for n in (OURS, *OTHERS) if any(n in r["of_copy"] for _, p in panels for r in p)]
    shapes = list(dict.fromkeys(shape(r) for _, records in panels for r in records))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(12, 3.6 + 0.5 * len(shapes)), squeeze=False, sharex=True,
        sharey=True, layout=ConstrainedLayoutEngine(wspace=0.08),
    )  # fmt: skip
    dashes: Any = {"color": COLOURS[COPY], "lw": 3, "ls": (0, (3, 1.5))}
    looks: Any = {name: {"ls": "", "marker": MARKS[name], "color": COLOURS[name], "ms": 9}
                  for name in names}  # fmt: skip
    looks[OURS]["ms"] = 14
    for axis, (dtype, records) in zip(axes[0], panels, strict=True):
        rows = [shapes.index(shape(r)) for r in records]
        for name in names:
            axis.plot([r["of_copy"].get(name, np.nan) for r in records], rows, **looks[name])
        axis.axvline(1, **dashes)
        axis.set(title=dtype)
        axis.xaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(alpha=0.25)
    axes[0, 0].set_xlim(left=0)
    axes[0, 0].set_ylim(len(shapes) - 0.5, -0.5)
    axes[0, 0].set_yticks(range(len(shapes)), shapes)
    handles = [Line2D([], [], **dashes), *(Line2D([], [], **look) for look in looks.values())]
    figure.legend(handles, [COPY, *names], frameon=False, loc="outside lower center", ncols=4)
    head(figure, copy_title([r for _, records in panels for r in records]), place(result))
    save(figure, path)
    return True


def plot_rivals(result: Record, path: Path) -> bool:
    """How many times as long the fastest other and torch take in bfloat16."""
    records = [r for r in of_dtype(result, DTYPES[0]) if r["times_faster"]]
    if records:
        times_longer(records, place(result), path)
    return bool(records)


PLOTS: dict[str, Plot] = {"cuda-copy.png": plot_copy, "cuda-rivals.png": plot_rivals}


def draw(result: Record, folder: Path) -> list[str]:
    """Draw the pictures that the result has figures for; returns the names of the files."""
    return draw_all(PLOTS, result, folder)
