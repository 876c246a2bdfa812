"""Compiles a kernel to a cubin, on any machine, and caches it on disk.

numba-cuda compiles a kernel to PTX and nvJitLink compiles that to machine code; neither needs a
driver. The key of the disk cache is everything that the code depends on: the kernel and its types,
threads a block, architecture and compilers, in a folder for the sources (kernels/cache.py).
"""

import contextlib
import functools
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from numba.core.errors import NumbaError  # the base of numba-cuda's own, which raises both

from fusedce.kernels.cache import cache_folder, ours, read_sealed, write_sealed
from fusedce.kernels.compiling import compiling
from fusedce.kernels.cuda.kernel_args import Kernel, KernelArgs
from fusedce.kernels.cuda.toolchain import (
    INSTALL,
    __version__,
    cuda,
    dispatcher,
    load_nvidia_dynamic_lib,
    nvjitlink,
    nvvm,
    types,
)
from fusedce.kernels.rule import RULES
from fusedce.kernels.vector import Single, Wide

ENTRY = "fusedce_kernel"
SIGNATURE = types.void(types.NamedUniTuple(types.int64, len(KernelArgs._fields), KernelArgs))
Capability = tuple[int, int]


class Compiled(NamedTuple):
    """Machine code, and the log of the assembler: registers, spills, shared memory."""

    name: str
    code: bytes
    log: str
    seconds: float
    from_disk: bool


REGISTERS = 1 << 16  # of a multiprocessor
COMPILED: list[Compiled] = []  # by this process
_MADE: dict[tuple[Kernel, int, Capability], Compiled] = {}
_SCALAR_RULES: set[type] = set()  # rules with an ``if``, which cannot be compiled for vectors


def cubin(kernel: Kernel, threads: int, capability: Capability) -> Compiled:
    """The machine code of a kernel, for blocks of ``threads`` threads.

    Rules are evaluated on vectors if they compile for vectors, else on single numbers.
    """
    key = kernel, threads, capability
    if (made := _MADE.get(key)) is None:
        with compiling():
            if (made := _MADE.get(key)) is None:
                made = _MADE[key] = _wide_or_single(kernel, threads, capability)
    return made


def _wide_or_single(kernel: Kernel, threads: int, capability: Capability) -> Compiled:
    rules = {t for t in kernel.types if isinstance(t, type) and t in RULES}
    if Wide not in kernel.types or not rules:
        return _kept(kernel, threads, capability)
    if not rules & _SCALAR_RULES:
        with contextlib.suppress(NumbaError, NotImplementedError):
            return _kept(kernel, threads, capability)
    single = kernel._replace(types=tuple(Single if t is Wide else t for t in kernel.types))
    made = _kept(single, threads, capability)
    _SCALAR_RULES.update(rules)
    return made


def _kept(kernel: Kernel, threads: int, capability: Capability) -> Compiled:
    """The machine code from disk; if it is not there, compiled and saved."""
    start = time.perf_counter()
    key = _key(kernel, threads, capability)
    path = os.path.join(cache_folder() or "", f"cuda-{kernel.factory.__name__}-{key}")
    keep = ours(kernel.factory, *kernel.types)
    data = read_sealed(path) if keep else None
    found = data is not None
    if data is None:
        code, log = _assembled(_ptx(kernel, threads, capability), capability)
        data = log.encode() + b"\0" + code
        if keep:
            write_sealed(path, data)
    said, _, code = data.partition(b"\0")
    made = Compiled(kernel.name, code, said.decode(), time.perf_counter() - start, found)
    COMPILED.append(made)
    return made


def _key(kernel: Kernel, threads: int, capability: Capability) -> str:
    words = [_word(thing) for thing in (kernel.factory, *kernel.types)]
    everything = words, kernel.registers, threads, capability, __version__, toolchain()
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:32]


def _word(thing: Any) -> str:
    name = getattr(thing, "__qualname__", None)
    return f"{thing.__module__}.{name}" if name else repr(thing)


@functools.cache
def toolchain() -> tuple[Any, ...]:
    """Versions and file sizes of NVVM and nvJitLink: several builds share a version number."""
    try:
        paths = [load_nvidia_dynamic_lib(name).abs_path for name in ("nvvm", "nvJitLink")]
        return nvvm.ir_version(), nvjitlink.version(), *map(_file_size, paths)
    except Exception as error:  # not found, or too old
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImportError(f"NVVM or nvJitLink cannot be loaded ({said}): {INSTALL}") from error


def _file_size(path: str | None) -> int:
    return os.path.getsize(path) if path else 0


def _ptx(kernel: Kernel, threads: int, capability: Capability) -> str:
    function = kernel.factory(*kernel.types)
    with _device(capability):
        ptx, _ = cuda.compile(
            function, SIGNATURE, cc=capability, abi="numba", device=False,
            launch_bounds=(threads, max(1, REGISTERS // (threads * kernel.registers))),
        )  # fmt: skip
    return str(ptx)


@contextlib.contextmanager
def _device(capability: Capability) -> Iterator[None]:
    """numba-cuda compiles for the current device: in this thread, let that be ``capability``."""

    class Device:
        compute_capability = capability

    current, thread = dispatcher.get_current_device, threading.get_ident()

    def chosen() -> Any:
        return Device if threading.get_ident() == thread else current()

    dispatcher.get_current_device = chosen
    try:
        yield
    finally:
        dispatcher.get_current_device = current


def _assembled(ptx: str, capability: Capability) -> tuple[bytes, str]:
    """(cubin, the assembler's log); the entry point is renamed to ``ENTRY``.

    Numba's own globals are removed: they are not used, and their names contain a counter of what
    this process has compiled.
    """
    found = re.search(r"\.entry\s+([\w$]+)", ptx)
    assert found
    renamed = re.sub(rf"\b{re.escape(found[1])}\b", ENTRY, ptx)
    text = re.sub(r"(?m)^\.common .*NumbaEnv.*;$", "", renamed).encode()
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-O3", "-verbose"]
    try:
        handle = nvjitlink.create(len(options), options)
    except nvjitlink.nvJitLinkError as error:
        release = "{}.{}".format(*nvjitlink.version())
        raise RuntimeError(f"nvJitLink {release} does not know {options[0]}: {INSTALL}") from error
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), ENTRY)
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        raise RuntimeError(f"{error}: {_text(log)}") from error
    finally:
        nvjitlink.destroy(handle)
    return bytes(code), _text(log)


def _text(log: bytearray) -> str:
    return log.rstrip(b"\0").decode(errors="replace").strip()
