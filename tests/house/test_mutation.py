"""Four mutations of `mutation.py` that need no compilation; the script runs all of them."""

from __future__ import annotations

import pytest

from tests.house.mutation import MUTATIONS, PYTHON, ROOT, copied, mutated, verdict

QUICK = [m for m in MUTATIONS if m.file in PYTHON][:4]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = copied(tmp_path_factory.mktemp("mutation"))
    said, text = verdict(tree, sorted({m.test for m in QUICK}))
    assert said == "green", text
    return tree


@pytest.mark.slow(reason="a suite for each way to break the package")
@pytest.mark.parametrize("mutation", QUICK, ids=lambda m: m.name)
def test_a_broken_package_turns_the_suite_red(mutation, tree):
    said, text = mutated(tree, mutation)
    assert said == "red"
    assert "1 failed" in text


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_what_a_mutation_replaces_is_there(mutation):
    """The text that a mutation replaces exists; update the mutation when the code changes."""
    assert mutation.old in (ROOT / mutation.file).read_text()
