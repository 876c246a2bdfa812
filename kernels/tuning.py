"""Sizes: which kernel, how much a block, whether threads.

Each with what it was measured against: two cores with 512-bit vectors, L1 48 KB, L2 1 MB, in turns
within one process.
"""

import numpy as np

# Below this many elements a call stays in its own thread: threads that sleep take 20 to 50 us to
# wake. 128000 took 93 us alone and 114 in two threads (softmax, 1000 classes), 155 and 153 (focal),
# 512000 and 256000 224 and 185, 299 and 240.
SERIAL_BELOW = 1 << 17

# Elements of a patch: logits, labels and gradient of a patch fill half of a 48 KB L1. From 1024 to
# 8192 all are within 15% (64 M elements, 26 ms).
ELEMENTS = 2048

# Classes worked on in one go: a strip of logits and one of exponentials fit the L1, and while one
# strip is computed the next comes from memory. Longer rows come alone.
STRIP = 2048

# Logits of a block of rows: their exponentials wait in the L2. 65536 rows of 1000 classes took
# 19 ms with 1 << 10, 15.9 with 1 << 12, 15.0 with 1 << 14, 14.6 with 1 << 16.
ROWS = 1 << 14
# Moved logits wait in scratch too: float16 took 15.9 ms with 1 << 12, 18.6 with 1 << 14.
ROWS_MOVED = 1 << 12
ROWS_MAX = 64

# Classes kept in scratch between the two halves of a row: 512 KB of float32, half of a 1 MB L2.
# Wider rows are read twice.
WIDTH = 1 << 17

# Rows shorter than this go into the lanes: most of a vector would be empty, and each row has sums
# across its lanes. In the caches lanes took 0.49 ns an element at 63 classes where rows took 0.66;
# from memory rows took 5.7 ms at 80 classes where lanes took 7.1.
FEW_CLASSES = 64
# Contiguous rows of at most so many classes are transposed by shuffles made for that number.
INTERLEAVED = 8

# Logits of a tile: two tiles of float32 lie in the L2. Images of 21 classes: 22 ms with 1 << 12,
# 20 with 1 << 13, 19 with 1 << 14, 26 with 1 << 15, which is too much for it. With many classes a
# tile may be larger, for the sake of lanes: a class of 16 rows is one cache line from a page of its
# own, and 65536 Fortran-ordered rows of 1000 classes took 88 ms with 16 lanes, 46 with 128.
TILE, TILE_MAX = 1 << 14, 1 << 17
LANES_MIN, LANES_WISHED, LANES_MAX = 16, 128, 1024

# Gradients of more bytes than this are stored past the caches: the next reader would not find
# them there anyway, and a line that is only written need not be read. 65536 x 1000 took 17 ms
# so and 21 otherwise, 64 M sigmoids 54 and 59.
STREAM_ABOVE = 1 << 24


# ----------------------------------------------------------------------- on a GPU: not measured
# These follow from the registers and the shared memory of a multiprocessor. Where there is a GPU,
# ``python -m benchmarks --device cuda --sweep`` measures the alternatives.

# Threads of a block: of kernels in which several rows, or single elements, share a block, and of
# kernels in which each thread has a row of its own.
GPU_THREADS, GPU_LANES_THREADS = 256, 128
# Float32 logits that a thread keeps in registers; of float64 it keeps half as many. The second
# number applies to kernels with a Hessian, a softcap or a distribution, which need more registers.
# The more logits a thread keeps, the fewer threads repeat the work that is done once a row.
GPU_REGISTERS_LANES, GPU_FULL_LANES = 32, 8
# The most threads that share a row kept in registers. At least two blocks of this size fit on a
# multiprocessor, so that the loads of one overlap with the stores of the other.
GPU_REGISTERS_THREADS = 256
# Wider rows are kept in shared memory. Threads of a block of such a kernel:
GPU_SHARED_THREADS = 256
# Bytes of a row that a block keeps in shared memory where blocks can form clusters, and the most
# blocks of a cluster. Several blocks of this size fit on a multiprocessor, so that the loads of one
# overlap with the stores of another. Every device with clusters can run 8 blocks in one.
GPU_SHARED_BYTES, GPU_CLUSTER_MAX = 64 << 10, 8
# Rows that do not fit in shared memory either are loaded from global memory again. One block runs
# on a multiprocessor, so that the rows that are being computed stay in the L2 cache. It has so many
# threads where a thread needs fewer than 128 registers.
GPU_RELOAD_THREADS = 1024
# Where each thread has a row of its own: the most classes that it keeps in registers, and how many
# it loads at a time if the row has more. Both are halved for float64, the first also where
# GPU_FULL_LANES applies.
GPU_LANE_CLASSES, GPU_LANE_VISIT = 32, 8
# Elements that a thread takes of contiguous arrays of the same layout, in 32-bit words of the
# compute dtype; elements that a block takes of arrays of any strides.
GPU_FLAT_WORDS, GPU_SPAN = 8, 2048
# Labels of a block of the label pass, 16 a thread: one block reads a batch of a language model.
GPU_LABELS, GPU_LABEL_THREADS = 1 << 14, 1024


def few_classes(logits: np.ndarray) -> bool:
    """Whether (outer, class, inner) rows go into the lanes.

    Short rows, and rows whose neighbours lie closer than their classes.
    """
    rows = 0 if logits.shape[2] == 1 else 2
    closer = abs(logits.strides[rows]) < abs(logits.strides[1])
    return logits.shape[1] < FEW_CLASSES or (logits.shape[rows] > 1 and closer)


def rows_per_block(classes: int, direct: bool = True) -> int:
    """Rows worked on in one go."""
    logits = ROWS if direct else ROWS_MOVED
    return 1 if classes > STRIP else max(1, min(ROWS_MAX, logits // max(1, classes)))


def lanes_per_block(classes: int) -> int:
    """Rows worked on side by side: an odd number of vectors.

    With a power of two the classes of a tile fall on the same lines of the L1: 500000 rows of 32
    classes took 12.2 ms with 512 lanes, 10.5 with 496.
    """
    many = max(1, classes)
    lanes = max(TILE // many, min(LANES_WISHED, TILE_MAX // many))
    vectors = max(LANES_MIN, min(LANES_MAX, lanes)) // 16
    return 16 * (vectors - (vectors % 2 == 0))
