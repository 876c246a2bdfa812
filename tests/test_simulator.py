"""The simulator itself: each kind of mistake, in a kernel made for it, is caught and named."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from fusedce.kernels.cuda.device import (
    barrier,
    block,
    cluster_arrive,
    cluster_barrier,
    cluster_rank,
    cluster_wait,
    get,
    get_remote,
    put,
    shuffle_xor,
    thread,
    threads,
    warp_barrier,
)
from fusedce.kernels.cuda.forms import LANES, Bfloat16, Float16, Float32, Float64, Int8, Uint64
from fusedce.kernels.cuda.memory import decoded, encoded, read_logits, write_words
from fusedce.kernels.cuda.plan import ARRAYS, SLOT, Kernel, Launch, Plan, bits
from fusedce.kernels.cuda.stored import float_of, integer_at, number_at, peek, poke, put_number
from fusedce.kernels.scalar import choose, exp, exp_down, fma, log, scalar
from fusedce.kernels.vector import count, largest, total, vector_of
from tests import simulator as sim
from tests.simulator_memory import Fault
from tests.simulator_numbers import Int32, Int64, lanes
from tests.simulator_primitives import PRIMITIVES, SHARED_TWINS, intrinsics

F16, F32, B16 = Float16(), Float32(), Bfloat16()
orders = pytest.mark.parametrize("order", sim.ORDERS)


def run(kernel, logits=None, grad=None, *, blocks=1, threads=32, shared=0, cluster=1,
        order="forward", seed=0, complete=True, written=False, **fields):  # fmt: skip
    """A kernel of one plan, on an array that it reads and one that it writes."""
    arrays = {"logits": logits, "grad": grad}
    bound = [name for name, a in arrays.items() if a is not None]
    places = tuple((SLOT[name], ARRAYS.index(name)) for name in bound)
    made = Launch(Kernel(lambda: kernel, ()), blocks, threads, Plan(**fields), places, shared,
                  cluster)  # fmt: skip
    where = [0 if arrays.get(name) is None else arrays[name].ctypes.data for name in ARRAYS]
    inputs = {"logits": logits} | ({"grad": grad} if written else {})
    with sim.memory(inputs, {"grad": grad}, complete=complete) as memory:
        sim.run([made], where, order=order, seed=seed)
    return memory


def fails(match, kernel, *args, **options):
    with pytest.raises(Fault, match=match):
        run(kernel, *args, **options)


def singles(n=64):
    return np.arange(n, dtype=np.float32)


def test_every_intrinsic_has_a_twin():
    numbers = {f for f in intrinsics().values() if f in SHARED_TWINS}
    assert not numbers
    names = set(intrinsics())
    assert names - {"power_of_two"} == set(PRIMITIVES)


# ------------------------------------------------------------------------------ threads that wait


@scalar
def _copied(plan, k):
    poke(plan.grad + 4 * k, peek(plan.logits + 4 * k, np.float32))


@orders
def test_all_is_well(order):
    def kernel(plan):
        _copied(plan, block() * threads() + thread())

    grad = np.empty(64, np.float32)
    memory = run(kernel, singles(), grad, blocks=2, order=order)
    np.testing.assert_array_equal(grad, singles())
    assert memory.touched("logits") == (256, 0)
    assert memory.touched("grad") == (0, 256)
    assert memory.writes == {("grad", 4): 64}


@orders
def test_through_shared_memory(order):
    def kernel(plan):
        put(thread() * 4, peek(plan.logits + 4 * thread(), np.float32))
        barrier()
        poke(plan.grad + 4 * thread(), get((threads() - 1 - thread()) * 4, np.float32))

    grad = np.empty(64, np.float32)
    memory = run(kernel, singles(), grad, threads=64, shared=256, order=order)
    np.testing.assert_array_equal(grad, singles()[::-1])
    assert memory.touched("shared") == (256, 256)


@orders
def test_missing_barrier(order):
    def kernel(plan):
        put(thread() * 4, np.float32(1))
        get((thread() ^ 1) * 4, np.float32)

    fails("race between threads 0 and 1|never been written", kernel, shared=128, order=order)


def test_missing_barrier_where_the_order_hides_it():
    def kernel(plan):
        if thread() == 0:
            put(np.int32(0), np.float32(1))
        if thread() == 1:
            get(np.int32(0), np.float32)

    fails("byte 0 of shared memory of block 0: a race between threads 0 and 1", kernel, shared=4)


def test_a_shuffle_is_no_barrier():
    def kernel(plan):
        if thread() == 0:
            put(np.int32(0), np.float32(1))
        shuffle_xor(np.float32(1), np.int32(1))
        get(np.int32(0), np.float32)

    fails("a race", kernel, shared=4)


def test_read_then_written():
    """Threads that are late find what others have put there since."""

    def kernel(plan):
        put(thread() * 4, np.float32(1))
        barrier()
        x = get((thread() ^ 1) * 4, np.float32)
        put(thread() * 4, x)

    fails("a race", kernel, shared=128)


def test_divergent_barrier():
    def kernel(plan):
        if thread() < 30:
            barrier()

    fails(r"0-29 at a barrier, test_simulator.py:\d+ .*30-31 has ended", kernel)


def test_two_barriers_are_not_one():
    def kernel(plan):
        if thread() < 30:
            barrier()
        else:
            barrier()

    fails("different places.* 0-29 at a barrier.* 30-31 at a barrier", kernel)


def test_idle_lane_in_a_shuffle():
    def kernel(plan):
        if thread() != 7:
            shuffle_xor(np.float32(1), np.int32(1))

    fails(r"0-6, 8-31 at a shuffle.* 7 has ended", kernel)


def test_a_shuffle_of_less_than_a_warp():
    def kernel(plan):
        shuffle_xor(np.float32(1), np.int32(1))

    fails("0-15 at a shuffle", kernel, threads=16)


def test_a_shuffle_by_different_distances():
    def kernel(plan):
        shuffle_xor(np.float32(1), thread() & 1)

    fails("different things", kernel)


@orders
def test_butterfly(order):
    def kernel(plan):
        x = peek(plan.logits + 4 * thread(), np.float32)
        step = np.int32(1)
        while step < 32:
            x = x + shuffle_xor(x, step)
            step = np.int32(step * 2)
        poke(plan.grad + 4 * thread(), x)

    grad = np.empty(64, np.float32)
    run(kernel, singles(), grad, threads=64, order=order)
    np.testing.assert_array_equal(grad, [496.0] * 32 + [1520.0] * 32)


# ------------------------------------------------------------------------------ clusters


@scalar
def _neighbour(plan):
    put(np.int32(0), np.float32(block())) if thread() == 0 else None
    cluster_barrier()
    rank = (cluster_rank() + 1) % 2
    x = get_remote(np.int32(0), rank, np.float32)
    if thread() == 0:
        poke(plan.grad + 4 * block(), x)


@orders
def test_cluster(order):
    def kernel(plan):
        _neighbour(plan)
        cluster_barrier()

    grad = np.empty(4, np.float32)
    run(kernel, None, grad, blocks=4, shared=4, cluster=2, order=order)
    np.testing.assert_array_equal(grad, [1, 0, 3, 2])


def test_cluster_block_that_ends_too_early():
    grad = np.empty(4, np.float32)
    fails(
        "may have ended", lambda plan: _neighbour(plan), None, grad, blocks=4, shared=4, cluster=2
    )


def test_cluster_in_two_halves():
    """Whoever has arrived reads no other block; whoever waits has arrived."""

    def kernel(plan):
        _neighbour(plan)
        if plan.classes != 1:
            cluster_arrive()
        if plan.classes == 2:
            get_remote(np.int32(0), np.int32(0), np.float32)
        if plan.classes != 3:
            cluster_wait()

    grad, options = np.empty(4, np.float32), {"blocks": 4, "shared": 4, "cluster": 2}
    run(kernel, None, grad, **options)
    fails("has not arrived", kernel, None, grad, classes=1, **options)
    fails("has arrived already", kernel, None, grad, classes=2, **options)
    fails("may have ended", kernel, None, grad, classes=3, **options)


def test_cluster_without_its_barrier():
    def kernel(plan):
        if cluster_rank() == 0:
            put(np.int32(0), np.float32(1))
        barrier()
        if cluster_rank() == 1:
            get_remote(np.int32(0), np.int32(0), np.float32)
        cluster_barrier()

    fails("a race between (blocks 0 and 1|threads)", kernel, blocks=2, shared=4, cluster=2,
          threads=1)  # fmt: skip


def test_cluster_has_no_such_block():
    kernel = lambda plan: get_remote(np.int32(0), np.int32(2), np.float32)  # noqa: E731
    fails("block 2 of a cluster of 2", kernel,
          blocks=2, shared=4, cluster=2)  # fmt: skip


def test_blocks_do_not_meet():
    def kernel(plan):
        _copied(plan, thread())

    fails("a race between blocks 0 and 1 of a launch", kernel, singles(), np.empty(32, np.float32),
          blocks=2)  # fmt: skip


# ------------------------------------------------------------------------------ memory


def test_stray_read():
    def kernel(plan):
        _copied(plan, thread())

    fails("in no array|outside", kernel, singles(31), np.empty(32, np.float32))


def test_gaps_belong_to_nobody():
    def kernel(plan):
        _copied(plan, thread())

    logits = np.repeat(singles(32), 2)[::2]
    fails("byte 4 of logits is read", kernel, logits, np.empty(32, np.float32))
    grad = np.empty(64, np.float32)[::2]
    fails("byte 4 of grad is written", kernel, singles(), grad)


def test_chunks():
    def kernel(plan):
        N = vector_of(np.float32, LANES[4]())
        words = read_logits(
            N, F32, plan.logits + 16 * np.int64(thread()), np.int32(512), np.int32(1)
        )
        write_words(plan.grad + 16 * thread(), np.int32(512), np.int32(1), words)

    room, grad = np.zeros(140, np.float32), np.empty(140, np.float32)
    start, to = (-a.ctypes.data % 16 // 4 for a in (room, grad))
    room[start : start + 128] = singles(128)
    memory = run(kernel, room[start:], grad[to : to + 128])
    np.testing.assert_array_equal(grad[to : to + 128], singles(128))
    assert memory.reads == {("logits", 16): 32}
    fails("16 bytes at byte 0 of logits are not aligned", kernel, room[start + 1 :][:128],
          grad[to : to + 128])  # fmt: skip
    fails("outside", kernel, room[start:][:126], grad[to : to + 128])


def test_chunks_that_are_not_there():
    def kernel(plan):
        N = vector_of(np.float32, LANES[16]())
        words = read_logits(N, F16, plan.logits, np.int32(16), np.int32(1))
        x = decoded(N, F16, words)
        poke(plan.grad, total(choose(x > np.float32(-1e30), x, N(0))))
        poke(plan.grad + 4, largest(x))

    logits, grad = np.ones(8 + 8, np.float16), np.empty(2, np.float32)
    start = -logits.ctypes.data % 16 // 2
    run(kernel, logits[start : start + 8], grad, threads=1)
    np.testing.assert_array_equal(grad, [8, 1])


def test_unwritten_memory():
    fails("byte 0 of shared memory of block 0 is read and has never been written",
          lambda plan: get(np.int32(0), np.float32), shared=4, threads=1)  # fmt: skip
    fails("outside", lambda plan: put(np.int32(4), np.float32(1)), shared=4, threads=1)
    fails("outside", lambda plan: put(np.int32(-4), np.float32(1)), shared=4, threads=1)
    grad = np.empty(1, np.float32)
    fails("byte 0 of grad is read", lambda plan: peek(plan.grad, np.float32), None, grad, threads=1)
    fails("byte 0 of grad has never been written", lambda plan: None, None, grad)
    run(lambda plan: None, None, grad, complete=False)


def test_inputs_are_not_written():
    kernel = lambda plan: poke(plan.logits, np.float32(1))  # noqa: E731
    fails("byte 0 of logits is written", kernel, singles())


def test_in_place():
    def kernel(plan):
        k = thread() if plan.classes == 0 else thread() ^ 1
        poke(plan.grad + 4 * thread(), peek(plan.logits + 4 * k, np.float32) + np.float32(1))

    both = singles(32)
    run(kernel, both, both)
    np.testing.assert_array_equal(both, singles(32) + 1)
    fails("byte 0 of logits/grad: a race between threads 0 and 1", kernel, both, both, classes=1)


def test_overlapping_arrays_are_one():
    room = np.zeros(40, np.float32)

    def kernel(plan):
        _copied(plan, thread())

    fails("logits/grad: a race", kernel, room[:32], room[4:36])


def test_a_kernel_that_fails_says_where():
    def kernel(plan):
        if thread() == 5:
            poke(plan.logits + 1000, np.float32(0))

    with pytest.raises(Fault) as caught:
        run(kernel, singles())
    assert "thread 5 of block 0" in caught.value.__notes__[0]


# ------------------------------------------------------------------------------ stored numbers


@pytest.mark.parametrize("bad", [True, np.int32(1), lanes(np.float32, 4)(1)])
def test_what_is_not_stored(bad):
    with pytest.raises(TypeError):
        run(lambda plan: put(np.int32(0), bad), shared=16, threads=1)


def test_forms():
    def kernel(plan):
        x = number_at(np.float32, F32, plan.logits)
        put_number(B16, plan.grad, x)
        put_number(F16, plan.grad + 2, x)
        poke(plan.grad + 4, float_of(np.float32, plan.p0))
        poke(plan.grad + 8, number_at(np.float32, Float64(), plan.logits + 8))
        poke(plan.grad + 12, np.int32(integer_at(Int8(), plan.logits + 16)))

    logits = np.zeros(5, np.float32)
    logits[0] = 1.00390625 + 2**-20  # just above the middle of two bfloat16
    logits[2:4] = np.array([1e-39]).view(np.float32)  # subnormal in float32: 0
    logits[4:] = np.array([-3, 0, 0, 0], np.int8).view(np.float32)
    room = np.empty(6, np.float64)
    grad = room.view(np.float32)[:4]
    aligned = np.empty(10, np.float64).view(np.float32)[:5]
    aligned[:] = logits
    run(kernel, aligned, grad, threads=1, p0=bits(2.5, np.float32))
    assert grad.view(np.uint16)[0] == 0x3F81
    assert grad.view(np.float16)[1] == np.float16(logits[0])
    np.testing.assert_array_equal(grad[1:3], [2.5, 0])
    assert grad.view(np.int32)[3] == -3


def test_largest_label():
    def kernel(plan):
        poke(plan.grad, integer_at(Uint64(), plan.logits))

    grad = np.empty(1, np.int64)
    run(kernel, np.array([2**64 - 1], np.uint64), grad, threads=1)
    assert grad[0] == 2**63 - 1


# ------------------------------------------------------------------------------ numbers


def lanewise(body, *values):
    """What a kernel makes of lanes of float32."""
    found = []

    def kernel(plan):
        N = vector_of(np.float32, LANES[4]())
        found.append(body(N, *(N.of(np.array(v, np.float32)) for v in values)))

    run(kernel, threads=1)
    return found[0]


X, Y = [1.0, np.nan, -2.0, 0.0], [np.nan, 1.0, 3.0, 0.0]


def test_lanes():
    def body(N, x, y):
        T = np.float32
        assert type(x)(1).v.tolist() == [1, 1, 1, 1]
        assert type(x * T(2) + 1 - x / y) is N
        assert type(T(2) * x) is N
        assert type(2 / x) is N
        assert (1 - x).v.tolist()[2:] == [3, 1]
        assert count(x < y) == 1
        assert count(T(0) > x) == 1
        assert count(~(x == x)) == 1
        assert count((x != x) | (y != y)) == 2
        assert count((x == y) & True) == 1
        return abs(-x)

    np.testing.assert_array_equal(lanewise(body, X, Y).v, np.abs(np.float32(X)))


def test_first_unless_the_second_is_beyond():
    """Lanes: as Python's min and max; single numbers: as libdevice's fmin and fmax."""
    assert lanewise(lambda N, x, y: max(x, y), X, Y).v[[0, 2, 3]].tolist() == [1, 3, 0]
    assert np.isnan(lanewise(lambda N, x, y: max(x, y), X, Y).v[1])
    assert np.isnan(lanewise(lambda N, x, y: min(x, y), X, Y).v[1])
    assert lanewise(lambda N, x: max(x, np.float32(0)), X).v[2] == 0
    assert lanewise(lambda N, x: max(np.float32(np.nan), np.float32(1)), X) == 1
    assert lanewise(lambda N, x: min(3, 2, 1), X) == 1


@pytest.mark.parametrize(
    "body",
    [
        lambda N, x: 1 if x > 0 else 0,
        lambda N, x: bool(x),
        lambda N, x: (x > 0) and (x < 1),
        lambda N, x: not x > 0,
        lambda N, x: x + np.float64(1),
        lambda N, x: (x > 0) & 1,
        lambda N, x: choose(1, x, x),
        lambda N, x: choose(True, np.float32(1), np.float64(1)),
        lambda N, x: shuffle_xor(x, 1),
        lambda N, x: shuffle_xor(True, 1),
    ],
)
def test_what_does_not_compile(body):
    with pytest.raises(TypeError):
        lanewise(body, X)


def test_choice():
    def body(N, x):
        T = np.float32
        assert choose(True, x, T(1)) is x
        assert choose(x > T(-5), T(1), T(0)).v.tolist() == [1, 0, 1, 1]
        assert choose(False, T(1), T(0)) == 0
        return choose(x < T(0), N(7), x)

    np.testing.assert_array_equal(lanewise(body, X).v, np.float32([1, np.nan, 7, 0]))


def test_whole_numbers():
    with pytest.raises(OverflowError):
        Int32(2**31)
    with pytest.raises(OverflowError):
        Int64(-(2**63) - 1)
    assert type(Int32(2**31 - 1) + Int32(1)) is int

    def kernel(plan):
        np.int32(plan.classes * 2)

    with pytest.raises(OverflowError):
        run(kernel, classes=2**30)


def test_fma_has_one_rounding():
    """Of float64 products, 64 digits are kept."""
    for T, tiny in ((np.float32, 2.0**-40), (np.float64, 2.0**-60)):
        a = T(1) + T(np.sqrt(tiny))
        found = []
        run(lambda plan, a=a, found=found: found.append(fma(a, a, -(a * a))), threads=1)
        assert found[0] == T(tiny)
        assert type(found[0]) is T


@pytest.mark.parametrize("function", [exp, exp_down, log])
def test_units(function):
    """Exact, or off by what the device may be off; the same each time for a seed."""
    x = np.linspace(-80, 0, 4).astype(np.float32)
    x = -x + np.float32(0.5) if function is log else x

    def values(seed):
        with sim.units(seed):
            return lanewise(lambda N, x: function(x), x).v

    exact = values(None)
    np.testing.assert_array_equal(exact, getattr(np, function.__name__.split("_")[0])(x))
    for seed in range(5):
        np.testing.assert_allclose(values(seed), exact, rtol=1e-6)
    np.testing.assert_array_equal(values(1), values(1))
    if function is not log:
        assert np.any(values(1) != values(2))


def test_division_of_units():
    with sim.units(0):
        off = lanewise(lambda N, x: x / N(3), [1.0, 2, 4, 5]).v * 3
        assert np.any(off != [1, 2, 4, 5])
        np.testing.assert_allclose(off, [1, 2, 4, 5], rtol=4e-7)
        large = lanewise(lambda N, x: N(1) / x, [2.0**127, np.inf, 0, np.nan]).v
    np.testing.assert_array_equal(large, [0, 0, np.inf, np.nan])


def test_encoded_lanes():
    found = lanewise(lambda N, x: encoded(F16, x).data, X)
    np.testing.assert_array_equal(np.frombuffer(found, np.float16), np.float16(X))


def test_barrier_of_a_warp():
    """Where a shuffle is not enough; and it is none for other warps."""

    def kernel(plan):
        x = peek(plan.grad, np.float32)
        shuffle_xor(x, np.int32(1))
        if plan.classes:
            warp_barrier()
        if thread() == 3:
            poke(plan.grad, x + np.float32(1))

    grad = np.zeros(1, np.float32)
    run(kernel, grad, grad, classes=1)
    assert grad[0] == 1
    fails("a race between threads 0 and 31 of block 0", kernel, grad, grad)
    fails("a race between warps 0 and 1 of block 0", kernel, grad, grad, threads=64, classes=1)
