"""From a Python factory to the address of machine code, kept on disk.

Kernels and movers are C functions (``numba.cfunc``) made by factories that close over types only.
Numba keeps such a closure on disk under its bytecode and the types; what it does not see is an
edit in another file (numba #9316), so here the folder and the stamp of every cached function are a
hash of all the sources and of Numba's version: after an upgrade or an edit nothing stale is loaded.
A rule registered outside fusedce is compiled anew in each process: its source is not ours to hash.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching
from numba.core.ccallback import CFunc
from numba.core.errors import TypingError
from numba.core.sigutils import normalize_signature
from numba.misc.appdirs import AppDirs

from fusedce.kernels.cpu import elementary  # noqa: F401  registers the elementary functions
from fusedce.kernels.cpu.vector import Single, Wide
from fusedce.kernels.scalar import FASTMATH

KERNEL = "void(int64, int64, int64)"  # plan, first block, last block
MOVER = "void(int64, int64, int64, int64, int64, int64, int64)"


STAMPS_KEPT = 8


@functools.cache
def _source_stamp() -> str:
    """A hash of everything that decides what a kernel compiles to."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).resolve().parent.parent
    # The rules stand beside this folder, installed, or beside it in fusedce/, in a checkout.
    for folder in (package, package.parent / "losses", package.parent / "fusedce/losses"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def cache_folder() -> str:
    """Where this version's compiled code is kept.

    A folder a stamp, in NUMBA_CACHE_DIR or the user's cache, so that two versions do not overwrite
    each other; a temporary one where neither can be written. The oldest stamps are removed.
    """
    home = os.environ.get("NUMBA_CACHE_DIR") or AppDirs("fusedce", False).user_cache_dir
    root = os.path.join(home, "fusedce")
    for path in (os.path.join(root, _source_stamp()[:16]), None):
        try:
            folder = path or tempfile.mkdtemp(prefix="fusedce-")
            os.makedirs(folder, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        if path:
            _forget_oldest(root)
        return folder
    raise OSError("no folder can be written, not even a temporary one")


def _forget_oldest(root: str) -> None:
    """Keep the newest stamps; a process that still uses an older one compiles again."""
    with contextlib.suppress(OSError):  # another process may be forgetting the same ones
        folders = [e for e in os.scandir(root) if e.is_dir()]
        folders.sort(key=lambda e: e.stat().st_mtime)
        for entry in folders[:-STAMPS_KEPT]:
            shutil.rmtree(entry.path, ignore_errors=True)


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


_SINGLE: set[type] = set()  # rules with an ``if``, which a vector cannot decide


def rule_kernel(
    factory: Callable[..., Callable[..., None]], rule: type, T: type, *types: Any
) -> CFunc:
    """The same for a factory whose loops evaluate a rule: vectors of numbers if it can take them."""
    if rule not in _SINGLE:
        try:
            return kernel(factory, rule, T, Wide, *types)
        except TypingError:
            made = kernel(factory, rule, T, Single, *types)
            _SINGLE.add(rule)
            return made
    return kernel(factory, rule, T, Single, *types)
