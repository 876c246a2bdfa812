"""What every test runs beside: a garbage collector that looks at no object again and again."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def compiled_objects_are_frozen():
    """Compilers leave millions of objects in a process: one collection of them takes seconds.

    What is left at the end of a file is collected once, and then not looked at any more.
    """
    yield
    gc.collect()
    gc.freeze()
