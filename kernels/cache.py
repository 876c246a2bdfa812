"""The disk cache of compiled code: its folder, and the stamp of a version.

The result of a compilation depends on all the sources and on the versions of the compilers, so the
folder is named by a hash of them: after an upgrade or an edit no outdated code is loaded. Each file
begins with a hash of its contents, and is ignored if that does not match. Code that is read is run,
so only files that this user or root wrote are read.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import pkgutil
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import llvmlite
import numba
from numba.misc.appdirs import AppDirs

STAMPS_KEPT = 8
SOURCES = ("fusedce.kernels", "fusedce.losses", "fusedce.adapters.rules")


@functools.cache
def source_stamp() -> str | None:
    """A hash of everything that the machine code of a kernel depends on.

    The files of the modules are hashed as they are installed: .py, or .pyc alone, in folders or in
    a zip. None where there are no files, as in frozen applications.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    found = set()
    try:
        for source in SOURCES:
            for name, data in _files(importlib.util.find_spec(source)):
                digest.update(name.encode() + data)
                found.add(name)
    except (AttributeError, ImportError, OSError):  # a loader that has no files
        return None
    return digest.hexdigest() if __name__.rpartition(".")[2] in found else None


def _files(spec: Any) -> Iterator[tuple[str, bytes]]:
    """(name, contents of its file) of a module and of those inside it; nothing is imported."""
    yield spec.name.rpartition(".")[2], spec.loader.get_data(spec.origin)
    inside = pkgutil.iter_modules(spec.submodule_search_locations or ())
    for each in sorted(inside, key=lambda each: each.name):
        yield from _files(each.module_finder.find_spec(each.name, None))


source_stamp()  # at import: the sources that run are hashed, not what an editor saves later


@functools.cache
def cache_folder() -> str | None:
    """The folder of this version's compiled code, in NUMBA_CACHE_DIR or the user's cache folder.

    A folder a stamp, so that two versions do not overwrite each other; the oldest are removed. It
    may be missing or read-only: code that cannot be saved is compiled in each process. None where
    there is no stamp, or where the user has no home folder.
    """
    stamp, home = source_stamp(), _home()
    if stamp is None or home is None:
        return None
    root = os.path.join(home, "fusedce")
    _forget_oldest(root)
    return os.path.join(root, stamp[:16])


def _home() -> str | None:
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        return os.path.abspath(os.path.expanduser(given))
    # XDG_CACHE_HOME counts only if it is absolute; "~" stays as it is for a user without a home.
    usual = AppDirs("fusedce", False).user_cache_dir, os.path.expanduser("~/.cache/fusedce")
    return next(filter(os.path.isabs, usual), None)


def _forget_oldest(root: str) -> None:
    """Keep the newest stamps; a process that still uses an older one compiles again."""
    with contextlib.suppress(OSError):  # another process may be removing the same ones
        folders = [e for e in os.scandir(root) if e.is_dir()]
        folders.sort(key=lambda e: e.stat().st_mtime)
        for entry in folders[:-STAMPS_KEPT]:
            shutil.rmtree(entry.path, ignore_errors=True)


def trusted(status: os.stat_result) -> bool:
    """Whether nobody but this user and root can have written a file or changed a folder."""
    if not hasattr(os, "geteuid"):  # Windows: folders of a user are the user's own
        return True
    mine = status.st_uid == os.geteuid()
    # In a sticky folder users can change only their own files.
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    others = 0 if sticky else stat.S_IWGRP | stat.S_IWOTH
    return (mine or status.st_uid == 0) and not status.st_mode & others


def _levels(folder: str) -> tuple[str, str]:
    """The folder of all stamps, and the folder of one stamp."""
    return os.path.dirname(folder), folder


def _prepare(folder: str) -> None:
    """Make a folder that, whatever the umask, only this user can write, unless it is there."""
    for level in _levels(folder):
        os.makedirs(level, 0o755, exist_ok=True)


def no_place() -> str | None:
    """Why compiled code cannot be saved, and how to change that; None where it can."""
    if source_stamp() is None:
        return (
            "fusedce's .py or .pyc files cannot be read (in a frozen application, say), "
            "and without them one version's code looks like another's"
        )
    folder = cache_folder()
    if folder is None:
        return "this user has no home; set NUMBA_CACHE_DIR to a folder that can be written"
    try:
        _prepare(folder)
        for level in _levels(folder):
            if not trusted(os.stat(level)):
                return (
                    f"{level} belongs to another user or can be written by others, and what is "
                    "read there is run; set NUMBA_CACHE_DIR to a folder of your own"
                )
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return f"{folder} cannot be written; set NUMBA_CACHE_DIR to a folder that can"
    return None


def read_sealed(path: str) -> bytes | None:
    """What is kept there, or None."""
    try:
        with open(path, "rb") as f:
            levels = map(os.stat, _levels(os.path.dirname(path)))
            if not all(map(trusted, (os.fstat(f.fileno()), *levels))):
                return None
            seal, data = f.read(32), f.read()
    except OSError:
        return None
    return data if hashlib.sha256(data).digest() == seal else None


def write_sealed(path: str, data: bytes) -> None:
    """Keep it, where there is a place for it; whoever reads meanwhile finds the old or the new."""
    folder, part = os.path.dirname(path), f"{path}.{uuid.uuid4().hex}"
    with contextlib.suppress(OSError):
        _prepare(folder)
        if not all(trusted(os.stat(level)) for level in _levels(folder)):
            return
        try:
            with open(part, "xb", opener=_opener) as f:
                f.write(hashlib.sha256(data).digest() + data)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o644)


def ours(*things: object) -> bool:
    """Whether code for these types is saved: they are defined in files that the stamp includes."""
    owners = {getattr(thing, "__module__", "builtins").split(".")[0] for thing in things}
    known = owners <= {"fusedce", "numpy", "ml_dtypes", "numba", "builtins"}
    return known and cache_folder() is not None
