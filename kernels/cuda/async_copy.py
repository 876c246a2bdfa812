"""Chunks copied into shared memory past the registers, and read from there (sm_80)."""

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, VOID, assembly
from fusedce.kernels.cuda.load_store import fills, placed, step_from, store_words, words_of
from fusedce.kernels.cuda.load_store_scalar import constant
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import gathered


@intrinsic
def copy_chunk(typingctx, place, address):
    """Begin to copy a chunk into shared memory, past the registers (sm_80)."""

    def codegen(context, builder, sig, args):
        (there,) = placed(builder, args[0], "shared")
        text = "cp.async.cg.shared.global.L2::128B [$0], [$1], 16;"
        assembly(builder, text, VOID, "r,l", (there, args[1]))
        return context.get_dummy_value()

    return types.void(types.int32, types.int64), codegen


@intrinsic
def copied(typingctx):
    """Wait until what this thread has begun to copy is there, for this thread."""

    def codegen(context, builder, sig, args):
        assembly(builder, "cp.async.wait_all;", VOID, "")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def get_whole(typingctx, number, dtype, start, step):
    """Chunks of shared memory, all of which are there."""
    words = words_of(number.instance_type, dtype.instance_class)

    def codegen(context, builder, sig, args):
        (place,), found = placed(builder, args[2], "shared"), []
        four = ir.LiteralStructType([I32] * 4)
        for k in range(words.width // 4):
            text = "ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];"
            marks, address = "=r,=r,=r,=r,r", step_from(builder, place, args[3], k)
            loaded = assembly(builder, text, four, marks, (address,))
            found += [builder.extract_value(loaded, i) for i in range(4)]
        return gathered(builder, found)

    return words(number, dtype, types.int32, types.int32), codegen


@intrinsic
def put_lowest(typingctx, dtype, place):
    """Store a chunk of -inf in shared memory."""
    low = fills(dtype.instance_class, True)

    def codegen(context, builder, sig, args):
        (there,), words = placed(builder, args[1], "shared"), [constant(w) for w in low * 2]
        store_words(builder, there, ir.Constant(ir.IntType(1), 1), words, "shared")
        return context.get_dummy_value()

    return types.void(dtype, types.int32), codegen
