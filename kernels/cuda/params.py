"""The rule's parameters, out of the plan."""

from llvmlite import ir

from fusedce.kernels.cuda.numba_cuda import cgutils, intrinsic, types
from fusedce.kernels.cuda.plan import SLOT


@intrinsic
def params_of(typingctx, plan, cls, dtype):
    """The NamedTuple of floats that selects the rule."""
    T = dtype.instance_type
    names = cls.instance_class._fields
    params = types.BaseTuple.from_types((T,) * len(names), cls.instance_class)

    def codegen(context, builder, sig, args):
        fields = cgutils.unpack_tuple(builder, args[0])
        values = []
        for k in range(len(names)):
            bits = fields[SLOT["p0"] + k]
            if T.bitwidth == 32:
                bits = builder.trunc(bits, ir.IntType(32))
            values.append(builder.bitcast(bits, context.get_value_type(T)))
        return context.make_tuple(builder, sig.return_type, values)

    return params(plan, cls, dtype), codegen
