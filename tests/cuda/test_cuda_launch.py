"""Launches as the driver sees them: nullcuda.c replaces the driver and records each call."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from fusedce.kernels.cuda.kernel_args import ARRAYS, SLOT, KernelArgs
from tests.cpu.test_threads import LIMIT, ROOT

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"),
    reason="the null driver needs Linux and a C compiler",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Fixture: a folder with the null driver."""
    folder = tmp_path_factory.mktemp("driver")
    options = ("-O2", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"))
    source = str(ROOT / "tests/cuda/nullcuda.c")
    subprocess.run([COMPILER, *options, source, "-ldl", "-lpthread"], check=True)
    return folder


START = """
import ctypes, threading, time
import numpy as np
from cuda.bindings import driver
from fusedce.kernels.cuda import runtime, kernel_args
from tests.cuda.test_cuda_compile import FLOAT32, Kernel, tiny

record = ctypes.CDLL("libcuda.so.1")
ADDRESSES = tuple(range(1000, 12000, 1000))
kernel, other = Kernel(tiny, FLOAT32), Kernel(tiny, (np.float64,))
places = {"logits": ("logits", 0), "label_stats": ("scratch", 0), "partial": ("scratch", 64)}
simple = (kernel_args.launch(kernel, 7, 96, {"classes": 5, "p7": -2}, places),)

def current():
    context = driver.cuCtxGetCurrent()[1]
    return next((d for d in (0, 1) if runtime._primary(d) == context), None)

def make_current(device):
    driver.cuCtxSetCurrent(runtime._primary(device))
"""


def run(driver, text, **variables):
    """Run a script; (its output, the driver calls that were recorded)."""
    end = "\nimport sys; sys.stdout.flush(); record.nullcuda_print()"
    env = os.environ | {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(text) + end], cwd=ROOT, env=env, text=True,
        capture_output=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, calls = done.stdout.split("record:\n")
    return said, [call(line) for line in calls.splitlines()]


def call(line):
    name, *facts = line.split()
    return SimpleNamespace(name=name, **dict(fact.split("=") for fact in facts))


def named(calls, name):
    return [c for c in calls if c.name == name]


def words(launch):
    return [int(word) for word in launch.plan.split(",")]


def test_a_launch(driver):
    """Grid, block, stream and device; all fields in order, with addresses added to offsets."""
    _, calls = run(driver, "runtime.run(simple, ADDRESSES, 0, 1234)")
    (launch,) = named(calls, "cuLaunchKernel")
    assert (launch.grid, launch.block, launch.shared) == ("7,1,1", "96,1,1", "0")
    assert (launch.device, launch.stream) == ("0", "1234")
    want = dict.fromkeys(KernelArgs._fields, 0)
    scratch = 1000 + 1000 * ARRAYS.index("scratch")
    want |= {
        "classes": 5,
        "p7": -2,
        "logits": 1000,
        "label_stats": scratch,
        "partial": scratch + 64,
    }
    assert dict(zip(KernelArgs._fields, words(launch), strict=True)) == want
    (function,) = named(calls, "cuKernelGetFunction")
    assert launch.function == function.function
    assert [c.name for c in calls if "Library" in c.name] == [
        "cuLibraryLoadData", "cuLibraryGetKernel",
    ]  # fmt: skip
    assert named(calls, "cuLibraryGetKernel")[0].entry == "fusedce_kernel"
    assert not hasattr(launch, "attribute4")


def test_a_graph_is_noticed(driver):
    """``run`` is true if a graph captures launches with scratch memory, which it goes on using."""
    said, _ = run(driver, """
        none = (*ADDRESSES[:-1], 0)
        print([runtime.run(simple, a, 0, s) for a, s in
               ((ADDRESSES, 98), (ADDRESSES, 99), (none, 99))])
    """)  # fmt: skip
    assert said.strip().endswith("[False, True, False]")


def test_launches_again(driver):
    """Repeated calls make no driver calls but launches, for any addresses and stream: a graph can
    capture them, and nothing waits.
    """
    _, calls = run(driver, """
        runtime.ready(simple, 0)
        record.nullcuda_clear()
        for stream in (0, 1, 2, 77, 1 << 40):
            runtime.run(simple, tuple(a + stream for a in ADDRESSES), 0, stream)
    """)  # fmt: skip
    assert {c.name for c in calls} == {"cuLaunchKernel"}
    assert [int(c.stream) for c in calls] == [0, 1, 2, 77, 1 << 40]
    found = [words(c)[SLOT["logits"]] for c in calls]
    assert found == [1000, 1001, 1002, 1077, 1000 + (1 << 40)]
    assert {words(c)[SLOT["classes"]] for c in calls} == {5}


def test_order_and_functions(driver):
    """Launches are in order; a kernel is loaded once for each number of threads per block."""
    _, calls = run(driver, """
        launches = [
            kernel_args.launch(k, blocks, threads, {"outer": blocks}, {})
            for k, blocks, threads in (
                (kernel, 1, 64), (other, 2, 64), (kernel, 3, 64), (kernel, 4, 128), (kernel, 0, 64)
            )
        ]
        runtime.run(launches, ADDRESSES, 0, 5)
    """)  # fmt: skip
    launches = named(calls, "cuLaunchKernel")
    assert [c.grid for c in launches] == ["1,1,1", "2,1,1", "3,1,1", "4,1,1"]
    functions = [c.function for c in launches]
    assert functions[0] == functions[2]
    assert len(set(functions)) == 3
    assert len(named(calls, "cuLibraryLoadData")) == 3


def test_shared_memory(driver):
    """Shared memory above 48 KB is requested once, and again only for a larger size."""
    _, calls = run(driver, """
        for kilobytes in (48, 100, 64, 100, 200):
            launch = kernel_args.launch(kernel, 1, 64, {}, {}, shared=kilobytes << 10)
            for _ in range(2):
                runtime.run((launch,), ADDRESSES, 0, 0)
    """)  # fmt: skip
    asked = named(calls, "cuFuncSetAttribute")
    assert [(c.attribute, int(c.value) >> 10) for c in asked] == [("8", 100), ("8", 200)]
    launches = named(calls, "cuLaunchKernel")
    assert [int(c.shared) >> 10 for c in launches] == [48, 48, 100, 100, 64, 64, 100, 100, 200, 200]
    assert {c.function for c in launches} == {c.function for c in asked}


def test_clusters(driver):
    """The launch attribute says four blocks per cluster; the grid is in blocks."""
    _, calls = run(driver, """
        fields, places = {"outer": 3}, {"logits": ("logits", 16)}
        launches = (kernel_args.launch(kernel, 8, 256, fields, places, shared=1024, cluster=4),)
        for stream in (3, 9, 3):
            runtime.run(launches, ADDRESSES, 0, stream)
    """)  # fmt: skip
    launches = named(calls, "cuLaunchKernel")
    assert [c.stream for c in launches] == ["3", "9", "3"]
    for launch in launches:
        assert launch.attribute4 == "4,1,1"
        assert (launch.grid, launch.block, launch.shared) == ("8,1,1", "256,1,1", "1024")
        assert words(launch)[SLOT["logits"]] == 1016
        assert words(launch)[SLOT["outer"]] == 3


def test_devices(driver):
    """Launches are on the given device, with its functions; the caller's device stays current."""
    said, calls = run(driver, """
        for before in (None, 0, 1):
            if before is not None:
                make_current(before)
            for device in (0, 1):
                runtime.run(simple, ADDRESSES, device, 0)
                assert current() == before, (current(), before)
        print(runtime.facts(0).processors, *runtime.facts(1))
    """)  # fmt: skip
    launches = named(calls, "cuLaunchKernel")
    assert [c.device for c in launches] == ["0", "1"] * 3
    functions = {c.function: c.device for c in named(calls, "cuKernelGetFunction")}
    assert sorted(functions.values()) == ["0", "1"]
    assert all(functions[c.function] == c.device for c in launches)
    assert said.split("\n")[0] == f"132 (9, 0) 131 232448 {50 << 20}"


def test_threads(driver):
    """Eight threads on two devices share launches: no launch is mixed up, functions load once."""
    _, calls = run(driver, """
        def work(k):
            for n in range(200):
                addresses = tuple(1000 * k + n for _ in ADDRESSES)
                runtime.run(simple, addresses, k % 2, 1000 * k + n)
        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    """)  # fmt: skip
    launches = named(calls, "cuLaunchKernel")
    assert len(launches) == 1600
    for launch in launches:
        stream = int(launch.stream)
        assert words(launch)[SLOT["logits"]] == stream
        assert words(launch)[SLOT["partial"]] == stream + 64
        assert int(launch.device) == stream // 1000 % 2
    assert len(named(calls, "cuKernelGetFunction")) == 2


def test_read(driver):
    """``read`` copies a number from the device after the work of its stream."""
    said, calls = run(driver, """
        numbers = np.array([1.5, -2.25])
        found = runtime.read(numbers.ctypes.data + 8, np.float64, 1, 33)
        print(found, type(found).__name__, current())
    """)  # fmt: skip
    assert said == "-2.25 float64 None\n"
    copy, done = (c for c in calls if "Memcpy" in c.name or "Synchronize" in c.name)
    assert (copy.name, copy.device, copy.bytes, copy.stream) == (
        "cuMemcpyDtoHAsync", "1", "8", "33",
    )  # fmt: skip
    assert (done.name, done.stream) == ("cuStreamSynchronize", "33")


def test_wait(driver):
    """One stream waits for another without blocking the host; 0 and 1 are the same stream."""
    _, calls = run(driver, """
        make_current(0)
        runtime.wait(11, 22, 1)
        for same in ((5, 5), (0, 1), (1, 0), (0, 0)):
            runtime.wait(*same, 1)
        assert current() == 0
    """)  # fmt: skip
    events = [c for c in calls if "Event" in c.name]
    assert [c.name for c in events] == [
        "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuEventDestroy",
    ]  # fmt: skip
    assert len({c.event for c in events}) == 1
    assert (events[0].device, events[0].flags) == ("1", "2")  # no timing: cheaper
    assert (events[1].stream, events[2].stream) == ("22", "11")
    assert not [c for c in calls if "Synchronize" in c.name]


def test_errors(driver):
    """Errors are one sentence, and the caller's device stays current."""
    said, _ = run(driver, """
        broken = (kernel_args.launch(kernel, 1, 64, {}, {}),)
        step = runtime.ready(broken, 1).steps[0]
        step.grid = (0, *step.grid[1:])
        make_current(0)
        for call in (lambda: runtime.run(broken, ADDRESSES, 1, 0), lambda: runtime.facts(5)):
            try:
                call()
            except RuntimeError as error:
                print(error, current())
    """)  # fmt: skip
    first, second, _ = said.split("\n")
    assert first == "CUDA: refused by the null driver 0"
    assert second == "CUDA: refused by the null driver 0"


def test_host_cost(driver):
    """The host cost of a launch is printed; the bound is wide, because machines differ."""
    said, _ = run(driver, """
        record.nullcuda_quiet(1)
        bound = {name: (name, 0) for name in kernel_args.ARRAYS[:10]}
        bound["label_stats"] = "scratch", 0
        make_current(0)
        for cluster in (1, 4):
            one = (kernel_args.launch(kernel, 8, 256, {}, bound, cluster=cluster),)
            runtime.run(one, ADDRESSES, 0, 5)
            times = []
            for _ in range(20):
                start = time.perf_counter()
                for _ in range(1000):
                    runtime.run(one, ADDRESSES, 0, 5)
                times.append(time.perf_counter() - start)
            print(1e3 * min(times))
    """)  # fmt: skip
    plain, cluster = map(float, said.split())
    print(f"host cost of a launch: {plain:.1f} us, with clusters {cluster:.1f} us")
    assert max(plain, cluster) < 25


@pytest.mark.skipif(os.name != "posix", reason="looks for libcuda.so.1")
def test_without_a_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        from fusedce.kernels.cuda import runtime

        with pytest.raises(RuntimeError, match=r"^no GPU can be used: there is no NVIDIA driver$"):
            runtime.facts(0)
    else:
        pytest.skip("there is a driver")


ASK = """
try:
    runtime.facts(0)
except RuntimeError as error:
    print(error)
"""


def test_without_a_device(driver):
    said, _ = run(driver, ASK, NULLCUDA_DEVICES="0")
    assert said == "no GPU can be used, the NVIDIA driver says: CUDA: no device\n"


def test_a_driver_too_old_for_the_compiler(driver):
    said, _ = run(driver, ASK, NULLCUDA_VERSION="11080")
    assert said.startswith("the NVIDIA driver is of CUDA 11, the compiler of CUDA 1")
    assert "'fusedce[cuda12]' for a driver of CUDA 12" in said
