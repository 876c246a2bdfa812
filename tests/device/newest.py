"""``python -m tests.device.newest WANTED FILE``: compile one kernel for sm_90 with this toolchain.

Where the test dependencies are installed, this is the newest toolchain of CUDA 13. facts.py checks
on the GPU machine whether a driver of CUDA 13.0 loads its code. The first line of FILE names it.
"""

import json
import sys
from pathlib import Path

from fusedce.kernels.cuda import compile as compiler
from tests.device import names


def main():
    line = Path(sys.argv[1]).read_text().splitlines()[0]
    made = compiler.cubin(*names.found(*json.loads(line)), (9, 0))
    release = "{}.{}".format(*compiler.nvjitlink.version())
    Path(sys.argv[2]).write_bytes(f"nvJitLink {release}\n".encode() + made.code)
    print(f"a kernel of nvJitLink {release}: {len(made.code)} bytes")


if __name__ == "__main__":
    main()
