"""Vectors of floats as a Numba type, so that scalar functions compile to SIMD.

``Vector`` is 64 bytes of float32 or float64, one LLVM vector, which LLVM splits for narrower
registers. Arithmetic, comparisons (to a ``Mask``), abs, min, max and ``where`` work as they do on
numbers, and a number is broadcast to all lanes, so that the scalar functions of rules and links
compile for vectors unchanged. A vector cannot be the condition of a Python ``if``. LLVM's loop
vectoriser needs no such type, but it falls back to scalar code for many loops, and it emits no
non-temporal stores and no masked tails.
"""

import operator
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

BYTES = 64
FLOAT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Vector(types.Number):  # type: ignore[misc]
    """``width`` floats side by side."""

    def __init__(self, dtype, width):
        self.dtype, self.width = dtype, width
        super().__init__(name=f"Vector({dtype}, {width})")

    @property
    def key(self):
        """Types with equal keys are the same type."""
        return self.dtype, self.width


class Mask(types.Type):  # type: ignore[misc]
    """A boolean in each lane."""

    def __init__(self, width):
        self.width = width
        super().__init__(name=f"Mask({width})")

    @property
    def key(self):
        """Types with equal keys are the same type."""
        return self.width


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(FLOAT[fe_type.dtype], fe_type.width))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(I1, fe_type.width))


def splat(builder, value, width):
    """The same value in every lane."""
    vector = ir.VectorType(value.type, width)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, width), None))


@lower_cast(types.Number, Vector)
@lower_cast(types.Boolean, Vector)
def _to_vector(context, builder, fromty, toty, value):
    if isinstance(fromty, Vector):
        if fromty == toty:
            return value
        raise NotImplementedError(f"{fromty} to {toty}")
    return splat(builder, context.cast(builder, value, fromty, toty.dtype), toty.width)


@lower_cast(types.Boolean, Mask)
def _to_mask(context, builder, fromty, toty, value):
    return splat(builder, value, toty.width)


def common_vector_type(args):
    """The vector type among some types, or None."""
    found = {a for a in args if isinstance(a, Vector)}
    rest = [a for a in args if not isinstance(a, types.Number | types.Boolean)]
    return found.pop() if len(found) == 1 and not rest else None


def _operator(names, emit, result=lambda v: v):
    """Define operators on vectors: arguments become one vector type, ``emit`` makes the code."""
    for name in names:

        class Template(AbstractTemplate):  # type: ignore[misc]
            key = name

            def generic(self, args, kws):
                vector = common_vector_type(args)
                return signature(result(vector), *[vector] * len(args)) if vector else None

        infer_global(name)(Template)
        lower_builtin(name, Vector)(_lowered(emit))
        lower_builtin(name, Vector, Vector)(_lowered(emit))


def _lowered(emit):
    return lambda context, builder, sig, args: emit(builder, *args)


def on_gpu(builder):
    """Whether code is made for a GPU."""
    return builder.module.triple.startswith("nvptx")


def lane_by_lane(builder, emit, *args):
    """What ``emit`` makes of each lane of vectors, as a vector; of numbers, a number."""
    if not isinstance(args[0].type, ir.VectorType):
        return emit(*args)
    found = []
    for k in range(args[0].type.count):
        found.append(emit(*(builder.extract_element(a, ir.Constant(I32, k)) for a in args)))
    return gathered(builder, found)


def gathered(builder, values):
    """A vector of these lanes."""
    vector = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
    for k, value in enumerate(values):
        vector = builder.insert_element(vector, value, ir.Constant(I32, k))
    return vector


def call_intrinsic(builder, name, *args):
    """Call an LLVM intrinsic that works lane by lane; NVVM knows only those of one lane."""
    ty = args[0].type
    if on_gpu(builder):
        return lane_by_lane(builder, lambda *x: _on_device(builder, name, *x), *args)
    suffix = (
        f"v{ty.count}{ty.element.intrinsic_name}" if hasattr(ty, "count") else ty.intrinsic_name
    )
    fnty = ir.FunctionType(ty, [ty] * len(args))
    full = f"{name}.{suffix}"
    fn = builder.module.globals.get(full) or ir.Function(builder.module, fnty, full)
    return builder.call(fn, args)


# Of LLVM's intrinsics NVVM takes few; libdevice has the others.
_LIBDEVICE = {
    "llvm.fabs": "__nv_fabs", "llvm.rint": "__nv_rint", "llvm.fma": "__nv_fma",
    "llvm.maxnum": "__nv_fmax",
}  # fmt: skip


def _on_device(builder, name, *args):
    """Call libdevice's version of an intrinsic."""
    ty = args[0].type
    full = _LIBDEVICE[name] + ("f" if ty == ir.FloatType() else "")
    fnty = ir.FunctionType(ty, [ty] * len(args))
    fn = builder.module.globals.get(full) or ir.Function(builder.module, fnty, full)
    return builder.call(fn, args)


def negative(builder, x):
    """Minus x; LLVM 7, which NVVM speaks, has no fneg."""
    if on_gpu(builder):
        zero = ir.Constant(x.type.element, -0.0)
        return builder.fsub(splat(builder, zero, x.type.count), x)
    return builder.fneg(x)


def quotient(builder, x, y):
    """x / y; on a GPU to 2 ulp in float32, for y up to 2**126, as its scalars divide."""
    if on_gpu(builder) and x.type.element == ir.FloatType():
        fnty = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
        divide = ir.InlineAsm(fnty, "div.approx.f32 $0, $1, $2;", "=f,f,f")
        return lane_by_lane(builder, lambda a, b: builder.call(divide, (a, b)), x, y)
    return builder.fdiv(x, y)


def _compare(symbol):
    return lambda builder, a, b: builder.fcmp_ordered(symbol, a, b)


_operator([operator.add, operator.iadd], lambda b, x, y: b.fadd(x, y))
_operator([operator.sub, operator.isub], lambda b, x, y: b.fsub(x, y))
_operator([operator.mul, operator.imul], lambda b, x, y: b.fmul(x, y))
_operator([operator.truediv, operator.itruediv], quotient)
_operator([operator.neg], negative)
_operator([operator.pos], lambda b, x: x)
_operator([abs], lambda b, x: call_intrinsic(b, "llvm.fabs", x))
# As in Python: the first argument unless the second is beyond it.
_operator([min], lambda b, x, y: b.select(b.fcmp_ordered("<", y, x), y, x))
_operator([max], lambda b, x, y: b.select(b.fcmp_ordered(">", y, x), y, x))
for _name, _symbol in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "==")):
    _operator([getattr(operator, _name)], _compare(_symbol), lambda v: Mask(v.width))
_operator([operator.ne], lambda b, x, y: b.fcmp_unordered("!=", x, y), lambda v: Mask(v.width))


def _mask_operator(names, emit):
    for name in names:

        class Template(AbstractTemplate):  # type: ignore[misc]
            key = name

            def generic(self, args, kws):
                masks = [a for a in args if isinstance(a, Mask)]
                fine = all(isinstance(a, Mask | types.Boolean) for a in args)
                return signature(masks[0], *[masks[0]] * len(args)) if masks and fine else None

        infer_global(name)(Template)
        lower_builtin(name, Mask, Mask)(_lowered(emit))


_mask_operator([operator.and_, operator.iand], lambda b, x, y: b.and_(x, y))
_mask_operator([operator.or_, operator.ior], lambda b, x, y: b.or_(x, y))
_mask_operator([operator.xor, operator.ixor, operator.ne], lambda b, x, y: b.xor(x, y))


@lower_builtin(operator.invert, Mask)
def _not(context, builder, sig, args):
    return builder.not_(args[0])


@infer_global(operator.invert)
class _Invert(AbstractTemplate):  # type: ignore[misc]
    key = operator.invert

    def generic(self, args, kws):
        return signature(*args, *args) if isinstance(args[0], Mask) else None


def _nothing(context, builder, sig, args):
    return context.get_dummy_value()


@intrinsic
def lanes(typingctx, dtype):
    """The vector type of a float type."""
    T = dtype.instance_type
    return types.NumberClass(Vector(T, BYTES * 8 // T.bitwidth))(dtype), _nothing


class Wide(NamedTuple):
    """Type tag: loops evaluate the rule on one vector at a time."""


class Single(NamedTuple):
    """Type tag: loops evaluate the rule on one number at a time, for a rule that has an ``if``."""


@intrinsic
def numbers(typingctx, tag, dtype):
    """The number type of a loop over floats."""
    T = dtype.instance_type
    wide = tag.instance_class is Wide
    number = Vector(T, BYTES * 8 // T.bitwidth) if wide else T
    return types.NumberClass(number)(tag, dtype), _nothing


@intrinsic
def width(typingctx, number):
    """Lanes of a number type."""
    value = getattr(number.instance_type, "width", 1)
    return types.int64(number), lambda context, builder, sig, args: ir.Constant(I64, value)


@intrinsic
def lane_bytes(typingctx, number):
    """Bytes of one lane."""
    value = lane_of(number.instance_type).bitwidth // 8
    return types.int64(number), lambda context, builder, sig, args: ir.Constant(I64, value)


@intrinsic
def lanes_as(typingctx, x):
    """The float type of the lanes of x."""
    return types.NumberClass(lane_of(x))(x), _nothing


@intrinsic
def vector_of(typingctx, dtype, tag):
    """The number type of as many lanes as the class of ``tag`` says."""
    T, many = dtype.instance_type, tag.instance_class.lanes
    return types.NumberClass(Vector(T, many) if many > 1 else T)(dtype, tag), _nothing


@intrinsic
def lane(typingctx, x, k):
    """One lane, by number."""
    one = types.boolean if isinstance(x, Mask) else x.dtype

    def codegen(context, builder, sig, args):
        return builder.extract_element(*args)

    return one(x, types.int32), codegen


@intrinsic
def with_lane(typingctx, x, k, value):
    """The same vector but for one lane."""

    def codegen(context, builder, sig, args):
        return builder.insert_element(args[0], args[2], args[1])

    return x(x, types.int32, x.dtype), codegen


def lane_of(ty):
    """The type of one lane."""
    return ty.dtype if isinstance(ty, Vector) else ty


def _folded(builder, x, combine):
    """Combine halves until one lane is left, in a fixed order; an odd lane is combined last."""
    if not isinstance(x.type, ir.VectorType):
        return x
    width = x.type.count
    while width % 2 == 0:
        width //= 2
        lower, upper = (
            ir.Constant(ir.VectorType(I32, width), [ir.Constant(I32, k) for k in half])
            for half in (range(width), range(width, 2 * width))
        )
        x = combine(builder.shuffle_vector(x, x, lower), builder.shuffle_vector(x, x, upper))
    lanes = [builder.extract_element(x, ir.Constant(I32, k)) for k in range(width)]
    while len(lanes) > 1:
        half = len(lanes) // 2
        pairs = zip(lanes[:half], lanes[half : 2 * half], strict=True)
        lanes = [combine(a, b) for a, b in pairs] + lanes[2 * half :]
    return lanes[0]


@intrinsic
def sum_of_lanes(typingctx, x):
    """The sum of the lanes."""

    def codegen(context, builder, sig, args):
        return _folded(builder, args[0], builder.fadd)

    return lane_of(x)(x), codegen


@intrinsic
def max_of_lanes(typingctx, x):
    """The largest lane; a NaN may be passed over."""

    def codegen(context, builder, sig, args):
        def larger(a, b):
            if on_gpu(builder):  # one instruction
                return call_intrinsic(builder, "llvm.maxnum", a, b)
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _folded(builder, args[0], larger)

    return lane_of(x)(x), codegen


@intrinsic
def to_float64(typingctx, x):
    """The lanes in float64."""
    wide = Vector(types.float64, x.width) if isinstance(x, Vector) else types.float64

    def codegen(context, builder, sig, args):
        if lane_of(x) == types.float64:
            return args[0]
        return builder.fpext(args[0], context.get_value_type(wide))

    return wide(x), codegen


@intrinsic
def count_true(typingctx, condition):
    """The number of lanes that are true."""

    def codegen(context, builder, sig, args):
        if isinstance(condition, types.Boolean):
            return builder.zext(args[0], I64)
        bits = builder.bitcast(args[0], ir.IntType(condition.width))
        return builder.zext(builder.ctpop(bits), I64)

    return types.int64(condition), codegen


@intrinsic
def from_float64(typingctx, number, x):
    """The lanes of float64 as numbers of a type."""
    N = number.instance_type

    def codegen(context, builder, sig, args):
        if lane_of(N) == types.float64:
            return args[1]
        return builder.fptrunc(args[1], context.get_value_type(N))

    return N(number, x), codegen
