"""Compile the wanted kernels for sm_90, the most important first, as long as there is time.

``python -m tests.device.compile_ahead WANTED FOLDER SECONDS [JOBS]`` writes FOLDER/cubins and
FOLDER/manifest.json. Kernels that an earlier run compiled are in NUMBA_CACHE_DIR and take no time.
No GPU and no driver are needed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path
from unittest import mock

from fusedce.kernels.cache import cache_folder
from fusedce.kernels.cuda import compile as compiler
from tests.device import names

CAPABILITY = 9, 0
make_key = compiler._key


def compile_one(job):
    """(manifest entries, an error or None); entries None: there was no time."""
    line, end = job
    if time.time() > end:
        return None, None
    used = []

    def key(*kernel):
        """Note which kernel is really compiled: for vectors, or for scalars."""
        used.append(kernel)
        return make_key(*kernel)

    kernel, threads = names.found(*json.loads(line))
    with mock.patch.object(compiler, "_key", key):
        try:
            compiler.cubin(kernel, threads, CAPABILITY)
        except Exception as error:
            return [], f"{kernel.name}: {type(error).__name__} {str(error)[:100]}"
    return [entry(*each) for each in used], None


def entry(kernel, threads, capability):
    """A line of the manifest: the kernel by name, and the file it was compiled into."""
    file = f"cuda-{kernel.factory.__name__}-{make_key(kernel, threads, capability)}"
    return {"kernel": names.written(kernel, threads), "file": file}


def main():
    wanted, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    jobs = int(sys.argv[4]) if len(sys.argv) > 4 else len(os.sched_getaffinity(0))
    lines = Path(wanted).read_text().splitlines()
    print("toolchain:", compiler.__version__, *compiler.toolchain(), flush=True)
    start, made, failed, late = time.time(), {}, [], 0
    todo = [(line, start + seconds) for line in lines]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for entries, error in pool.imap(compile_one, todo):
            late += entries is None
            made |= {each["file"]: each for each in entries or ()}
            failed += [error] if error else []
    kept = store([made[name] for name in made], folder)
    for error in failed[:10]:
        print("not compiled:", error)
    print(f"{kept} cubins of {len(lines)} kernels in {time.time() - start:.0f} s; "
          f"{late} were left out for lack of time, {len(failed)} failed")  # fmt: skip


def store(entries, folder):
    """Copy the cubins that are on disk and write the manifest; returns their number."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "cubins").mkdir(parents=True)
    there = [e for e in entries if Path(cache_folder(), e["file"]).exists()]
    for each in there:
        shutil.copy(Path(cache_folder(), each["file"]), folder / "cubins")
    manifest = {
        "stamp": Path(cache_folder()).name, "version": compiler.__version__,
        "toolchain": repr(compiler.toolchain()), "capability": CAPABILITY, "kernels": there,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return len(there)


if __name__ == "__main__":
    main()
