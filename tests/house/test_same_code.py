"""same_code.py: does it say of two trees whether their machine code is the same?"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess

import pytest

from tests.house import same_code
from tests.house.same_code import ROOT, collect, compared, functions

CALLS = ["sigmoid f4", "log_sigmoid-float32"]  # the smallest kernels, of each half


def copied(folder):
    """The files that git knows, with the changes that are not committed."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "fusedce", "kernels", "tests"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    for name in done.stdout.split():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    (folder / "fusedce/kernels").symlink_to("../kernels")
    return folder


@pytest.mark.slow(reason="compiles kernels of three trees")
def test_a_renamed_function_is_the_same_and_another_constant_is_not(tmp_path):
    """A function under another name in both halves; then a formula that differs."""
    halves = ["cpu", "cuda"] if importlib.util.find_spec("numba_cuda") else ["cpu"]
    before = collect(ROOT, halves, CALLS)
    assert all(sum(map(len, calls.values())) > 0 for calls in before.values())
    tree = copied(tmp_path)
    formulas = tree / "kernels/link.py"
    for path in tree.glob("kernels/**/*.py"):
        path.write_text(path.read_text().replace("sigmoid_from", "renamed_from"))
    after = collect(tree, halves, CALLS)
    assert after != {}
    assert compared(before, after) == []
    text = formulas.read_text()
    for line, other in (
        ("larger = inverse(T(1) + e)", "larger = inverse(T(2) + e)"),
        ("logp = min(z, T(0)) - tail", "logp = min(z, T(0)) + tail"),
    ):
        assert line in text
        text = text.replace(line, other)
    formulas.write_text(text)
    lines = compared(before, collect(tree, halves, CALLS))
    assert {line.split(":")[0] for line in lines} == set(halves)


LISTING = """
\t.section\t.rodata
.LCPI0_0:
\t.quad\t{constant}
\t.text
_ZN{name}:
\tvmovsd\t.LCPI0_0(%rip), %xmm0
.LBB0_1:
\tcallq\t_ZN{called}
\tjmp\t.LBB0_1
_ZN3two:
\tret
"""


@pytest.mark.parametrize(
    ("change", "same"),
    [({}, True), ({"name": "4else"}, True), ({"called": "4else"}, True), ({"constant": 2}, False)],
    ids=["nothing", "name", "called", "constant"],
)
def test_listings(change, same):
    """Names of symbols do not count, the values of constants do."""
    usual = {"name": "3one", "called": "5other", "constant": 1}
    before = functions(LISTING.format(**usual))
    assert len(before) == 2
    assert (functions(LISTING.format(**usual | change)) == before) is same


def test_comparison():
    """With the same calls on both sides each call is compared, else what is new in it."""
    before = {"cpu": {"a": ["1", "2"], "b": ["3"]}}
    differ = "cpu: {}: {} functions differ"
    assert compared(before, {"cpu": {"b": ["3"], "a": ["2", "1"]}}) == []
    swapped = {"cpu": {"a": ["3", "2"], "b": ["3"]}}
    assert compared(before, swapped) == [differ.format("a", "1 of 2")]
    assert compared(before, {"cpu": {"a": [], "b": ["3"]}}) == [differ.format("a", "2 of 0")]
    assert compared(before, {"cpu": {"b": ["1", "3"]}}) == []
    assert compared(before, {"cpu": {"b": ["4", "3"]}}) == [differ.format("b", "1 of 2")]
    assert compared(before, {"cpu": {"c": ["5"]}}) == []
    one = {"cuda": {"a": ["1"], "b": ["3"]}}
    assert compared(one, {"cuda": {"a": ["3"]}}) == ["cuda: a: 1 of 1 functions differ"]
    with pytest.raises(SystemExit, match="no hashes of the cuda half"):
        compared(before, one)


def test_calls_have_names_of_their_own():
    names = [name for name, _ in same_code.cpu_calls()]
    assert len(set(names)) == len(names)
    assert json.dumps(names)
