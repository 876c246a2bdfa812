"""Sizes: which kernel, how much a block, whether threads.

First choices from the sizes of the caches; a sweep that measures them is still to be made.
"""

# Below this many elements, some 20 us of work, the call stays in its own thread.
SERIAL_BELOW = 1 << 15

# Elements of a patch: logits, labels, loss and gradient of a patch fill half of a 32 KB L1.
ELEMENTS = 2048

# Logits of a block of rows: some microseconds of work, so that threads share evenly.
ROWS = 1 << 14

# Classes kept in scratch between the two halves of a row: 512 KB of float32, half of a 1 MB L2.
# Wider rows are read twice.
WIDTH = 1 << 17

# Up to here rows go into the lanes: a row this short leaves most vectors half empty.
FEW_CLASSES = 96

# Logits of a tile: six tiles of float32 fill 3/4 of a 1 MB L2 at the most.
TILE = 1 << 15
LANES_MIN, LANES_MAX = 16, 256


def few_classes(classes: int, inner: int) -> bool:
    """Whether rows go into the lanes; always where the class axis is not the last."""
    return classes <= FEW_CLASSES or inner > 1


def rows_of_block(classes: int) -> int:
    """Rows worked on in one go, one after the other."""
    return max(1, ROWS // max(1, classes))


def lanes_of_block(classes: int) -> int:
    """Rows worked on side by side."""
    return max(LANES_MIN, min(LANES_MAX, TILE // max(1, classes) // 16 * 16))
