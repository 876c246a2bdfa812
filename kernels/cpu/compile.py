"""From a Python factory to the address of machine code, kept on disk.

Kernels and packing functions are C functions (``numba.cfunc``) made by factories that close over
types only. Numba stores such a closure on disk under its bytecode and the types, but does not see
an edit in another file (numba #9316): the folder and the stamp of every cached function are
therefore those of kernels/cache.py. A rule registered outside fusedce is compiled anew in each
process, because the stamp does not include its source.
"""

import functools
import hashlib
import os
import pickle
import time
from collections.abc import Callable
from typing import Any

from numba.core import caching
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from fusedce.kernels import elementary  # noqa: F401  registers the elementary functions
from fusedce.kernels.cache import cache_folder, ours, read_sealed, source_stamp, write_sealed
from fusedce.kernels.compiling import compiling
from fusedce.kernels.scalar import FASTMATH
from fusedce.kernels.vector import Single, Wide

KERNEL = "void(int64, int64, int64)"  # arguments, first block, end of blocks
PACKER = "void(int64, int64, int64, int64, int64, int64, int64)"


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """One folder for the whole package, and one stamp."""

    def get_cache_path(self) -> str:
        return cache_folder() or ""

    def get_source_stamp(self) -> str:
        return source_stamp() or ""

    def get_disambiguator(self) -> str:
        return "0"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        return cls()


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """A file for each kernel, named by its key, with a hash of its contents.

    Numba numbers the files and lists them in an index: of two processes that add to it at once, one
    finds the other's code under its own entry. Here a file whose hash does not match is not loaded.
    """

    _impl_class = _CacheImpl

    def _path(self, sig: Any, codegen: Any) -> str:
        key = hashlib.sha256(repr(self._index_key(sig, codegen)).encode()).hexdigest()
        return os.path.join(self.cache_path, f"{self._impl.filename_base}-{key[:32]}")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function on disk, or None."""
        target_context.refresh()
        data = read_sealed(self._path(sig, target_context.codegen()))
        if data is None:
            return None
        return self._impl.rebuild(target_context, pickle.loads(data))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save a compiled function, if the folder can be written."""
        if not self._impl.check_cachable(data):
            return
        try:
            payload = dumps(self._impl.reduce(data))
        except RuntimeError:  # Ctrl-C inside LLVM's callback is swallowed, and the object code lost
            return
        write_sealed(self._path(sig, data.codegen), payload)


class CompileLog(list):  # type: ignore[type-arg]
    """What this process compiled: (name, seconds, from disk) each; printed by the tests."""


COMPILED = CompileLog()


def _compile(fn: Callable[..., None], signature: str, keep: bool) -> CFunc:
    start = time.perf_counter()
    options = {"error_model": "numpy", "fastmath": FASTMATH, "nopython": True}
    made = CFunc(fn, normalize_signature(signature), locals={}, options=options)
    if keep:
        made._cache = _Cache(fn)
    made.compile()
    COMPILED.append((fn.__qualname__, time.perf_counter() - start, made.cache_hits > 0))
    return made


@functools.cache
def _made(factory: Callable[..., Callable[..., None]], types: tuple[Any, ...], kind: str) -> CFunc:
    with compiling():
        return _compile(factory(*types), kind, keep=ours(*types))


def kernel(factory: Callable[..., Callable[..., None]], *types: Any) -> CFunc:
    """The block kernel that a factory makes for these types."""
    return _made(factory, types, KERNEL)


def packer(factory: Callable[..., Callable[..., None]], *types: Any) -> int:
    """The address of the packing function that a factory makes for these types."""
    return int(_made(factory, types, PACKER).address)


_SINGLE: set[type] = set()  # rules with an ``if`` on a number, which vectors do not support


def rule_kernel(
    factory: Callable[..., Callable[..., None]], rule: type, T: type, *types: Any
) -> CFunc:
    """The kernel of a factory whose loops evaluate a rule: on vectors, if the rule allows it."""
    if rule not in _SINGLE:
        try:
            return kernel(factory, rule, T, Wide, *types)
        except (NumbaError, NotImplementedError):
            made = kernel(factory, rule, T, Single, *types)
            _SINGLE.add(rule)
            return made
    return kernel(factory, rule, T, Single, *types)
