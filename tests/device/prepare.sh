#!/usr/bin/env bash
# On a machine without a GPU, in the root of the checkout (`make gpu-kit`): fills .gpu with all that
# the GPU machine needs beside the checkout.
#   site.tar.xz     packages for its Python 3.12: numba, numba-cuda and what they need, Liger-Kernel
#   cubins.tar.xz   the kernels that the checks launch, compiled for sm_90, in order of worth
#   newest.cubin    one kernel by the newest compilers of CUDA 13
# SECONDS_TO_COMPILE: after so long no more kernel is begun. A later run goes on where this one ended,
# as long as no source file has changed: packages, names and cubins are kept in FUSEDCE_STORE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
store=${FUSEDCE_STORE:-$HOME/.cache/fusedce-gpu} jobs=${JOBS:-$(nproc)} start=$SECONDS
tests=${PYTHON_OF_TESTS:-.venv/bin/python} # has the tests' requirements, and the newest compilers
kit=${GPU_KIT:-.gpu} most=64               # MiB that can be sent
mkdir -p "$store" && rm -rf "$kit" && mkdir "$kit"
say() { echo "[$((SECONDS - start)) s] $*"; }

# Packages: these versions are known to work together; the image of the machine may have others.
packages=(numba==0.68.1 llvmlite==0.50.0 numba-cuda==0.30.4 cuda-core==1.2.2
  cuda-pathfinder==1.9.0 cuda-bindings==13.0.3 liger-kernel==0.8.5)
# What compiles for CUDA 13.0; on the machine these are there.
compilers=(nvidia-nvvm==13.0.88 nvidia-nvjitlink==13.0.88 nvidia-cuda-nvrtc==13.0.88
  nvidia-cuda-runtime==13.0.96)

site() { # the packages unpacked, without tests and debugging symbols
  rm -rf "$1" && mkdir -p "$1/wheels"
  local platforms=() version
  for version in 2_39 2_35 2_34 2_31 2_28 2_27 2_26 2_24 2_17; do
    platforms+=(--platform "manylinux_${version}_x86_64")
  done
  "$tests" -m pip download -qq --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 \
    -d "$1/wheels" "${packages[@]}"
  "$tests" tests/device/unpack.py "$1/wheels" "$1/site"
  find "$1/site" -name '*.so*' -type f -exec strip --strip-unneeded {} + 2>/dev/null || true
  cp tests/device/sitecustomize.py "$1/site/"
}

environment() { # Python 3.12 with the compilers of CUDA 13.0
  local python
  python=$(ls "$HOME"/.pyenv/versions/3.12.*/bin/python 2>/dev/null | tail -n 1 || true)
  rm -rf "$1" && "${PYTHON312:-${python:-python3.12}}" -m venv "$1"
  "$1/bin/python" -m pip install -qq numpy==2.5.2 ml_dtypes packaging "${compilers[@]}"
  touch "$1/done"
}

place=$store/$( (echo "${packages[*]}" && cat tests/device/{unpack,sitecustomize}.py) | sha256sum | cut -c1-12)
if [ ! -e "$place/site.tar.xz" ]; then
  site "$place"
  say "packages are there"
  tar -C "$place" --sort=name -cf - site | xz -T"$jobs" -6 >"$place/part"
  mv "$place/part" "$place/site.tar.xz"
fi
cp "$place/site.tar.xz" "$kit"
compiling=$store/$(echo "${compilers[*]}" | sha256sum | cut -c1-12)
[ -e "$compiling/done" ] || environment "$compiling"
say "compilers are there"

sources=$(git ls-files -co --exclude-standard -z kernels fusedce tests benchmarks |
  { xargs -0 sha256sum 2>/dev/null || true; } | sha256sum | cut -c1-12) # no sum of a link to a folder
wanted=$store/wanted-$sources
if [ ! -e "$wanted" ]; then
  "$tests" -m tests.device.wanted "$store/part" "$jobs"
  mv "$store/part" "$wanted"
fi
say "the wanted kernels are found: $(wc -l <"$wanted")"
"$tests" -m tests.device.newest "$wanted" "$kit/newest.cubin"
PYTHONPATH=$PWD:$place/site NUMBA_CACHE_DIR=$store/cache "$compiling/bin/python" \
  -m tests.device.compile_ahead "$wanted" "$store/out" "${SECONDS_TO_COMPILE:-150}" "$jobs"
tar -C "$store/out" --sort=name -cf - manifest.json cubins | xz -T"$jobs" -6 >"$kit/cubins.tar.xz"
say "the kernels are compiled"

checkout=$(git ls-files -co --exclude-standard -z | { xargs -0 du -cb 2>/dev/null || true; } |
  tail -n 1 | cut -f1)
carried=$(du -sb "$kit" | cut -f1)
ls -l "$kit"
awk -v n=$((checkout + carried)) -v most="$most" 'BEGIN {
  n /= 1048576; printf "to be sent: %.1f MiB of %d\n", n, most; exit n > most - 1 }' ||
  { echo "too much: set SECONDS_TO_COMPILE lower"; exit 1; }
say "ready; on the GPU machine, in the root of the checkout: bash tests/device/check.sh A"
