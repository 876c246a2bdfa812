"""``python -m tests.device.newest WANTED FILE``: one kernel for sm_90 by the compilers found here.

Where the tests are installed these are the newest of CUDA 13. Whether a driver of CUDA 13.0 loads
what they make is asked on the GPU machine (facts.py); FILE begins with a line that names them.
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
