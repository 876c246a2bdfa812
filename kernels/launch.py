"""Sizes: which kernel, how much a block, whether threads.

First choices from the sizes of the caches; a sweep that measures them is still to be made.
"""

import numpy as np

# Below this many elements, some 20 us of work, the call stays in its own thread.
SERIAL_BELOW = 1 << 15

# Elements of a patch: logits, labels, loss and gradient of a patch fill 2/3 of a 48 KB L1.
ELEMENTS = 2048

# Classes worked on in one go: a strip of logits and one of exponentials fit the L1, and while one
# strip is computed the next comes from memory. Longer rows come alone.
STRIP = 2048

# Logits of a block of rows: their exponentials wait in the L1.
ROWS = 1 << 14
ROWS_MAX = 64

# Classes kept in scratch between the two halves of a row: 512 KB of float32, half of a 1 MB L2.
# Wider rows are read twice.
WIDTH = 1 << 17

# Rows shorter than this go into the lanes: most of a vector would be empty.
FEW_CLASSES = 64
# And up to here vectors of rows are dealt out to classes by shuffles made for that number.
INTERLEAVED = 8

# Logits of a tile: two tiles of float32 fill a 48 KB L1.
TILE = 1 << 13
LANES_MIN, LANES_MAX = 16, 1024

# Gradients of more bytes than this are stored past the caches: the next reader would not find
# them there anyway, and a line that is only written need not be read.
STREAM_ABOVE = 1 << 24


def few_classes(logits: np.ndarray) -> bool:
    """Whether (outer, class, inner) rows go into the lanes.

    Short rows, and rows whose neighbours lie closer than their classes.
    """
    rows = 0 if logits.shape[2] == 1 else 2
    return logits.shape[1] < FEW_CLASSES or abs(logits.strides[rows]) < abs(logits.strides[1])


def rows_of_block(classes: int) -> int:
    """Rows worked on in one go."""
    return 1 if classes > STRIP else max(1, min(ROWS_MAX, ROWS // max(1, classes)))


def lanes_of_block(classes: int) -> int:
    """Rows worked on side by side."""
    return max(LANES_MIN, min(LANES_MAX, TILE // max(1, classes) // 16 * 16))
