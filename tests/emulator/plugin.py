"""GPU tests on the emulator: ``pytest -p tests.emulator.plugin -m gpu tests/cuda/test_gpu*.py``.

A stand-in replaces CuPy, and the emulator replaces the driver. Environment variables:
EMULATOR_CAPABILITY (default 9.0); EMULATOR_ORDER, the order of threads (forward, reverse, random);
EMULATOR_UNITS (0: approximate units are exact; a seed: they err within the documented bounds);
EMULATOR_PART (3/8: the third of every eight cases; default 1/1). Tests that need real streams,
graphs, tensors or several devices are skipped by name.
"""

from __future__ import annotations

import collections
import os
import sys

import pytest

from fusedce.backends import array_libraries
from fusedce.kernels.cuda.kernel_args import ARRAYS, Facts
from fusedce.tools.warmup_cuda import SHARED
from tests.cuda import gpu
from tests.emulator import device, fake_cupy, machine, programs

CAPABILITY = tuple(map(int, os.environ.get("EMULATOR_CAPABILITY", "9.0").split(".")))
ORDER = os.environ.get("EMULATOR_ORDER", "forward")
UNITS = int(os.environ.get("EMULATOR_UNITS", "0"))
PART, PARTS = map(int, os.environ.get("EMULATOR_PART", "1/1").split("/"))
OUTPUTS = {"loss", "grad", "hess", "total", "scratch"}
LAUNCHED: collections.Counter = collections.Counter()  # (kernel, threads)

STREAMS, TENSORS = "needs streams that work goes on in", "needs tensors on a GPU"
SKIPPED = {
    "test_nothing_waits": STREAMS, "test_the_current_stream": STREAMS, "test_a_graph": STREAMS,
    "test_torch_tensors": TENSORS, "test_numba_and_nobodys_arrays": "needs arrays of numba.cuda",
    "test_two_devices": "one device is emulated",
    "test_more_than_two_to_the_31_elements": "2**31 elements take hours",
    "test_rows_far_apart": "needs 16 GB of memory",
    "Streams and CUDA graphs": "needs CUDA graphs",  # a heading: see test_gpu_pages.py
}  # fmt: skip


def facts(capability):
    """The facts of the emulated device."""
    return Facts(capability, shared=SHARED.get(10 * capability[0] + capability[1], 99 << 10))


def allowed(addresses):
    """What kernels may access: whole allocations; those with inputs only are read-only."""
    memory, found = machine.Memory(), {}
    for name, address in zip(ARRAYS, addresses, strict=True):
        for start, end in list(fake_cupy.BLOCKS.items()):
            if address and start <= address < end:
                found.setdefault((start, end), []).append(name)
    for (start, end), names in found.items():
        if OUTPUTS & set(names):
            memory.allow("/".join(names), start, end)
        else:
            memory.read_only("/".join(names), start, end)
    return memory


def launch(library, launches, addresses, device_, stream):
    """Emulate the launches in place of the driver; False: no graph captures them."""
    LAUNCHED.update((one.kernel, one.threads) for one in launches)
    machine.run(launches, addresses, allowed(addresses), facts(CAPABILITY), machine.Turns(ORDER))
    return False


def pytest_configure(config):
    if why := programs.missing():
        pytest.exit(why, returncode=4)
    sys.modules["cupy"] = fake_cupy.module()
    array_libraries.launch, array_libraries.read = launch, device.read
    array_libraries.facts, array_libraries.wait = (
        lambda k: facts(CAPABILITY),
        lambda stream, other, k: None,
    )
    gpu.missing = lambda: None
    machine.set_units(UNITS)


def pytest_collection_modifyitems(items):
    items[:] = items[PART - 1 :: PARTS]
    for item in items:
        name = getattr(item, "originalname", item.name)
        if item.path.name == "test_gpu_pages.py":
            name = item.callspec.params["heading"]
        if item.path.name == "test_gpu_torch.py":
            item.add_marker(pytest.mark.skip(reason=f"emulated: {TENSORS}"))
        elif item.path.name in ("test_gpu.py", "test_gpu_pages.py") and name in SKIPPED:
            item.add_marker(pytest.mark.skip(reason=f"emulated: {SKIPPED[name]}"))


def pytest_terminal_summary(terminalreporter):
    took = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in programs.SECONDS.items())
    terminalreporter.write_line(f"emulated here: {len(LAUNCHED)} kernels, compiling: {took}")
