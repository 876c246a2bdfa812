"""Goes with the packages that are carried to the GPU machine, and is imported by Python itself.

The redirector of numba-cuda has to be imported before numba.cuda. Installed, a .pth file does that;
such files are read in site-packages only, and carried packages lie elsewhere. FUSEDCE_TOOLCHAIN
names a file that tests/device/rename.py writes where NVVM cannot be loaded: kernels compiled ahead
are then looked up by the compilers that made them.
"""

import ast
import importlib.abc
import importlib.machinery
import os
import sys

import _numba_cuda_redirector  # noqa: F401

_path = os.environ.get("FUSEDCE_TOOLCHAIN", "")


class _Finder(importlib.abc.MetaPathFinder):
    """Gives the module that asks for the toolchain the one in the file."""

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
