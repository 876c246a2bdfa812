"""What the kernels share: addresses, blocks of rows, moved logits, scratch."""

import numpy as np
from numba import carray

from fusedce.kernels.cpu.vector_loops import cap_slopes, capped, loop
from fusedce.kernels.intrinsics import call7, peek, pointer, poke
from fusedce.kernels.vector import BYTES


@loop
def address_of(array):
    """The address of a scratch array."""
    return np.int64(array.ctypes.data)


@loop
def array_at(address, n, dtype):
    """The array of n elements at an address.

    It owns nothing, so slicing it costs nothing: each slice of an array that Numba counts
    references to is two atomic instructions, 1 us a row in all for 80 classes.
    """
    return carray(pointer(address, dtype), (n,))


@loop
def align_line(memory):
    """The first cache line of a piece of scratch, so that no vector lies across two."""
    return (address_of(memory) + (BYTES - 1)) // BYTES * BYTES


@loop
def padded(n):
    """Elements of scratch for n: whole vectors, and one more to overrun.

    An odd number of them, so that pieces of scratch do not lie a multiple of 4096 bytes apart:
    loads and stores that agree in their lowest bits are taken for one another, and where the tiles
    of 10 classes lay 16 KB apart a call took 17 ms or 107.
    """
    return ((n + 15) // 16 + 1 | 1) * 16


@loop
def at(view, outer, inner):
    """The address of row (outer, inner) of a view."""
    return view.address + outer * view.outer + inner * view.inner


@loop
def logits_block(T, args, address, n, u):
    """Where n logits along the class axis are to be read: where they lie, or in u, capped."""
    if args.direct_logits:
        return address
    call7(args.load_logits, address, 0, args.logits.cls, 1, n, u, 0)
    if args.softcap > 0.0 or args.logit_scale != 1.0:
        capped(T, u, n, T(args.logit_scale), T(args.softcap))
    return u


@loop
def slopes_block(T, args, address, n, v):
    """d(capped logit)/d(logit) of n logits, for a plan with softcap."""
    call7(args.load_logits, address, 0, args.logits.cls, 1, n, v, 0)
    cap_slopes(T, v, n, T(args.logit_scale), T(args.softcap))


@loop
def one_number(T, loader, address, scratch):
    """A single element of any dtype."""
    call7(loader, address, 0, 0, 1, 1, scratch, 0)
    return peek(scratch, T)


@loop
def load_labels(args, outer, start, n, labels):
    """The class indices of n rows."""
    source = at(args.targets, outer, start)
    call7(args.load_targets, source, 0, args.targets.inner, 1, n, address_of(labels), 0)


@loop
def rows_of(args, b):
    """(outer, first, last) rows of block b: a block lies within one outer slice."""
    per_slice = (args.inner + args.block - 1) // args.block
    start = (b % per_slice) * args.block
    return b // per_slice, start, min(args.inner, start + args.block)


@loop
def put_losses(args, outer, start, n, losses):
    """Store the losses of n rows, where the caller wants them."""
    if args.loss.address != 0:
        call7(args.store_loss, at(args.loss, outer, start), 0, args.loss.inner, 1, n, losses, 0)


@loop
def put_partial(args, block, losses):
    """The sum of a block's losses, at its own place: the total does not depend on threads."""
    poke(args.partial + 8 * block, losses)
