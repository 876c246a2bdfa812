"""The cases of the CPU suite on a GPU: the same functions, with every array moved to CuPy.

Tests without a meaning on a GPU are left out: host threads, NumPy's kinds of arrays, block sizes of
the CPU's loops, errors for wrong labels (a GPU raises them only with ``validate=True``).
"""

from __future__ import annotations

import contextlib
import importlib

import pytest

from tests.core.test_accuracy import worst
from tests.core.test_seeds import labels, scores
from tests.cuda.gpu import OnGpu, imported_cupy, missing

if why := missing():
    pytest.skip(why, allow_module_level=True)
pytestmark = pytest.mark.gpu
FIXTURES = imported_cupy, worst, scores, labels
LEFT_OUT = {
    "test_losses": set(),
    "test_many_classes": set(),
    "test_accuracy": {"test_the_two_oracles_agree"},
    "test_activations": {"test_small_things", "test_prior_bias"},
    "test_arrays": {"test_what_is_no_numpy_array", "test_pandas", "test_order_and_kind_of_results"},
    "test_properties": {"test_threads_and_runs"},
    "test_rule": {"test_own_loss_is_the_built_in_one", "test_errors_of_apply",
                  "test_errors_of_rule", "test_what_vectors_cannot_do"},
    "test_seeds": {"test_prior_of_the_last_layer", "test_worked_numbers_are_common_logarithms"},
    "test_sizes": {"test_rows_read_twice", "test_blocks", "test_small_patches"},
    "test_torch": set(),
    "test_traps": {"test_table_names_tests_that_exist"},
    "test_traps_numerics": {"test_torch_tensors_that_numpy_refuses", "test_rows_far_apart"},
}  # fmt: skip


def borrowed():
    """(module, name, function) of every test that is run here."""
    for name, left_out in LEFT_OUT.items():
        with contextlib.suppress(pytest.skip.Exception):  # what the module needs is not installed
            module = importlib.import_module(f"tests.core.{name}")
            tests = {k: f for k, f in vars(module).items() if k.startswith("test_")}
            assert left_out <= set(tests)
            yield from ((module, k, f) for k, f in tests.items() if k not in left_out)


BORROWED = list(borrowed())
for _module, _name, _function in BORROWED:
    _suite = _module.__name__.removeprefix("tests.core.")
    globals()[f"{_suite}_{_name.removeprefix('test_')}"] = _function


@pytest.fixture(scope="module", autouse=True)
def on_the_gpu(cupy):
    """Fixture: ``fusedce`` in the tests of this module works on the device."""
    with pytest.MonkeyPatch.context() as patch:
        for module in {module.__name__: module for module, _, _ in BORROWED}.values():
            if hasattr(module, "fusedce"):
                patch.setattr(module, "fusedce", OnGpu(cupy))
        yield
