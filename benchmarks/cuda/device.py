"""The GPU: its arrays, timing by events, copies, and its description.

CuPy and torch both work on the default stream here, so the events measure the work of either.
"""

import importlib
import importlib.util
import shutil
import subprocess
import sys
import time
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.results import Record
from benchmarks.rivals import Call

FLUSH = 1 << 30  # bytes written between two calls: 20 times an L2, and time to queue the next call
LARGE = 4 << 30  # bytes of the copy that measures the bandwidth
ROUNDS = 21  # of that copy
BITS = {2: np.uint16, 4: np.uint32}  # arrays are copied as integers: CuPy lacks much of bfloat16
INSTALL = "pip install 'fusedce[cuda13]'"


class Device:
    """The current GPU through CuPy."""

    def __init__(self, cupy: Any) -> None:
        self.xp = cupy
        self.runtime = cupy.cuda.runtime
        total = self.runtime.memGetInfo()[1]
        self.scratch = cupy.empty(min(FLUSH, total // 16), cupy.uint8)
        self.events = cupy.cuda.Event(), cupy.cuda.Event()

    # ----------------------------------------------------------------- arrays

    def put(self, host: Any) -> Any:
        """The same numbers on the device."""
        bits = np.asarray(host, order="C")  # a scalar keeps no axes
        if bits.dtype == ml_dtypes.bfloat16:
            return self.xp.asarray(bits.view(np.uint16)).view(bits.dtype)
        return self.xp.asarray(bits)

    def double(self, a: Any) -> Any:
        """The same numbers in float64, still on the device."""
        if a.dtype == ml_dtypes.bfloat16:  # the upper half of a float32
            a = (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return a.astype(np.float64)

    def to_torch(self, a: Any) -> Any:
        """A tensor over the same memory."""
        torch: Any = importlib.import_module("torch")
        if a.dtype == ml_dtypes.bfloat16:
            return torch.from_dlpack(a.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(a)

    def from_torch(self, tensor: Any) -> Any:
        """An array over the same memory."""
        torch: Any = importlib.import_module("torch")
        if tensor.dtype == torch.bfloat16:
            bits = self.xp.from_dlpack(tensor.detach().view(torch.int16))
            return bits.view(np.uint16).view(ml_dtypes.bfloat16)
        return self.xp.from_dlpack(tensor.detach())

    # ----------------------------------------------------------------- memory

    def release(self) -> None:
        """Return unused memory of the pools to the device."""
        self.xp.get_default_memory_pool().free_all_blocks()
        if torch := torch_here():
            torch.cuda.empty_cache()

    def free(self) -> int:
        """The number of bytes that can still be allocated."""
        self.release()
        return int(self.runtime.memGetInfo()[0])

    def poison(self, size: int) -> None:
        """Fill ``size`` bytes of the pools with NaN, to find elements that are not written."""
        self.release()
        self.xp.full(size, 255, self.xp.uint8)
        if torch := torch_here():
            torch.full((size,), 255, dtype=torch.uint8, device="cuda")

    def memory(self, call: Call) -> int:
        """Bytes that a call allocates, its results included."""
        self.release()
        if torch := torch_here():
            torch.cuda.reset_peak_memory_stats()
        held = self._held()
        call()
        self.synchronize()
        return self._held() - held

    def _held(self) -> int:
        held = int(self.xp.get_default_memory_pool().total_bytes())
        if torch := torch_here():
            held += int(torch.cuda.max_memory_allocated())
        return held

    # ----------------------------------------------------------------- time

    def synchronize(self) -> None:
        """Wait for all work on the device."""
        self.runtime.deviceSynchronize()

    def first(self, call: Call) -> tuple[float, Any]:
        """Seconds on the host's clock until the work is done, and what the call returned."""
        start = time.perf_counter()
        got = call()
        self.synchronize()
        return time.perf_counter() - start, got

    def seconds(self, call: Call, before: Call) -> tuple[float, float]:
        """Seconds of a call after the L2 was flushed: on the device, and until it returned."""
        before()
        self.scratch.data.memset_async(0, self.scratch.nbytes)
        first, last = self.events
        first.record()
        start = time.perf_counter()
        got = call()
        host = time.perf_counter() - start
        last.record()
        last.synchronize()
        del got
        return self.xp.cuda.get_elapsed_time(first, last) / 1e3, host

    def copies(self, source: Any, target: Any) -> dict[str, Call]:
        """The ways to copy one array to another."""
        n = source.nbytes
        ways = {"memcpy": lambda: target.data.copy_from_device_async(source.data, n)}
        if n % 8 == 0:
            a, b = (x.reshape(-1).view(self.xp.uint64) for x in (source, target))
            ways["kernel"] = lambda: self.xp.bitwise_or(a, self.xp.uint64(0), out=b)
        return ways

    # ----------------------------------------------------------------- facts

    def facts(self) -> Record:
        """The names of the GPU and of its driver, without the name of the host."""
        found = self.runtime.getDeviceProperties(self.runtime.getDevice())
        return {
            "gpu": found["name"].decode(),
            "memory_gb": round(found["totalGlobalMem"] / 1e9, 1),
            "l2_mb": round(found["l2CacheSize"] / 2**20, 1),
            "processors": found["multiProcessorCount"],
            "capability": f"{found['major']}.{found['minor']}",
            "driver": driver(),
            "cuda": {
                "driver": self.runtime.driverGetVersion(),
                "runtime": self.runtime.runtimeGetVersion(),
            },
        }


def torch_here() -> Any:
    """The torch module if it was imported and can use the GPU."""
    torch: Any = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def driver() -> str | None:
    """The driver's version where nvidia-smi reports it."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None


def bandwidth(device: Any) -> Record:
    """GB read and written per second by the fastest way to copy a large buffer."""
    size = min(LARGE, device.free() // 8) // 8
    source, target = (device.xp.zeros(size, device.xp.uint64) for _ in range(2))
    found = {}
    for way, call in device.copies(source, target).items():
        call()
        times = [device.seconds(call, nothing)[0] for _ in range(ROUNDS)]
        low, middle, high = np.percentile(times, (20, 50, 80))
        moved = 2e-9 * source.nbytes
        figures = {"p20": moved / high, "p50": moved / middle, "p80": moved / low}
        found[way] = {name: round(float(value), 1) for name, value in figures.items()}
    best = max(found, key=lambda way: found[way]["p50"])
    return {"gb_per_s": found[best]["p50"], "way": best, "bytes": source.nbytes, "ways": found}


def nothing() -> None:
    """Do nothing."""


def find() -> Device:
    """The current GPU; without one, the program ends with a sentence that says what is missing."""
    if importlib.util.find_spec("cupy") is None:
        raise SystemExit(f"The GPU benchmark needs CuPy: {INSTALL}.")
    cupy: Any = importlib.import_module("cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise SystemExit(f"There is no GPU to measure: {error}.") from None
    if not count:
        raise SystemExit("There is no GPU to measure.")
    return Device(cupy)
