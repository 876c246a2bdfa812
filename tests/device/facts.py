"""Facts about the GPU machine: its software, and answers that need a GPU.

``python3 -m tests.device.facts FILE``: prints a line for each question, and writes the answers to
FILE as JSON. KIT is the folder with the unpacked files that were brought along.
"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

DISTRIBUTIONS = (
    "numpy", "cupy-cuda13x", "torch", "triton", "jax", "numba", "llvmlite", "numba-cuda",
    "cuda-core", "cuda-bindings", "cuda-pathfinder", "nvidia-nvjitlink", "nvidia-nvvm",
    "liger-kernel", "quack-kernels", "pytest", "pytest-xdist", "pytest-timeout", "hypothesis",
    "mpmath", "ml_dtypes", "rich", "matplotlib", "scikit-learn",
)  # fmt: skip
KIT = Path(os.environ.get("KIT", "/tmp/fusedce-gpu"))
FIRST, CLUSTER = ((256, 1000), "float32"), ((64, 128_256), "bfloat16")  # cross-entropy of rows
CARRIED = Path(__file__).resolve().parents[2] / ".gpu"


def run(*words):
    """The output of a command in one line; RuntimeError if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    said = " | ".join((done.stdout + done.stderr).strip().splitlines())[:1000]
    if done.returncode:
        raise RuntimeError(f"ended with {done.returncode}: {said[-300:]}")
    return said


def gpu():
    query = "--query-gpu=name,driver_version,memory.total,compute_mode"
    return run("nvidia-smi", query, "--format=csv,noheader")


def python():
    return (
        f"{sys.version.split()[0]} {sys.executable} {platform.platform()}, {os.cpu_count()} cores"
    )


def versions():
    """The versions of the distributions; the first one found is the one that is imported."""
    found = {}
    for each in metadata.distributions():
        name = (each.metadata["Name"] or "").lower().replace("_", "-")
        found.setdefault(name, each.version)
    return {name: found.get(name.replace("_", "-"), "missing") for name in DISTRIBUTIONS}


def libraries():
    from cuda.pathfinder import load_nvidia_dynamic_lib

    found = {}
    for name in ("cudart", "nvvm", "nvJitLink", "nvrtc"):
        try:
            path = load_nvidia_dynamic_lib(name).abs_path
            found[name] = f"{path}, {os.path.getsize(path)} bytes"
        except Exception as error:
            found[name] = f"missing: {str(error)[:100]}"
    return found


def tools():
    names = "nvcc", "ptxas", "ncu", "compute-sanitizer", "nvdisasm"
    return {name: run("sh", "-c", f"command -v {name} || echo missing") for name in names}


def numba_cuda():
    door = importlib.import_module("fusedce.kernels.cuda.toolchain")
    return f"{door.__version__} of {door.cuda.implementation}, {door.cuda.__file__}"


def cubins():
    """How many cubins of the kit are put in place."""
    return run(sys.executable, "-m", "tests.device.rename", str(KIT))


def a_call():
    """The first launch: whether the driver accepts the block of parameters."""
    return called(*FIRST)


def a_cluster():
    """The first launch with the cluster attribute."""
    return called(*CLUSTER)


def called(shape, dtype):
    """Checks the loss and the row sums of the gradient; measures the host time of a call."""
    import cupy
    import numpy as np

    import fusedce
    from fusedce.kernels.cuda import compile as compiler
    from tests.core.test_losses import DTYPES
    from tests.cuda.gpu import OnGpu

    compiler.COMPILED.clear()
    z = np.random.default_rng(0).normal(size=shape).astype(DTYPES[dtype])
    there, labels = OnGpu(cupy).put(z), cupy.zeros(shape[0], np.int64)
    loss, grad = fusedce.cross_entropy(there, labels)
    wide = z.astype(np.float64)
    right = float((np.log(np.exp(wide).sum(axis=1)) - wide[:, 0]).mean())
    sums = OnGpu(cupy).get(grad).astype(np.float64).sum(axis=1)
    if not (abs(float(loss) - right) < 1e-5 * right and abs(sums).max() < 1e-4):
        raise RuntimeError(f"loss {float(loss)}, not {right}; rows sum to {abs(sums).max()}")
    cupy.cuda.runtime.deviceSynchronize()
    times = []
    for _ in range(200):
        start = time.perf_counter()
        fusedce.cross_entropy(there, labels)
        times.append(time.perf_counter() - start)
    cupy.cuda.runtime.deviceSynchronize()
    return {
        "loss": float(loss), "right": right, "launches": len(compiler.COMPILED),
        "us a call on the host": round(1e6 * float(np.median(times)), 2),
        "cubins from disk": [made.from_disk for made in compiler.COMPILED],
    }  # fmt: skip


def device_facts():
    """The facts of the device that kernels are planned for."""
    runtime = importlib.import_module("fusedce.kernels.cuda.runtime")
    return str(runtime.facts(0))


def newer_machine_code():
    """Whether this driver loads code of the newest compilers of CUDA 13."""
    from cuda.bindings import driver

    from fusedce.kernels.cuda import runtime

    path = CARRIED / "newest.cubin"
    if not path.exists():
        return "not carried"
    maker, _, code = path.read_bytes().partition(b"\n")
    with runtime.on_device(0):
        error, library = driver.cuLibraryLoadData(code, [], [], 0, [], [], 0)
        if not error:
            error, _ = driver.cuLibraryGetKernel(library, b"fusedce_kernel")
    return f"{maker.decode()}: {error or 'loads'}"


def doctor():
    return run(sys.executable, "-m", "fusedce", "doctor")


QUESTIONS = (gpu, python, versions, libraries, tools, numba_cuda, cubins, device_facts, a_call,
             a_cluster, newer_machine_code, doctor)  # fmt: skip


def answer(question):
    """(the answer to a question, or its error; the seconds it took)."""
    start = time.perf_counter()
    try:
        said = question()
    except BaseException as error:
        said = f"FAILED {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return said, round(time.perf_counter() - start, 1)


def main():
    answers = {}
    for question in QUESTIONS:
        name = question.__name__.replace("_", " ")
        answers[name], seconds = answer(question)
        print(f"{name} ({seconds} s): {answers[name]}", flush=True)
        if len(sys.argv) > 1:
            text = json.dumps(answers, indent=1, default=str)
            Path(sys.argv[1]).write_text(text + "\n")
    return any(str(said).startswith("FAILED") for said in answers.values())


if __name__ == "__main__":
    sys.exit(main())
