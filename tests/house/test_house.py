"""Rules for the sources: imports, lengths of files and functions, contents of docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusedce
from fusedce.losses import LOSSES

ROOT = Path(__file__).resolve().parents[2]
FUSEDCE = [p for p in (ROOT / "fusedce").rglob("*.py") if "kernels" not in p.parts]
KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
SOURCES = sorted(FUSEDCE) + KERNELS
PUBLIC = {
    *LOSSES, "apply", "log_sigmoid", "log_softmax", "prior_bias", "rule", "sigmoid", "softmax",
}  # fmt: skip
FRAMEWORKS = {  # what an adapter may import, by the first word of its file name
    "": {"cupy", "tensorflow", "pandas", "sklearn"},
    "torch": {"torch"},
    "jax": {"jax", "jaxlib"},
    "boosting": {"xgboost", "lightgbm", "catboost", "scipy"},
    "caffe": {"caffe"},
}
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))


def imports(path):
    """Every module that a file imports, at its top level or inside of functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{a.name}" for a in node.names)


def run(source, **where):
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **where)


def test_public_names():
    """The package has exactly these public names, also in a new process."""
    assert set(fusedce.__all__) == PUBLIC
    assert len(fusedce.__all__) == len(PUBLIC)
    for name in PUBLIC:
        assert callable(getattr(fusedce, name))
    done = run("from fusedce import *; print(*sorted(n for n in dir() if n[0] != '_'))", cwd=ROOT)
    assert set(done.stdout.split()) == PUBLIC
    done = run("import fusedce, types; print(*(n for n in vars(fusedce) if n[0] != '_' and not "
               "isinstance(getattr(fusedce, n), types.ModuleType)))", cwd=ROOT)  # fmt: skip
    assert set(done.stdout.split()) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_docstrings(name):
    """A docstring has a first sentence, a formula, parameters, results, errors and an example.

    --doctest-modules runs the examples.
    """
    text = inspect.getdoc(getattr(fusedce, name))
    first, *rest = text.split("\n")
    assert first.endswith(".")
    assert not rest[0]
    titles = [title for title, line in itertools.pairwise(rest) if set(line) == {"-"}]
    assert {"Parameters", "Returns", "Raises", "Examples"} <= set(titles)
    formula, examples = text.split("Parameters\n---")[0], text.split("Examples\n---")[1]
    assert re.search(r"::\n\n    \S", formula)
    assert f"fusedce.{name}(" in examples
    if name in LOSSES:
        assert re.search(r"\bloss += ", formula)
        assert re.search(r"\bgrad(_j)? += ", formula)
        if "arXiv" in LOSSES[name].source:
            assert LOSSES[name].source.split()[-1] in text
    if "return_grad" in inspect.signature(getattr(fusedce, name)).parameters:
        from fusedce.options import OPTIONS

        for option, declared in OPTIONS.items():
            described = declared.values if option != "activation" else ""
            assert f"\n{option} : {described}" in text, option


@pytest.mark.parametrize("name", sorted(PUBLIC - {"rule", "prior_bias"}))
def test_signatures(name):
    """Only arrays (and the rule of apply) are positional; everything else is keyword-only."""
    kinds = {n: p.kind for n, p in inspect.signature(getattr(fusedce, name)).parameters.items()}
    first = {"apply": 3}.get(name, 1 if "softmax" in name or "sigmoid" in name else 2)
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    assert all(kind in by_name for kind in list(kinds.values())[first:])


@each_source
def test_length(path):
    """No file has more than 400 lines, and no function more than 70."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body
            has_doc = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
            first = body[1] if has_doc and len(body) > 1 else body[0]
            length = node.end_lineno - first.lineno + 1
            assert length <= 70, f"{path.name}:{node.name} has {length} lines"


@each_source
def test_what_is_imported(path):
    """Imports follow the layers, and only its own adapter imports a framework."""
    named = set(imports(path))
    adapts = (
        FRAMEWORKS.get(path.stem.split("_")[0], set()) if path.parent.name == "adapters" else set()
    )
    assert not {n.split(".")[0] for n in named} & (set().union(*FRAMEWORKS.values()) - adapts)
    if path.parent.name != "adapters":
        assert not [n for n in named if n.startswith("fusedce.adapters")]
    if path in KERNELS:
        allowed = "fusedce.kernels"
        assert not [n for n in named if n.startswith("fusedce") and not n.startswith(allowed)]
    inside = path.relative_to(ROOT).parts
    if inside[0] == "fusedce" and inside[-1] in ("checks.py", "errors.py", "arrays.py"):
        assert not [n for n in named if n.startswith(("fusedce.losses", "fusedce.call"))]
    if (
        inside[0] == "fusedce"
        and inside[1] not in ("losses", "adapters", "tools")
        and inside[-1] != "__init__.py"
    ):
        assert not [n for n in named if n.startswith("fusedce.losses")]


def test_kernels_know_no_loss_by_name():
    words = {"generalized", *LOSSES} - {"cross_entropy", "binary_cross_entropy"}
    for path in KERNELS:
        code = ast.unparse(ast.parse(path.read_text())).lower()
        names = {n.id.lower() for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)}
        assert not [n for n in names for w in words if w in n], path


def test_no_loop_over_elements_outside_kernels():
    """fusedce/ has no compiled code: it imports neither numba nor llvmlite."""
    for path in FUSEDCE:
        named = set(imports(path))
        assert not any(n.split(".")[0] in ("numba", "llvmlite") for n in named), path


def test_rules_stand_where_the_stamp_looks():
    """Rules are defined only in files whose content is part of the key of kernels on disk.

    Otherwise a kernel on disk would be used after its rule has changed.
    """
    for path in FUSEDCE:
        if path.parent.name != "losses" and path.name not in ("rules.py", "__init__.py"):
            makers = {"fusedce.kernels.rule.rule", "fusedce.kernels.scalar.scalar"}
            assert not makers & set(imports(path)), path


def test_kernels_is_not_a_name_of_its_own(tmp_path):
    done = run("import kernels", cwd=ROOT)
    assert done.returncode != 0
    assert "ImportError: this folder is a part of fusedce: import fusedce.kernels" in done.stderr
    done = run("import fusedce.kernels, fusedce; print(fusedce.__file__)", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_import_brings_no_framework():
    """Importing fusedce imports no framework, and of other packages only what Numba imports."""
    start, end = "import sys, numba, numpy, ml_dtypes;", "print(*sys.modules)"
    before, after = (
        {m.split(".")[0] for m in run(start + more + end, cwd=ROOT).stdout.split()}
        for more in ("", "import fusedce;")
    )
    assert "fusedce" in after
    assert not (after - before) & {"torch", "jax", "cupy", "tensorflow", "pandas", "sklearn",
                                   "scipy", "numba_cuda", "matplotlib"}  # fmt: skip
    assert not after & {"torch", "jax", "cupy", "tensorflow", "numba_cuda"}


def test_typed_and_registered():
    """py.typed exists, and each loss has a file of its own name."""
    assert (ROOT / "fusedce" / "py.typed").exists()
    losses = importlib.import_module("fusedce.losses")
    for name in losses.__all__:
        assert getattr(fusedce, name) is getattr(losses, name)
    files = {p.stem for p in (ROOT / "fusedce" / "losses").glob("*.py")}
    files -= {"__init__", "apply", "declaration"}  # files that define no loss
    assert files == {n for n, loss in LOSSES.items() if loss.alias_of is None}, (
        "each file of fusedce/losses has one line in fusedce/losses/__init__.py"
    )
