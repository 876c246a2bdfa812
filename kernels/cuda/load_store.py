"""Chunks of 16 bytes, and lanes that do not come in whole chunks.

A thread holds several chunks at once (``Words``), so that their loads are all under way together;
a chunk past the end of a row is not touched, its words are filled in.
"""

from llvmlite import ir
from numba.extending import models, register_model

from fusedce.kernels.cuda.device import I32, I64, VOID, assembly, shared_place
from fusedce.kernels.cuda.dtypes import (
    BYTES,
    CHUNK,
    Bfloat16,
    Float16,
    Float32,
    Float64,
    OldBfloat16,
    OldFloat16,
)
from fusedce.kernels.cuda.load_store_scalar import I16, constant, from_bits, to_bits, to_float32
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import FLOAT, Mask, Vector, gathered, lane_by_lane

NEXT = "L1::no_allocate"  # nobody on this processor reads a line twice


class Words(types.Type):  # type: ignore[misc]
    """The raw bits of some chunks, 32 at a time."""

    def __init__(self, width):
        self.width = width
        super().__init__(name=f"Words({width})")

    @property
    def key(self):
        """What tells two of these types apart."""
        return self.width


@register_model(Words)
class _WordsModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(I32, fe_type.width))


def words_of(number, dtype):
    """Words that hold the lanes of a number."""
    return Words(max(1, number.width * BYTES[dtype] // 4))


def lanes_of(dtype):
    """Numbers of a chunk."""
    return CHUNK // BYTES[dtype]


@intrinsic
def per_chunk(typingctx, dtype):
    """Numbers of a chunk."""
    value = lanes_of(dtype.instance_class)
    return types.int32(dtype), lambda context, builder, sig, args: ir.Constant(I32, value)


@intrinsic
def chunks_of(typingctx, number, dtype):
    """Chunks that hold the lanes of a number."""
    value = number.instance_type.width // lanes_of(dtype.instance_class)
    return types.int32(number, dtype), lambda context, builder, sig, args: ir.Constant(I32, value)


# The words of -inf, what a row is filled up with: of even and of odd places.
LOWEST = {
    Float64: (0, 0xFFF00000), Float32: (0xFF800000,) * 2, Float16: (0xFC00FC00,) * 2,
    OldFloat16: (0xFC00FC00,) * 2,
    Bfloat16: (0xFF80FF80,) * 2, OldBfloat16: (0xFF80FF80,) * 2,
}  # fmt: skip


def fills(dtype, low):
    """The words of what is not there, of even and of odd places."""
    return LOWEST[dtype] if low else (0, 0)


_VECTOR = {1: "b32", 2: "v2.b32", 4: "v4.b32"}


def _names(first, number):
    listed = ", ".join(f"${first + k}" for k in range(number))
    return listed if number == 1 else f"{{{listed}}}"


def _load_words(builder, address, present, fills, space, number=4):
    """1, 2 or 4 words; those of the fill where nothing is present. One branchless piece of PTX."""
    load = f"ld.{space}" if space == "shared" else f"ld.{space}.{NEXT}"
    fill = "".join(f"mov.b32 ${k}, ${number + 2 + k % 2}; " for k in range(number))
    text = (
        f"{{ .reg .pred here; setp.ne.s32 here, ${number + 1}, 0; {fill}"
        f"@here {load}.{_VECTOR[number]} {_names(0, number)}, [${number}]; }}"
    )
    register = "r" if address.type == I32 else "l"
    marks = ",".join(["=&r"] * number + [register, "r", "n", "n"])
    result = ir.LiteralStructType([I32] * number) if number > 1 else I32
    args = (address, builder.zext(present, I32), *map(constant, fills))
    found = assembly(builder, text, result, marks, args)
    return [builder.extract_value(found, k) for k in range(number)] if number > 1 else [found]


def store_words(builder, address, present, words, space):
    """Store 1, 2 or 4 words, if they are present."""
    number = len(words)
    store = "st.shared" if space == "shared" else "st.global.cs"
    text = (
        "{ .reg .pred here; setp.ne.s32 here, $1, 0; "
        f"@here {store}.{_VECTOR[number]} [$0], {_names(2, number)}; }}"
    )
    register = "r" if address.type == I32 else "l"
    args = (address, builder.zext(present, I32), *words)
    assembly(builder, text, VOID, ",".join([register, "r"] + ["r"] * number), args)


def step_from(builder, start, step, k):
    """start + k * step, in the type of start."""
    if k == 0:
        return start
    width = start.type
    step = step if step.type == width else builder.sext(step, width)
    return builder.add(start, builder.mul(step, ir.Constant(width, k)))


def _load_present(builder, address, words, space):
    """Words that are there."""
    load = f"ld.{space}" if space == "shared" else f"ld.{space}.{NEXT}"
    register = "r" if address.type == I32 else "l"
    found = assembly(
        builder, f"{load}.{_VECTOR[words]} {_names(0, words)}, [${words}];",
        ir.LiteralStructType([I32] * words), ",".join(["=r"] * words + [register]), (address,),
    )  # fmt: skip
    return [builder.extract_value(found, k) for k in range(words)]


def _read_words(words, tag, low, space):
    """Code that reads chunks ``step`` bytes apart, the first ``count`` of them.

    All but the last are there for most threads, which go a shorter way.
    """
    chunks = words.width // 4

    def at(builder, start, step, k, count):
        address = step_from(builder, start, step, k)
        if count is None:
            return _load_present(builder, address, 4, space)
        present = builder.icmp_signed("<", constant(k), count)
        return _load_words(builder, address, present, fills(tag, low), space)

    def codegen(builder, start, step, count):
        if chunks == 1 or space == "shared":
            every = [at(builder, start, step, k, count) for k in range(chunks)]
            return gathered(builder, [w for four in every for w in four])
        most = builder.icmp_signed(">=", count, constant(chunks - 1))
        ways = []
        with builder.if_else(most) as (usual, other):
            for residency, there in ((usual, None), (other, count)):
                with residency:
                    every = [at(builder, start, step, k, there) for k in range(chunks - 1)]
                    ways.append((every, builder.block))
        found = []
        for k in range(chunks - 1):
            for i in range(4):
                word = builder.phi(I32)
                for every, block in ways:
                    word.add_incoming(every[k][i], block)
                found.append(word)
        return gathered(builder, found + at(builder, start, step, chunks - 1, count))

    return codegen


def _write_words(words, space):
    def codegen(builder, start, step, count, values):
        for k in range(words.width // 4):
            present = builder.icmp_signed("<", constant(k), count)
            four = [builder.extract_element(values, constant(4 * k + i)) for i in range(4)]
            store_words(builder, step_from(builder, start, step, k), present, four, space)

    return codegen


def _reader(low, space):
    @intrinsic
    def read(typingctx, number, dtype, start, step, count):
        tag = dtype.instance_class
        words = words_of(number.instance_type, tag)
        code = _read_words(words, tag, low, space)
        address = types.int32 if space == "shared" else types.int64

        def codegen(context, builder, sig, args):
            return code(builder, *placed(builder, args[2], space), *args[3:])

        return words(number, dtype, address, types.int32, types.int32), codegen

    return read


def placed(builder, address, space):
    """The address as PTX takes it: in shared memory it begins where the launch's does."""
    if space == "global":
        return (address,)
    return (builder.ptrtoint(shared_place(builder, address, ir.IntType(8)), I32),)


def _writer(space):
    @intrinsic
    def write(typingctx, start, step, count, words):
        code = _write_words(words, space)
        address = types.int32 if space == "shared" else types.int64

        def codegen(context, builder, sig, args):
            code(builder, *placed(builder, args[0], space), *args[1:])
            return context.get_dummy_value()

        return types.void(address, types.int32, types.int32, words), codegen

    return write


# Chunk k lies at start + k * step; it is touched if k < count, else filled: with -inf, or zeros.
read_logits = _reader(True, "global")
get_words = _reader(True, "shared")
write_words = _writer("global")
put_words = _writer("shared")


@intrinsic
def read_beside(typingctx, number, dtype, like, start, step, count):
    """Numbers that belong to the chunks of another array, of form ``like``, as words.

    Those of chunk k lie side by side from start + k * step; zeros from chunk ``count`` on.
    """
    N, tag, per = number.instance_type, dtype.instance_class, lanes_of(like.instance_class)
    words = words_of(N, tag)
    parts, size = _parts(per * BYTES[tag] // 4)

    def codegen(context, builder, sig, args):
        found = []
        for k in range(N.width // per):
            present = builder.icmp_signed("<", constant(k), args[5])
            here = step_from(builder, args[3], args[4], k)
            for part in range(parts):
                place = builder.add(here, ir.Constant(I64, 4 * size * part))
                found += _load_words(builder, place, present, (0, 0), "global", size)
        return gathered(builder, found)

    return words(number, dtype, like, types.int64, types.int64, types.int32), codegen


@intrinsic
def write_beside(typingctx, dtype, like, start, step, count, x):
    """Store numbers beside the chunks of another array the same way."""
    tag, per = dtype.instance_class, lanes_of(like.instance_class)
    parts, size = _parts(per * BYTES[tag] // 4)

    def codegen(context, builder, sig, args):
        words = words_from(builder, tag, x, args[5])
        for k in range(x.width // per):
            present = builder.icmp_signed("<", constant(k), args[4])
            here = step_from(builder, args[2], args[3], k)
            for part in range(parts):
                place = builder.add(here, ir.Constant(I64, 4 * size * part))
                first = (k * parts + part) * size
                store_words(builder, place, present, words[first : first + size], "global")
        return context.get_dummy_value()

    return types.void(dtype, like, types.int64, types.int64, types.int32, x), codegen


def _parts(words):
    """(loads, words of each) of some words side by side."""
    size = min(4, words)
    return words // size, size


@intrinsic
def no_words(typingctx, number, dtype):
    """Words that nobody reads."""
    words = words_of(number.instance_type, dtype.instance_class)

    def codegen(context, builder, sig, args):
        return ir.Constant(ir.VectorType(I32, words.width), None)

    return words(number, dtype), codegen


def _halves(builder, word):
    return builder.trunc(word, I16), builder.trunc(builder.lshr(word, constant(16)), I16)


def pieces(builder, dtype, words):
    """The bits of each stored number."""
    size = BYTES[dtype]
    if size == 4:
        return words
    if size == 2:
        return [half for word in words for half in _halves(builder, word)]
    if size == 1:
        quarter = ir.IntType(8)
        return [builder.trunc(builder.lshr(word, constant(8 * k)), quarter)
                for word in words for k in range(4)]  # fmt: skip
    pairs = zip(words[::2], words[1::2], strict=True)
    return [builder.or_(builder.zext(a, I64), builder.shl(builder.zext(b, I64),
            ir.Constant(I64, 32))) for a, b in pairs]  # fmt: skip


@intrinsic
def decoded(typingctx, number, dtype, words):
    """The lanes of a number from its words."""
    N, tag = number.instance_type, dtype.instance_class

    def codegen(context, builder, sig, args):
        raw = [builder.extract_element(args[2], constant(k)) for k in range(words.width)]
        bits = pieces(builder, tag, raw)
        return gathered(builder, [from_bits(builder, tag, N.dtype, b) for b in bits])

    return N(number, dtype, words), codegen


def _pairs(builder, dtype, x):
    """Two float32 as the halves of one word, rounded together."""
    text = f"cvt.rn.{'f16x2' if dtype is Float16 else 'bf16x2'}.f32 $0, $2, $1;"
    single = FLOAT[types.float32]
    asm = ir.InlineAsm(ir.FunctionType(I32, [single, single]), text, "=r,f,f")
    return [builder.call(asm, pair) for pair in zip(x[::2], x[1::2], strict=True)]


def words_from(builder, dtype, number, x):
    """The words that store the lanes of a number, as a list."""
    lanes = [builder.extract_element(x, constant(k)) for k in range(number.width)]
    if dtype in (Float16, Bfloat16):
        return _pairs(builder, dtype, [to_float32(builder, v, number.dtype) for v in lanes])
    bits = [to_bits(builder, dtype, number.dtype, v) for v in lanes]
    if dtype in (OldBfloat16, OldFloat16):
        wide = [builder.zext(b, I32) for b in bits]
        fmax = [builder.shl(b, constant(16)) for b in wide[1::2]]
        return [builder.or_(a, b) for a, b in zip(wide[::2], fmax, strict=True)]
    if dtype is Float64:
        high = [builder.lshr(b, ir.Constant(I64, 32)) for b in bits]
        pairs = zip(bits, high, strict=True)
        return [builder.trunc(part, I32) for pair in pairs for part in pair]
    return bits


@intrinsic
def encoded(typingctx, dtype, x):
    """The words that store the lanes of a number."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        return gathered(builder, words_from(builder, tag, x, args[1]))

    return words_of(x, tag)(dtype, x), codegen


@intrinsic
def renewed(typingctx, words):
    """The same words to the reader, others to the compiler: what was made of them is not kept.

    Else the floats of half-precision words stay in twice as many registers.
    """

    def codegen(context, builder, sig, args):
        return lane_by_lane(builder, lambda w: assembly(builder, "", I32, "=r,0", (w,)), args[0])

    return words(words), codegen


# ------------------------------------------------------- numbers that do not come in whole chunks


@intrinsic
def first_lanes(typingctx, number, count):
    """Which lanes are among the first ``count``."""
    N = number.instance_type
    if not isinstance(N, Vector):
        return types.boolean(number, types.int32), (
            lambda context, builder, sig, args: builder.icmp_signed(">", args[1], constant(0))
        )

    def codegen(context, builder, sig, args):
        return gathered(builder, [builder.icmp_signed("<", constant(k), args[1])
                                  for k in range(N.width)])  # fmt: skip

    return Mask(N.width)(number, types.int32), codegen
