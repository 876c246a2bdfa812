"""The structure of the code: few parameters, one meaning for each name, no circular imports."""

from __future__ import annotations

import ast
import collections
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fusedce", "kernels", "benchmarks")
FILES = {
    path.relative_to(ROOT): ast.parse(path.read_text())
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if folder != "fusedce" or "kernels" not in path.parts
}
MOST_PARAMETERS = 9
MANY_PARAMETERS = 2  # functions that may have more: lower this number, never raise it


def test_few_functions_have_many_parameters():
    """Few functions have more than nine parameters: values that belong together are a record."""
    many = []
    for path, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                args = node.args
                number = len(args.posonlyargs + args.args + args.kwonlyargs)
                if number > MOST_PARAMETERS:
                    many.append(f"{path}:{node.name} {number}")
    assert len(many) <= MANY_PARAMETERS, many


def defined(tree):
    """The names of functions, classes and variables that a module defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                yield from (part.id for part in parts if isinstance(part, ast.Name))


# Names that mean the same in files of different names: CPU and CUDA have their own versions.
SAME_MEANING = {
    "I32", "I64", "Launch", "Plan", "SplitSum", "chain_transform", "count_nonzero", "peek", "poke",
    "sum_of_others", "transform_logits",
}  # fmt: skip


def test_a_name_has_one_meaning_in_kernels():
    """Two files define the same name only if they are the CPU and CUDA versions of a module."""
    places = collections.defaultdict(set)
    for path, tree in FILES.items():
        if path.parts[0] == "kernels":
            for name in defined(tree):
                if not name.startswith("_"):
                    places[name].add(path)
    twice = {
        name: sorted(map(str, paths))
        for name, paths in places.items()
        if len(paths) > 1 and not _counterparts(paths) and name not in SAME_MEANING
    }
    assert not twice
    assert all(len(places[name]) > 1 for name in SAME_MEANING), "a name stands in one file now"


def _counterparts(paths):
    """Whether all files have one name, as kernels/x.py, kernels/cpu/x.py, kernels/cuda/x.py."""
    return len({path.name for path in paths}) == 1


def module_of(path):
    """The module name of a path, such as fusedce.kernels.cpu.rows of kernels/cpu/rows.py."""
    parts = [*path.with_suffix("").parts]
    if parts[0] == "kernels":
        parts = ["fusedce", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_have_no_circle(folder):
    """Imports at the top level of modules have no circle; those inside of functions may."""
    known = {module_of(path) for path in FILES}
    graph = {}
    for path, tree in FILES.items():
        if path.parts[0] == folder:
            here = module_of(path)
            graph[here] = set(_imported(tree, known)) - {here}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError for a circle


def _imported(tree, known):
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in known)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known:
                    yield full
                elif node.module in known:
                    yield node.module


def test_variants_are_generated():
    """A function with several bodies is one ``@generated`` function, not a stub and an overload."""
    stubs = [
        f"{path}:{node.lineno}"
        for path, tree in FILES.items()
        if path.parts[0] == "kernels"
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and "compiled code" in ast.unparse(node)
    ]
    assert [stub.split(":")[0] for stub in stubs] == ["kernels/scalar.py"], stubs
