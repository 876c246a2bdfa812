"""Asynchronous copies of chunks from global to shared memory (sm_80), and loads from there.

Places in shared memory are offsets in bytes.
"""

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, VOID, assembly
from fusedce.kernels.cuda.dtypes import fill_words
from fusedce.kernels.cuda.load_store import ptx_address, step_from, store_words, words_type
from fusedce.kernels.cuda.load_store_scalar import constant
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import gathered


@intrinsic
def async_copy_chunk(typingctx, offset, address):
    """Start to copy a chunk from global memory into shared memory, without registers."""

    def codegen(context, builder, sig, args):
        (target,) = ptx_address(builder, args[0], "shared")
        text = "cp.async.cg.shared.global.L2::128B [$0], [$1], 16;"
        assembly(builder, text, VOID, "r,l", (target, args[1]))
        return context.get_dummy_value()

    return types.void(types.int32, types.int64), codegen


@intrinsic
def wait_async_copies(typingctx):
    """Wait until the copies that this thread has started are complete; only it sees them yet."""

    def codegen(context, builder, sig, args):
        assembly(builder, "cp.async.wait_all;", VOID, "")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def get_chunks(typingctx, number, dtype, start, step):
    """Load chunks from shared memory, all of them present."""
    words = words_type(number.instance_type, dtype.instance_class)

    def codegen(context, builder, sig, args):
        (base,), found = ptx_address(builder, args[2], "shared"), []
        four = ir.LiteralStructType([I32] * 4)
        for k in range(words.width // 4):
            text = "ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];"
            marks, address = "=r,=r,=r,=r,r", step_from(builder, base, args[3], k)
            loaded = assembly(builder, text, four, marks, (address,))
            found += [builder.extract_value(loaded, i) for i in range(4)]
        return gathered(builder, found)

    return words(number, dtype, types.int32, types.int32), codegen


@intrinsic
def put_neg_inf(typingctx, dtype, offset):
    """Store a chunk of -inf in shared memory."""
    low = fill_words(dtype.instance_class, "-inf")

    def codegen(context, builder, sig, args):
        (target,), words = ptx_address(builder, args[1], "shared"), [constant(w) for w in low * 2]
        store_words(builder, target, ir.Constant(ir.IntType(1), 1), words, "shared")
        return context.get_dummy_value()

    return types.void(dtype, types.int32), codegen
