"""Softmax with class indices and a row in each lane: few classes, or a class axis not the last."""

from typing import Any

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.columns import (
    OneLane,
    Tags,
    begin,
    classes_again,
    fold,
    here,
    lane_of,
    loop_end,
    put_results,
)
from fusedce.kernels.cuda.index_rows import derivatives, evaluated
from fusedce.kernels.cuda.load_store_masked import lane_equals
from fusedce.kernels.cuda.load_store_scalar import number_at, params_of
from fusedce.kernels.cuda.logit_transform import Full, chain_transform, transform_logits
from fusedce.kernels.cuda.rows import (
    finish,
    label_of,
    sample_of,
    scale_of,
    weight_of,
)
from fusedce.kernels.scalar import INLINED, scalar, where
from fusedce.kernels.vector import lanes_as, vector_of, width


def own(extra, args, N, j, label, target, found, live, first, second):
    """The same derivatives with the target's own in their place."""
    raise NotImplementedError("compiled code only")


@overload(own, jit_options=INLINED)
def _own(extra, args, N, j, label, target, found, live, first, second):
    if extra.instance_class is not Full:

        def plain(extra, args, N, j, label, target, found, live, first, second):
            g = where(lane_equals(N, j, label if live else np.int64(-1)), N(found.first), first)
            return g, g

        return plain

    def full(extra, args, N, j, label, target, found, live, first, second):
        hit = lane_equals(N, j, label if live else np.int64(-1))
        x = transform_logits(extra, args, target, True)
        g, h = chain_transform(args, target, x, found.first, found.second)
        return where(hit, N(g), first), where(hit, N(h), second)

    return full


@scalar
def write_indices(tags, N, args, row, label, target, found, live, held):
    """Gradients and curvatures of a row; zeros if it does not count."""
    T = lanes_as(N(0))
    j, last = np.int64(0), loop_end(tags.residency, N, row.classes)
    while j < last:
        count, present = here(N, row.classes, j)
        z = classes_again(tags.residency, tags.layout, N, T, tags.dtype, args, row, j, count, held)
        x = transform_logits(tags.extra, args, z, present)
        first, second = derivatives(tags.extra, args, tags.dtype, z, x, found, live)
        first, second = where(live, first, N(0)), where(live, second, N(0))
        first, second = own(tags.extra, args, N, j, label, target, found, live, first, second)
        put_results(tags.extra, tags.layout, N, T, tags.dtype, args, row, j, count, first, second)
        j += width(N)


def index_columns(Params: type, T: Any, Dtype: type, Layout: type, Residency: type, Lanes: type,
                  Extra: type) -> Any:  # fmt: skip
    """The kernel of class indices with a row in each lane."""

    def index_columns(args):
        dtype, extra = Dtype(), Extra()
        tags = Tags(dtype, Layout(), Residency(), extra, dtype)
        N = vector_of(T, Lanes())
        params = params_of(args, Params, T)
        row = lane_of(args)
        scale = scale_of(args, T)
        label = label_of(args, row.outer, row.inner)
        live = row.inside and label != args.ignore_index and scale != T(0)
        fine = label >= 0 and label < args.classes
        label = label if live and fine else np.int64(0)
        target = T(0)
        if live:
            target = number_at(T, dtype, row.logits + label * args.logits_cls)
        sample = sample_of(args, T, row.outer, row.inner)
        weight = weight_of(args, T, label)
        begin(tags.layout, N, T, dtype, args)
        m, others, held = fold(tags.residency, tags, N, args, row)
        z = transform_logits(extra, args, target, True)
        loss, found = evaluated(
            args, dtype, params, T, z, m, others, weight, sample, scale, live, fine
        )
        if args.grad != 0 or args.hess != 0:
            write_indices(tags, N, args, row, label, target, found, live, held)
        finish(OneLane(), args, row.outer, row.inner, np.int32(0), row.inside, loss)

    return index_columns
