"""Rows of probabilities with class indices: most classes have no mass, a warp takes a row."""

from typing import Any

import numpy as np

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.load_store_scalar import float_of, number_at, params_of, put_number
from fusedce.kernels.cuda.reduce import WARPS, warp_sum
from fusedce.kernels.cuda.rows import finish, label_of, sample_of, scale_of, weight_of
from fusedce.kernels.link import probability_cell
from fusedce.kernels.scalar import scalar

Row = WARPS[5]


@scalar
def class_of(T, dtype, args, params, outer, inner, j, hit, sample, scale):
    """The loss of a class of a row; what is wanted of it is written."""
    y = T(1) if hit else T(0)
    mass = weight_of(args, T, j) * (
        y * float_of(T, args.label_factor) + float_of(T, args.label_shift)
    )
    f, f1, f2 = T(0), T(0), T(0)
    if mass != T(0):
        here = args.logits + outer * args.logits_outer + inner * args.logits_inner
        z = number_at(T, dtype, here + j * args.logits_cls)
        f, f1, f2 = probability_cell(z, mass, params)
    if args.grad != 0:
        here = args.grad + outer * args.grad_outer + inner * args.grad_inner
        put_number(dtype, here + j * args.grad_cls, f1 * (sample * scale))
    if args.hess != 0:
        here = args.hess + outer * args.hess_outer + inner * args.hess_inner
        put_number(dtype, here + j * args.hess_cls, f2 * (sample * scale))
    return f


@scalar
def zero_class(T, dtype, args, outer, inner, j):
    """An ignored row is written, never skipped."""
    if args.grad != 0:
        here = args.grad + outer * args.grad_outer + inner * args.grad_inner
        put_number(dtype, here + j * args.grad_cls, T(0))
    if args.hess != 0:
        here = args.hess + outer * args.hess_outer + inner * args.hess_inner
        put_number(dtype, here + j * args.hess_cls, T(0))


def probability_rows(Params: type, T: Any, Dtype: type) -> Any:
    """The kernel of class indices into rows of probabilities, wherever they lie."""

    def probability_rows(args):
        dtype, group = Dtype(), Row()
        params = params_of(args, Params, T)
        scale = scale_of(args, T)
        number = np.int64(block()) * (threads() >> np.int32(5)) + (thread() >> np.int32(5))
        lane = np.int32(thread() & np.int32(31))
        inside = number < args.outer * args.inner
        row = number if inside else np.int64(0)
        outer, inner = row // args.inner, row % args.inner
        label = label_of(args, outer, inner)
        live = inside and label != args.ignore_index and scale != T(0)
        sample = sample_of(args, T, outer, inner)
        if label < 0 or label >= args.classes:
            sample, label = T(np.nan), np.int64(-1)
        loss, j = T(0), np.int64(lane)
        while inside and j < args.classes:
            if live:
                loss += class_of(T, dtype, args, params, outer, inner, j, j == label, sample, scale)
            else:
                zero_class(T, dtype, args, outer, inner, j)
            j += 32
        loss = warp_sum(loss) * sample
        finish(group, args, outer, inner, lane, inside, loss if live else T(0))

    return probability_rows
