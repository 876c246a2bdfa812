"""Loads and stores of single numbers under a predicate, for lanes that are not whole chunks.

A lane that is not present is not accessed; it is filled with a given number.
"""

from llvmlite import ir

from fusedce.kernels.cuda.device import I32, I64, VOID, assembly, shared_place
from fusedce.kernels.cuda.dtypes import SIZE, Float32, Float64
from fusedce.kernels.cuda.load_store import chunk_lanes, step_from
from fusedce.kernels.cuda.load_store_scalar import constant, from_bits, to_bits
from fusedce.kernels.cuda.toolchain import intrinsic, types
from fusedce.kernels.vector import Mask, Vector, gathered, lane_of

_ASM = {1: ("u8", "h"), 2: ("b16", "h"), 4: ("b32", "r"), 8: ("b64", "l")}


def _load_one(builder, address, present, tag, space="global"):
    """Load the bits of one number, 0 if it is not present. Predicated PTX, no branch."""
    size = SIZE[tag]
    kind, mark = _ASM[size]
    text = (
        f"{{ .reg .pred here; setp.ne.s32 here, $2, 0; mov.b{max(16, 8 * size)} $0, 0; "
        f"@here ld.{space}.{kind} $0, [$1]; }}"
    )
    where = "r" if space == "shared" else "l"
    result = ir.IntType(max(16, 8 * size))
    found = assembly(
        builder, text, result, f"=&{mark},{where},r", (address, builder.zext(present, I32))
    )
    return builder.trunc(found, ir.IntType(8)) if size == 1 else found


def _store_one(builder, address, present, bits, tag, space="global"):
    kind, mark = _ASM[SIZE[tag]]
    where = "r" if space == "shared" else "l"
    text = f"{{ .reg .pred here; setp.ne.s32 here, $1, 0; @here st.{space}.{kind} [$0], $2; }}"
    args = (address, builder.zext(present, I32), bits)
    assembly(builder, text, VOID, f"{where},r,{mark}", args)


def _lane_addresses(builder, number, per, start, step, along, count):
    """(address, whether it is present) of each lane: lane i of chunk k at k step + i along."""
    for lane in range(getattr(number, "width", 1)):
        k, i = divmod(lane, per)
        present = builder.icmp_signed("<", constant(k), count)
        yield step_from(builder, step_from(builder, start, step, k), along, i), present


def _read_grid(builder, number, tag, fill, places):
    found = []
    for address, present in places:
        x = from_bits(builder, tag, lane_of(number), _load_one(builder, address, present, tag))
        found.append(builder.select(present, x, fill))
    return gathered(builder, found) if isinstance(number, Vector) else found[0]


def _write_grid(builder, number, tag, x, places):
    for lane, (address, present) in enumerate(places):
        vector = isinstance(number, Vector)
        value = builder.extract_element(x, constant(lane)) if vector else x
        bits = to_bits(builder, tag, lane_of(number), value)
        _store_one(builder, address, present, bits, tag)


@intrinsic
def read_grid(typingctx, number, dtype, like, start, step, along, count, fill):
    """Load the elements of ``dtype`` at the positions of some chunks of ``like``.

    Element i of chunk k is at start + k * step + i * along; ``fill`` from chunk ``count`` on.
    """
    N, tag, per = number.instance_type, dtype.instance_class, chunk_lanes(like.instance_class)

    def codegen(context, builder, sig, args):
        places = _lane_addresses(builder, N, per, *args[3:7])
        return _read_grid(builder, N, tag, args[7], places)

    sizes = (types.int64, types.int64, types.int64, types.int32)
    return N(number, dtype, like, *sizes, lane_of(N)), codegen


@intrinsic
def write_grid(typingctx, dtype, start, step, along, count, x):
    """Store x at the elements of the first ``count`` chunks, addressed as by ``read_grid``."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        places = _lane_addresses(builder, x, chunk_lanes(tag), *args[1:5])
        _write_grid(builder, x, tag, args[5], places)
        return context.get_dummy_value()

    sizes = (types.int64, types.int64, types.int64, types.int32)
    return types.void(dtype, *sizes, x), codegen


@intrinsic
def read_lanes(typingctx, number, dtype, start, step, count, fill):
    """Load the first ``count`` lanes, ``step`` bytes apart; ``fill`` in the other lanes."""
    N, tag = number.instance_type, dtype.instance_class

    def codegen(context, builder, sig, args):
        none = ir.Constant(I64, 0)
        places = _lane_addresses(builder, N, 1, args[2], args[3], none, args[4])
        return _read_grid(builder, N, tag, args[5], places)

    return N(number, dtype, types.int64, types.int64, types.int32, lane_of(N)), codegen


@intrinsic
def write_lanes(typingctx, dtype, start, step, count, x):
    """Store the first ``count`` lanes ``step`` bytes apart."""
    tag = dtype.instance_class

    def codegen(context, builder, sig, args):
        none = ir.Constant(I64, 0)
        places = _lane_addresses(builder, x, 1, args[1], args[2], none, args[3])
        _write_grid(builder, x, tag, args[4], places)
        return context.get_dummy_value()

    return types.void(dtype, types.int64, types.int64, types.int32, x), codegen


@intrinsic
def get_lanes(typingctx, number, start, step, count, fill):
    """As ``read_lanes``, from shared memory, where numbers have the compute type."""
    N = number.instance_type
    tag = _SHARED_DTYPE[lane_of(N)]

    def codegen(context, builder, sig, args):
        found = []
        for k in range(getattr(N, "width", 1)):
            present = builder.icmp_signed("<", constant(k), args[3])
            place = _shared_address(builder, step_from(builder, args[1], args[2], k))
            bits = _load_one(builder, place, present, tag, "shared")
            x = from_bits(builder, tag, lane_of(N), bits)
            found.append(builder.select(present, x, args[4]))
        return gathered(builder, found) if isinstance(N, Vector) else found[0]

    return N(number, types.int32, types.int32, types.int32, lane_of(N)), codegen


@intrinsic
def put_lanes(typingctx, start, step, count, x):
    """As ``write_lanes``, to shared memory."""
    tag = _SHARED_DTYPE[lane_of(x)]

    def codegen(context, builder, sig, args):
        start, step, count, value = args
        for k in range(getattr(x, "width", 1)):
            vector = isinstance(x, Vector)
            one = builder.extract_element(value, constant(k)) if vector else value
            present = builder.icmp_signed("<", constant(k), count)
            place = _shared_address(builder, step_from(builder, start, step, k))
            _store_one(
                builder, place, present, to_bits(builder, tag, lane_of(x), one), tag, "shared"
            )
        return context.get_dummy_value()

    return types.void(types.int32, types.int32, types.int32, x), codegen


_SHARED_DTYPE = {types.float32: Float32, types.float64: Float64}


def _shared_address(builder, offset):
    return builder.ptrtoint(shared_place(builder, offset, ir.IntType(8)), I32)


@intrinsic
def chunk_lane_equals(typingctx, number, dtype, start, step, wanted):
    """The mask of the lane whose number is ``wanted``; lane i of chunk k is start + k step + i."""
    N, per = number.instance_type, chunk_lanes(dtype.instance_class)

    def codegen(context, builder, sig, args):
        found = []
        for k in range(N.width // per):
            here = builder.sub(args[4], step_from(builder, args[2], args[3], k))
            found += [builder.icmp_signed("==", here, ir.Constant(I64, i)) for i in range(per)]
        return gathered(builder, found)

    return Mask(N.width)(number, dtype, types.int64, types.int64, types.int64), codegen


@intrinsic
def lane_equals(typingctx, number, start, wanted):
    """The mask of the lane whose number is ``wanted``; lane i is start + i."""
    N = number.instance_type

    def codegen(context, builder, sig, args):
        here = builder.sub(args[2], args[1])
        found = [builder.icmp_signed("==", here, ir.Constant(I64, i))
                 for i in range(getattr(N, "width", 1))]  # fmt: skip
        return gathered(builder, found) if isinstance(N, Vector) else found[0]

    mask = Mask(N.width) if isinstance(N, Vector) else types.boolean
    return mask(number, types.int64, types.int64), codegen
