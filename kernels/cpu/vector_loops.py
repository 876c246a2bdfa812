"""Loops over contiguous numbers from an address, a vector at a time: what the kernels are made of.

``n`` counts numbers, ``T`` is their type. A last vector that is not full is loaded and stored in
part, so that no loop needs room behind its numbers, nor a second form for what is left over.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from fusedce.kernels.compiling import njit
from fusedce.kernels.cpu.load_store import (
    load,
    masked_load,
    masked_store,
    prefetch,
    store,
    stream_store,
)
from fusedce.kernels.inline import IR_ONLY
from fusedce.kernels.intrinsics import peek, poke
from fusedce.kernels.link import softmax_rest
from fusedce.kernels.scalar import FASTMATH, exp_down, tanh, where
from fusedce.kernels.vector import (
    BYTES,
    count_true,
    itemsize,
    lanes,
    max_of_lanes,
    sum_of_lanes,
    to_float64,
    width,
)

# Vectors added up lane by lane before the sums go on in float64: 32 additions in a row have an
# error below 2e-6 for the worst data.
FLUSH = 32


def loop(fn: Callable[..., Any]) -> Any:
    """Compile a function with loops, once for all numbers of a type: a literal is one of them."""
    made = njit(error_model="numpy", fastmath=FASTMATH, **IR_ONLY)(fn)
    resolve = made.get_call_template
    made.get_call_template = lambda args, kws: resolve([types.unliteral(a) for a in args], kws)
    return made


@loop
def fmax(a, b):
    """The larger in each lane; a where b is NaN."""
    return where(b > a, b, a)


@loop
def reduce_max(T, u, n):
    """The largest number, at least the lowest finite one; NaN is left to the sum."""
    N = lanes(T)
    step = width(N) * itemsize(N)
    low = N(-np.finfo(T).max)
    a, b, c, d = low, low, low, low
    whole = n // width(N)
    fours = whole // 4 * 4
    for k in range(0, fours, 4):  # four at a time: one alone waits for the one before
        here = u + k * step
        a = fmax(a, load(N, here))
        b = fmax(b, load(N, here + step))
        c = fmax(c, load(N, here + 2 * step))
        d = fmax(d, load(N, here + 3 * step))
    for k in range(fours, whole):
        a = fmax(a, load(N, u + k * step))
    rest = n - whole * width(N)
    if rest > 0:
        b = fmax(b, masked_load(u + whole * step, rest, low))
    return max_of_lanes(fmax(fmax(a, b), fmax(c, d)))


@loop
def exponential(x, m, below):
    """(exp(x - m), below + that where x < m, lanes where not); a NaN is added to the sum."""
    d = x - m
    e = exp_down(d)
    top = d >= type(d)(0)
    return e, where(top, below, below + e), count_true(top)


@loop
def exponentials(T, u, n, m, w, ahead):
    """w <- exp(u - m); the sum of those below the maximum m, and the count of the others.

    Apart, because 1 + sum loses what a confident row is about: 1 - p of the largest class is the
    sum of the others over the total. Whole vectors are stored: w needs room for one more. What is
    needed next lies ``ahead`` bytes from u; it comes from memory meanwhile.
    """
    N = lanes(T)
    step = width(N) * itemsize(N)
    sums = to_float64(N(0))
    ties = 0
    whole = n // width(N)
    for start in range(0, whole, FLUSH):
        below = N(0)
        for k in range(start, min(whole, start + FLUSH)):
            prefetch(u + ahead + k * step)
            e, below, tied = exponential(load(N, u + k * step), m, below)
            store(w + k * step, e)
            ties += tied
        sums = sums + to_float64(below)
    rest = n - whole * width(N)
    if rest > 0:
        x = masked_load(u + whole * step, rest, N(-np.inf))
        e, below, tied = exponential(x, m, N(0))
        store(w + whole * step, e)
        ties += tied
        sums = sums + to_float64(below)
    return sum_of_lanes(sums), ties


@loop
def filled(T, g, n, x):
    """g <- x in every place."""
    N = lanes(T)
    step = width(N) * itemsize(N)
    whole = n // width(N)
    for j in range(whole):
        store(g + j * step, N(x))
    masked_store(g + whole * step, n - whole * width(N), N(x))


@loop
def put_few(T, source, n, target, k):
    """target <- k source, for less than a vector.

    Not by a masked store: that waits for its line to come from memory, 100 ns.
    """
    for j in range(n):
        here = j * itemsize(T)
        store(target + here, load(T, source + here) * k)


@loop
def put(T, source, n, target, k, past):
    """target <- k source, past the caches if so wished."""
    N = lanes(T)
    step = width(N) * itemsize(N)
    past = past and target % itemsize(N) == 0  # else no element begins a line
    head = min(n, (-target % BYTES) // itemsize(N)) if past else 0
    put_few(T, source, head, target, k)
    here, there = source + head * itemsize(N), target + head * itemsize(N)
    whole = (n - head) // width(N)
    if past:
        for j in range(whole):
            stream_store(there + j * step, load(N, here + j * step) * k)
    else:
        for j in range(whole):
            store(there + j * step, load(N, here + j * step) * k)
    rest = n - head - whole * width(N)
    put_few(T, here + whole * step, rest, there + whole * step, k)


@loop
def put_bytes(source, n, target):
    """target <- source past the caches, for n bytes of 16-bit numbers."""
    N = lanes(np.float32)
    head = min(n, -target % BYTES)
    for j in range(0, head, 2):
        poke(target + j, peek(source + j, np.int16))
    whole = (n - head) // BYTES * BYTES
    for j in range(head, head + whole, BYTES):
        stream_store(target + j, load(N, source + j))
    for j in range(head + whole, n, 2):
        poke(target + j, peek(source + j, np.int16))


@loop
def scaled(T, w, n, k, g):
    """g <- k w."""
    put(T, w, n, g, k, False)


@loop
def capped(T, u, n, scale, softcap):
    """u <- softcap * tanh(scale * u / softcap), or scale * u."""
    N = lanes(T)
    if softcap > T(0):
        for j in range(0, n, width(N)):
            here = u + j * itemsize(N)
            x = softcap * tanh(scale * masked_load(here, n - j, N(0)) / softcap)
            masked_store(here, n - j, x)
    else:
        scaled(T, u, n, scale, u)


@loop
def cap_slopes(T, v, n, scale, softcap):
    """v <- d/dv of the above: scale * sech**2, by 4 e / (1 + e)**2 with e = exp(-2|a|)."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = v + j * itemsize(N)
        a = abs(scale * masked_load(here, n - j, N(0)) / softcap)
        e = exp_down(T(-2) * a)
        masked_store(here, n - j, scale * (T(4) * e / ((T(1) + e) * (T(1) + e))))


@loop
def chained(T, n, g, h, u, v, scale, softcap):
    """Through the softcap: g <- g v, h <- h v**2 + g dv/dz; u capped logits, v their slopes.

    What is 0 stays 0, also where a logit is NaN: it is ignored then.
    """
    N = lanes(T)
    for j in range(0, n, width(N)):
        at, left = j * itemsize(N), n - j
        x, slope = masked_load(u + at, left, N(0)), masked_load(v + at, left, N(0))
        first = masked_load(g + at, left, N(0))
        if h != 0:
            bend = T(-2) * (x / softcap) / softcap * scale * slope
            second = masked_load(h + at, left, N(0))
            bent = where(second == N(0), N(0), second * slope * slope)
            bent = bent + where(first == N(0), N(0), first * bend)
            masked_store(h + at, left, bent)
        masked_store(g + at, left, where(first == N(0), N(0), first * slope))


@loop
def curved(T, w, n, others, square, product, h):
    """h <- square p**2 + product p (1 - p)."""
    N = lanes(T)
    total = T(1) + others
    inverse = T(1) / total
    for j in range(0, n, width(N)):
        e = masked_load(w + j * itemsize(N), n - j, N(0))
        p = e * inverse
        q = softmax_rest(e, others, total) * inverse
        masked_store(h + j * itemsize(N), n - j, square * p * p + product * p * q)


@loop
def copied(T, source, n, target):
    """target <- source."""
    put(T, source, n, target, T(1), False)


@loop
def set_one(T, address, index, x):
    """address[index] <- x."""
    poke(address + index * itemsize(T), T(x))
