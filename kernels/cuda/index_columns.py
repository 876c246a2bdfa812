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
from fusedce.kernels.cuda.load_store_masked import numbered
from fusedce.kernels.cuda.load_store_scalar import number_at, params_of
from fusedce.kernels.cuda.logit_transform import Full, seen, through
from fusedce.kernels.cuda.rows import (
    finish,
    label_of,
    sample_of,
    scale_of,
    weight_of,
)
from fusedce.kernels.scalar import INLINED, scalar, where
from fusedce.kernels.vector import lanes_as, vector_of, width


def own(extra, plan, N, j, label, target, found, live, first, second):
    """The same derivatives with the target's own in their place."""
    raise NotImplementedError("compiled code only")


@overload(own, jit_options=INLINED)
def _own(extra, plan, N, j, label, target, found, live, first, second):
    if extra.instance_class is not Full:

        def plain(extra, plan, N, j, label, target, found, live, first, second):
            g = where(numbered(N, j, label if live else np.int64(-1)), N(found.first), first)
            return g, g

        return plain

    def full(extra, plan, N, j, label, target, found, live, first, second):
        hit = numbered(N, j, label if live else np.int64(-1))
        x = seen(extra, plan, target, True)
        g, h = through(plan, target, x, found.first, found.second)
        return where(hit, N(g), first), where(hit, N(h), second)

    return full


@scalar
def write_indices(tags, N, plan, row, label, target, found, live, held):
    """Gradients and curvatures of a row; zeros if it does not count."""
    T = lanes_as(N(0))
    j, last = np.int64(0), loop_end(tags.way, N, row.classes)
    while j < last:
        count, present = here(N, row.classes, j)
        z = classes_again(tags.way, tags.layout, N, T, tags.form, plan, row, j, count, held)
        x = seen(tags.extra, plan, z, present)
        first, second = derivatives(tags.extra, plan, tags.form, z, x, found, live)
        first, second = where(live, first, N(0)), where(live, second, N(0))
        first, second = own(tags.extra, plan, N, j, label, target, found, live, first, second)
        put_results(tags.extra, tags.layout, N, T, tags.form, plan, row, j, count, first, second)
        j += width(N)


def index_columns(Params: type, T: Any, Form: type, Layout: type, Way: type, Lanes: type,
                  Extra: type) -> Any:  # fmt: skip
    """The kernel of class indices with a row in each lane."""

    def index_columns(plan):
        form, extra = Form(), Extra()
        tags = Tags(form, Layout(), Way(), extra, form)
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        row = lane_of(plan)
        scale = scale_of(plan, T)
        label = label_of(plan, row.outer, row.inner)
        live = row.inside and label != plan.ignore_index and scale != T(0)
        fine = label >= 0 and label < plan.classes
        label = label if live and fine else np.int64(0)
        target = T(0)
        if live:
            target = number_at(T, form, row.logits + label * plan.logits_cls)
        sample = sample_of(plan, T, row.outer, row.inner)
        weight = weight_of(plan, T, label)
        begin(tags.layout, N, T, form, plan)
        m, others, held = fold(tags.way, tags, N, plan, row)
        z = seen(extra, plan, target, True)
        loss, found = evaluated(
            plan, form, params, T, z, m, others, weight, sample, scale, live, fine
        )
        if plan.grad != 0 or plan.hess != 0:
            write_indices(tags, N, plan, row, label, target, found, live, held)
        finish(OneLane(), plan, row.outer, row.inner, np.int32(0), row.inside, loss)

    return index_columns
