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
def line_of(memory):
    """The first cache line of a piece of scratch, so that no vector lies across two."""
    return (address_of(memory) + (BYTES - 1)) // BYTES * BYTES


@loop
def roomy(n):
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
def logits_block(T, plan, address, n, u):
    """Where n logits along the class axis are to be read: where they lie, or in u, capped."""
    if plan.direct_logits:
        return address
    call7(plan.load_logits, address, 0, plan.logits.cls, 1, n, u, 0)
    if plan.softcap > 0.0 or plan.logit_scale != 1.0:
        capped(T, u, n, T(plan.logit_scale), T(plan.softcap))
    return u


@loop
def slopes_block(T, plan, address, n, v):
    """d(capped logit)/d(logit) of n logits, for a plan with softcap."""
    call7(plan.load_logits, address, 0, plan.logits.cls, 1, n, v, 0)
    cap_slopes(T, v, n, T(plan.logit_scale), T(plan.softcap))


@loop
def one_number(T, loader, address, scratch):
    """A single element of any dtype."""
    call7(loader, address, 0, 0, 1, 1, scratch, 0)
    return peek(scratch, T)


@loop
def load_labels(plan, outer, start, n, labels):
    """The class indices of n rows."""
    source = at(plan.targets, outer, start)
    call7(plan.load_targets, source, 0, plan.targets.inner, 1, n, address_of(labels), 0)


@loop
def rows_of(plan, b):
    """(outer, first, last) rows of block b: a block lies within one outer slice."""
    per_slice = (plan.inner + plan.block - 1) // plan.block
    start = (b % per_slice) * plan.block
    return b // per_slice, start, min(plan.inner, start + plan.block)


@loop
def put_losses(plan, outer, start, n, losses):
    """Store the losses of n rows, where the caller wants them."""
    if plan.loss.address != 0:
        call7(plan.store_loss, at(plan.loss, outer, start), 0, plan.loss.inner, 1, n, losses, 0)


@loop
def put_partial(plan, block, losses):
    """The sum of a block's losses, at its own place: the total does not depend on threads."""
    poke(plan.partial + 8 * block, losses)
