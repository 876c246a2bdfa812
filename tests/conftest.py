"""After each test module, collect garbage once and freeze what remains."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def garbage_is_collected_once():
    """Compilers leave millions of objects in a process: one collection of them takes seconds.

    After the freeze, later collections do not examine the objects of earlier modules again; what
    becomes a cycle of unused objects among these is not freed.
    """
    yield
    gc.collect()
    gc.freeze()
