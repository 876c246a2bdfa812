# Sourced on the GPU machine, in the root of the checkout: puts what .gpu holds in its place.
# After it plain `python3 -m pytest -m gpu ...` and `python3 -m benchmarks --device cuda` run.
export KIT=${KIT:-/tmp/fusedce-gpu} OUT=${OUT:-/tmp/out}
mkdir -p "$KIT" "$OUT"
if [ ! -e "$KIT/ready" ]; then
  python3 - "$PWD/.gpu" "$KIT" <<'PYTHON' && touch "$KIT/ready"
import sys, tarfile, time
from concurrent.futures import ThreadPoolExecutor

def unpack(name):
    with tarfile.open(f"{sys.argv[1]}/{name}.tar.xz", "r:xz") as archive:
        archive.extractall(sys.argv[2], filter="fully_trusted")

start = time.perf_counter()
with ThreadPoolExecutor(2) as pool:
    list(pool.map(unpack, ("site", "cubins")))
print(f"unpacked in {time.perf_counter() - start:.1f} s")
PYTHON
fi
if [ -z "${CUDA_HOME:-}" ]; then
  if [ -d /usr/local/cuda ]; then
    export CUDA_HOME=/usr/local/cuda
  elif command -v nvcc >/dev/null; then
    CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    export CUDA_HOME
  fi
fi
export PYTHONPATH="$PWD:$KIT/site" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONWARNINGS=default NUMBA_CACHE_DIR=$KIT/cache CUPY_CACHE_DIR=$KIT/cupy
export FUSEDCE_TOOLCHAIN=$KIT/toolchain OMP_NUM_THREADS=4 NUMBA_NUM_THREADS=4
