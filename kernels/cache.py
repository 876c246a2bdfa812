"""Compiled code on disk: where it is kept, and under which stamp.

What decides what a kernel compiles to is all the sources and the versions of the compilers, so the
folder is named by a hash of them: after an upgrade or an edit nothing stale is loaded. Each file is
sealed with a hash of its contents: it is there whole, or it does not count.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import uuid
from pathlib import Path

import llvmlite
import numba
from numba.misc.appdirs import AppDirs

STAMPS_KEPT = 8


@functools.cache
def source_stamp() -> str:
    """A hash of everything that decides what a kernel compiles to."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).resolve().parent
    # The rules stand beside this folder, installed, or beside it in fusedce/, in a checkout.
    for folder in (package, package.parent, package.parent / "fusedce"):
        rules = [*folder.glob("losses/*.py"), *folder.glob("adapters/rules.py")]
        for path in sorted(package.rglob("*.py") if folder is package else rules):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


source_stamp()  # at import: what is hashed must be what runs, not what an editor saves meanwhile


@functools.cache
def cache_folder() -> str:
    """Where this version's compiled code is kept: in NUMBA_CACHE_DIR or the user's cache.

    A folder a stamp, so that two versions do not overwrite each other; the oldest are removed. It
    need not be there, nor be writable: what cannot be kept is compiled in each process.
    """
    home = os.environ.get("NUMBA_CACHE_DIR") or AppDirs("fusedce", False).user_cache_dir
    root = os.path.join(home, "fusedce")
    _forget_oldest(root)
    return os.path.join(root, source_stamp()[:16])


def _forget_oldest(root: str) -> None:
    """Keep the newest stamps; a process that still uses an older one compiles again."""
    with contextlib.suppress(OSError):  # another process may be forgetting the same ones
        folders = [e for e in os.scandir(root) if e.is_dir()]
        folders.sort(key=lambda e: e.stat().st_mtime)
        for entry in folders[:-STAMPS_KEPT]:
            shutil.rmtree(entry.path, ignore_errors=True)


def load(path: str) -> bytes | None:
    """What is kept there, or None."""
    try:
        with open(path, "rb") as f:
            seal, data = f.read(32), f.read()
    except OSError:
        return None
    return data if hashlib.sha256(data).digest() == seal else None


def save(path: str, data: bytes) -> None:
    """Keep it, where there is a place for it; whoever reads meanwhile finds the old or the new."""
    part = f"{path}.{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(part, "xb") as f:
                f.write(hashlib.sha256(data).digest() + data)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise


def ours(*things: object) -> bool:
    """Whether these were defined where the stamp looks, or stand for themselves."""
    owners = {getattr(thing, "__module__", "builtins").split(".")[0] for thing in things}
    return owners <= {"fusedce", "numpy", "ml_dtypes", "numba", "builtins"}
