"""Intrinsics of a thread: its indices, shuffles, barriers, shared memory, clusters.

Shared memory is addressed by offsets in bytes into the dynamic shared memory of the launch.
"""

from typing import Any

from llvmlite import ir

from fusedce.kernels.cuda.toolchain import cgutils, intrinsic, types

I32, I64, VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()
_BITS = {32: I32, 64: I64}
SHARED = 3  # NVVM's address space
ALL_LANES, SHUFFLE_CLAMP = ir.Constant(I32, -1), ir.Constant(I32, 31)


def call(builder: Any, name: str, result: Any, args: Any = ()) -> Any:
    """Call one of NVVM's intrinsics."""
    fnty = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, fnty, name), args)


def assembly(builder: Any, text: str, result: Any, constraints: str, args: Any = ()) -> Any:
    """Inline PTX that is not reordered with other memory accesses."""
    fnty = ir.FunctionType(result, [a.type for a in args])
    marks = ",".join(filter(None, (constraints, "~{memory}")))
    return builder.call(ir.InlineAsm(fnty, text, marks, side_effect=True), args)


def _register(name):
    """An intrinsic that reads a special register."""

    @intrinsic
    def read(typingctx):
        def codegen(context, builder, sig, args):
            return call(builder, f"llvm.nvvm.read.ptx.sreg.{name}", I32)

        return types.int32(), codegen

    return read


thread = _register("tid.x")  # within the block
threads = _register("ntid.x")  # of a block
block = _register("ctaid.x")  # within the grid
blocks = _register("nctaid.x")  # of the grid


@intrinsic
def barrier(typingctx):
    """Wait for all threads of the block; what they wrote before is visible after."""

    def codegen(context, builder, sig, args):
        call(builder, "llvm.nvvm.barrier0", VOID)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def warp_barrier(typingctx):
    """Wait for all lanes of the warp; what they wrote before is visible after."""

    def codegen(context, builder, sig, args):
        call(builder, "llvm.nvvm.bar.warp.sync", VOID, (ALL_LANES,))
        return context.get_dummy_value()

    return types.void(), codegen


def _words(builder, x):
    """The bits of a number, as words of 32 bits."""
    wide = builder.bitcast(x, _BITS[_bit_width(x.type)])
    if wide.type == I32:
        return [wide]
    high = builder.lshr(wide, ir.Constant(I64, 32))
    return [builder.trunc(wide, I32), builder.trunc(high, I32)]


def _bit_width(ty):
    return ty.width if isinstance(ty, ir.IntType) else {"f32": 32, "f64": 64}[ty.intrinsic_name]


def _number(builder, words, ty):
    """The number whose bits are some words."""
    if len(words) == 1:
        return builder.bitcast(words[0], ty)
    low, high = (builder.zext(w, I64) for w in words)
    return builder.bitcast(builder.or_(low, builder.shl(high, ir.Constant(I64, 32))), ty)


def _shuffled(builder, x, mode, lane):
    """x of another lane, one shuffle for each word."""
    pair = ir.LiteralStructType([I32, ir.IntType(1)])
    found = []
    for word in _words(builder, x):
        args = (ALL_LANES, ir.Constant(I32, mode), word, lane, SHUFFLE_CLAMP)
        got = call(builder, "llvm.nvvm.shfl.sync.i32", pair, args)
        found.append(builder.extract_value(got, 0))
    return _number(builder, found, x.type)


@intrinsic
def shuffle_xor(typingctx, x, mask):
    """x of the lane whose number is this lane's xor ``mask``; all 32 lanes of a warp call it."""

    def codegen(context, builder, sig, args):
        return _shuffled(builder, args[0], 3, args[1])

    return x(x, types.int32), codegen


def shared_place(builder, offset, ty):
    """A pointer to an offset in the dynamic shared memory of the launch."""
    name = "fusedce_shared"
    whole = ir.ArrayType(ir.IntType(8), 0)
    found = builder.module.globals.get(name)
    if found is None:
        found = ir.GlobalVariable(builder.module, whole, name, addrspace=SHARED)
        found.linkage, found.align = "external", 16
    start = builder.ptrtoint(found, I32)
    return builder.inttoptr(builder.add(start, offset), ty.as_pointer(SHARED))


@intrinsic
def get(typingctx, offset, dtype):
    """Load a number from shared memory."""
    T = dtype.instance_type

    def codegen(context, builder, sig, args):
        ty = context.get_value_type(T)
        return builder.load(shared_place(builder, args[0], ty), align=T.bitwidth // 8)

    return T(types.int32, dtype), codegen


@intrinsic
def put(typingctx, offset, x):
    """Store a number in shared memory."""

    def codegen(context, builder, sig, args):
        place = shared_place(builder, args[0], args[1].type)
        builder.store(args[1], place, align=x.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.int32, x), codegen


@intrinsic
def cluster_rank(typingctx):
    """The number of the block within its cluster."""

    def codegen(context, builder, sig, args):
        return assembly(builder, "mov.u32 $0, %cluster_ctarank;", I32, "=r")

    return types.int32(), codegen


@intrinsic
def cluster_barrier(typingctx):
    """Wait for all threads of the cluster; what they wrote before is visible after."""

    def codegen(context, builder, sig, args):
        # Not .aligned: LLVM may duplicate inline PTX into both sides of a branch.
        assembly(builder, "barrier.cluster.arrive.release;", VOID, "")
        assembly(builder, "barrier.cluster.wait.acquire;", VOID, "")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def barrier_cluster_arrive(typingctx):
    """Arrive: this thread has read what other blocks of the cluster wrote. It does not wait."""

    def codegen(context, builder, sig, args):
        # Relaxed: a release would wait until all gradients of the block are written.
        assembly(builder, "barrier.cluster.arrive.relaxed;", VOID, "")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def barrier_cluster_wait(typingctx):
    """Wait until all threads of the cluster have arrived."""

    def codegen(context, builder, sig, args):
        assembly(builder, "barrier.cluster.wait;", VOID, "")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def get_remote(typingctx, offset, rank, dtype):
    """Load a number from the shared memory of another block of the cluster."""
    T = dtype.instance_type
    kind, mark = (f"b{T.bitwidth}", "=r" if T.bitwidth == 32 else "=l")

    def codegen(context, builder, sig, args):
        here = builder.ptrtoint(shared_place(builder, args[0], ir.IntType(8)), I32)
        text = (
            "{ .reg .b32 there; mapa.shared::cluster.u32 there, $1, $2; "
            f"ld.shared::cluster.{kind} $0, [there]; }}"
        )
        word = assembly(builder, text, _BITS[T.bitwidth], f"{mark},r,r", (here, args[1]))
        return builder.bitcast(word, context.get_value_type(T))

    return T(types.int32, types.int32, dtype), codegen
