"""Kernels as shared objects, cached: the package makes PTX, this module C, and gcc the rest.

The two steps are cached separately: the PTX of a kernel under the stamp of the package's sources,
the shared object under a hash of its C source. The workers of a test run share both caches; a lock
for each kernel keeps two of them from doing the same work.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
import zlib
from pathlib import Path
from unittest import mock

from numba.cuda.cudadrv import nvvm

from fusedce.kernels.cache import STAMPS_KEPT, cache_folder, ours
from fusedce.kernels.cuda import compile as compiler
from fusedce.kernels.cuda.kernel_args import Kernel
from tests.emulator.translate import to_c

HERE = Path(__file__).parent
FLAGS = (
    "-w", "-mfma", "-mf16c", "-msse4.1", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv",
    "-fno-math-errno", "-fno-stack-protector", "-fno-trapping-math", "-shared", "-fPIC",
    "-I", str(HERE),
)  # fmt: skip
LEVEL = "-Og"  # compiles in two thirds of the time of -O1, to code as fast
A_WEEK = 7 * 24 * 3600
SECONDS = {"ptx": 0.0, "c": 0.0}  # what compiling took in this process


def missing() -> str | None:
    """Why kernels cannot be emulated here, or None."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return "kernels are emulated on Linux for x86-64 only"
    with open("/proc/cpuinfo") as file:
        flags = set(file.read().split())
    if not {"fma", "f16c"} <= flags:
        return "kernels are emulated on processors with FMA and F16C only"
    return None if shutil.which("gcc") else "gcc is not installed"


@functools.cache
def folder() -> Path:
    """The folder of the cached shared objects, next to the package's own cache."""
    beside = Path(cache_folder()).parents[1] / "fusedce-emulator"
    found = Path(os.environ.get("FUSEDCE_EMULATOR_CACHE") or beside)
    found.mkdir(parents=True, exist_ok=True)
    return found


@functools.cache
def ptx_folder() -> Path:
    """The folder for PTX of the current sources; the oldest of other sources are removed."""
    found = folder() / Path(cache_folder()).name
    found.mkdir(exist_ok=True)
    os.utime(found)
    with contextlib.suppress(OSError):  # another process may be doing the same
        kept = [f for f in folder().iterdir() if f.is_dir()]
        for old in sorted(kept, key=lambda f: f.stat().st_mtime)[:-STAMPS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        for file in folder().iterdir():
            unused = file.is_file() and file.stat().st_nlink == 1
            if unused and time.time() - file.stat().st_mtime > A_WEEK:
                file.unlink()
    return found


@contextlib.contextmanager
def locked(name: str):
    """A file lock: one process at a time does the work of this name."""
    with open(folder() / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def runtime() -> ctypes.CDLL:
    """runtime.c (threads, barriers, memory), with which kernels are linked when they are loaded."""
    source = (HERE / "runtime.c").read_text()
    return ctypes.CDLL(str(_shared_object(source, "runtime", "-O2")), mode=ctypes.RTLD_GLOBAL)


def loaded(source: str) -> ctypes.CDLL:
    """Compile and load C source that includes runtime.h."""
    runtime()
    return ctypes.CDLL(str(_shared_object(source, "kernel", LEVEL)))


def _shared_object(source: str, kind: str, level: str) -> Path:
    header = (HERE / "runtime.h").read_text()
    path = folder() / f"{kind}-{_digest(source, header, level, *FLAGS[:-1])}.so"
    with locked(path.name):
        if not path.exists():
            new = path.with_suffix(f".{os.getpid()}")
            command = ["gcc", "-x", "c", level, *FLAGS, "-o", str(new), "-", "-lm"]
            with timed("c"):
                subprocess.run(command, input=source.encode(), check=True)
            new.replace(path)
    return path


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


@contextlib.contextmanager
def timed(what: str):
    """Add the time that a ``with`` block takes to ``SECONDS``."""
    start = time.perf_counter()
    yield
    SECONDS[what] += time.perf_counter() - start


@functools.cache
def program(kernel: Kernel, threads: int, capability: tuple[int, int]) -> ctypes.CDLL:
    """A kernel, ready to be emulated."""
    runtime()
    name = compiler._key(kernel, threads, capability)
    link = ptx_folder() / f"{name}-{_translator()}.so"
    if not ours(kernel.factory, *kernel.types):  # its source is not in the folder's stamp
        return loaded(to_c(assembled_ptx(kernel, threads, capability)))
    with locked(name):
        if not link.exists():
            source = to_c(assembled_ptx(kernel, threads, capability))
            made = _shared_object(source, "kernel", LEVEL)
            with contextlib.suppress(FileExistsError):
                os.link(made, link)
    return ctypes.CDLL(str(link))


@functools.cache
def _translator() -> str:
    """A hash of all that decides which C and machine code a PTX text becomes."""
    files = ("ptx.py", "registers.py", "arithmetic.py", "translate.py", "runtime.h")
    return _digest(LEVEL, *FLAGS[:-1], *((HERE / name).read_text() for name in files))[:12]


def ptx(kernel: Kernel, threads: int, capability: tuple[int, int]) -> str:
    """The PTX that ``compile._ptx`` makes of a kernel, cached on disk."""
    if not ours(kernel.factory, *kernel.types):
        return _ptx(kernel, threads, capability)
    path = ptx_folder() / f"{compiler._key(kernel, threads, capability)}.ptx"
    with locked(path.name):
        if not path.exists():
            _write(path, _ptx(kernel, threads, capability).encode())
    return path.read_text()


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader never finds a part of it."""
    new = path.with_suffix(f".{os.getpid()}")
    new.write_bytes(data)
    new.replace(path)


_MADE_BY_NUMBA = compiler._ptx


def _ptx(kernel: Kernel, threads: int, capability: tuple[int, int]) -> str:
    """The PTX of a kernel; its LLVM IR is the same for all architectures and made only once."""
    if not ours(kernel.factory, *kernel.types):
        with timed("ptx"):
            return _MADE_BY_NUMBA(kernel, threads, capability)
    path = ptx_folder() / f"{compiler._key(kernel, threads, (0, 0))}.ll"
    if not path.exists():
        with timed("ptx"), mock.patch.object(nvvm, "compile_ir", wraps=nvvm.compile_ir) as seen:
            text = _MADE_BY_NUMBA(kernel, threads, capability)
        modules, options = seen.call_args.args[0], seen.call_args.kwargs
        _write(path, zlib.compress(json.dumps([modules, options]).encode(), 1))
        return text
    modules, options = json.loads(zlib.decompress(path.read_bytes()))
    options["arch"] = "compute_{}{}".format(*capability)
    with timed("ptx"):
        return nvvm.compile_ir(modules, **options).decode().strip("\0").strip()


def assembled_ptx(kernel: Kernel, threads: int, capability: tuple[int, int]) -> str:
    """The PTX that the package assembles: for vectors, or for scalars where a rule needs it."""
    instead = {
        "_ptx": ptx, "_assembled": lambda text, capability: (text.encode(), ""), "_MADE": {},
        "read_sealed": lambda path: None, "write_sealed": lambda path, data: None,
    }  # fmt: skip
    with mock.patch.multiple(compiler, **instead):
        return compiler.cubin(kernel, threads, capability).code.decode()
