"""What the loops share: contiguous blocks of logits, their maximum, their exponentials.

Every inner loop runs over contiguous arrays of the compute dtype. An array that is not (float16,
strides, softcap) is moved into scratch first, a block at a time; scratch stays in the cache.
"""

import numpy as np
from numba import carray, njit

from fusedce.kernels.cpu.machine import call7, from_order_key, larger, order_key, pointer, poke
from fusedce.kernels.scalar import BARE, FASTMATH, FASTMATH_SUM, choose, exp_down, scalar, tanh

# Elements added up in the compute dtype before the sum goes on in float64: with 64 partial sums in
# the lanes that is 16 additions in a row, an error below 2e-6 for the worst data.
CHUNK = 1024
# What LLVM takes at a time on the widest machine: 4 vectors of 16 float32.
LANES = 64

loop = njit(error_model="numpy", fastmath=FASTMATH, **BARE)
summing = njit(error_model="numpy", fastmath=FASTMATH_SUM, **BARE)


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
def copied(source, target):
    """target <- source; a slice assignment compiles to ten times the code, for its error text."""
    for j in range(target.size):
        target[j] = source[j]


@loop
def cap(u, scale, softcap):
    """u <- softcap * tanh(scale * u / softcap), or scale * u."""
    T = u.dtype.type
    if softcap > T(0):
        for j in range(u.size):
            u[j] = softcap * tanh(scale * u[j] / softcap)
    else:
        for j in range(u.size):
            u[j] = scale * u[j]


@loop
def cap_slope(v, scale, softcap):
    """v <- d/dv of the above: scale * sech**2, by 4 e / (1 + e)**2 with e = exp(-2|a|)."""
    T = v.dtype.type
    for j in range(v.size):
        e = exp_down(T(-2) * abs(scale * v[j] / softcap))
        v[j] = scale * (T(4) * e / ((T(1) + e) * (T(1) + e)))


@loop
def peak(u):
    """The largest element, at least the lowest finite number; NaN is left to the sum."""
    T = u.dtype.type
    top = order_key(T(-np.finfo(T).max))
    for j in range(u.size):
        top = larger(top, order_key(u[j]))
    return from_order_key(top)


@scalar
def _apart(d, e):
    """(e, 0) below the maximum, (0, 1) at it."""
    below = choose(d >= type(e)(0), type(e)(0), e)
    return below, e - below


@summing
def _exponentials(u, m, w):
    T = u.dtype.type
    below = T(0)
    ties = T(0)
    for j in range(u.size):
        d = u[j] - m
        e = exp_down(d)
        w[j] = e
        b, t = _apart(d, e)
        below += b
        ties += t
    return below, ties


@loop
def pad_tail(u, pad):
    """The elements behind the last whole LANES of u, and -inf up to LANES of them.

    A vector loop takes LANES elements a step and what is left one by one: for 1000 classes the
    last 40 cost as much as the 960 before.
    """
    T = u.dtype.type
    start = u.size - u.size % LANES
    for j in range(LANES):
        pad[j] = T(-np.inf)
    for j in range(start, u.size):
        pad[j - start] = u[j]
    return start


@loop
def summit(u, pad):
    """The maximum of u by ``peak``; leaves the tail of u in ``pad``."""
    start = pad_tail(u, pad)
    return max(peak(u[:start]), peak(pad))


@loop
def exponentials(u, m, w, pad):
    """w <- exp(u - m); the sum of those below the maximum m, and the count of the others.

    Apart, because 1 + sum loses what a confident row is about: 1 - p of the largest class is the
    sum of the others over the total. A NaN is not a tie, so it reaches the sum. ``pad`` holds the
    tail of u; w has room for LANES elements more than u.
    """
    body = u.size - u.size % LANES
    below, ties = _exponentials(pad, m, w[body : body + LANES])
    below, ties = np.float64(below), np.float64(ties)
    for start in range(0, body, CHUNK):
        stop = min(body, start + CHUNK)
        b, t = _exponentials(u[start:stop], m, w[start:stop])
        below += np.float64(b)
        ties += np.float64(t)
    return below, ties


@summing
def _total(a):
    T = a.dtype.type
    total = T(0)
    for j in range(a.size):
        total += a[j]
    return total


@loop
def total(a):
    """The sum of an array in float64."""
    result = 0.0
    for start in range(0, a.size, CHUNK):
        result += np.float64(_total(a[start : min(a.size, start + CHUNK)]))
    return result


@loop
def height(a):
    """The largest magnitude; NaN is left to the sum."""
    T = a.dtype.type
    top = order_key(T(0))
    for j in range(a.size):
        top = larger(top, order_key(abs(a[j])))
    return from_order_key(top)


@scalar
def split_at(x, top):
    """(x, 0) below a magnitude, (0, x) at it; see ``_apart``."""
    below = choose(abs(x) >= top, type(x)(0), x)
    return below, x - below


@summing
def _split_sums(a, top):
    T = a.dtype.type
    below = T(0)
    tied = T(0)
    for j in range(a.size):
        b, t = split_at(a[j], top)
        below += b
        tied += t
    return below, tied


@loop
def split_sums(a, top):
    """Sums of the elements below a magnitude and of those at it, in float64."""
    below, tied = 0.0, 0.0
    for start in range(0, a.size, CHUNK):
        b, t = _split_sums(a[start : min(a.size, start + CHUNK)], top)
        below += np.float64(b)
        tied += np.float64(t)
    return below, tied


@scalar
def rest_of(x, top, below, tied):
    """The sum of all other elements: what stands at the top leaves by itself, exactly."""
    return choose(abs(x) >= top, below + (tied - x), (below + tied) - x)


@loop
def logits_block(plan, address, n, scratch):
    """n logits along the class axis from an address: where they lie, or moved and capped."""
    T = scratch.dtype.type
    if plan.direct_logits:
        return array_at(address, n, scratch.dtype)
    block = scratch[:n]
    call7(plan.load_logits, address, 0, plan.logits.cls, 1, n, address_of(scratch), 0)
    if plan.softcap > 0.0 or plan.logit_scale != 1.0:
        cap(block, T(plan.logit_scale), T(plan.softcap))
    return block


@loop
def slopes_block(plan, address, n, scratch):
    """d(capped logit)/d(logit) of n logits, for a plan with softcap."""
    T = scratch.dtype.type
    call7(plan.load_logits, address, 0, plan.logits.cls, 1, n, address_of(scratch), 0)
    cap_slope(scratch[:n], T(plan.logit_scale), T(plan.softcap))


@loop
def one_number(loader, address, scratch):
    """A single element of any dtype."""
    call7(loader, address, 0, 0, 1, 1, address_of(scratch), 0)
    return scratch[0]


@loop
def at(view, outer, inner):
    """The address of row (outer, inner) of a view."""
    return view.address + outer * view.outer + inner * view.inner


ROWS_OF_SCRATCH = 8
LINE = 64  # bytes of a cache line


@loop
def line_of(memory):
    """The first cache line of a piece of scratch, at most LINE bytes in.

    So that no vector of scratch lies across two lines.
    """
    return (address_of(memory) + (LINE - 1)) // LINE * LINE


@loop
def row_size(width):
    """``width`` and the lanes of a tail, in whole lines."""
    return (width + 2 * LANES - 1) // LANES * LANES


@loop
def scratch_size(width):
    """Elements of scratch for rows of ``width`` classes."""
    return ROWS_OF_SCRATCH * row_size(width) + 2 * LANES


@loop
def scratch(memory, width):
    """A tail of LANES and eight rows in one piece of memory; uncounted, see ``array_at``."""
    size, dtype = row_size(width), memory.dtype
    step = size * memory.itemsize
    tail = line_of(memory)
    here = tail + LANES * memory.itemsize
    return (
        array_at(tail, LANES, dtype),
        array_at(here, size, dtype),
        array_at(here + step, size, dtype),
        array_at(here + 2 * step, size, dtype),
        array_at(here + 3 * step, size, dtype),
        array_at(here + 4 * step, size, dtype),
        array_at(here + 5 * step, size, dtype),
        array_at(here + 6 * step, size, dtype),
        array_at(here + 7 * step, size, dtype),
    )


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
def put_loss(plan, outer, inner, loss, scratch):
    """Store the loss of a row, where the caller wants it."""
    if plan.loss.address != 0:
        scratch[0] = loss
        call7(plan.store_loss, at(plan.loss, outer, inner), 0, 0, 1, 1, address_of(scratch), 0)


@loop
def put_partial(plan, block, losses):
    """The sum of a block's losses, at its own place: the total does not depend on threads."""
    poke(plan.partial + 8 * block, losses)
