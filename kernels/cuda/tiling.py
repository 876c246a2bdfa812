"""Which kernel takes a problem, and how its rows are dealt out: by sizes, strides, alignment."""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels import tuning
from fusedce.kernels.cuda.dtypes import CHUNK, LANES, SIZE
from fusedce.kernels.cuda.kernel_args import Bound, Facts, Fields, Kernel, Launch
from fusedce.kernels.cuda.kernel_args import launch as made_launch
from fusedce.kernels.cuda.reduce import REDUCTION_SLOTS, WARPS, Block, Cluster, Warp
from fusedce.kernels.cuda.row_cache import Registers, Reload, Smem, SmemAsync
from fusedce.kernels.cuda.rows import Misaligned, Vectorized


class ResourceLimits(NamedTuple):
    """What a kernel over rows has room for."""

    lanes: int  # logits of a thread
    classes: int  # of a row that one lane keeps
    registers: int  # a thread may take so many, that a processor has work for many threads


def resource_limits(compute: type, full: bool, spread: bool) -> ResourceLimits:
    """By the type of all arithmetic; ``full``: not plain, ``spread``: every class has mass."""
    size = np.dtype(compute).itemsize // 4
    heavy = full or spread
    lanes_ = tuning.GPU_FULL_LANES if heavy else tuning.GPU_HELD_LANES
    classes = tuning.GPU_LANE_CLASSES // size // (2 if heavy else 1)
    registers = 255 if size > 1 or (full and spread) else 128 if heavy else 96
    return ResourceLimits(lanes_ // size, classes, registers)


class Tiling(NamedTuple):
    """How rows are dealt out."""

    residency: type
    group: type
    lanes: type
    team_bits: int
    cluster_bits: int
    threads: int
    shared: int
    blocks: int

    def fields(self) -> Fields:
        """What a plan says of it."""
        return {
            "group": self.team_bits, "cluster": self.cluster_bits, "staged": REDUCTION_SLOTS,
            "span": self.threads >> self.team_bits,
        }  # fmt: skip

    def registers(self, limits: ResourceLimits) -> int:
        """Registers a thread may take; rows within a warp need some more.

        Three blocks with rows in shared memory fit on a processor if 80 registers do; allowed 96,
        the assembler takes 88 to 104 for float32.
        """
        if self.residency in (SmemAsync, Smem):
            return 80 if limits.registers == 96 else limits.registers
        return max(limits.registers, 128) if issubclass(self.group, Warp) else limits.registers

    def launch(self, kernel: Kernel, fields: Fields, bound: Bound) -> Launch:
        """A kernel over these rows."""
        return made_launch(
            kernel, self.blocks, self.threads, fields, bound, shared=self.shared,
            cluster=1 << self.cluster_bits,
        )  # fmt: skip


def power_above(n: int) -> int:
    """log2 of the smallest power of two that is at least n."""
    return max(0, (n - 1).bit_length())


def per_chunk(dtype: type) -> int:
    """Numbers of a chunk."""
    return CHUNK // SIZE[dtype]


def lanes(number: int) -> Any:
    """The type tag of so many lanes."""
    return LANES[number]


def whole(dtype: type, logits: np.ndarray) -> bool:
    """Whether every row is whole chunks."""
    return logits.shape[1] % per_chunk(dtype) == 0 and aligned(logits)


def side_by_side(*arrays: np.ndarray | None) -> bool:
    """Whether the classes of every array follow each other, so few that 32 bits count them."""
    given = [a for a in arrays if a is not None]
    gapless = all(a.shape[1] == 1 or a.strides[1] == a.itemsize for a in given)
    return gapless and given[0].shape[1] < 1 << 31


def address(array: np.ndarray) -> int:
    """Where an array begins."""
    return int(array.__array_interface__["data"][0])


def row_steps(array: np.ndarray) -> list[int]:
    """The steps in bytes from row to row."""
    return [array.strides[k] for k in (0, 2) if array.shape[k] > 1]


def aligned(array: np.ndarray, bytes_: int = CHUNK) -> bool:
    """Whether every row begins at a multiple of so many bytes."""
    return not any(n % bytes_ for n in (address(array), *row_steps(array)))


def alike(a: np.ndarray, b: np.ndarray | None) -> bool:
    """Whether the rows of two arrays begin at the same places within chunks."""
    if b is None:
        return True
    steps = zip(a.strides[::2], b.strides[::2], a.shape[::2], strict=True)
    apart = [address(a) - address(b), *(s - t for s, t, n in steps if n > 1)]
    return a.itemsize == b.itemsize and not any(n % CHUNK for n in apart)


def alignment(logits: np.ndarray, *outputs: np.ndarray | None) -> type:
    """How gradients are stored."""
    return Vectorized if all(alike(logits, out) for out in outputs) else Misaligned


def tight(*arrays: np.ndarray | None) -> bool:
    """Whether rows follow each other without a gap, in every array; of classes it asks nothing."""
    return all(
        a.shape[2] == 1 and (a.shape[0] == 1 or a.strides[0] == a.shape[1] * a.itemsize)
        for a in arrays
        if a is not None
    )


def along(dtype: type, classes: int, logits: np.ndarray, *outputs: np.ndarray | None) -> bool:
    """Whether a block's rows are one piece of memory, and too short for chunks of their own."""
    few = logits.shape[1] <= classes and not whole(dtype, logits)
    return few and side_by_side(logits, *outputs) and tight(logits, *outputs)


def rows(
    dtype: type, logits: np.ndarray, facts: Facts, limits: ResourceLimits, held: type = Registers
) -> Tiling:
    """Rows whose classes lie side by side; ``held``: how a row waits in registers."""
    outer, classes, inner = logits.shape
    per = per_chunk(dtype)
    ends = 0 if whole(dtype, logits) else 2 * (per - 1)
    chunks = max(1, classes // per)
    most = max(1, limits.lanes // per)  # chunks of a lane
    bits = max(power_above(-(-chunks // most)), power_above(ends))
    if 1 << bits > tuning.GPU_HELD_THREADS:
        return _wide(dtype, outer * inner, chunks, facts, limits)
    chunks = -(-chunks >> bits)  # of a lane
    if bits <= 5:
        threads = tuning.GPU_THREADS
        blocks = -(-outer * inner // (threads >> bits))
        return Tiling(
            held, WARPS[bits], lanes(chunks * per), bits, 0, threads, REDUCTION_SLOTS, blocks
        )
    return Tiling(
        held, Block, lanes(chunks * per), bits, 0, 1 << bits, REDUCTION_SLOTS, outer * inner
    )


def _wide(dtype: type, rows_: int, chunks: int, facts: Facts, limits: ResourceLimits) -> Tiling:
    """Rows that do not fit in registers: in shared memory, or read again."""
    threads, parts = tuning.GPU_STAGED_THREADS, 0
    # Half the lanes: 16 bits are decoded from shared memory again and again.
    visit = max(1, limits.lanes // per_chunk(dtype) // 2)  # chunks
    tag = lanes(visit * per_chunk(dtype))
    if facts.capability >= (9, 0):
        parts = power_above(-(-chunks * CHUNK // tuning.GPU_STAGED_BYTES))
        parts = min(parts, power_above(tuning.GPU_CLUSTER_MAX))
    mine = visit * -(-chunks // (visit * threads << parts))  # chunks of a thread, whole visits
    each = mine * threads * CHUNK  # bytes of a block
    residency: type = SmemAsync if facts.capability >= (8, 0) else Smem
    shared = REDUCTION_SLOTS + each
    if shared > facts.shared:  # so much is asked for that one block fits on a processor
        residency, shared = Reload, facts.shared // 2 + 1024
        threads = tuning.GPU_AGAIN_THREADS if limits.registers < 128 else threads
    group = Cluster if parts else Block
    bits = power_above(threads) + parts
    return Tiling(residency, group, tag, bits, parts, threads, shared, rows_ << parts)


def enough(classes: int) -> type:
    """The type tag of a vector for so many classes: their number, or up to three more."""
    return LANES[classes if classes <= 8 else -(-classes // 4) * 4]


def lane_registers(residency: type, compute: type, full: bool) -> int:
    """Registers a thread may take whose lane has a row to itself.

    A row that is read again is waited for, so that many threads count: eight blocks fit on a
    processor, and float32 has enough with that.
    """
    return 64 if residency is Reload and not full and compute is np.float32 else 255


def patches(outer: int, classes: int, inner: int) -> dict[str, int]:
    """How blocks of neighbours find their classes, see ``KernelArgs``."""
    span = tuning.GPU_SPAN
    magic = {"magic_classes": classes, "magic_inner": inner}
    limit = (1 << 20) - span
    found = {k: -(-(1 << 40) // n) if n <= limit - n else 0 for k, n in magic.items()}
    return {"span": span, **found}


def magic(divisor: int) -> tuple[int, int]:
    """(factor, shift): n // divisor == (n * factor) >> shift for 0 <= n < 2**31."""
    shift = 31 + power_above(divisor)
    return -(-(1 << shift) // divisor), shift
