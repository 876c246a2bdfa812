"""How rows are divided among threads and blocks: by sizes, strides and alignment of arrays."""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda.dtypes import CHUNK, LANES, SIZE
from fusedce.kernels.cuda.kernel_args import Bound, Facts, Fields, Kernel, Launch
from fusedce.kernels.cuda.kernel_args import launch as new_launch
from fusedce.kernels.cuda.reduce import REDUCTION_BYTES, WARPS, Block, Cluster, Warp
from fusedce.kernels.cuda.row_cache import Registers, Reload, Smem, SmemAsync
from fusedce.kernels.cuda.rows import Misaligned, Vectorized


class ResourceLimits(NamedTuple):
    """What a thread of a row kernel may use."""

    lanes: int  # logits that a thread keeps in registers
    classes: int  # of a row that one thread takes alone and keeps in registers
    registers: int  # few enough that many threads fit on a multiprocessor


def resource_limits(compute: type, full: bool, spread: bool) -> ResourceLimits:
    """The limits by the type of all arithmetic.

    ``full``: with softcap, logit scale or Hessian; ``spread``: every class has mass.
    """
    size = np.dtype(compute).itemsize // 4
    heavy = full or spread
    lanes_ = tuning.GPU_FULL_LANES if heavy else tuning.GPU_REGISTERS_LANES
    classes = tuning.GPU_LANE_CLASSES // size // (2 if heavy else 1)
    registers = 255 if size > 1 or (full and spread) else 128 if heavy else 96
    return ResourceLimits(lanes_ // size, classes, registers)


class Tiling(NamedTuple):
    """How rows are divided among threads and blocks."""

    residency: type  # type tag, see row_cache.py
    group: type  # type tag, see reduce.py
    lanes: type  # type tag of a vector of the logits of an iteration
    group_bits: int  # log2 of the threads that share a row
    cluster_bits: int  # log2 of the blocks that share a row
    threads: int  # of a block
    shared: int  # bytes of shared memory of a block
    blocks: int

    def fields(self) -> Fields:
        """The fields of KernelArgs that describe it."""
        return {
            "group": self.group_bits, "cluster": self.cluster_bits, "staged": REDUCTION_BYTES,
            "span": self.threads >> self.group_bits,
        }  # fmt: skip

    def registers(self, limits: ResourceLimits) -> int:
        """The most registers a thread may take; groups within a warp need some more.

        With rows in shared memory three blocks fit on a multiprocessor if 80 registers are enough;
        with a limit of 96 the assembler takes 88 to 104 for float32.
        """
        if self.residency in (SmemAsync, Smem):
            return 80 if limits.registers == 96 else limits.registers
        return max(limits.registers, 128) if issubclass(self.group, Warp) else limits.registers

    def launch(self, kernel: Kernel, fields: Fields, bound: Bound) -> Launch:
        """The launch of a kernel over these rows."""
        return new_launch(
            kernel, self.blocks, self.threads, fields, bound, shared=self.shared,
            cluster=1 << self.cluster_bits,
        )  # fmt: skip


def ceil_log2(n: int) -> int:
    """log2 of the smallest power of two that is at least n."""
    return max(0, (n - 1).bit_length())


def elements_per_chunk(dtype: type) -> int:
    """The number of elements of a 16-byte chunk."""
    return CHUNK // SIZE[dtype]


def lanes_tag(number: int) -> Any:
    """The type tag of a vector of so many lanes."""
    return LANES[number]


def rows_are_whole_chunks(dtype: type, logits: np.ndarray) -> bool:
    """Whether every row consists of whole, aligned chunks."""
    return logits.shape[1] % elements_per_chunk(dtype) == 0 and rows_aligned(logits)


def classes_contiguous(*arrays: np.ndarray | None) -> bool:
    """Whether the classes of every array are contiguous, and fewer than 2**31."""
    given = [a for a in arrays if a is not None]
    gapless = all(a.shape[1] == 1 or a.strides[1] == a.itemsize for a in given)
    return gapless and given[0].shape[1] < 1 << 31


def data_address(array: np.ndarray) -> int:
    """The address of an array's first element."""
    return int(array.__array_interface__["data"][0])


def row_strides(array: np.ndarray) -> list[int]:
    """The strides in bytes from row to row."""
    return [array.strides[k] for k in (0, 2) if array.shape[k] > 1]


def rows_aligned(array: np.ndarray, bytes_: int = CHUNK) -> bool:
    """Whether every row starts at a multiple of ``bytes_``."""
    return not any(n % bytes_ for n in (data_address(array), *row_strides(array)))


def same_chunk_offsets(a: np.ndarray, b: np.ndarray | None) -> bool:
    """Whether the rows of two arrays start at the same offset from a 16-byte boundary."""
    if b is None:
        return True
    steps = zip(a.strides[::2], b.strides[::2], a.shape[::2], strict=True)
    apart = [data_address(a) - data_address(b), *(s - t for s, t, n in steps if n > 1)]
    return a.itemsize == b.itemsize and not any(n % CHUNK for n in apart)


def output_alignment(logits: np.ndarray, *outputs: np.ndarray | None) -> type:
    """The type tag for how gradients are stored."""
    return Vectorized if all(same_chunk_offsets(logits, out) for out in outputs) else Misaligned


def rows_contiguous(*arrays: np.ndarray | None) -> bool:
    """Whether in every array each row starts where the one before it ends."""
    return all(
        a.shape[2] == 1 and (a.shape[0] == 1 or a.strides[0] == a.shape[1] * a.itemsize)
        for a in arrays
        if a is not None
    )


def rows_can_be_staged(
    dtype: type, classes: int, logits: np.ndarray, *outputs: np.ndarray | None
) -> bool:
    """Whether rows are contiguous and short, so that a block copies its rows to shared memory."""
    few = logits.shape[1] <= classes and not rows_are_whole_chunks(dtype, logits)
    return few and classes_contiguous(logits, *outputs) and rows_contiguous(logits, *outputs)


def tile_rows(
    dtype: type,
    logits: np.ndarray,
    facts: Facts,
    limits: ResourceLimits,
    residency: type = Registers,
) -> Tiling:
    """The tiling of rows with contiguous classes.

    ``residency``: for rows that fit in registers, Registers or RegisterExps.
    """
    outer, classes, inner = logits.shape
    per = elements_per_chunk(dtype)
    remainder = 0 if rows_are_whole_chunks(dtype, logits) else 2 * (per - 1)
    chunks = max(1, classes // per)
    most = max(1, limits.lanes // per)  # chunks of a thread
    bits = max(ceil_log2(-(-chunks // most)), ceil_log2(remainder))
    if 1 << bits > tuning.GPU_REGISTERS_THREADS:
        return _tile_large_rows(dtype, outer * inner, chunks, facts, limits)
    chunks = -(-chunks >> bits)  # of a thread
    if bits <= 5:
        threads = tuning.GPU_THREADS
        blocks = -(-outer * inner // (threads >> bits))
        return Tiling(
            residency,
            WARPS[bits],
            lanes_tag(chunks * per),
            bits,
            0,
            threads,
            REDUCTION_BYTES,
            blocks,
        )
    return Tiling(
        residency,
        Block,
        lanes_tag(chunks * per),
        bits,
        0,
        1 << bits,
        REDUCTION_BYTES,
        outer * inner,
    )


def _tile_large_rows(
    dtype: type, row_count: int, chunks: int, facts: Facts, limits: ResourceLimits
) -> Tiling:
    """The tiling of rows that do not fit in registers: kept in shared memory, or loaded again."""
    threads, parts = tuning.GPU_SHARED_THREADS, 0
    # Half the lanes: 16-bit logits are decoded again each time they are read.
    per_iteration = max(1, limits.lanes // elements_per_chunk(dtype) // 2)  # chunks
    tag = lanes_tag(per_iteration * elements_per_chunk(dtype))
    if facts.capability >= (9, 0):
        parts = ceil_log2(-(-chunks * CHUNK // tuning.GPU_SHARED_BYTES))
        parts = min(parts, ceil_log2(tuning.GPU_CLUSTER_MAX))
    iterations = -(-chunks // (per_iteration * threads << parts))
    row_bytes = per_iteration * iterations * threads * CHUNK  # of a block
    residency: type = SmemAsync if facts.capability >= (8, 0) else Smem
    shared = REDUCTION_BYTES + row_bytes
    if shared > facts.shared:  # more than half, so that one block runs on a multiprocessor
        residency, shared = Reload, facts.shared // 2 + 1024
        threads = tuning.GPU_RELOAD_THREADS if limits.registers < 128 else threads
    group = Cluster if parts else Block
    bits = ceil_log2(threads) + parts
    return Tiling(residency, group, tag, bits, parts, threads, shared, row_count << parts)


def lanes_at_least(classes: int) -> type:
    """The type tag of a vector for so many classes; above 8 the lanes are a multiple of 4."""
    return LANES[classes if classes <= 8 else -(-classes // 4) * 4]


def column_registers(residency: type, compute: type, full: bool) -> int:
    """The most registers a thread may take that has a row to itself.

    Rows that are loaded again need many threads to hide the latency of loads: with 64 registers,
    which are enough for float32, eight blocks fit on a multiprocessor.
    """
    return 64 if residency is Reload and not full and compute is np.float32 else 255


def block_span_fields(outer: int, classes: int, inner: int) -> dict[str, int]:
    """The fields of KernelArgs for blocks of ``span`` neighbouring elements of any strides."""
    span = tuning.GPU_SPAN
    magic = {"magic_classes": classes, "magic_inner": inner}
    limit = (1 << 20) - span
    found = {k: -(-(1 << 40) // n) if n <= limit - n else 0 for k, n in magic.items()}
    return {"span": span, **found}


def division_multiplier(divisor: int) -> tuple[int, int]:
    """(factor, shift) of a division: n // divisor == (n * factor) >> shift for 0 <= n < 2**31."""
    shift = 31 + ceil_log2(divisor)
    return -(-(1 << shift) // divisor), shift
