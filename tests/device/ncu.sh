#!/usr/bin/env bash
# Hardware counters of one call of three cases: a row in registers, a row over a cluster, elements.
metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum
metrics+=,dram__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,sm__throughput.avg.pct_of_peak_sustained_elapsed
metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active
metrics+=,launch__registers_per_thread,launch__occupancy_limit_registers
metrics+=,launch__occupancy_limit_shared_mem,smsp__inst_executed.sum
metrics+=,l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum
worst=0
for name in 65536x1000-bfloat16 8192x128256-bfloat16 focal-bfloat16; do
  echo "$name"
  timeout -k 3 25 ncu --clock-control none --profile-from-start off -k fusedce_kernel \
    --metrics "$metrics" python3 -m tests.device.one_case "$name" 2>&1 |
    grep -vE '^==PROF==|^ *-+ *-|^$' | sed 's/  */ /g'
  status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || worst=$status
done
exit "$worst"
