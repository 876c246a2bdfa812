"""The pictures: their titles are true of everything that is drawn, and their texts can be read."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from matplotlib.text import Text
from PIL import Image

from benchmarks import __main__ as program
from benchmarks import digits_plots, plots, rivals, throughput
from benchmarks.cuda import plots as cuda_plots
from benchmarks.results import Record
from tests.benchmarks.test_benchmarks import synthetic
from tests.benchmarks.test_benchmarks_cuda_program import invented as of_gpu
from tests.benchmarks.test_benchmarks_digits import invented as of_digits

UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


def with_times(result: Record, group: str, times) -> list[Record]:
    """The records of a group after the fastest other is given these times, in units of ours."""
    found = [r for r in result["cases"] if r["group"] == group]
    for record, ratio in zip(found, times, strict=True):
        record["times_faster"] = {"NumPy": ratio, "torch": 40 * ratio}
    return found


def spans(title: str) -> list[tuple[float, float]]:
    """What a title says about times: the ends of each range."""
    found = re.findall(r"([\d.]+)(?: to ([\d.]+))? times", " ".join(title.split()))
    return [(float(low), float(high or low)) for low, high in found]


def is_span_of(ends: tuple[float, float], times) -> bool:
    """Whether a range has these times within and at its ends, as they are written."""
    return ends == (float(plots.multiple(min(times))), float(plots.multiple(max(times))))


def test_numbers():
    assert [plots.multiple(t) for t in (0.5751, 0.9999, 1.0, 6.85, 9.96, 135.2)] == [
        "0.58", "0.99", "1.0", "6.9", "10", "135",
    ]  # fmt: skip
    assert [plots.memory(b) for b in (400, 4000, 4e7, 2e9)] == ["400 B", "4 kB", "40 MB", "2 GB"]


@pytest.mark.parametrize(
    ("times", "slower"),
    [
        ((1.2, 3, 2, 5, 6, 7.9), 0),
        ((0.6, 0.9, 2, 5, 6, 7.9), 2),
        ((3, 3, 3, 0.26, 3.5, 4.2), 4),  # slower in the middle: nothing is said from 4 kB on
        ((0.997, 3, 3, 3, 3, 3), 1),
        ((2, 3, 3, 3, 3, 0.9), 0),  # slower for the largest: one range, which says so
        ((0.5, 0.6, 0.7, 0.8, 0.9, 0.95), 0),
    ],
)
def test_title_of_the_hero(times, slower):
    """It holds for every size: what is said from a size on, and what is said of those below."""
    records = with_times(synthetic(), "rows", times)
    sizes = [record["bytes"]["written"] for record in records]
    assert sizes[0] == 4000
    title = plots.hero_title(records, sizes)
    where = [float(n) * UNITS[unit] for n, unit in re.findall(r"([\d.]+) ([kMG]B)", title)]
    assert where == ([sizes[slower], sizes[slower - 1]] if slower else [])
    upper, *lower = spans(title)
    assert is_span_of(upper, times[slower:])
    assert [is_span_of(ends, times[:slower]) for ends in lower] == [True] * bool(slower)
    assert upper[0] >= 1 or not slower


@pytest.mark.parametrize(
    "times", [(3.1, 4.4, 7.9), (0.575, 0.717, 3.14), (0.997, 1.0, 2.0), (0.5, 0.6, 0.7)]
)
def test_title_of_the_rivals(times):
    records = with_times(synthetic(), "small", times)
    title = " ".join(plots.rivals_title(records).split())
    longer, shorter = [t for t in times if t >= 1], [t for t in times if t < 1]
    if not longer or not shorter:
        assert len(spans(title)) == 1
        assert is_span_of(spans(title)[0], times)
        return
    assert f"In {len(longer)} of 3 cases" in title
    assert f"in the other {len(shorter)}, " in title
    assert [is_span_of(*pair) for pair in zip(spans(title), (longer, shorter), strict=True)] == [
        True, True,
    ]  # fmt: skip


def test_every_case_in_which_another_is_faster_is_drawn(tmp_path, monkeypatch):
    drawn: list[Record] = []
    monkeypatch.setattr(plots, "times_longer", lambda records, *rest: drawn.extend(records))
    result = synthetic()
    (lost,) = (r for r in result["cases"] if r["case"] == "loss-only")
    assert plots.plot_rivals(result, tmp_path / "x.png")
    assert lost not in drawn
    assert {"small-1x2", "small-32x10", "sigmoid-focal"} <= {r["case"] for r in drawn}
    drawn.clear()
    lost["times_faster"]["torch"] = 0.9
    assert plots.plot_rivals(result, tmp_path / "x.png")
    assert lost in drawn
    assert not {"classes", "rows"} & {r["group"] for r in drawn}


def test_title_of_the_classes():
    times = (0.8, 5, 4, 3, 2, 6, 7)
    records = with_times(synthetic(), "classes", times)
    points = plots.curves(records, lambda r: r["shape"][1], throughput=True)
    points["fusedce"] = points["fusedce"][0], [0.323 * y for y in points["copy"][1]]
    points["fusedce"][1][3] = 0.931 * points["copy"][1][3]
    title = plots.classes_title(records, points)
    assert title.startswith(
        "From 2 to 100,000 classes fusedce reaches 32 to 93% of the speed of a copy; "
    )
    assert len(spans(title)) == 1
    assert is_span_of(spans(title)[0], times)


def test_title_on_a_gpu():
    records = of_gpu()["cases"]
    records[0]["of_copy"]["fusedce"], records[-1]["of_copy"]["fusedce"] = 0.404, 1.04
    assert "fusedce reaches 40 to 104% of the bandwidth" in cuda_plots.copy_title(records)


def close() -> Record:
    """A result whose lines end at nearly the same place, with all the rivals of a CPU."""
    result = synthetic()
    for record in result["cases"]:
        for k, rival in enumerate(rivals.RIVALS):
            record["ms"][rival.name] = {"p50": (2 + 0.001 * k) * record["ms"]["fusedce"]["p50"]}
            record["times_faster"][rival.name] = 2 + 0.001 * k
    result["cases"][0]["times_faster"] = {"torch": 0.4, "NumPy": 0.3}
    return result


def written_texts(figure) -> list[Text]:
    """Every text that is drawn: a tick outside the axes has one that is not."""
    found: list[Text] = []

    def draw(text, renderer, *rest, true=Text.draw, **options):
        if text.get_text().strip():
            found.append(text)
        true(text, renderer, *rest, **options)

    figure.canvas.draw()  # the layout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.canvas.draw()
    return list(dict.fromkeys(found))


def unreadable(figure) -> list[str]:
    """The texts that are cut at the edge, that cover another, or that are small at 600 pixels."""
    texts, (width, height) = written_texts(figure), figure.canvas.get_width_height()
    places = [(text.get_text(), text.get_window_extent()) for text in texts]
    found = [f"cut: {text}" for text, box in places
             if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]  # fmt: skip
    for (one, a), (other, b) in combinations(places, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 4:
            found.append(f"overlap: {one}, {other}")
    smallest = min(text.get_fontsize() for text in texts) / 72 * 600 / figure.get_figwidth()
    return found if smallest >= 9 else [*found, f"small: {smallest:.1f} pixels"]


@pytest.mark.parametrize(
    ("module", "result"),
    [(plots, synthetic()), (plots, close()), (cuda_plots, of_gpu()), (digits_plots, of_digits())],
    ids=["usual", "close", "cuda", "digits"],
)
def test_texts_can_be_read(module, result, tmp_path, monkeypatch):
    """No text is cut, covers another, or is smaller than 9 pixels in a picture of 600."""
    figures = {}

    def keep(figure, path, dpi=150):
        figures[path.name] = unreadable(figure)
        plots.plt.close(figure)

    for where in {plots, module}:
        monkeypatch.setattr(where, "save", keep)
    assert module.draw(result, tmp_path) == list(module.PLOTS)
    assert figures == {name: [] for name in module.PLOTS}


def test_what_cannot_be_read_is_found():
    figure = plots.plt.figure(figsize=(12, 6))
    for x, words, size in ((0.5, "one", 12), (0.51, "two", 12), (0.97, "beyond the edge", 9)):
        figure.text(x, 0.5, words, fontsize=size)
    found = unreadable(figure)
    plots.plt.close(figure)
    assert found == ["cut: beyond the edge", "overlap: one, two", "small: 6.2 pixels"]


def test_the_hero_fits_both_pages(tmp_path):
    """Its backgrounds are GitHub's, and it is twice as wide as it is shown."""
    assert plots.draw(synthetic(), tmp_path)[:2] == ["hero-light.png", "hero-dark.png"]
    for name, colour in (("hero-light.png", (255, 255, 255)), ("hero-dark.png", (13, 17, 23))):
        with Image.open(tmp_path / name) as picture:
            assert picture.width == 1200
            assert picture.convert("RGB").getpixel((3, picture.height - 3)) == colour


@pytest.mark.parametrize(
    ("words", "compiled"),
    [([], False), (["--quick"], False), (["--all"], True), (["--rival", "torch.compile"], True)],
)
def test_compilation_for_every_point_of_a_curve_is_asked_for(words, compiled, monkeypatch):
    """torch.compile takes part on curves with --all or --rival, and in the other cases always."""
    monkeypatch.setattr(throughput, "measured", lambda case, others, *rest: others)
    suite = throughput.Throughput(program.parse(words), rivals.RIVALS)
    some = [c for c in suite.all_cases if c.name in ("rows-10", "classes-10", "retinanet")]
    for case, others in zip(
        some, suite.measure(some, list(rivals.RIVALS), None, None), strict=True
    ):
        refused = {r.name for r in others if r.refuses(case) and r.compiles}
        assert refused == (set() if compiled or not case.curve else {"torch.compile"})
