"""The pages that `make docs` builds: each public name has one, links resolve, options are there."""

from __future__ import annotations

import doctest
import functools
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from fusedce.options import OPTIONS

bs4 = pytest.importorskip("bs4")  # Furo needs it
for package in ("sphinx", "furo", "numpydoc", "torch", "jax"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("fusedce", *(f"fusedce.adapters.{n}" for n in ("torch", "jax", "boosting", "caffe")))


@functools.cache
def public():
    """The public functions and classes that are fusedce's own, by their full names."""
    found = {}
    for module in MODULES:
        members = vars(importlib.import_module(module))
        names = members.get("__all__", ("MultiLabelSoftmaxLossLayer", "FocalLossLayer"))
        found |= {f"{module}.{name}": members[name] for name in names}
    return {name: x for name, x in found.items() if x.__module__.startswith("fusedce.")}


def built(out):
    """The pages by their paths, and their folder; Sphinx counts warnings as errors."""
    command = [sys.executable, "-m", "tests.house.docs", "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{out / 'index.html'}\n")
    found = {p: bs4.BeautifulSoup(p.read_text(), "html.parser") for p in out.rglob("*.html")}
    return {path.relative_to(out).as_posix(): page for path, page in found.items()}, out


def check_every_public_name_has_a_page(pages):
    found = {Path(path).stem for path in pages[0] if path.startswith("api/")}
    assert found == public().keys()


def check_pages_are_reached_from_the_first(pages):
    """From the tables of functions, without the bar at the side."""
    reached, waiting = set(), ["index.html"]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        for link in pages[0][path].select("article table a[href]"):
            target = (Path(path).parent / urldefrag(link["href"])[0]).as_posix()
            if target in pages[0] and target not in reached:
                waiting.append(target)
    assert {path for path in pages[0] if path.startswith("api/")} <= reached


def check_links_resolve(pages):
    """Links and what a page loads are files of the folder, and anchors exist."""
    found, out = pages
    lost, number = [], 0
    for path, page in found.items():
        for tag in page.select("[href], [src]"):
            link = tag.get("href") or tag.get("src")
            if tag.name == "a" and re.match("https?:", link):
                continue  # only a link to another site; nothing else may be on one
            file, anchor = urldefrag(unquote(link))
            file = file.partition("?")[0]
            target = (out / path).parent / file if file else out / path
            key = target.resolve().relative_to(out.resolve()).as_posix()
            found_anchor = not anchor or bool(found[key].find(id=anchor))
            if not (target.is_file() and found_anchor):
                lost.append((path, link))
            number += bool(anchor)
    assert not lost
    assert number > 100


def check_parameters(pages):
    """A page has each parameter of a signature, with its default, and a description of it."""
    number = 0
    for name, function in public().items():
        page = pages[0][f"api/{name}.html"]
        shown = [em.get_text() for em in page.select_one("dt.sig").select("em.sig-param")]
        described = {
            word.strip()
            for part in page.select_one("dl.py > dd").select(":scope > dl.field-list dt strong")
            for word in part.get_text().split(",")
        }
        parameters = inspect.signature(function).parameters
        if "return_grad" in parameters:
            assert OPTIONS.keys() <= parameters.keys(), name
        for parameter in parameters.values():
            if name.startswith("fusedce.adapters.caffe."):
                continue  # Caffe makes the layers, without arguments
            (text,) = (t for t in shown if re.match(rf"{parameter.name}\b", t))
            if parameter.annotation is not parameter.empty:
                assert text.startswith(f"{parameter.name}: "), (name, text)
            if parameter.default is not parameter.empty:
                assert re.search(rf"=\s?{re.escape(repr(parameter.default))}$", text), (name, text)
            assert parameter.name in described, (name, parameter.name)
            number += 1
    assert number > 7 * len(OPTIONS)


def check_no_page_refers_to_options_it_does_not_name(pages):
    assert not [path for path, page in pages[0].items() if "**options" in page.get_text()]


def check_names_in_backticks_are_links(pages):
    """Names of the package, and short names of what is on the same page or in the same module."""
    plain, number = [], 0
    short = {name.rpartition(".")[2] for name in public()}
    for path, page in pages[0].items():
        for code in page.select("article code"):
            text = code.get_text().removesuffix("()")
            if re.fullmatch(r"fusedce(\.\w+)+", text) or text in short:
                number += 1
                if not code.find_parent("a"):
                    plain.append((path, text))
    assert not plain
    assert number > 100


def check_links_stay_in_their_module(pages):
    """``cross_entropy`` on a page of the adapter for torch is that adapter's."""
    links = pages[0]["api/fusedce.adapters.torch.softmax_focal_loss.html"].select("article code")
    (target,) = {code.parent["href"] for code in links if code.get_text() == "cross_entropy"}
    assert target.endswith("#fusedce.adapters.torch.cross_entropy")


@pytest.mark.slow(reason="Sphinx builds the pages once, for all checks")
def test_pages(tmp_path):
    pages = built(tmp_path / "html")
    for check in (
        check_every_public_name_has_a_page,
        check_pages_are_reached_from_the_first,
        check_links_resolve,
        check_parameters,
        check_no_page_refers_to_options_it_does_not_name,
        check_names_in_backticks_are_links,
        check_links_stay_in_their_module,
    ):
        check(pages)


def test_a_folder_that_is_not_empty(tmp_path):
    """Only the default folder is emptied."""
    (tmp_path / "kept").touch()
    command = [sys.executable, "-m", "tests.house.docs", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{tmp_path} is not empty\n")
    assert (tmp_path / "kept").exists()


def test_example_of_the_first_page():
    failed, tried = doctest.testfile(str(ROOT / "tests/house/docs_source/index.rst"), False)
    assert not failed
    assert tried >= 4
