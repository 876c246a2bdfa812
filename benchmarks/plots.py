"""Three pictures of a result, large enough for a slide.

The colours can be told apart with colour blindness (Okabe & Ito 2008), the name of a line stands at
its end, and the title states the result.
"""

import textwrap
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.results import Record, caption

mpl.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

Plot = Callable[[Record, Path], bool]  # draws into a file; False: the result lacks the figures
Points = dict[str, tuple[list[float], list[float]]]  # name -> x, y

OURS = "fusedce"
COLOURS = {
    "fusedce": "#0072B2", "copy": "#000000", "NumPy": "#E69F00", "scikit-learn": "#009E73",
    "torch": "#D55E00", "torch.compile": "#CC79A7", "jax.jit": "#56B4E9",
    "Liger-Kernel": "#009E73", "CuPy": "#E69F00", "quack": "#56B4E9",
}  # fmt: skip
MARKS = {"NumPy": "s", "scikit-learn": "^", "torch": "D", "jax.jit": "v", "copy": ""}
BARS = (
    "softmax-4096x32000", "softmax-65536x1000", "softmax-200000x80", "softmax-2000000x10",
    "segmentation", "distribution", "sigmoid-focal", "retinanet",
)  # fmt: skip
LOOK: Any = {
    "font.size": 15,
    "axes.titlesize": 19,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.titley": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelpad": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def short(count: float, _: object = None) -> str:
    """A count such as 100, 1k or 10M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def duration(ms: float, _: object = None) -> str:
    """A time such as 10 µs, 1 ms or 1 s."""
    for size, unit in ((1e3, "s"), (1.0, "ms")):
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms * 1e3:.3g} µs"


def curves(result: Record, group: str, x: Callable[[Record], int], throughput: bool) -> Points:
    """The points of each contender over the cases of a group; "copy" moves the case's bytes."""
    found: Points = {}
    for record in sorted((r for r in result["cases"] if r.get("group") == group), key=x):
        moved = sum(record["bytes"].values()) / 1e6  # bytes over milliseconds, to GB/s
        shown = record["ms"] | {"copy": record["ms"].get("floor", record["ms"].get("copy"))}
        for name, ms in shown.items():
            if name in COLOURS and ms:
                xs, ys = found.setdefault(name, ([], []))
                xs.append(x(record))
                ys.append(moved / ms["p50"] if throughput else ms["p50"])
    return found


def draw_lines(axis: Axes, points: Points) -> None:
    """Draw a line for each contender; those of fusedce and of the copy are thicker."""
    for name, (x, y) in points.items():
        look: dict[str, Any] = {"lw": 1.8, "marker": MARKS.get(name, "o"), "ms": 6}
        if name == OURS:
            look = {"lw": 4, "marker": "o", "ms": 9, "zorder": 5}
        elif name == "copy":
            look = {"lw": 2.5, "ls": (0, (4, 2)), "zorder": 4}
        axis.plot(x, y, color=COLOURS[name], **look)


def name_lines(axis: Axes, points: Points, names: dict[str, str]) -> None:
    """Write the names beside the last points; names that would overlap are moved apart."""
    axis.figure.canvas.draw()
    to_axes = (axis.transData + axis.transAxes.inverted()).transform
    ends = sorted((float(to_axes((x[-1], y[-1]))[1]), name) for name, (x, y) in points.items())
    heights = [height for height, _ in ends]
    rooms = [0.035 * (1 + names.get(name, name).count("\n")) for _, name in ends]
    for k in range(1, len(ends)):  # upwards, then downwards from the upper edge
        heights[k] = max(heights[k], heights[k - 1] + rooms[k - 1] + rooms[k])
    heights[-1] = min(heights[-1], 1 - rooms[-1])
    for k in reversed(range(len(ends) - 1)):
        heights[k] = min(heights[k], heights[k + 1] - rooms[k + 1] - rooms[k])
    for height, (_, name) in zip(heights, ends, strict=True):
        axis.text(
            1.01, height, names.get(name, name), transform=axis.transAxes, va="center",
            color=COLOURS[name], weight="bold" if name == OURS else "normal",
        )  # fmt: skip


def finish(figure: Any, where: str, path: Path) -> None:
    """Write below the picture where the figures come from, and save it."""
    where = textwrap.fill(where, 150)
    figure.supxlabel(where, fontsize=9, color="#555555", x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def finish_curves(axis: Axes, points: Points, result: Record, path: Path) -> bool:
    """Draw and name the lines, and save the picture."""
    draw_lines(axis, points)
    axis.xaxis.set_major_formatter(FuncFormatter(short))
    axis.grid(axis="both" if axis.get_yscale() == "log" else "y", alpha=0.25)
    name_lines(axis, points, {"copy": "a copy of\nthe same bytes"})
    finish(axis.figure, caption(result), path)
    return True


def plot_classes(result: Record, path: Path) -> bool:
    """Throughput against the number of classes."""
    points = curves(result, "classes", lambda r: int(r["shape"][1]), throughput=True)
    rivals = [name for name in points if name not in (OURS, "copy")]
    if len(points.get(OURS, ((),))[0]) < 3 or "copy" not in points:
        return False
    ours, copy = np.array(points[OURS][1]), np.array(points["copy"][1])
    share = 100 * ours / copy
    title = f"From {short(points[OURS][0][0])} to {short(points[OURS][0][-1])} classes: "
    title += f"{share.min():.0f}–{share.max():.0f}% of the speed of a copy"
    if rivals:
        best = np.max([points[name][1] for name in rivals], axis=0) / copy
        title += f",\nthe fastest other {100 * best.min():.0f}–{100 * best.max():.0f}%"
    logits = max(prod(r["shape"]) for r in result["cases"] if r.get("group") == "classes")
    _, axis = plt.subplots(figsize=(12, 6.75), layout="constrained")
    axis.set(xscale="log", ylim=(0, 1.1 * max(copy.max(), ours.max())), title=title)
    axis.set(xlabel=f"classes ({short(logits)} float32 logits in all)")
    axis.set(ylabel="GB/s of logits, targets, gradient")
    return finish_curves(axis, points, result, path)


def plot_rows(result: Record, path: Path) -> bool:
    """Time against the number of rows."""
    points = curves(result, "rows", lambda r: int(r["shape"][0]), throughput=False)
    if len(points.get(OURS, ((),))[0]) < 3:
        return False
    x, y = map(np.array, points[OURS])
    title = f"From {duration(y[0])} for {short(x[0])} row to {duration(y[-1])} for {short(x[-1])}:"
    title += f"\n{short(x[-1] / x[-2])} times the rows take {y[-1] / y[-2]:.1f} times as long"
    _, axis = plt.subplots(figsize=(12, 6.75), layout="constrained")
    axis.set(xscale="log", yscale="log", title=title)
    axis.set(xlabel="rows of 100 float32 logits", ylabel="time of loss and gradient")
    axis.yaxis.set_major_formatter(FuncFormatter(duration))
    axis.yaxis.set_minor_locator(NullLocator())
    return finish_curves(axis, points, result, path)


def plot_rivals(result: Record, path: Path) -> bool:
    """The ratio of each rival's time to ours."""
    by_name = {r["case"]: r for r in result["cases"] if r.get("times_faster")}
    records = [by_name[name] for name in BARS if name in by_name]
    if records:
        times_longer(records, caption(result), path)
    return bool(records)


def times_longer(records: list[Record], where: str, path: Path) -> None:
    """Draw the ratios of the rivals' times to ours in some cases."""
    names = [n for n in COLOURS if any(n in r["times_faster"] for r in records)]
    best = [min(r["times_faster"].values()) for r in records]
    title = (
        f"The fastest of {len(names)} others takes {min(best):.1f} to {max(best):.1f} times as long"
    )
    figure, axis = plt.subplots(figsize=(12, 2.4 + 0.85 * len(records)), layout="constrained")
    at = 0.0
    for record in records:
        shown = [(n, record["times_faster"][n]) for n in names if n in record["times_faster"]]
        middle = at + (len(shown) - 1) / 2
        axis.text(-0.01, middle, record["title"], ha="right", va="center",
                  transform=axis.get_yaxis_transform())  # fmt: skip
        for name, times in shown:
            axis.barh(at, times - 1, 0.86, left=1, color=COLOURS[name])
            axis.text(max(times, 1) * 1.02, at, f"{times:.1f}×", va="center", fontsize=11)
            at += 1
        at += 1.1
    axis.set(xscale="log", ylim=(at - 1, -1), yticks=[])
    figure.suptitle(title, weight="bold", fontsize=19)
    axis.set(xlabel="time, in units of fusedce's (logarithmic)")
    axis.axvline(1, color=COLOURS[OURS], lw=4)
    axis.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g}×"))
    handles = [Patch(color=COLOURS[name]) for name in names]
    axis.legend(handles, names, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 1),
                ncols=len(names), columnspacing=1.2, handlelength=1.2, borderpad=0.2)  # fmt: skip
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines["left"].set_visible(False)
    finish(figure, where, path)


PLOTS: dict[str, Plot] = {
    "classes.png": plot_classes,
    "rivals.png": plot_rivals,
    "rows.png": plot_rows,
}


def draw_all(plots: dict[str, Plot], result: Record, folder: Path) -> list[str]:
    """Draw the pictures that the result has figures for; returns the names of the files."""
    with plt.rc_context(LOOK):
        return [name for name, plot in plots.items() if plot(result, folder / name)]


def draw(result: Record, folder: Path) -> list[str]:
    """Draw the pictures of the CPU's throughput."""
    return draw_all(PLOTS, result, folder)
