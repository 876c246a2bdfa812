"""The arguments of a kernel, a record in memory: addresses, byte strides, sizes and scalars.

A kernel takes the address of this record and a range of blocks, ``void(args, first, last)``. The
signature is the same for every loss, dtype and layout, so that one compiled function (runtime.py)
runs all kernels, and strides, dtypes of inputs and options need no new compilation.
"""

import struct
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

from fusedce.kernels.rule import MAX_PARAMETERS

# Stands for the address of an array that each call fills in; 0 means that there is none.
PRESENT = 1

# An array of three axes (outer, class, inner): the first byte and the step in bytes along each.
VIEW = np.dtype([("address", "i8"), ("outer", "i8"), ("cls", "i8"), ("inner", "i8")], align=True)

KERNEL_ARGS = np.dtype(
    [
        # sizes
        ("outer", "i8"), ("classes", "i8"), ("inner", "i8"),
        ("block", "i8"),  # rows, lanes or elements of a block
        ("width", "i8"),  # classes held in scratch at a time
        # arrays; address 0: absent
        ("logits", VIEW), ("targets", VIEW), ("sample_weight", VIEW),
        ("loss", VIEW), ("grad", VIEW), ("hess", VIEW),
        ("pos_factor", VIEW), ("neg_factor", VIEW),  # factors of positive and negative outcomes
        ("weight", "i8"),  # (C,) in the compute dtype
        ("partial", "i8"),  # (blocks,) float64 sums of losses
        ("bad", "i8"),  # (blocks,) int64: position of the first invalid label of a block, or -1
        ("count", "i8"),  # (blocks,) int64: labels that count (label pass), or ignored ones
        # addresses of packing functions, see packing.py
        ("load_logits", "i8"), ("load_targets", "i8"), ("load_sample_weight", "i8"),
        ("load_factor", "i8"),
        ("store_loss", "i8"), ("store_grad", "i8"), ("store_hess", "i8"),
        # switches
        ("direct_logits", "i8"),  # logits are read in place
        ("direct_grad", "i8"),  # the gradient is written in place
        ("direct_targets", "i8"),
        ("adjacent", "i8"),  # gradients are contiguous and no Hessian is wanted
        ("stream", "i8"),  # gradients are written by non-temporal stores
        ("sparse_targets", "i8"),  # targets are class indices
        ("normalize", "i8"),
        ("class_column", "i8"), ("class_line", "i8"), ("class_outer", "i8"),  # the class axis
        ("constant_factors", "i8"),  # the factors are the same in every patch
        ("uniform", "i8"),  # binary labels, none ignored; the same nonzero factors everywhere
        ("binary", "i8"),  # every label is known to be binary
        ("unsmoothed", "i8"),  # binary labels are not smoothed
        ("may_ignore", "i8"),  # a label of +inf stands for ignore_index
        ("real_targets", "i8"),  # numbers as targets are checked, see Problem
        ("ignore_index", "i8"),
        # replace uniform, load_targets if the label pass found no ignored label
        ("uniform_if_none_ignored", "i8"), ("load_targets_if_none_ignored", "i8"),
        ("bytes", "i8"),  # of a label where labels are contiguous, else 0
        # lowest <= label < highest, and label != forbidden_label
        ("lowest", "i8"), ("highest", "i8"), ("forbidden_label", "i8"),
        # scalars
        ("scale", "f8"),  # 1 / denominator
        ("ignore_value", "f8"),  # the number that marks an ignored target, or NaN
        ("label_factor", "f8"), ("label_shift", "f8"),  # y = label * factor + shift
        ("z_loss", "f8"), ("softcap", "f8"), ("logit_scale", "f8"),
        ("params", "f8", (MAX_PARAMETERS,)),
    ],
    align=True,
)  # fmt: skip

_RECORD = from_dtype(KERNEL_ARGS)
assert KERNEL_ARGS.fields is not None
PARAMS_OFFSET = KERNEL_ARGS.fields["params"][1]
SLOTS = KERNEL_ARGS.itemsize // 8
# The index of each field's first word.
SLOT = {name: field[1] // 8 for name, field in KERNEL_ARGS.fields.items()}
_FIELDS = struct.Struct(
    "".join(
        (field[0].itemsize // 8) * ("d" if field[0].base == np.float64 else "q")
        for field in KERNEL_ARGS.fields.values()
    )
)


def packed(fields: dict[str, Any]) -> bytes:
    """The record of these fields, zeros elsewhere; views and parameters are tuples.

    All at once: one assignment to a field of a NumPy record takes 1 us.
    """
    slots = [0] * SLOTS
    for name, value in fields.items():
        start = SLOT[name]
        if type(value) is tuple:
            slots[start : start + len(value)] = value
        else:
            slots[start] = value
    return _FIELDS.pack(*slots)


@intrinsic
def args_at(typingctx, address):
    """The record at an address."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return _RECORD(types.int64), codegen


@intrinsic
def params_at(typingctx, address, cls, dtype):
    """The rule's parameters, cast to the compute dtype, as the NamedTuple that selects the rule."""
    T = dtype.dtype if hasattr(dtype, "dtype") else dtype.instance_type
    names = cls.instance_class._fields
    params = types.BaseTuple.from_types((T,) * len(names), cls.instance_class)

    def codegen(context, builder, signature, args):
        double = context.get_value_type(types.float64)
        start = builder.add(args[0], context.get_constant(types.int64, PARAMS_OFFSET))
        first = builder.inttoptr(start, double.as_pointer())
        values = []
        for k in range(len(names)):
            wide = builder.load(builder.gep(first, [context.get_constant(types.int64, k)]))
            values.append(context.cast(builder, wide, types.float64, T))
        return context.make_tuple(builder, signature.return_type, values)

    return params(types.int64, cls, dtype), codegen
