"""Helpers of the benchmark tests: a temporary folder, a screen of any width, README.md."""

from collections import Counter

import pytest

from benchmarks import results, screen


def write_into(folder, monkeypatch):
    """Make a program read and write its results and README.md in this folder."""
    for place in ("ROOT", "FOLDER", "RUNS"):
        monkeypatch.setattr(results, place, folder)


def printed(width, *what):
    """The text as printed on a screen of this width; no line is longer, and no text is cut."""
    with open("/dev/null", "w") as nowhere:
        console = screen.Console(width=width, record=True, file=nowhere, highlight=False)
        for one in what:
            console.print(one)
        text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    return text


def fits(width, *grids):
    """Print tables on a screen of this width; every heading and cell must be there. The text."""
    text = printed(width, *grids)
    joined = "".join(text.split())
    for grid in grids:
        assert grid.rows()
        for row in grid.rows():
            assert all(part in joined for part in row[0][0].split()), (width, row[0][0])
            for column, (cell, _) in zip(grid.columns[1:], row[1:], strict=True):
                assert all(part in joined for part in cell.split()), (width, cell)
                assert all(part in joined for part in column.line.split()), (width, column.line)
        # Numbers are counted too, since one may be a part of another.
        cells = Counter(part for row in grid.rows() for cell, _ in row for part in cell.split())
        shown = Counter(text.split())
        assert all(shown[part] >= n for part, n in cells.items() if part[-1].isdigit())
    return text


def written(main, words, folder, name):
    """benchmarks/README.md after ``--readme``, which changes only the part between the markers.

    A second call writes the same; without markers it ends with an error.
    """
    page, start, end = folder / "benchmarks/README.md", f"<!-- {name} -->", f"<!-- /{name} -->"
    page.parent.mkdir()
    for each in (page, folder / "README.md"):
        each.write_text(f"# before\n{start}\nold\n{end}\nafter\n")
    assert main([*words, "--readme"]) == 0
    first = page.read_text()
    assert first.startswith(f"# before\n{start}\n")
    assert first.endswith(f"\n{end}\nafter\n")
    assert "old" not in first
    assert main([*words, "--readme"]) == 0
    assert page.read_text() == first
    page.write_text("no markers")
    with pytest.raises(SystemExit, match=r"benchmarks/README\.md has no place for the tables"):
        main([*words, "--readme"])
    return first
