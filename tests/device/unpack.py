"""``unpack.py WHEELS FOLDER``: extract the files of all wheels that are needed at run time."""

import sys
import zipfile
from pathlib import Path


def needed(name):
    """Whether a file is used at run time; numba-cuda reads its .pyx files."""
    left_out = "/tests/" in name or ".data/" in name or name.startswith("cuda/core/cu12")
    source = name.endswith((".pyi", ".pxd", ".pyx")) and not name.startswith("numba_cuda")
    return not (name.endswith("/") or left_out or source)


def main():
    for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(sys.argv[2], filter(needed, archive.namelist()))
        print(f"  {wheel.name.split('-cp')[0]}")


if __name__ == "__main__":
    main()
