"""same_code.py: does it say of two trees whether their machine code is the same?"""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.house import same_code
from tests.house.same_code import ROOT, collect, compared, functions

CALL = "sigmoid f4"  # and log_sigmoid, the smallest kernels


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
    """A function and a file of the CPU half under other names; then a formula that differs."""
    before = collect(ROOT, ["cpu"], [CALL])
    assert sum(map(len, before["cpu"].values())) > 5
    tree = copied(tmp_path)
    formulas = tree / "kernels/link.py"
    for path in tree.glob("kernels/**/*.py"):
        path.write_text(path.read_text().replace("sigmoid_from", "renamed_from"))
    after = collect(tree, ["cpu"], [CALL])
    assert after != {}
    assert compared(before, after) == []
    text = formulas.read_text()
    assert "larger = inverse(T(1) + e)" in text
    formulas.write_text(text.replace("inverse(T(1) + e)", "inverse(T(2) + e)"))
    (line,) = compared(before, collect(tree, ["cpu"], [CALL]))
    assert line.startswith("cpu: sigmoid f4")


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
    """What is new in a call is counted, whichever call compiled it before."""
    before = {"cpu": {"a": ["1", "2"], "b": ["3"]}}
    assert compared(before, {"cpu": {"b": ["1", "3"]}}) == []
    assert compared(before, {"cpu": {"b": ["4", "3"]}}) == ["cpu: b: 1 of 2 functions differ"]


def test_calls_have_names_of_their_own():
    names = [name for name, _ in same_code.cpu_calls()]
    assert len(set(names)) == len(names)
    assert json.dumps(names)
