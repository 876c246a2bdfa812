"""On the GPU machine: put the cubins compiled elsewhere where fusedce looks for them here.

``python3 -m tests.device.rename FOLDER``, of FOLDER/manifest.json and FOLDER/cubins. The name of a
cubin is a hash of its kernel and of the compilers, which may have other versions or sizes here; the
code is as good. Code of other sources is not: then nothing is put in place. Where NVVM cannot be
loaded there are no such names: then FOLDER/toolchain says which compilers were used elsewhere, and
sitecustomize.py makes that the answer.
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
    """That of this machine, or, if there is none, that of the manifest; and where it is from."""
    try:
        return compiler.toolchain(), "of this machine"
    except ImportError as error:
        (folder / "toolchain").write_text(manifest["toolchain"])
        found = ast.literal_eval(manifest["toolchain"])
        compiler.toolchain = lambda: found
        return found, f"of the manifest, because {error}"


def rename(folder):
    """(how many cubins are in place, how many there are, what to tell)."""
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
