#!/usr/bin/env bash
# On the GPU machine, in the root of the checkout: bash tests/device/check.sh A|B|T (README.md).
# Every stage has a limit of its own, and one that fails stops no other. Logs and results lie under
# $OUT, at most 8 files; what is printed at the end is at most 11000 bytes long.
# LIMIT: seconds for everything. SPARE: from the interruption of a stage until it is killed.
set -u
what=${1:-A} begun=$SECONDS spare=${SPARE:-5}
case $what in
A) LIMIT=${LIMIT:-238} ;;
B) LIMIT=${LIMIT:-415} ;;
T) LIMIT=${LIMIT:-300} ;;
*) echo "usage: check.sh A|B|T" && exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
. tests/device/enter.sh
here=tests/device ends=$KIT/ends lines=$KIT/lines log=$OUT/all-$what.log failed=()
: >"$ends" >"$lines" >"$log"

seconds() { echo $((SECONDS - begun)); }

gpu() {
  nvidia-smi --query-gpu=name,driver_version,memory.used,clocks.sm,clocks.mem,temperature.gpu \
    --format=csv,noheader 2>&1 | head -n 2
}

# told NAME STATUS SECONDS SHOWN LOG: a line for the summary, the end of the log, the log itself
told() {
  printf '== %-10s %3s s, ended with %s (%s s in all)\n' "$1" "$3" "$2" "$(seconds)" | tee -a "$lines"
  [ "$2" -eq 0 ] || failed+=("$1")
  { echo "--- $1" && cut -c1-"${WIDTH:-170}" "$5" | tail -c "$4" && echo; } >>"$ends"
  { echo "===== $1 (ended with $2, $3 s)" && tail -c 2500000 "$5" && echo; } >>"$log"
}

# stage NAME LIMIT SHOWN COMMAND...: SHOWN bytes of its output are printed when all is over. The
# command sees its limit as STAGE_SECONDS. At the limit it is interrupted, later killed.
stage() {
  local name=$1 limit=$2 shown=$3 start=$SECONDS left=$((LIMIT - $(seconds)))
  shift 3
  if [ "$left" -le $((2 * spare)) ]; then
    echo "== $name left out: no time" | tee -a "$lines"
    failed+=("$name")
    return
  fi
  [ "$limit" -le $((left - spare)) ] || limit=$((left - spare))
  STAGE_SECONDS=$limit timeout -s INT -k "$spare" "$limit" "$@" >"$KIT/$name.log" 2>&1 </dev/null
  told "$name" $? $((SECONDS - start)) "$shown" "$KIT/$name.log"
}

# The benchmark begins no case in the last 15 s of a stage, and prints its tables then. Nothing is
# compiled after six tenths of its time, so that a stage for what is compiled names more.
# shellcheck disable=SC2016
bench=(bash -c 'exec python3 -m benchmarks --device cuda --seconds $((STAGE_SECONDS - 15)) "$@"' -)

has() { python3 -c "import $1" >/dev/null 2>&1; }
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
pytest=(env NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python3 -m pytest -q -p no:cacheprovider
  -W default -rfE --tb=line -m gpu -p tests.device.deadline)
if has xdist; then pytest+=(-p xdist -n "${JOBS:-14}"); fi
if has pytest_timeout; then pytest+=(-p pytest_timeout --timeout=30); fi

summary() {
  cat "$ends" && gpu && cat "$lines"
  echo "check.sh $what: $(seconds) s; failed: ${failed[*]:-nothing}; under \$OUT: $(ls "$OUT" | tr '\n' ' ')"
}
trap 'summary; [ ${#failed[@]} -eq 0 ]; exit $?' EXIT
trap 'failed+=(stopped); exit 1' INT TERM

gpu
WIDTH=260 stage facts 45 2300 python3 -m tests.device.facts "$OUT/facts.json"
case $what in
A)
  SMOKE_LOG=$OUT/smoke.txt stage smoke 60 2300 python3 -m tests.device.smoke
  stage gpu-tests 45 1300 "${pytest[@]}" tests/cuda/test_gpu.py tests/cuda/test_gpu_torch.py
  stage quick 50 2200 "${bench[@]}" --quick --out "$OUT/quick.json"
  stage suite 75 1600 "${pytest[@]}" --maxfail 400 tests/cuda/test_gpu_suite.py
  stage compiled 30 700 "${bench[@]}" --quick --case 8192x128256-bfloat16-gradient \
    --rival torch --rival torch.compile --seconds 60 --out "$OUT/compiled.json"
  ;;
B)
  name=$(gpu | head -n 1 | cut -d, -f1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
  stage bench 205 4000 "${bench[@]}" --out "$OUT/${name:-gpu}.json"
  timeout 90 python3 -m tests.cuda.sanitized --host >"$KIT/host.log" 2>&1 & # compiles CPU kernels
  stage sweep 90 1900 "${bench[@]}" --sweep
  wait $!
  start=$SECONDS
  for tool in memcheck racecheck; do
    timeout -k 3 75 compute-sanitizer --tool $tool --error-exitcode 9 python3 -m tests.cuda.sanitized \
      >"$OUT/$tool.txt" 2>&1 &
    eval "$tool=\$!"
  done
  for tool in memcheck racecheck; do
    wait "${!tool}"
    told $tool $? $((SECONDS - start)) 400 "$OUT/$tool.txt"
  done
  WIDTH=110 stage ncu 80 2200 bash $here/ncu.sh
  ;;
T)
  stage tests 290 7500 "${pytest[@]}" tests/cuda/test_gpu.py tests/cuda/test_gpu_torch.py \
    tests/cuda/test_gpu_suite.py tests/cuda/test_gpu_numbers.py
  ;;
esac
