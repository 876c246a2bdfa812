"""On the GPU machine: put the cubins compiled elsewhere where fusedce looks for them here.

``python3 -m tests.device.rename FOLDER`` uses FOLDER/manifest.json and FOLDER/cubins. The file name
of a cubin has a hash of its kernel and of the compilers. These may have other versions or sizes
here; the cubins are valid all the same. Cubins of other sources are not: then none is put in place.
If NVVM cannot be loaded, there is no toolchain to hash: then FOLDER/toolchain names the compilers
that were used elsewhere, and sitecustomize.py makes fusedce use that.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path

from fusedce.kernels.cache import cache_folder
from fusedce.kernels.cuda import compile as compiler
from tests.device import names


def toolchain(folder, manifest):
    """(toolchain of this machine or, if there is none, of the manifest; which of them it is)."""
    try:
        return compiler.toolchain(), "of this machine"
    except ImportError as error:
        (folder / "toolchain").write_text(manifest["toolchain"])
        found = ast.literal_eval(manifest["toolchain"])
        compiler.toolchain = lambda: found
        return found, f"of the manifest, because {error}"


def rename(folder):
    """Put the cubins in place; (how many are in place, how many there are, a message)."""
    manifest = json.loads((folder / "manifest.json").read_text())
    number, target = len(manifest["kernels"]), Path(cache_folder())
    if target.name != manifest["stamp"]:
        return 0, number, "they are of other sources: make gpu-kit compiles them anew"
    tools, origin = toolchain(folder, manifest)
    target.mkdir(parents=True, exist_ok=True)
    for each in manifest["kernels"]:
        kernel, threads = names.found(*each["kernel"])
        key = compiler._key(kernel, threads, tuple(manifest["capability"]))
        path = target / f"cuda-{kernel.factory.__name__}-{key}"
        if not path.exists():
            os.link(folder / "cubins" / each["file"], path)
    made = manifest["version"], manifest["toolchain"]
    same = made == (compiler.__version__, repr(tools))
    said = f"toolchain {origin}: {tools}, {'the same as' if same else 'not'} that of the cubins"
    return number, number, said


if __name__ == "__main__":
    placed, number, said = rename(Path(sys.argv[1]))
    print(f"{placed} of {number} cubins are in place; {said}")
    sys.exit(placed != number)
