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
import pickle
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import NumbaError
from numba.core.serialize import dumps
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


_source_stamp()  # at import: what is hashed must be what runs, not what an editor saves meanwhile


@functools.cache
def cache_folder() -> str:
    """Where this version's compiled code is kept: in NUMBA_CACHE_DIR or the user's cache.

    A folder a stamp, so that two versions do not overwrite each other; the oldest are removed. It
    need not be there, nor be writable: what cannot be kept is compiled in each process.
    """
    home = os.environ.get("NUMBA_CACHE_DIR") or AppDirs("fusedce", False).user_cache_dir
    root = os.path.join(home, "fusedce")
    _forget_oldest(root)
    return os.path.join(root, _source_stamp()[:16])


def _forget_oldest(root: str) -> None:
    """Keep the newest stamps; a process that still uses an older one compiles again."""
    with contextlib.suppress(OSError):  # another process may be forgetting the same ones
        folders = [e for e in os.scandir(root) if e.is_dir()]
        folders.sort(key=lambda e: e.stat().st_mtime)
        for entry in folders[:-STAMPS_KEPT]:
            shutil.rmtree(entry.path, ignore_errors=True)


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """One folder for the whole package, and one stamp."""

    def get_cache_path(self) -> str:
        return cache_folder()

    def get_source_stamp(self) -> str:
        return _source_stamp()

    def get_disambiguator(self) -> str:
        return "0"

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        return cls()


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """A file for each kernel, named by its key and sealed with a hash of its contents.

    Numba numbers the files and lists them in an index: of two processes that add to it at once, one
    finds the other's code under its own entry. Here a file is there whole, or it does not count.
    """

    _impl_class = _CacheImpl

    def _path(self, sig: Any, codegen: Any) -> str:
        key = hashlib.sha256(repr(self._index_key(sig, codegen)).encode()).hexdigest()
        return os.path.join(self.cache_path, f"{self._impl.filename_base}-{key[:32]}")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function on disk, or None."""
        target_context.refresh()
        try:
            with open(self._path(sig, target_context.codegen()), "rb") as f:
                seal, data = f.read(32), f.read()
        except OSError:
            return None
        if hashlib.sha256(data).digest() != seal:
            return None
        return self._impl.rebuild(target_context, pickle.loads(data))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function, where there is a place for it."""
        if not self._impl.check_cachable(data):
            return
        try:
            payload = dumps(self._impl.reduce(data))
        except RuntimeError:  # Ctrl-C inside LLVM's callback is swallowed, and the object code lost
            return
        path = self._path(sig, data.codegen)
        part = f"{path}.{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            os.makedirs(self.cache_path, exist_ok=True)
            try:
                with open(part, "xb") as f:
                    f.write(hashlib.sha256(payload).digest() + payload)
                os.replace(part, path)
            except BaseException:
                os.unlink(part)
                raise


class Compiled(list):  # type: ignore[type-arg]
    """What this process compiled: (name, seconds, from disk) each; printed by the tests."""


COMPILED = Compiled()

# A child forked while another thread compiles inherits a lock that nobody will open: forks wait.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


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
    """The same where loops evaluate a rule: on vectors, if the rule can take them."""
    if rule not in _SINGLE:
        try:
            return kernel(factory, rule, T, Wide, *types)
        except (NumbaError, NotImplementedError):
            made = kernel(factory, rule, T, Single, *types)
            _SINGLE.add(rule)
            return made
    return kernel(factory, rule, T, Single, *types)
