"""Versions, threads, vector width, cache and GPUs, printed by ``python -m fusedce doctor``.

Only here compilers and libraries are looked up by name; no array library is imported, and GPUs are
found through the driver.
"""

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import fusedce
from fusedce.kernels.cache import cache_folder, no_place, trusted

LAYERS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
WIDTHS = {"avx512f": 512, "avx2": 256, "avx": 256, "sse2": 128, "neon": 128}
GLUE = "\xa0"  # a space at which lines are not broken
Facts = Iterator[tuple[str, str]]


def glued(path: str | Path) -> str:
    """A path that is not broken over lines."""
    return str(path).replace(" ", GLUE)


def versions() -> Facts:
    """Versions of fusedce and its dependencies."""
    yield "fusedce", f"{fusedce.__version__} in {glued(Path(fusedce.__file__).parent)}"
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    for name in ("numpy", "numba", "llvmlite", "ml_dtypes"):
        yield name, str(importlib.import_module(name).__version__)


def cpu() -> Facts:
    """The processor and the vector width that kernels use."""
    llvm = importlib.import_module("llvmlite.binding")
    yield "CPU", f"{_cpu_name()}; the compiler's name for it: {llvm.get_host_cpu_name()}"
    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:
        features = {}
    name = next((f for f in WIDTHS if features.get(f)), None)
    width = "of unknown width"
    if name:
        width = f"{WIDTHS[name]} bits ({name}): {WIDTHS[name] // 32} float32 numbers at a time"
    yield "vectors", width
    affinity = getattr(os, "sched_getaffinity", None)  # not on every platform
    usable = len(affinity(0)) if affinity else os.cpu_count()
    yield "cores", f"{os.cpu_count()}, of which this process may use {usable}"


def _cpu_name() -> str:
    """The product name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def layers() -> Facts:
    """The number of threads, the threading layer in use, and the layers that can be loaded."""
    numba = importlib.import_module("numba")
    try:
        number = numba.get_num_threads()  # this starts the threads
        yield "threads", f"{number}, started by Numba's threading layer {numba.threading_layer()}"
    except ValueError as error:  # NUMBA_THREADING_LAYER names a layer that cannot be loaded
        yield "threads", f"none: {' '.join(str(error).split())}"
        yield "", "set NUMBA_THREADING_LAYER to a layer that can be loaded, or unset it"
    lacks = {name: _lack(name) for name in LAYERS}
    there = ", ".join(name for name, lack in lacks.items() if lack is None)
    yield "layers", f"{there} can be loaded; one is enough"
    for name, lack in lacks.items():
        if lack is not None:
            yield "", f"{name} cannot be loaded and is not needed: {lack}"


def _lack(layer: str) -> str | None:
    """Why a threading layer cannot be loaded; None where it can."""
    try:
        importlib.import_module(f"numba.np.ufunc.{LAYERS[layer]}")
    except ImportError as error:
        # No layer is recommended: with tbb (2021.13 and 2023.2) some processes hang at exit after
        # a fork, and workqueue is always available.
        return str(error)
    return None


def cache() -> Facts:
    """Where compiled code is stored."""
    why, folder = no_place(), cache_folder()
    if folder is not None:
        files = {p.name: p.stat() for p in Path(folder).glob("*") if p.is_file()}
        sizes = [status.st_size for status in files.values()]
        for_gpus = sum(name.startswith("cuda-") for name in files)
        yield "cache", glued(folder)
        size = f"{sum(sizes) / 1e6:.1f} MB"
        yield "", f"{len(files)} files of compiled kernels ({for_gpus} for GPUs), {size}"
        if refused := sum(not trusted(status) for status in files.values()):
            yield "", f"{refused} of them are not read, since other users own or can write them"
    if why is not None:
        yield "" if folder else "cache", f"nothing can be kept, since {why}"


def gpu() -> Facts:
    """GPUs, and the packages that are missing to use them."""
    found, version = _devices()
    if not found:
        yield "GPU", f"none: {version}; only arrays on a GPU need one"
        return
    for k, name in enumerate(found):
        yield "GPU" if k == 0 else "", name
    extra = "cuda13" if int(version.split(".")[0]) >= 13 else "cuda12"
    yield "CUDA driver", version
    missing = [name for name in ("numba_cuda", "cupy") if importlib.util.find_spec(name) is None]
    if missing:
        yield "", f"{' and '.join(missing)} missing: {install_command(extra)}"


def install_command(extra: str) -> str:
    """The command that installs what GPUs need."""
    return f"pip{GLUE}install{GLUE}'.[{extra}]'{GLUE}in{GLUE}a{GLUE}checkout"


GPU_PACKAGES = ("numba-cuda", "cuda-bindings", "cuda-core", "cupy-cuda12x", "cupy-cuda13x")


def gpu_compiler() -> Facts:
    """The packages and libraries that compile for GPUs, which need no GPU."""
    found = {}
    for name in GPU_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if "numba-cuda" not in found:
        new, old = install_command("cuda13"), install_command("cuda12")
        either = f"{new}, for a driver older than CUDA 13 {old}"
        yield "GPU compiler", f"none, since numba-cuda is missing; only GPUs need it: {either}"
        return
    yield "GPU compiler", ", ".join(" ".join(pair) for pair in found.items())
    for library, name in {"nvvm": "NVVM", "nvJitLink": "nvJitLink"}.items():
        place = _place(library)
        if place is None:
            extra = "cuda12" if "cupy-cuda12x" in found else "cuda13"
            yield "", f"{name} is missing: {install_command(extra)}"
        else:
            yield "", f"{name}: {glued(place)}"


def _place(library: str) -> str | None:
    """The path of a CUDA library; None where it is not found."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        return str(pathfinder.load_nvidia_dynamic_lib(library).abs_path)
    except (ImportError, RuntimeError):
        return None


def _devices() -> tuple[list[str], str]:
    """(names of the GPUs, the driver's CUDA version); without any, ([], what is missing)."""
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return [], f"NVIDIA's driver is not installed ({library} is missing)"
    if code := driver.cuInit(0):
        return [], f"NVIDIA's driver finds no GPU (cuInit returns error {code})"
    number, name = ctypes.c_int(), ctypes.create_string_buffer(100)
    driver.cuDriverGetVersion(ctypes.byref(number))
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    driver.cuDeviceGetCount(ctypes.byref(number))
    found = []
    for device in range(number.value):
        driver.cuDeviceGetName(name, len(name), device)
        found.append(name.value.decode())
    return found, version


PARTS = (versions, cpu, layers, cache, gpu, gpu_compiler)


def facts() -> list[tuple[str, str]]:
    """All (name, text) to print, in order; an empty name continues the line above."""
    return [fact for part in PARTS for fact in part()]


def shown(found: list[tuple[str, str]], width: int) -> Iterator[str]:
    """Lines of a width; a path is never broken and may be longer."""
    for name, fact in found:
        lines = textwrap.wrap(
            f"{name:13} {fact}", width, subsequent_indent=" " * 14, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
        yield from (line.replace(GLUE, " ") for line in lines)


def main() -> int:
    """Print all facts; the exit status is always 0."""
    narrow = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    width = max(40, shutil.get_terminal_size().columns) if narrow else sys.maxsize
    print(*shown(facts(), width), sep="\n")
    return 0
