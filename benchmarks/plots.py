"""Four pictures of a result, readable at 600 pixels wide: the hero in two themes, and two more.

The colours can be told apart with colour blindness (Okabe & Ito 2008), each line has its own mark
and its name at its end, and the title states what is seen: it is made from the figures.
"""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.results import Record

mpl.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

Plot = Callable[[Record, Path], bool]  # draws into a file; False: the result lacks the figures
Points = dict[str, tuple[list[float], list[float]]]  # name -> x, y

OURS, COPY, TORCH = "fusedce", "copy", "torch"
GIVEN = "fusedce writes the gradient into a given array"
COLOURS = {
    OURS: "#0072B2", COPY: "#000000", "NumPy": "#E69F00", "scikit-learn": "#009E73",
    TORCH: "#D55E00", "torch.compile": "#CC79A7", "jax.jit": "#56B4E9",
    "Liger-Kernel": "#009E73", "CuPy": "#E69F00", "quack": "#56B4E9",
}  # fmt: skip
MARKS = {
    OURS: "o", COPY: "", "NumPy": "s", "scikit-learn": "^", TORCH: "D", "torch.compile": "P",
    "jax.jit": "v", "Liger-Kernel": "^", "CuPy": "s", "quack": "v",
}  # fmt: skip
COMPARED = (  # and every case in which another is faster
    "softmax-4096x32000", "softmax-65536x1000", "softmax-200000x80", "softmax-2000000x10",
    "segmentation", "distribution", "sigmoid-focal", "retinanet",
    "small-1x2", "small-32x10", "small-256x1000",
)  # fmt: skip
TINY = 1e-9  # 6.85 is written as 6.9
LOOK: Any = {
    "font.size": 17,
    "axes.titlesize": 17,
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelpad": 8,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Theme(NamedTuple):
    """The colours of a page."""

    back: str
    text: str
    colours: dict[str, str]


LIGHT = Theme("#ffffff", "#000000", COLOURS)
DARK = Theme("#0d1117", "#f0f6fc", COLOURS | {OURS: "#56B4E9", COPY: "#f0f6fc",
                                              "jax.jit": "#F0E442"})  # fmt: skip


# --------------------------------------------------------------------- words


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


def memory(count: float, _: object = None) -> str:
    """A number of bytes such as 4 kB or 400 MB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"


def multiple(times: float) -> str:
    """A ratio of times; one below 1 is never written as 1."""
    if times < 1:
        return f"{min(times + TINY, 0.99):.2f}"
    return f"{times + TINY:.1f}" if times < 9.95 else f"{times + TINY:.0f}"


def span(values: Sequence[float], words: Callable[[float], str] = multiple) -> str:
    """The smallest and the largest value, such as "2.1 to 7.9"."""
    ends = dict.fromkeys((words(min(values)), words(max(values))))
    return " to ".join(ends)


def plural(count: int, noun: str) -> str:
    """A number and its noun, such as "1 thread"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def place(result: Record) -> str:
    """The machine, the date and the commit, in few words: the page has the versions."""
    machine = result["machine"]
    where = machine.get("gpu") or f"{machine['processor']}, {plural(machine['threads'], 'thread')}"
    return f"{where}; {result['date']}, commit {result['commit'] or 'unknown'}"


# --------------------------------------------------------------------- lines


def of_group(result: Record, group: str, axis: int) -> list[Record]:
    """The points of a curve, in the order of one size of the shape."""
    found = [r for r in result["cases"] if r.get("group") == group and "ms" in r]
    return sorted(found, key=lambda r: int(r["shape"][axis]))


def fastest_other(record: Record) -> float | None:
    """The time of the fastest other, in units of fusedce's."""
    return min(record["times_faster"].values(), default=None)


def curves(
    records: Sequence[Record], x: Callable[[Record], float], throughput: bool = False
) -> Points:
    """The points of each contender: time in ms, or GB/s; "copy" moves the bytes of the case."""
    found: Points = {}
    for record in records:
        moved = sum(record["bytes"].values()) / 1e6  # bytes over milliseconds, to GB/s
        shown = record["ms"] | {COPY: record["ms"].get("floor", record["ms"].get(COPY))}
        for name, ms in shown.items():
            if name in COLOURS and ms:
                xs, ys = found.setdefault(name, ([], []))
                xs.append(x(record))
                ys.append(moved / ms["p50"] if throughput else ms["p50"])
    return found


def look(name: str, theme: Theme) -> Any:
    """How the line of a contender is drawn; those of fusedce and of the copy are thicker."""
    found = {"color": theme.colours[name], "marker": MARKS[name], "lw": 2, "ms": 8}
    if name == OURS:
        return found | {"lw": 5, "ms": 11, "zorder": 5}
    return found | {"lw": 3, "ls": (0, (3, 1.5)), "zorder": 4} if name == COPY else found


def draw_lines(axis: Axes, points: Points, theme: Theme = LIGHT) -> None:
    """Draw a line for each contender, and its name beside its last point.

    Names that would overlap are moved apart; a piece of the line is drawn beside each.
    """
    for name, (x, y) in points.items():
        axis.plot(x, y, **look(name, theme))
    figure, names = axis.get_figure(root=True), {COPY: "copy of the\nsame bytes"}
    assert figure is not None
    figure.canvas.draw()
    to_axes = (axis.transData + axis.transAxes.inverted()).transform
    ends = sorted((float(to_axes((x[-1], y[-1]))[1]), name) for name, (x, y) in points.items())
    heights = [height for height, _ in ends]
    line = 1.2 * mpl.rcParams["font.size"] * figure.dpi / 72 / axis.get_window_extent().height
    rooms = [line / 2 * (1 + names.get(name, name).count("\n")) for _, name in ends]
    for k in range(1, len(ends)):  # upwards, then downwards from the upper edge
        heights[k] = max(heights[k], heights[k - 1] + rooms[k - 1] + rooms[k])
    heights[-1] = min(heights[-1], 1 - rooms[-1])
    for k in reversed(range(len(ends) - 1)):
        heights[k] = min(heights[k], heights[k + 1] - rooms[k + 1] - rooms[k])
    for height, (_, name) in zip(heights, ends, strict=True):
        axis.plot((1.02, 1.045, 1.07), (height,) * 3, markevery=[1], clip_on=False,
                  transform=axis.transAxes, **look(name, theme))  # fmt: skip
        axis.text(1.085, height, names.get(name, name), transform=axis.transAxes, va="center",
                  weight="bold" if name == OURS else "normal", linespacing=1.0)  # fmt: skip


def head(figure: Figure, title: str, where: str) -> None:
    """Write the title, and below the picture where the figures come from."""
    title = textwrap.fill(title, 60)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=21)
    figure.supxlabel(where, x=0.01, ha="left", fontsize=13, alpha=0.7)


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write the picture."""
    figure.savefig(path, dpi=dpi)
    plt.close(figure)


# --------------------------------------------------------------------- the hero


def hero_title(records: Sequence[Record], sizes: Sequence[float]) -> str:
    """How many times as long the fastest other takes, and from which size on it is not faster."""
    times = [found for r in records if (found := fastest_other(r)) is not None]
    if not times or len(times) != len(records):
        return "Time of the loss and its gradient"
    first = next((k for k in range(len(times)) if min(times[k:]) >= 1), 0)
    what = f"the fastest other takes {span(times[first:])} times as long as fusedce"
    if first:
        what = f"from {memory(sizes[first])} of logits on, {what};"
        what += f" up to {memory(sizes[first - 1])}, {span(times[:first])} times"
    return what[0].upper() + what[1:]


def plot_hero(result: Record, path: Path, theme: Theme = LIGHT) -> bool:
    """Time against the size of the logits, beside a copy of the same bytes."""

    def size(record: Record) -> float:
        return float(record["bytes"]["written"])  # as many as of logits

    records = of_group(result, "rows", axis=0)
    if len(records) < 3:
        return False
    points, sizes = curves(records, size), [size(r) for r in records]
    colours = {key: theme.text for key in ("text.color", "axes.labelcolor", "axes.edgecolor",
                                           "xtick.color", "ytick.color")}  # fmt: skip
    back: Any = dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"),
                              theme.back)  # fmt: skip
    with plt.rc_context({"font.size": 19, "axes.titlesize": 19} | colours | back):
        layout = ConstrainedLayoutEngine(w_pad=0.12)
        figure, axis = plt.subplots(figsize=(12, 8), layout=layout)
        classes = records[0]["shape"][1]
        what = f"Softmax cross-entropy, rows of {classes:,} float32 logits;\n{GIVEN}"
        axis.set(xscale="log", yscale="log", title=what)
        axis.set(xlabel="size of the logits", ylabel="time, logarithmic")
        axis.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.2)
        axis.xaxis.set_major_formatter(FuncFormatter(memory))
        axis.yaxis.set_major_formatter(FuncFormatter(duration))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.25)
        head(figure, hero_title(records, sizes), place(result))
        draw_lines(axis, points, theme)
        save(figure, path, dpi=100)
    return True


# --------------------------------------------------------------------- classes


def classes_title(records: Sequence[Record], points: Points) -> str:
    """The share of the speed of a copy, and how many times as long the fastest other takes."""
    pairs = zip(points[OURS][1], points[COPY][1], strict=True)
    share = [100 * ours / copy for ours, copy in pairs]
    first, last = (f"{int(points[OURS][0][k]):,}" for k in (0, -1))
    title = f"From {first} to {last} classes fusedce reaches "
    title += f"{span(share, '{:.0f}'.format)}% of the speed of a copy"
    times = [found for r in records if (found := fastest_other(r)) is not None]
    if times:
        title += f"; the fastest other takes {span(times)} times as long as fusedce"
    return title


def plot_classes(result: Record, path: Path) -> bool:
    """Throughput against the number of classes."""
    records = of_group(result, "classes", axis=1)
    points = curves(records, lambda r: int(r["shape"][1]), throughput=True)
    if len(records) < 3 or len(points.get(COPY, ((),))[0]) != len(records):
        return False
    logits = max(prod(r["shape"]) for r in records)
    figure, axis = plt.subplots(figsize=(12, 7.5), layout="constrained")
    axis.set(xscale="log", ylim=(0, 1.1 * max(points[OURS][1] + points[COPY][1])))
    axis.set(title=f"Softmax cross-entropy and its gradient, {short(logits)} float32 logits in all")
    axis.set(xlabel="classes", ylabel="GB/s of logits, targets, gradient")
    axis.xaxis.set_major_formatter(FuncFormatter(short))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(axis="y", alpha=0.25)
    head(figure, classes_title(records, points), place(result))
    draw_lines(axis, points)
    save(figure, path)
    return True


# --------------------------------------------------------------------- rivals


def rivals_title(records: Sequence[Record]) -> str:
    """How many times as long the fastest other takes, where it is slower and where faster."""
    times = [min(r["times_faster"].values()) for r in records]
    longer, shorter = [t for t in times if t >= 1], [t for t in times if t < 1]
    what = "he fastest other takes {} times as long as fusedce"
    if not longer or not shorter:
        return "T" + what.format(span(times))
    title = f"In {len(longer)} of {len(times)} cases t{what.format(span(longer))}"
    return f"{title}; in the other {len(shorter)}, {span(shorter)} times"


def plot_rivals(result: Record, path: Path) -> bool:
    """How many times as long the fastest other and torch take."""
    records = [r for r in result["cases"] if r.get("times_faster") and "ms" in r
               and r["group"] not in ("classes", "rows")
               and (r["case"] in COMPARED or min(r["times_faster"].values()) < 1)]  # fmt: skip
    if records:
        times_longer(records, place(result), path)
    return bool(records)


def times_longer(records: Sequence[Record], where: str, path: Path) -> None:
    """Draw a dot for the fastest other of each case, named at the right, and one for torch."""
    figure, axis = plt.subplots(figsize=(12, 3.6 + 0.5 * len(records)), layout="constrained")
    axis.set(xscale="log", ylim=(len(records) - 0.4, -0.6))
    marks: dict[str, Any] = {
        "fastest other": {"marker": "o", "color": "#000000", "ms": 12},
        TORCH: {"marker": MARKS[TORCH], "color": COLOURS[TORCH], "ms": 11, "mfc": "white",
                "mew": 2.5},
    }  # fmt: skip
    drawn = [1.0]
    for at, record in enumerate(records):
        times = record["times_faster"]
        best = min(times, key=times.__getitem__)
        shown = {"fastest other": times[best]} | ({TORCH: times[TORCH]} if TORCH in times else {})
        if best == TORCH:
            del shown[TORCH]
        for (name, value), side in zip(shown.items(), (-1, 1), strict=False):
            axis.plot(value, at, ls="", **marks[name])
            axis.annotate(
                f"{multiple(value)}×", (value, at), (10 * side, 0), textcoords="offset points",
                va="center", ha="left" if side > 0 else "right", fontsize=16,
                bbox={"color": "white", "pad": 1},
            )  # fmt: skip
        axis.axhline(at, color="#dddddd", lw=1, zorder=0)
        axis.text(1.02, at, best, transform=axis.get_yaxis_transform(), va="center")
        drawn += shown.values()
    axis.text(1.02, -1, "fastest other", transform=axis.get_yaxis_transform(), va="center",
              style="italic")  # fmt: skip
    axis.set_xlim(min(drawn) / 2.5, max(drawn) * 2.2)
    axis.set_yticks(range(len(records)), [r["title"] for r in records])
    axis.tick_params(axis="y", length=0)
    axis.axvline(1, color=COLOURS[OURS], lw=5, zorder=1)
    axis.set(xlabel=f"time relative to fusedce's (logarithmic scale);\n{GIVEN}")
    axis.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda times, _: f"{times:g}×"))
    handles = [Line2D([], [], color=COLOURS[OURS], lw=5)]
    handles += [Line2D([], [], ls="", **look) for look in marks.values()]
    axis.legend(handles, [OURS, *marks], frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1),
                ncols=3, columnspacing=1.5, borderpad=0.2)  # fmt: skip
    axis.spines["left"].set_visible(False)
    head(figure, rivals_title(records), where)
    save(figure, path)


PLOTS: dict[str, Plot] = {
    "hero-light.png": plot_hero,
    "hero-dark.png": partial(plot_hero, theme=DARK),
    "classes.png": plot_classes,
    "rivals.png": plot_rivals,
}


def draw_all(plots: dict[str, Plot], result: Record, folder: Path) -> list[str]:
    """Draw the pictures that the result has figures for; returns the names of the files."""
    with plt.rc_context(LOOK):
        return [name for name, plot in plots.items() if plot(result, folder / name)]


def draw(result: Record, folder: Path) -> list[str]:
    """Draw the pictures of the CPU's throughput."""
    return draw_all(PLOTS, result, folder)
