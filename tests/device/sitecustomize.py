"""Is copied to the GPU machine with the packages, and is imported by Python at its start.

The redirector of numba-cuda must be imported before numba.cuda. In an installation a .pth file does
that, but such files are read in site-packages only, and the copied packages are elsewhere.
FUSEDCE_TOOLCHAIN names a file that tests/device/rename.py writes if NVVM cannot be loaded: kernels
compiled ahead are then looked up by the compilers that made them.
"""

import ast
import importlib.abc
import importlib.machinery
import os
import sys

import _numba_cuda_redirector  # noqa: F401

_path = os.environ.get("FUSEDCE_TOOLCHAIN", "")


class _Finder(importlib.abc.MetaPathFinder):
    """Makes ``toolchain`` of fusedce.kernels.cuda.compile return the one in the file."""

    def find_spec(self, name, path=None, target=None):
        if name != "fusedce.kernels.cuda.compile":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            with open(_path) as file:
                found = ast.literal_eval(file.read())
            module.toolchain = lambda: found

        spec.loader.exec_module = exec_module
        return spec


if _path and os.path.exists(_path):
    sys.meta_path.insert(0, _Finder())
