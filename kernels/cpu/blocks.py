"""What the kernels share: addresses of arrays and rows, blocks of rows, strips of logits."""

from typing import NamedTuple

import numpy as np
from numba import carray

from fusedce.kernels.cpu.vector_loops import loop, transform_logits, transform_slopes
from fusedce.kernels.intrinsics import call7, peek, pointer, poke
from fusedce.kernels.vector import BYTES


class RowRange(NamedTuple):
    """Rows ``start`` to ``start + n`` along the inner axis, at one index of the outer axis."""

    outer: int
    start: int
    n: int


@loop
def address_of(array):
    """The address of the first element of an array that the kernel has allocated."""
    return np.int64(array.ctypes.data)


@loop
def array_at(address, n, dtype):
    """The array of n elements at an address.

    It owns nothing, so slicing it costs nothing: a slice of an array whose references Numba counts
    takes two atomic instructions, in all 1 us a row for 80 classes.
    """
    return carray(pointer(address, dtype), (n,))


@loop
def align_line(memory):
    """The address of the first cache line within ``memory``: vectors then cross no cache line."""
    return (address_of(memory) + (BYTES - 1)) // BYTES * BYTES


@loop
def padded(n):
    """The elements to allocate for n: whole vectors, and one more that may be overwritten.

    The number of vectors is odd, so that buffers do not lie a multiple of 4096 bytes apart: a load
    whose address agrees with an earlier store in the lowest 12 bits waits for that store, and where
    the tiles of 10 classes lay 16 KB apart a call took 17 ms or 107.
    """
    return ((n + 15) // 16 + 1 | 1) * 16


@loop
def row_address(view, outer, inner):
    """The address of row (outer, inner) of an array, given by a VIEW of the kernel's arguments."""
    return view.address + outer * view.outer + inner * view.inner


@loop
def load_strip(T, args, address, n, scratch):
    """The address of n transformed logits along the class axis, the first stored at ``address``.

    They are read in place if ``direct_logits``, else packed into scratch: (n,) T.
    """
    if args.direct_logits:
        return address
    call7(args.load_logits, address, 0, args.logits.cls, 1, n, scratch, 0)
    if args.softcap > 0.0 or args.logit_scale != 1.0:
        transform_logits(T, scratch, n, T(args.logit_scale), T(args.softcap))
    return scratch


@loop
def load_strip_slopes(T, args, address, n, slopes):
    """slopes <- d(transformed logit)/d(logit) of n logits, where there is a softcap."""
    call7(args.load_logits, address, 0, args.logits.cls, 1, n, slopes, 0)
    transform_slopes(T, slopes, n, T(args.logit_scale), T(args.softcap))


@loop
def load_one(T, packer, address, scratch):
    """The element at an address, converted to T by a packing function."""
    call7(packer, address, 0, 0, 1, 1, scratch, 0)
    return peek(scratch, T)


@loop
def load_class_indices(args, rows, labels):
    """labels[:n] <- the class indices of a range of n rows; labels: int64 array."""
    source = row_address(args.targets, rows.outer, rows.start)
    call7(args.load_targets, source, 0, args.targets.inner, 1, rows.n, address_of(labels), 0)


@loop
def block_rows(args, block):
    """(outer, start, stop): the rows of a block, all at one index of the outer axis."""
    per_slice = (args.inner + args.block - 1) // args.block
    start = (block % per_slice) * args.block
    return block // per_slice, start, min(args.inner, start + args.block)


@loop
def store_row_losses(args, rows, losses):
    """Store the losses of a range of n rows if the caller wants them; losses: address of (n,) T."""
    if args.loss.address != 0:
        there = row_address(args.loss, rows.outer, rows.start)
        call7(args.store_loss, there, 0, args.loss.inner, 1, rows.n, losses, 0)


@loop
def store_partial_sum(args, block, loss):
    """partial[block] <- the sum of a block's losses, so that no sum depends on the threads."""
    poke(args.partial + 8 * block, loss)
