"""One call of a benchmark case, for a profiler that records only between start and stop.

``ncu --profile-from-start off python3 -m tests.device.one_case 65536x1000-bfloat16``
"""

import sys

from benchmarks.cuda import cases, data, device
from benchmarks.cuda.rivals import ours


def main():
    case = next(c for c in cases.CASES if c.name == f"{sys.argv[1]}-gradient")
    gpu = device.find()
    call = ours(data.make(case, gpu), gpu)(case).call
    for _ in range(2):
        call()
    gpu.synchronize()
    gpu.xp.cuda.profiler.start()
    call()
    gpu.synchronize()
    gpu.xp.cuda.profiler.stop()
    print(case.title)


if __name__ == "__main__":
    main()
