"""Elements: every logit has a loss of its own (sigmoid, and binary probabilities).

The array is seen as (outer, lines, along), in the plan's fields (outer, inner, classes). A block is
a patch of whole lines, or a part of one long line, and lies contiguous: in place or in scratch.
"""

import numpy as np
from numba.extending import overload

from fusedce.kernels.cpu.blocks import (
    LANES,
    address_of,
    array_at,
    cap,
    cap_slope,
    copied,
    line_of,
    loop,
    summing,
    total,
)
from fusedce.kernels.cpu.machine import call7, poke
from fusedce.kernels.cpu.plan import params_at, plan_at
from fusedce.kernels.cpu.rows import chained, scaled
from fusedce.kernels.link import Slope, hard_cell, soft_cell
from fusedce.kernels.scalar import INLINED, choose


@loop
def patch(plan, view, mover, outer, line, along, lines, columns, scratch, extra):
    """Move a patch of a view into or out of scratch."""
    here = view.address + outer * view.outer + line * view.inner + along * view.cls
    call7(mover, here, view.inner, view.cls, lines, columns, address_of(scratch), extra)


@loop
def place(plan, view, direct, outer, line, along, scratch, n):
    """A patch of a view where it lies, or scratch."""
    if direct:
        here = view.address + outer * view.outer + line * view.inner + along * view.cls
        return array_at(here, n, scratch.dtype)
    return scratch[:n]


@loop
def one_hot(plan, outer, line, along, lines, columns, labels, y):
    """y <- label == class; +inf where the label is ignored."""
    T = y.dtype.type
    view = plan.targets
    for i in range(lines):
        row = y[i * columns : (i + 1) * columns]
        here = view.address + outer * view.outer + (line + i) * view.inner + along * view.cls
        if plan.class_along:
            call7(plan.load_targets, here, 0, 0, 1, 1, address_of(labels), 0)
            row[:] = T(np.inf) if labels[0] == plan.ignore_index else T(0)
            k = labels[0] - along
            if labels[0] != plan.ignore_index and 0 <= k < columns:
                row[k] = T(1)
        else:
            call7(plan.load_targets, here, 0, view.cls, 1, columns, address_of(labels), 0)
            cls = outer * plan.class_outer + (line + i) * plan.class_line
            for j in range(columns):
                hit = choose(labels[j] == cls, T(1), T(0))
                row[j] = choose(labels[j] == plan.ignore_index, T(np.inf), hit)


@summing
def softness(y, factor, shift):
    """Zero if and only if every label is 0 or 1."""
    T = y.dtype.type
    total = T(0)
    for j in range(y.size):
        label = y[j] * factor + shift
        total += abs(label * (T(1) - label))
    return total


@loop
def hard(link, z, y, up, down, params, factor, shift, ignored, scale, loss, g):
    """Loss and gradient of a patch of yes/no labels."""
    T = z.dtype.type
    for j in range(z.size):
        a, a1, a2 = hard_cell(link, z[j], y[j] * factor + shift, up[j], down[j], params)
        keep = y[j] != ignored
        loss[j] = choose(keep, a, T(0))
        g[j] = choose(keep, a1 * scale, T(0))


@loop
def soft(link, z, y, up, down, params, factor, shift, ignored, scale, loss, g):
    """Loss and gradient of a patch of labels in [0, 1]."""
    T = z.dtype.type
    for j in range(z.size):
        a, a1, a2 = soft_cell(link, z[j], y[j] * factor + shift, up[j], down[j], params)
        keep = y[j] != ignored
        loss[j] = choose(keep, a, T(0))
        g[j] = choose(keep, a1 * scale, T(0))


def curvature(order, link, z, y, up, down, params, factor, shift, ignored, scale, h):
    """The second derivatives of a patch of labels, if the kernel is one for them."""
    raise NotImplementedError("compiled code only")


@overload(curvature, jit_options=INLINED)
def _curvature(order, link, z, y, up, down, params, factor, shift, ignored, scale, h):
    if order.instance_class is Slope:
        return lambda order, link, z, y, up, down, params, factor, shift, ignored, scale, h: None
    return lambda order, link, z, y, up, down, params, factor, shift, ignored, scale, h: bends(
        link, z, y, up, down, params, factor, shift, ignored, scale, h
    )


@loop
def bends(link, z, y, up, down, params, factor, shift, ignored, scale, h):
    """The second derivatives of a patch of labels."""
    T = z.dtype.type
    for j in range(z.size):
        a, a1, a2 = soft_cell(link, z[j], y[j] * factor + shift, up[j], down[j], params)
        h[j] = choose(y[j] != ignored, a2 * scale, T(0))


@loop
def factors(plan, outer, line, along, lines, columns, up, down, s):
    """Masses of the two outcomes of a patch, sample weights included."""
    n = lines * columns
    if not plan.steady:
        patch(plan, plan.up, plan.load_factor, outer, line, along, lines, columns, up, 0)
        patch(plan, plan.down, plan.load_factor, outer, line, along, lines, columns, down, 0)
    if plan.sample_weight.address != 0:
        patch(
            plan, plan.sample_weight, plan.load_sample_weight,
            outer, line, along, lines, columns, s, 0,
        )  # fmt: skip
        for j in range(n):
            up[j] *= s[j]
            down[j] *= s[j]


@loop
def labels_of(plan, outer, line, along, lines, columns, labels, scratch):
    """The labels of a patch as numbers."""
    n = lines * columns
    if plan.one_hot:
        one_hot(plan, outer, line, along, lines, columns, labels, scratch)
    elif not plan.direct_targets:
        patch(
            plan, plan.targets, plan.load_targets,
            outer, line, along, lines, columns, scratch, plan.ignore_index,
        )  # fmt: skip
    return place(plan, plan.targets, plan.direct_targets, outer, line, along, scratch, n)


@loop
def logits_of(plan, outer, line, along, lines, columns, scratch, v):
    """The logits of a patch, capped; with a softcap their slopes in v."""
    T = scratch.dtype.type
    n = lines * columns
    if not plan.direct_logits:
        patch(plan, plan.logits, plan.load_logits, outer, line, along, lines, columns, scratch, 0)
        scale, softcap = T(plan.logit_scale), T(plan.softcap)
        if softcap > T(0):
            copied(scratch, v[:n])
            cap_slope(v[:n], scale, softcap)
        if softcap > T(0) or scale != T(1):
            cap(scratch[:n], scale, softcap)
    return place(plan, plan.logits, plan.direct_logits, outer, line, along, scratch, n)


@loop
def through_cap(plan, z, v, g, h):
    """The chain rule through scale and softcap."""
    T = g.dtype.type
    scale = T(plan.logit_scale)
    if plan.softcap > 0.0:
        chained(g, h, z, v[: g.size], scale, T(plan.softcap))
    elif plan.logit_scale != 1.0:
        scaled(g, scale, g)
        scaled(h, scale * scale, h)


@loop
def element_block(plan, order, link, params, outer, line, along, lines, columns, labels, s):
    """The sum of the losses of a patch; what is asked for of it is written."""
    zs, ys, up, down, loss, gs, hs, v, weights = s
    T = zs.dtype.type
    n = lines * columns
    ignored = T(np.inf) if plan.ignoring else T(np.nan)
    factor, shift, scale = T(plan.label_factor), T(plan.label_shift), T(plan.scale)
    z = logits_of(plan, outer, line, along, lines, columns, zs, v)
    y = labels_of(plan, outer, line, along, lines, columns, labels, ys)
    factors(plan, outer, line, along, lines, columns, up, down, weights)
    g = place(plan, plan.grad, plan.direct_grad, outer, line, along, gs, n)
    h = hs[: n if plan.hess.address != 0 else 0]
    if h.size > 0:  # before the gradient, which may lie over the logits
        curvature(order, link, z, y, up, down, params, factor, shift, ignored, scale, h)
    if plan.hard or (not plan.ignoring and softness(y, factor, shift) == T(0)):
        hard(link, z, y, up, down, params, factor, shift, ignored, scale, loss[:n], g)
    else:
        soft(link, z, y, up, down, params, factor, shift, ignored, scale, loss[:n], g)
    through_cap(plan, z, v, g, h)
    if plan.grad.address != 0 and not plan.direct_grad:
        patch(plan, plan.grad, plan.store_grad, outer, line, along, lines, columns, gs, 0)
    if plan.hess.address != 0:
        patch(plan, plan.hess, plan.store_hess, outer, line, along, lines, columns, hs, 0)
    if plan.loss.address != 0:
        patch(plan, plan.loss, plan.store_loss, outer, line, along, lines, columns, loss, 0)
    return total(loss[:n])


@loop
def nine(memory, n):
    """Nine pieces of scratch, uncounted: see ``array_at``."""
    here, step, dtype = line_of(memory), n * memory.itemsize, memory.dtype
    return (
        array_at(here, n, dtype),
        array_at(here + step, n, dtype),
        array_at(here + 2 * step, n, dtype),
        array_at(here + 3 * step, n, dtype),
        array_at(here + 4 * step, n, dtype),
        array_at(here + 5 * step, n, dtype),
        array_at(here + 6 * step, n, dtype),
        array_at(here + 7 * step, n, dtype),
        array_at(here + 8 * step, n, dtype),
    )


def elements(Params, T, Link, Order):
    """The kernel for labels of single elements."""

    def elements(address, first, last):
        plan = plan_at(address)
        params = params_at(address, Params, T)
        link, order = Link(), Order()
        memory = np.empty(9 * plan.block + LANES, T)
        labels = np.empty(plan.block, np.int64)
        s = nine(memory, plan.block)
        lines = max(1, plan.block // plan.classes)  # of a patch
        columns = min(plan.block, plan.classes)
        parts = (plan.classes + columns - 1) // columns
        strips = (plan.inner + lines - 1) // lines
        if plan.steady:  # the factors of every patch are those of the first
            patch(plan, plan.up, plan.load_factor, 0, 0, 0, lines, columns, s[2], 0)
            patch(plan, plan.down, plan.load_factor, 0, 0, 0, lines, columns, s[3], 0)
        for b in range(first, last):
            along = (b % parts) * columns
            line = (b // parts % strips) * lines
            outer = b // parts // strips
            high = min(lines, plan.inner - line)
            wide = min(columns, plan.classes - along)
            loss = element_block(
                plan, order, link, params, outer, line, along, high, wide, labels, s
            )
            poke(plan.partial + 8 * b, loss)
        memory[0] = T(0)  # a last use: the views above do not keep it alive

    return elements
