"""Loops over n contiguous numbers of type T at an address, one vector at a time.

The kernels are made of these loops. A last vector that is not full is loaded and stored with a
mask, so that arrays need no padding and no loop needs a scalar remainder.
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
from fusedce.kernels.scalar import FASTMATH, exp_down, fmax, tanh, where
from fusedce.kernels.vector import (
    BYTES,
    count_true,
    lane_bytes,
    lanes,
    max_of_lanes,
    sum_of_lanes,
    to_float64,
    width,
)

# Vectors that are summed lane by lane before the sum goes on in float64: 32 additions in float32 in
# a row have a relative error below 2e-6 for the worst data.
FLUSH = 32


def loop(fn: Callable[..., Any]) -> Any:
    """Compile a helper function of the kernels; literal arguments are passed as their types.

    Each function is compiled once for each set of types, whatever literals it is called with.
    """
    made = njit(error_model="numpy", fastmath=FASTMATH, **IR_ONLY)(fn)
    resolve = made.get_call_template
    made.get_call_template = lambda args, kws: resolve([types.unliteral(a) for a in args], kws)
    return made


@loop
def array_max(T, logits, n):
    """The largest of n logits, at least the lowest finite number; NaN does not enter it.

    logits: address of (n,) T.
    """
    N = lanes(T)
    step = width(N) * lane_bytes(N)
    low = N(-np.finfo(T).max)
    a, b, c, d = low, low, low, low
    whole = n // width(N)
    fours = whole // 4 * 4
    for k in range(0, fours, 4):  # four independent maxima: one alone is bound by latency
        here = logits + k * step
        a = fmax(a, load(N, here))
        b = fmax(b, load(N, here + step))
        c = fmax(c, load(N, here + 2 * step))
        d = fmax(d, load(N, here + 3 * step))
    for k in range(fours, whole):
        a = fmax(a, load(N, logits + k * step))
    rest = n - whole * width(N)
    if rest > 0:
        b = fmax(b, masked_load(logits + whole * step, rest, low))
    return max_of_lanes(fmax(fmax(a, b), fmax(c, d)))


@loop
def exp_lanes(x, row_max, sum_below_max):
    """(exp(x - row_max), sum_below_max plus it where x < row_max, the number of other lanes).

    A NaN is added to the sum.
    """
    d = x - row_max
    e = exp_down(d)
    at_max = d >= type(d)(0)
    return e, where(at_max, sum_below_max, sum_below_max + e), count_true(at_max)


@loop
def exp_and_sum(T, logits, n, row_max, exps, ahead):
    """exps <- exp(logits - row_max); returns (sum_below_max, n_at_max).

    logits: address of (n,) T; exps: address of (n,) T with space for one more vector, since whole
    vectors are stored. ``sum_below_max`` is the float64 sum of the exponentials of logits below the
    maximum, ``n_at_max`` the number of the others, each of which has the exponential 1. They are
    kept apart because 1 + sum would round away what a confident row is about: 1 - p of the largest
    class is the sum of the other exponentials over the total. The data ``ahead`` bytes behind the
    logits are prefetched.
    """
    N = lanes(T)
    step = width(N) * lane_bytes(N)
    total = to_float64(N(0))
    n_at_max = 0
    whole = n // width(N)
    for start in range(0, whole, FLUSH):
        sum_below_max = N(0)
        for k in range(start, min(whole, start + FLUSH)):
            prefetch(logits + ahead + k * step)
            e, sum_below_max, count = exp_lanes(load(N, logits + k * step), row_max, sum_below_max)
            store(exps + k * step, e)
            n_at_max += count
        total = total + to_float64(sum_below_max)
    rest = n - whole * width(N)
    if rest > 0:
        x = masked_load(logits + whole * step, rest, N(-np.inf))
        e, sum_below_max, count = exp_lanes(x, row_max, N(0))
        store(exps + whole * step, e)
        n_at_max += count
        total = total + to_float64(sum_below_max)
    return sum_of_lanes(total), n_at_max


@loop
def fill(T, target, n, x):
    """target[:n] <- x; target: address of (n,) T."""
    N = lanes(T)
    step = width(N) * lane_bytes(N)
    whole = n // width(N)
    for j in range(whole):
        store(target + j * step, N(x))
    masked_store(target + whole * step, n - whole * width(N), N(x))


@loop
def store_few_scaled(T, source, n, target, factor):
    """target <- factor * source, one element at a time: for less than a vector.

    A masked store would first read its cache line from memory, which takes 100 ns.
    """
    for j in range(n):
        here = j * lane_bytes(T)
        store(target + here, load(T, source + here) * factor)


@loop
def store_scaled(T, source, n, target, factor, streaming):
    """target <- factor * source, with non-temporal stores if ``streaming``.

    source, target: addresses of (n,) T.
    """
    N = lanes(T)
    step = width(N) * lane_bytes(N)
    streaming = streaming and target % lane_bytes(N) == 0  # else no element begins a cache line
    head = min(n, (-target % BYTES) // lane_bytes(N)) if streaming else 0
    store_few_scaled(T, source, head, target, factor)
    here, there = source + head * lane_bytes(N), target + head * lane_bytes(N)
    whole = (n - head) // width(N)
    if streaming:
        for j in range(whole):
            stream_store(there + j * step, load(N, here + j * step) * factor)
    else:
        for j in range(whole):
            store(there + j * step, load(N, here + j * step) * factor)
    rest = n - head - whole * width(N)
    store_few_scaled(T, here + whole * step, rest, there + whole * step, factor)


@loop
def stream_bytes(source, n, target):
    """target <- source with non-temporal stores, for n bytes of 16-bit numbers."""
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
def multiply(T, source, n, factor, target):
    """target <- factor * source; source, target: addresses of (n,) T."""
    store_scaled(T, source, n, target, factor, False)


@loop
def transform_logits(T, logits, n, scale, softcap):
    """logits <- softcap * tanh(scale * logits / softcap), or scale * logits if softcap is 0."""
    N = lanes(T)
    if softcap > T(0):
        for j in range(0, n, width(N)):
            here = logits + j * lane_bytes(N)
            x = softcap * tanh(scale * masked_load(here, n - j, N(0)) / softcap)
            masked_store(here, n - j, x)
    else:
        multiply(T, logits, n, scale, logits)


@loop
def transform_slopes(T, slopes, n, scale, softcap):
    """slopes <- the derivative of ``transform_logits`` at n logits, which are in ``slopes``.

    It is scale * sech(a)**2 = scale * 4 e / (1 + e)**2 with e = exp(-2 |a|), a = scale z / softcap.
    """
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = slopes + j * lane_bytes(N)
        a = abs(scale * masked_load(here, n - j, N(0)) / softcap)
        e = exp_down(T(-2) * a)
        masked_store(here, n - j, scale * (T(4) * e / ((T(1) + e) * (T(1) + e))))


@loop
def chain_transform(T, n, grad, hess, logits, slopes, scale, softcap):
    """The chain rule through the softcap: hess <- hess s**2 + grad ds/dz, grad <- grad s.

    grad, hess, logits (transformed), slopes s: addresses of (n,) T; hess 0: none. A derivative of 0
    stays 0, also where a logit is NaN: such a logit is ignored.
    """
    N = lanes(T)
    for j in range(0, n, width(N)):
        at, left = j * lane_bytes(N), n - j
        x, slope = masked_load(logits + at, left, N(0)), masked_load(slopes + at, left, N(0))
        first = masked_load(grad + at, left, N(0))
        if hess != 0:
            bend = T(-2) * (x / softcap) / softcap * scale * slope
            second = masked_load(hess + at, left, N(0))
            bent = where(second == N(0), N(0), second * slope * slope)
            bent = bent + where(first == N(0), N(0), first * bend)
            masked_store(hess + at, left, bent)
        masked_store(grad + at, left, where(first == N(0), N(0), first * slope))


@loop
def softmax_hessian(T, exps, n, sum_exp_minus_1, square, product, hess):
    """hess <- square p**2 + product p (1 - p); exps, hess: addresses of (n,) T."""
    N = lanes(T)
    total = T(1) + sum_exp_minus_1
    inverse = T(1) / total
    for j in range(0, n, width(N)):
        e = masked_load(exps + j * lane_bytes(N), n - j, N(0))
        p = e * inverse
        q = softmax_rest(e, sum_exp_minus_1, total) * inverse
        masked_store(hess + j * lane_bytes(N), n - j, square * p * p + product * p * q)


@loop
def copy(T, source, n, target):
    """target <- source; addresses of (n,) T."""
    store_scaled(T, source, n, target, T(1), False)


@loop
def get_at(T, address, index):
    """address[index]."""
    return peek(address + index * lane_bytes(T), T)


@loop
def set_at(T, address, index, x):
    """address[index] <- x."""
    poke(address + index * lane_bytes(T), T(x))
