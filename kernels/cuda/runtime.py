"""Loads the kernels of a plan on a device and launches them on a stream.

Only ``read`` waits for the GPU. A call whose kernels are loaded makes no driver calls other than
launches, so that a CUDA graph can capture it. The arguments of a launch are one block of bytes; it
is copied for each launch and the addresses are added: 1.4 us a launch, against 1.8 us through
``cuda.core.launch``.
"""

import contextlib
import functools
import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fusedce.kernels.cuda.compile import ENTRY, cubin
from fusedce.kernels.cuda.kernel_args import Facts, Kernel, KernelArgs, Launch
from fusedce.kernels.cuda.toolchain import INSTALL, driver, nvjitlink

Attribute = driver.CUdevice_attribute
FIELDS = len(KernelArgs._fields)
DEFAULT_SHARED = 48 << 10  # bytes of dynamic shared memory that a block may use by default
BUFFER_POINTER, BUFFER_SIZE, END = 1, 2, 0  # CU_LAUNCH_PARAM_...
READY_KEPT = 1024

_LOCK = threading.RLock()
_FUNCTIONS: dict[tuple[Kernel, int, int], "_Function"] = {}
_READY: dict[tuple[int, int], "Ready"] = {}


def check(result: tuple[Any, ...]) -> Any:
    """The result of a driver function; RuntimeError if it failed."""
    if result[0]:
        said = driver.cuGetErrorString(result[0])[1]
        raise RuntimeError(f"CUDA: {said.decode() if said else result[0]}")
    return result[1] if len(result) > 1 else None


@functools.cache
def _primary(device: int) -> Any:
    """The primary context of a device, which libraries share; it is kept until the process ends."""
    try:
        started = driver.cuInit(0)
    except Exception as error:  # cuda.bindings finds no library
        raise RuntimeError("no GPU can be used: there is no NVIDIA driver") from error
    try:
        check(started)
    except RuntimeError as error:
        raise RuntimeError(f"no GPU can be used, the NVIDIA driver says: {error}") from error
    here, compiled_for = check(driver.cuDriverGetVersion()) // 1000, nvjitlink.version()[0]
    if here < compiled_for:  # the driver could not load the code
        raise RuntimeError(
            f"the NVIDIA driver is of CUDA {here}, the compiler of CUDA {compiled_for}: {INSTALL}"
        )
    return check(driver.cuDevicePrimaryCtxRetain(check(driver.cuDeviceGet(device))))


def _enter(context: Any) -> bool:
    """Make a context current; returns whether it was pushed, and so must be popped."""
    if driver.cuCtxGetCurrent()[1] == context:
        return False
    check(driver.cuCtxPushCurrent(context))
    return True


@contextlib.contextmanager
def on_device(device: int) -> Iterator[None]:
    """Make the primary context of a device current."""
    pushed = _enter(_primary(device))
    try:
        yield
    finally:
        if pushed:
            driver.cuCtxPopCurrent()


@functools.cache
def facts(device: int) -> Facts:
    """The properties of a device that launches depend on."""
    _primary(device)

    def ask(name: str) -> int:
        attribute = getattr(Attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(check(driver.cuDeviceGetAttribute(attribute, device)))

    return Facts(
        capability=(ask("COMPUTE_CAPABILITY_MAJOR"), ask("COMPUTE_CAPABILITY_MINOR")),
        processors=ask("MULTIPROCESSOR_COUNT"),
        shared=ask("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        cache=ask("L2_CACHE_SIZE"),
    )


class _Function:
    """A kernel loaded on a device, whose context is current."""

    def __init__(self, kernel: Kernel, threads: int, device: int) -> None:
        code = cubin(kernel, threads, facts(device).capability).code
        library = check(driver.cuLibraryLoadData(code, [], [], 0, [], [], 0))
        loaded = check(driver.cuLibraryGetKernel(library, ENTRY.encode()))
        self.handle = check(driver.cuKernelGetFunction(loaded))
        self.shared = DEFAULT_SHARED

    def allow(self, shared: int) -> None:
        """Allow blocks to use so many bytes of dynamic shared memory."""
        if shared > self.shared:
            name = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(driver.cuFuncSetAttribute(self.handle, name, shared))
            self.shared = shared


def _function(launch: Launch, device: int) -> Any:
    key = launch.kernel, launch.threads, device
    if (found := _FUNCTIONS.get(key)) is None:
        found = _FUNCTIONS[key] = _Function(*key)
    found.allow(launch.shared)
    return found.handle


class _Ready:
    """A launch whose function is loaded.

    ``template`` holds the arguments, the five words that describe them to the driver (pointer and
    size, each after its tag, and an end tag), and the size that the second points to.
    """

    def __init__(self, launch: Launch, device: int) -> None:
        self.launch = launch
        self.function = _function(launch, device)
        self.bound = launch.bound
        words = [*launch.args, BUFFER_POINTER, 0, BUFFER_SIZE, 0, END, 8 * FIELDS]
        self.template = array("q", words)
        self.grid = launch.blocks, 1, 1, launch.threads, 1, 1, launch.shared
        self.configs: dict[int, Any] | None = {} if launch.cluster > 1 else None

    def __call__(self, addresses: Sequence[int], stream: int) -> None:
        words = self.template[:]
        here = words.buffer_info()[0]
        words[FIELDS + 1] = here
        words[FIELDS + 3] = here + 8 * (FIELDS + 5)
        for slot, k in self.bound:
            words[slot] += addresses[k]
        extra = here + 8 * FIELDS
        if self.configs is None:
            done = driver.cuLaunchKernel(self.function, *self.grid, stream, 0, extra)
        else:
            done = driver.cuLaunchKernelEx(self._config(stream), self.function, 0, extra)
        if done[0]:
            check(done)

    def _config(self, stream: int) -> Any:
        """The launch configuration with the cluster size; cached, since making one takes 3 us."""
        assert self.configs is not None
        if (config := self.configs.get(stream)) is not None:
            return config
        launch = self.launch
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        attribute.value.clusterDim.x = launch.cluster
        attribute.value.clusterDim.y = attribute.value.clusterDim.z = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = launch.blocks, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = launch.threads, 1, 1
        config.sharedMemBytes, config.hStream = launch.shared, stream
        config.attrs, config.numAttrs = [attribute], 1
        if len(self.configs) >= READY_KEPT:
            self.configs.clear()
        self.configs[stream] = config
        return config


class Ready:
    """The launches of a plan, loaded on one device."""

    def __init__(self, launches: Sequence[Launch], device: int) -> None:
        self.launches = launches
        self.context = _primary(device)
        with on_device(device):
            self.steps = [_Ready(launch, device) for launch in launches if launch.blocks]

    def __call__(self, addresses: Sequence[int], stream: int) -> None:
        """Launch all, in order; ``addresses``: of ``kernel_args.ARRAYS``, in that order."""
        pushed = _enter(self.context)
        try:
            for step in self.steps:
                step(addresses, stream)
        finally:
            if pushed:
                driver.cuCtxPopCurrent()


def ready(launches: Sequence[Launch], device: int) -> Ready:
    """The launches of a plan, loaded; cached by the identity of the tuple of launches."""
    key = id(launches), device
    found = _READY.get(key)  # it holds the launches, so that no other object gets their id
    if found is None:
        with _LOCK:
            if len(_READY) >= READY_KEPT:
                _READY.clear()
            found = _READY[key] = Ready(launches, device)
    return found


def run(launches: Sequence[Launch], addresses: Sequence[int], device: int, stream: int) -> bool:
    """Launch all, in order; the first time they are compiled and loaded.

    ``addresses``: of ``kernel_args.ARRAYS``, in that order. A stream is the driver's handle as an
    integer: 0 and 1 are the default stream, 2 is that of the thread. Returns True if a CUDA graph
    has captured the launches: it will use their scratch memory again.
    """
    ready(launches, device)(addresses, stream)
    return bool(addresses[-1]) and _captures(stream)


def _captures(stream: int) -> bool:
    failed, status = driver.cuStreamIsCapturing(stream)[:2]
    return not failed and status == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE


def read(address: int, dtype: Any, device: int, stream: int) -> Any:
    """Read one number from the device, after the work of the stream; the host waits."""
    host = np.empty((), dtype)
    with on_device(device):
        check(driver.cuMemcpyDtoHAsync(host.ctypes.data, address, host.nbytes, stream))
        check(driver.cuStreamSynchronize(stream))
    return host[()]


def wait(stream: int, other: int, device: int) -> None:
    """Order the future work of ``stream`` after all work submitted to ``other`` so far."""
    if (stream or 1) == (other or 1):  # 0 and 1 are one stream
        return
    with on_device(device):
        flag = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        event = check(driver.cuEventCreate(flag))
        try:
            check(driver.cuEventRecord(event, other))
            check(driver.cuStreamWaitEvent(stream, event, 0))
        finally:
            driver.cuEventDestroy(event)  # deferred by the driver until the event has completed
