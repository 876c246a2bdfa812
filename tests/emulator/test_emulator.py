"""The emulator itself: it reports each kind of mistake, in a kernel written to make it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

from tests.emulator import machine, programs
from tests.emulator.ptx import Unknown, functions, instruction, operands
from tests.emulator.translate import to_c
from tests.emulator.written import fails, ptx, run, singles

if why := programs.missing():
    pytest.skip(why, allow_module_level=True)

orders = pytest.mark.parametrize("order", machine.ORDERS)

# ------------------------------------------------------------------------------ PTX

COPY = "ld.global.f32 %f0, [%a]; st.global.f32 [%b], %f0;"


def test_what_is_not_known():
    for body in ("sin.approx.f32 %f0, %f1;", "add.rz.f32 %f0, %f1, %f2;", "bar.sync 1;",
                 "mov.u32 %r0, %clock;", "ld.surf.u32 %r0, [%a];",
                 "mov.u32 %r0, %nobody;", "neg.bf16 %h0, %h1;", "prmt.b32.f4e %r0, %r1, %r2, %r3;",
                 "max.f32 %f0, %f1, %f2, %f3;", "neg.ftz.f32 %f0, %f1;",
                 "cvt.rn.bf16.f64 %h0, %d0;", "ld.param.u32 %r0, [pa+8];", "bar.warp.sync 1;",
                 "barrier.cluster.arrive.aligned;"):  # fmt: skip
        with pytest.raises(Unknown, match=body.split()[0].rstrip(";")):
            to_c(ptx(body))


def test_what_an_architecture_does_not_know():
    for body, since in (("neg.bf16x2 %r0, %r1;", 80), ("max.NaN.f32 %f0, %f1, %f2;", 80),
                        ("cp.async.wait_all;", 80), ("mapa.shared::cluster.u32 %r0, %r1, 1;", 90),
                        ("add.rn.f32x2 %rd0, %rd1, %rd2;", 100)):  # fmt: skip
        to_c(ptx(body, target=since))
        with pytest.raises(Unknown, match=f"needs sm_{since}"):
            to_c(ptx(body, target=75 if since == 80 else since - 10))


def test_statements():
    one = instruction("@!%p1 ld.global.v2.f32 {%f1, %f2}, [%rd1+16]")
    assert (one.op, one.operands) == ("ld.global.v2.f32", ("{%f1, %f2}", "[%rd1+16]"))
    assert (one.predicate, one.negated) == ("%p1", True)
    assert operands("(r), f, (a, b)") == ["(r)", "f", "(a, b)"]
    found = functions(ptx("// { a comment\n ret; /* } */"))
    assert [(f.name, f.entry, f.params) for f in found] == [("k", True, (("pa", 8), ("pb", 8)))]


def test_branches_and_scopes():
    """An inner declaration hides the outer one; a loop; a predicate and its complement."""
    body = """mov.u32 %r0, 0; mov.u32 %r1, 0;
    L1: add.u32 %r0, %r0, %r1; add.u32 %r1, %r1, 1;
    { .reg .b64 %r1; mov.u64 %r1, 99; }
    setp.lt.u32 %p1|%p2, %r1, 5; @%p1 bra L1;
    @%p2 add.u32 %r0, %r0, 100; @!%p2 add.u32 %r0, %r0, 1000; st.global.u32 [%b], %r0;"""
    b = np.zeros(32, np.uint32)
    run(body, None, b)
    np.testing.assert_array_equal(b, 110)


def test_vectors():
    body = """mul.wide.u32 %rd0, %i, 12; add.s64 %rd1, %a, %rd0; add.s64 %rd2, %b, %rd0;
    ld.global.nc.L1::no_allocate.v4.b32 {%r0, %r1, %r2, %r3}, [%rd1];
    mov.b64 %rd4, {%r0, %r3}; mov.b64 {%r0, %r3}, %rd4; mov.b32 {%h0, %h1}, %r2;
    mov.b32 %r2, {%h1, %h0}; st.global.cs.v4.b32 [%rd2], {%r3, %r2, %r1, %r0};"""
    a, b = np.zeros((2, 130), np.uint32)
    a, b = (x[-x.ctypes.data % 16 // 4 :][:128] for x in (a, b))
    a[:] = np.random.default_rng(0).integers(0, 2**32, 128)
    memory = run(body, a, b)
    want = a.reshape(32, 4)[:, ::-1].copy()
    want[:, 1] = want[:, 1] >> 16 | want[:, 1] << 16
    np.testing.assert_array_equal(b, want.reshape(-1))
    assert memory.sizes("a") == ({16: 32}, {})
    assert memory.sizes("b") == ({}, {16: 32})
    assert memory.touched("a") == (512, 0)


def test_calls_and_local_memory():
    """A device function with parameters and a result, and an array in local memory."""
    before = """.func (.param .b32 r) twice(.param .b64 p, .param .b32 k) {
    .reg .b64 %x; .reg .f32 %y; .reg .b32 %k; ld.param.b64 %x, [p]; ld.param.b32 %k, [k];
    ld.f32 %y, [%x+8]; add.f32 %y, %y, %y; cvt.rn.f32.u32 %y, %k; st.param.f32 [r+0], %y; ret; }"""
    body = """.local .align 16 .b8 __local_depot0[32]; .reg .b64 %sp, %spl;
    mov.u64 %spl, __local_depot0; cvta.local.u64 %sp, %spl;
    ld.global.f32 %f0, [%a]; st.local.f32 [%spl+8], %f0;
    { .param .b64 p0; st.param.b64 [p0+0], %sp; .param .b32 p1; st.param.b32 [p1+0], %i;
    .param .b32 q; call.uni (q), twice, (p0, p1); ld.param.f32 %f1, [q+0]; }
    ld.f32 %f2, [%sp+8]; add.f32 %f1, %f1, %f2; st.global.f32 [%b], %f1;"""
    b = np.zeros(32, np.float32)
    run(body, singles(32), b, before=before)
    np.testing.assert_array_equal(b, 2 * singles(32))
    fails("outside, byte .* of local memory",
          body.replace("ld.f32 %f2, [%sp+8]", "ld.local.f32 %f2, [%a]"),
          singles(32), b, before=before)  # fmt: skip


# ------------------------------------------------------------------------------ barriers, shuffles

PUT, GET = "st.shared.f32 [%r0], %f0;", "ld.shared.f32 %f1, [%r1]; st.global.f32 [%b], %f1;"
SWAP = "mov.u32 %r9, memory; add.u32 %r0, %r9, %at; xor.b32 %r1, %at, 4; add.u32 %r1, %r9, %r1;"
LOAD = "ld.global.f32 %f0, [%a];" + SWAP
SWAPPED = singles(64).reshape(-1, 2)[:, ::-1].reshape(-1)


@orders
def test_all_is_well(order):
    b = np.zeros(64, np.float32)
    memory = run(COPY, singles(), b, blocks=2, order=order)
    np.testing.assert_array_equal(b, singles())
    assert memory.touched("a") == (256, 0)
    assert memory.touched("b") == (0, 256)


@orders
def test_through_shared_memory(order):
    b = np.zeros(64, np.float32)
    run(LOAD + PUT + "bar.sync 0;" + GET, singles(), b, threads=64, shared=256, order=order)
    np.testing.assert_array_equal(b, SWAPPED)


@orders
def test_missing_barrier(order):
    b = np.zeros(32, np.float32)
    fails("race with thread|never been written", LOAD + PUT + GET, singles(), b, shared=128,
          order=order)  # fmt: skip


def test_a_shuffle_is_no_barrier():
    meet = "shfl.sync.bfly.b32 %r5|%p1, %r4, 1, 31, -1;"
    b = np.zeros(32, np.float32)
    fails(
        "byte 0 of shared memory|race with thread",
        LOAD + PUT + meet + GET,
        singles(),
        b,
        shared=128,
    )
    run(LOAD + PUT + "bar.warp.sync -1;" + GET, singles(), b, shared=128)
    np.testing.assert_array_equal(b, SWAPPED[:32])


def test_a_barrier_of_a_warp_is_none_of_others():
    far = SWAP.replace("%at, 4;", "%at, 128;")
    body = "ld.global.f32 %f0, [%a];" + far + PUT + "bar.warp.sync -1;" + GET
    fails("race with thread|never been written", body, singles(), np.zeros(64, np.float32),
          threads=64, shared=256)  # fmt: skip


def test_read_then_written():
    """Without a barrier, a slow thread reads what other threads have stored since: a race."""
    body = LOAD + PUT + "bar.sync 0; ld.shared.f32 %f0, [%r1];" + PUT
    fails("race with thread", body, singles(32), shared=128)
    several = body.replace("[%r1]", "[%r9]")  # all threads read the same element
    fails("race with thread", several, singles(32), shared=128)
    run(several.replace("%f0, [%r9];", "%f0, [%r9]; bar.sync 0;"), singles(32), shared=128)


def test_threads_that_do_not_come():
    leave = "setp.lt.u32 %p1, %i, 30; "
    fails(r"threads 0-29 at a barrier \(line \d+ of the PTX\); .*threads 30-31 ended",
          leave + "@!%p1 bra E; bar.sync 0; E:")  # fmt: skip
    fails("0-29 at a barrier .* 30-31 at a barrier",
          leave + "@%p1 bra A;\n bar.sync 0; bra E; A:\n bar.sync 0; E:")  # fmt: skip
    fails("0-29 at a shuffle .* 30-31 ended",
          leave + "@!%p1 bra E; shfl.sync.bfly.b32 %r5, %r4, 1, 31, -1; E:")  # fmt: skip
    fails("0-15 at a shuffle", "shfl.sync.bfly.b32 %r5, %r4, 1, 31, -1;", threads=16)
    fails("trap, line", "trap;")


@orders
def test_butterfly(order):
    steps = "".join(f"mov.b32 %r1, %f0; shfl.sync.bfly.b32 %r0|%p1, %r1, {n}, 31, -1; "
                    "mov.b32 %f1, %r0; add.f32 %f0, %f0, %f1;"
                    for n in (1, 2, 4, 8, 16))  # fmt: skip
    b = np.zeros(64, np.float32)
    run("ld.global.f32 %f0, [%a];" + steps + "st.global.f32 [%b], %f0;", singles(), b, threads=64,
        order=order)  # fmt: skip
    np.testing.assert_array_equal(b, [496.0] * 32 + [1520.0] * 32)


def test_a_shuffle_of_less_than_the_warp():
    for operands_ in ("1, 0, -1", "1, 31, 1"):
        fails("less than the warp", f"shfl.sync.bfly.b32 %r5, %r4, {operands_};")


def test_a_message_that_would_be_too_long():
    """Even and odd threads wait at different barriers, so the list of waiting threads is cut."""
    body = """and.b32 %r1, %i, 1; setp.eq.u32 %p1, %r1, 0; @%p1 bra A;
    bar.sync 0; ret; A:
    bar.sync 0;"""
    with pytest.raises(machine.Fault) as caught:
        run(body, blocks=4)
    assert str(caught.value).endswith("...")
    assert len(str(caught.value)) < 600


def test_orders_are_orders():
    """Every order, and every seed of the random order, reports a race of other threads."""
    body = "mov.u32 %r9, memory; st.shared.u32 [%r9], %i;"
    found = [f"{machine.Fault}"]
    for order, seed in (("forward", 1), ("reverse", 1), ("random", 1), ("random", 2)):
        with pytest.raises(machine.Fault) as caught:
            run(body, shared=4, order=order, seed=seed)
        found.append(str(caught.value))
    assert len(set(found)) == 5


# ------------------------------------------------------------------------------ clusters

NEIGHBOUR = """mov.u32 %r9, memory; setp.eq.u32 %p1, %at, %r2; mov.u32 %r2, %tid.x;
setp.eq.u32 %p1, %r2, 0; mov.u32 %r3, %ctaid.x; cvt.rn.f32.u32 %f0, %r3;
@%p1 st.shared.f32 [%r9], %f0;
barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
mov.u32 %r4, %cluster_ctarank; xor.b32 %r4, %r4, 1; mapa.shared::cluster.u32 %r5, %r9, %r4;
ld.shared::cluster.f32 %f1, [%r5]; shl.b32 %r3, %r3, 2; cvt.u64.u32 %rd1, %r3;
ld.param.u64 %rd2, [pb]; add.s64 %rd2, %rd2, %rd1; @%p1 st.global.f32 [%rd2], %f1;"""
ARRIVE, WAIT = "barrier.cluster.arrive.relaxed;", "barrier.cluster.wait;"
TWO = {"blocks": 4, "shared": 4, "cluster": 2}


@orders
def test_cluster(order):
    b = np.zeros(4, np.float32)
    run(NEIGHBOUR + ARRIVE + WAIT, None, b, order=order, **TWO)
    np.testing.assert_array_equal(b, [1, 0, 3, 2])


def test_cluster_block_that_ends_too_early():
    b = np.zeros(4, np.float32)
    fails("may have ended", NEIGHBOUR, None, b, **TWO)
    fails("may have ended", NEIGHBOUR + ARRIVE, None, b, **TWO)
    fails("has not arrived", NEIGHBOUR + WAIT, None, b, **TWO)
    fails("has arrived already", NEIGHBOUR + ARRIVE + "ld.shared::cluster.f32 %f1, [%r5];" + WAIT,
          None, b, **TWO)  # fmt: skip
    fails("arrives twice", NEIGHBOUR + ARRIVE + ARRIVE + WAIT, None, b, **TWO)


def test_cluster_without_its_barrier():
    body = NEIGHBOUR.replace(
        "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;", "bar.sync 0;"
    )
    fails("may not have begun", body + ARRIVE + WAIT, None, np.zeros(4, np.float32), **TWO)
    fails("cluster without such a block",
          "mov.u32 %r9, memory; mapa.shared::cluster.u32 %r5, %r9, 2;",
          blocks=2, shared=4, cluster=2)  # fmt: skip


def test_what_a_relaxed_arrival_publishes():
    """A relaxed cluster arrive makes no stores visible; a release arrive no later stores."""
    b = np.zeros(4, np.float32)
    fails("race with thread", NEIGHBOUR.replace("arrive.release", "arrive.relaxed"), None, b, **TWO)
    body = """mov.u32 %r9, memory; setp.eq.u32 %p1, %i, 0;
    barrier.cluster.arrive.release; @%p1 st.shared.f32 [%r9], %f0; barrier.cluster.wait.acquire;
    @!%p1 ld.shared.f32 %f1, [%r9];"""
    fails("race with thread|never been written", body, blocks=2, shared=4, cluster=2)
    right = """mov.u32 %r9, memory; mov.u32 %r2, %tid.x; setp.eq.u32 %p1, %r2, 0;
    @%p1 st.shared.f32 [%r9], %f0; barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
    @!%p1 ld.shared.f32 %f1, [%r9];"""
    run(right, blocks=2, shared=4, cluster=2)


def test_many_barriers_of_a_cluster():
    again = "mov.u32 %r8, 0; L: barrier.cluster.arrive; barrier.cluster.wait; add.u32 %r8, %r8, 1;"
    body = NEIGHBOUR.replace("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;",
                             again + "setp.lt.u32 %p2, %r8, 130; @%p2 bra L;")  # fmt: skip
    b = np.zeros(4, np.float32)
    run(body + ARRIVE + WAIT, None, b, **TWO)
    np.testing.assert_array_equal(b, [1, 0, 3, 2])


def test_addresses_of_other_blocks():
    place = "mov.u32 %r9, memory; barrier.cluster.arrive; barrier.cluster.wait;"
    for offset in (1 << 24, -2048):
        fails("outside of the launch|without ::cluster",
              place + f"add.u32 %r9, %r9, {offset}; st.shared.f32 [%r9], %f0;",
              blocks=2, shared=4, cluster=2)  # fmt: skip
    mapped = place + "mapa.shared::cluster.u32 %r5, %r9, 1; ld.shared.f32 %f0, [%r5];"
    fails("without ::cluster", mapped, blocks=2, shared=4, cluster=2)


def test_blocks_do_not_meet():
    same = """ld.param.u64 %b, [pb]; mov.u32 %r2, %tid.x; mul.wide.u32 %rd1, %r2, 4;
    add.s64 %b, %b, %rd1;"""
    fails(
        "race with a thread of another cluster",
        same + COPY,
        singles(),
        np.zeros(32, np.float32),
        blocks=2,
    )


# ------------------------------------------------------------------------------ memory


def test_stray_access():
    fails("a load outside of every array", COPY, singles(31), np.zeros(32, np.float32))
    fails("a store outside of every array", COPY, singles(32), np.zeros(31, np.float32))
    for offset in (4, -4):
        fails(
            "outside of the launch",
            f"mov.u32 %r9, memory; st.shared.f32 [%r9+{offset}], %f0;",
            shared=4,
        )


def test_the_ends_of_the_address_space():
    fails("outside of every array", "mov.u64 %rd1, -8; ld.global.u64 %rd2, [%rd1];", singles())
    fails("outside of every array", "mov.u64 %rd1, 0; ld.global.u64 %rd2, [%rd1];", singles())


def test_gaps_belong_to_nobody():
    fails("byte 4 of a: thread 1", COPY, np.repeat(singles(32), 2)[::2], np.zeros(32, np.float32))
    fails("byte 4 of b: thread 1", COPY, singles(), np.zeros(64, np.float32)[::2])


def test_misaligned_access():
    a = np.zeros(200, np.uint8)
    a = a[-a.ctypes.data % 4 + 1 :][:128]
    fails("misaligned access, byte 0 of a", COPY, a, np.zeros(32, np.float32))
    fails("misaligned access", "mov.u32 %r9, memory; st.shared.f32 [%r9+2], %f0;", shared=8)
    fails("misaligned access, byte 4", "ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%a+4];",
          np.zeros(130, np.float64).view(np.float32)[:64], assemble=False, threads=1)  # fmt: skip


def test_unwritten_memory():
    fails(
        "never been written, byte 0 of shared memory",
        "mov.u32 %r9, memory; ld.shared.f32 %f0, [%r9];",
        shared=4,
    )
    b = np.zeros(32, np.float32)
    fails("never been written, byte 0 of b", "ld.global.f32 %f0, [%b];", None, b)
    fails("byte 0 of b has never been written", "", None, b)
    fails(
        "byte 4 of b has never been written",
        "setp.eq.u32 %p1, %i, 0; @%p1 st.global.f32 [%b], %f0;",
        None,
        b,
    )
    run("", None, b, complete=False)


def test_inputs_are_not_written():
    fails("none of an output, byte 0 of a", "st.global.f32 [%a], %f0;", singles())


def test_in_place():
    both = singles(32)
    run(COPY.replace("; st", "; add.f32 %f0, %f0, 0f3F800000; st"), both, both)
    np.testing.assert_array_equal(both, singles(32) + 1)
    other = (
        "xor.b32 %r1, %at, 4; cvt.u64.u32 %rd1, %r1; ld.param.u64 %a, [pa]; add.s64 %a, %a, %rd1;"
    )
    fails("a race with thread 0 of block 0, byte . of a/b", other + COPY, both, both)
    room = np.zeros(40, np.float32)
    fails("a race with thread", COPY, room[:32], room[4:36])


def test_asynchronous_copies():
    """The destination of a copy may be accessed only after the wait."""
    begin = """mov.u32 %r9, memory; mul.lo.u32 %r2, %i, 16; add.u32 %r0, %r9, %r2;
    mul.wide.u32 %rd0, %i, 12; add.s64 %rd1, %a, %rd0;
    cp.async.cg.shared.global.L2::128B [%r0], [%rd1], 16;"""
    end = "ld.shared.f32 %f0, [%r0+4]; st.global.f32 [%b], %f0;"
    a, b = np.zeros(132, np.float32), np.zeros(32, np.float32)
    a = a[-a.ctypes.data % 16 // 4 :][:128]
    a[:] = np.arange(128)
    run(begin + "cp.async.wait_all;" + end, a, b, shared=512)
    np.testing.assert_array_equal(b, a[1::4])
    under_way = "asynchronous cop(y is|ies are) under way"
    fails(under_way, begin + end + "cp.async.wait_all;", a, b, shared=512)
    fails(under_way, begin + "st.shared.f32 [%r0], %f0; cp.async.wait_all;", a, b, shared=512)
    fails(under_way, begin, a, b, shared=512)


def test_asynchronous_copies_and_readers():
    """A copy over data that other threads still read is a race: it may complete at once."""
    body = """mov.u32 %r9, memory; setp.eq.u32 %p1, %i, 0; setp.eq.u32 %p2, %i, 40;
    @%p1 st.shared.v4.f32 [%r9], {%f0, %f0, %f0, %f0}; bar.sync 0;
    @%p2 ld.shared.f32 %f1, [%r9]; BETWEEN
    @!%p1 bra E; cp.async.cg.shared.global [%r9], [%a], 16; E: bar.sync 0; cp.async.wait_all;"""
    a = np.zeros(132, np.float32)
    a = a[-a.ctypes.data % 16 // 4 :][:64]
    options = {"threads": 64, "shared": 16, "a": a}
    fails("race with thread", body.replace("BETWEEN", ""), **options)
    run(body.replace("BETWEEN", "bar.sync 0;"), **options)
