"""Loads and stores of chunks of 16 bytes, the widest access of a thread.

A thread loads several chunks at once (``Words``), so that their loads are in flight together. A
chunk past the end of a row is not accessed; its words are filled with -inf or 0. ``read`` and
``write`` access global memory (addresses are int64), ``get`` and ``put`` shared memory (int32
offsets in bytes).
"""

from llvmlite import ir
from numba.extending import models, register_model

from fusedce.kernels.cuda.device import I32, I64, VOID, assembly, shared_place
from fusedce.kernels.cuda.dtypes import CHUNK, INFO, SIZE, fill_words
from fusedce.kernels.cuda.load_store_scalar import I16, constant, from_bits, to_bits, to_float32
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import FLOAT, Mask, Vector, gathered, lane_by_lane, lane_of

NO_ALLOCATE = "L1::no_allocate"  # no cache line is read twice by a multiprocessor


class Words(types.Type):  # type: ignore[misc]
    """Numba type: the stored bits of some chunks, a vector of ``width`` int32."""

    def __init__(self, width):
        self.width = width
        super().__init__(name=f"Words({width})")

    @property
    def key(self):
        """Types with the same key are the same type."""
        return self.width


@register_model(Words)
class _WordsModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(I32, fe_type.width))


def words_type(number, dtype):
    """The type of the words that store a vector."""
    return Words(max(1, number.width * SIZE[dtype] // 4))


def chunk_lanes(dtype):
    """Numbers in a chunk, while compiling."""
    return CHUNK // SIZE[dtype]


@intrinsic
def per_chunk(typingctx, dtype):
    """Numbers in a chunk, in a kernel: int32."""
    value = chunk_lanes(dtype.instance_class)
    return types.int32(dtype), lambda context, builder, sig, args: ir.Constant(I32, value)


@intrinsic
def chunks_of(typingctx, number, dtype):
    """Chunks that store a vector: int32."""
    value = number.instance_type.width // chunk_lanes(dtype.instance_class)
    return types.int32(number, dtype), lambda context, builder, sig, args: ir.Constant(I32, value)


_REGISTER = {types.float32: "f", types.float64: "d", types.int64: "l"}  # in inline PTX
_VECTOR = {1: "b32", 2: "v2.b32", 4: "v4.b32"}


def _names(first, number):
    listed = ", ".join(f"${first + k}" for k in range(number))
    return listed if number == 1 else f"{{{listed}}}"


def _load_words(builder, address, present, fills, space, number=4):
    """Load 1, 2 or 4 words; the fill where they are not present. Predicated PTX, no branch."""
    load = f"ld.{space}" if space == "shared" else f"ld.{space}.{NO_ALLOCATE}"
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
    """Store 1, 2 or 4 words if ``present``."""
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
    """start + k * step, of the type of start."""
    if k == 0:
        return start
    width = start.type
    step = step if step.type == width else builder.sext(step, width)
    return builder.add(start, builder.mul(step, ir.Constant(width, k)))


def _load_present(builder, address, words, space):
    """Load words that are present."""
    load = f"ld.{space}" if space == "shared" else f"ld.{space}.{NO_ALLOCATE}"
    register = "r" if address.type == I32 else "l"
    found = assembly(
        builder, f"{load}.{_VECTOR[words]} {_names(0, words)}, [${words}];",
        ir.LiteralStructType([I32] * words), ",".join(["=r"] * words + [register]), (address,),
    )  # fmt: skip
    return [builder.extract_value(found, k) for k in range(words)]


def _read_words(words, tag, fill, space):
    """Code that loads the first ``count`` of some chunks, ``step`` bytes apart.

    For most threads all but the last chunk are present: they load those without predicates.
    """
    chunks = words.width // 4

    def at(builder, start, step, k, count):
        address = step_from(builder, start, step, k)
        if count is None:
            return _load_present(builder, address, 4, space)
        present = builder.icmp_signed("<", constant(k), count)
        return _load_words(builder, address, present, fill_words(tag, fill), space)

    def codegen(builder, start, step, count):
        if chunks == 1 or space == "shared":
            loaded = [at(builder, start, step, k, count) for k in range(chunks)]
            return gathered(builder, [w for four in loaded for w in four])
        most = builder.icmp_signed(">=", count, constant(chunks - 1))
        branches = []
        with builder.if_else(most) as (then, otherwise):
            for branch, limit in ((then, None), (otherwise, count)):
                with branch:
                    loaded = [at(builder, start, step, k, limit) for k in range(chunks - 1)]
                    branches.append((loaded, builder.block))
        found = []
        for k in range(chunks - 1):
            for i in range(4):
                word = builder.phi(I32)
                for loaded, block in branches:
                    word.add_incoming(loaded[k][i], block)
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


def _reader(fill, space):
    @intrinsic
    def read(typingctx, number, dtype, start, step, count):
        tag = dtype.instance_class
        words = words_type(number.instance_type, tag)
        code = _read_words(words, tag, fill, space)
        address = types.int32 if space == "shared" else types.int64

        def codegen(context, builder, sig, args):
            return code(builder, *ptx_address(builder, args[2], space), *args[3:])

        return words(number, dtype, address, types.int32, types.int32), codegen

    return read


def ptx_address(builder, address, space):
    """(address,) for PTX; in shared memory, of an offset into the launch's dynamic memory."""
    if space == "global":
        return (address,)
    return (builder.ptrtoint(shared_place(builder, address, ir.IntType(8)), I32),)


def _writer(space):
    @intrinsic
    def write(typingctx, start, step, count, words):
        code = _write_words(words, space)
        address = types.int32 if space == "shared" else types.int64

        def codegen(context, builder, sig, args):
            code(builder, *ptx_address(builder, args[0], space), *args[1:])
            return context.get_dummy_value()

        return types.void(address, types.int32, types.int32, words), codegen

    return write


# Chunk k is at start + k * step; it is accessed if k < count, else filled with -inf.
read_logits = _reader("-inf", "global")
get_words = _reader("-inf", "shared")
write_words = _writer("global")
put_words = _writer("shared")


@intrinsic
def read_like(typingctx, number, dtype, like, start, step, count):
    """Load the elements of ``dtype`` at the positions of some chunks of ``like``, as words.

    Those of chunk k are adjacent, from start + k * step on; zeros from chunk ``count`` on.
    """
    N, tag, per = number.instance_type, dtype.instance_class, chunk_lanes(like.instance_class)
    words = words_type(N, tag)
    parts, size = _parts(per * SIZE[tag] // 4)

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
def write_like(typingctx, dtype, like, start, step, count, x):
    """Store x at the positions of some chunks of ``like``, in an array of ``dtype``."""
    tag, per = dtype.instance_class, chunk_lanes(like.instance_class)
    parts, size = _parts(per * SIZE[tag] // 4)

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
    """(number of loads, words of each) of adjacent words."""
    size = min(4, words)
    return words // size, size


@intrinsic
def no_words(typingctx, number, dtype):
    """Words that are not used: zeros."""
    words = words_type(number.instance_type, dtype.instance_class)

    def codegen(context, builder, sig, args):
        return ir.Constant(ir.VectorType(I32, words.width), None)

    return words(number, dtype), codegen


def _halves(builder, word):
    return builder.trunc(word, I16), builder.trunc(builder.lshr(word, constant(16)), I16)


def stored_bits(builder, dtype, words):
    """The bits of each number that some words store, as a list."""
    size = SIZE[dtype]
    if size == 4:
        return words
    if size == 2:
        return [half for word in words for half in _halves(builder, word)]
    if size == 1:
        byte = ir.IntType(8)
        return [builder.trunc(builder.lshr(word, constant(8 * k)), byte)
                for word in words for k in range(4)]  # fmt: skip
    pairs = zip(words[::2], words[1::2], strict=True)
    return [builder.or_(builder.zext(a, I64), builder.shl(builder.zext(b, I64),
            ir.Constant(I64, 32))) for a, b in pairs]  # fmt: skip


@intrinsic
def decode(typingctx, number, dtype, words):
    """The vector that some words store, of the type ``number``."""
    N, tag = number.instance_type, dtype.instance_class

    def codegen(context, builder, sig, args):
        raw = [builder.extract_element(args[2], constant(k)) for k in range(words.width)]
        bits = stored_bits(builder, tag, raw)
        return gathered(builder, [from_bits(builder, tag, N.dtype, b) for b in bits])

    return N(number, dtype, words), codegen


def _encode_pairs(builder, text, x):
    """Words of two float32 each, both rounded by one instruction."""
    single = FLOAT[types.float32]
    asm = ir.InlineAsm(ir.FunctionType(I32, [single, single]), text, "=r,f,f")
    return [builder.call(asm, pair) for pair in zip(x[::2], x[1::2], strict=True)]


def words_from(builder, dtype, number, x):
    """The words that store the lanes of a vector, as a list."""
    lanes = [builder.extract_element(x, constant(k)) for k in range(number.width)]
    info = INFO[dtype]
    if info.encode_pair is not None:
        singles = [to_float32(builder, v, number.dtype) for v in lanes]
        return _encode_pairs(builder, info.encode_pair, singles)
    bits = [to_bits(builder, dtype, number.dtype, v) for v in lanes]
    if info.size == 2:
        wide = [builder.zext(b, I32) for b in bits]
        high = [builder.shl(b, constant(16)) for b in wide[1::2]]
        return [builder.or_(a, b) for a, b in zip(wide[::2], high, strict=True)]
    if info.size == 8:
        high = [builder.lshr(b, ir.Constant(I64, 32)) for b in bits]
        pairs = zip(bits, high, strict=True)
        return [builder.trunc(part, I32) for pair in pairs for part in pair]
    return bits


@intrinsic
def encode(typingctx, dtype, x):
    """The words that store a vector."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        return gathered(builder, words_from(builder, tag, x, args[1]))

    return words_type(x, tag)(dtype, x), codegen


@intrinsic
def optimization_barrier(typingctx, x):
    """x. To the compiler it is another value, computed here: neither moved nor computed again.

    After it, words are decoded again: otherwise the floats of half-precision words would stay in
    twice as many registers as the words.
    """
    mark = "r" if isinstance(x, Words) else _REGISTER[lane_of(x)]

    def codegen(context, builder, sig, args):
        def keep(v):
            return assembly(builder, "", v.type, f"={mark},0", (v,))

        return lane_by_lane(builder, keep, args[0])

    return x(x), codegen


# ------------------------------------------------------------------- masks of the lanes of a chunk


@intrinsic
def first_lanes(typingctx, number, count):
    """The mask of the first ``count`` lanes."""
    N = number.instance_type
    if not isinstance(N, Vector):
        return types.boolean(number, types.int32), (
            lambda context, builder, sig, args: builder.icmp_signed(">", args[1], constant(0))
        )

    def codegen(context, builder, sig, args):
        return gathered(builder, [builder.icmp_signed("<", constant(k), args[1])
                                  for k in range(N.width)])  # fmt: skip

    return Mask(N.width)(number, types.int32), codegen
