"""From a Python factory to the address of machine code, kept on disk.

Kernels and movers are C functions (``numba.cfunc``) made by factories that close over types only.
Numba keeps such a closure on disk under its bytecode and the types; what it does not see is an
edit in another file (numba #9316), so here the stamp of every cached function is a hash of all the
sources of this folder and of Numba's version: after an upgrade or an edit nothing stale is loaded.
A rule registered outside fusedce is compiled anew in each process: its source is not ours to hash.
"""

import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numba.misc.appdirs import AppDirs

from fusedce.kernels.cpu import elementary  # noqa: F401  registers the elementary functions
from fusedce.kernels.scalar import FASTMATH

KERNEL = "void(int64, int64, int64)"  # plan, first block, last block
MOVER = "void(int64, int64, int64, int64, int64, int64, int64)"


@functools.cache
def _source_stamp() -> str:
    """A hash of everything that decides what a kernel compiles to."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).resolve().parent.parent
    for folder in (package, Path(__file__).resolve().parents[1] / "../fusedce/losses"):
        for path in sorted(folder.resolve().rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def cache_folder() -> str:
    """Where compiled code is kept: NUMBA_CACHE_DIR, else the user's cache, else temporary."""
    wanted = os.environ.get("NUMBA_CACHE_DIR") or AppDirs("fusedce", False).user_cache_dir
    for folder in (os.path.join(wanted, "fusedce"), None):
        try:
            path = folder or tempfile.mkdtemp(prefix="fusedce-")
            os.makedirs(path, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except OSError:
            continue
        return path
    raise OSError("no folder can be written, not even a temporary one")


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """One folder for the whole package, and one stamp."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get_cache_path(self) -> str:
        return cache_folder()

    def get_source_stamp(self) -> str:
        return _source_stamp()

    def get_disambiguator(self) -> str:
        return "0"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        return cls(py_func.__qualname__)


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheImpl


class Compiled(list):  # type: ignore[type-arg]
    """What this process compiled: (name, seconds, from disk) each; printed by the tests."""


COMPILED = Compiled()


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
    owners = {t.__module__.split(".")[0] for t in types if isinstance(t, type)}
    return _compile(factory(*types), kind, keep=owners <= {"fusedce", "numpy"})


def kernel(factory: Callable[..., Callable[..., None]], *types: Any) -> CFunc:
    """The block kernel that a factory makes for these types."""
    return _made(factory, types, KERNEL)


def mover(factory: Callable[..., Callable[..., None]], *types: Any) -> int:
    """The address of the mover that a factory makes for these types."""
    return int(_made(factory, types, MOVER).address)
