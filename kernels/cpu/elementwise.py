"""Elements: every logit has a loss of its own (sigmoid, and binary probabilities).

The array is seen as (outer, lines, along), in the plan's fields (outer, inner, classes). A block is
a patch of whole lines, or a part of one long line, and lies contiguous: in place or in scratch.
"""

import numpy as np
from numba.extending import overload

from fusedce.kernels.cpu.blocks import address_of, align_line, padded
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.labels import is_odd, odd_numbers, put_odd
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.vector_loops import (
    FLUSH,
    cap_slopes,
    capped,
    chained,
    copied,
    filled,
    loop,
    put,
    scaled,
    set_one,
)
from fusedce.kernels.intrinsics import call7, peek, poke
from fusedce.kernels.link import Slope, hard_cell, plain_cell, soft_cell
from fusedce.kernels.scalar import INLINED, where
from fusedce.kernels.vector import (
    count_true,
    itemsize,
    lanes,
    numbers,
    sum_of_lanes,
    to_float64,
    width,
)


@loop
def move(packer, view, spot, scratch, extra):
    """Move a patch of a view into or out of scratch."""
    outer, line, along, lines, columns = spot
    here = view.address + outer * view.outer + line * view.inner + along * view.cls
    call7(packer, here, view.inner, view.cls, lines, columns, scratch, extra)


@loop
def place(view, direct, spot, scratch):
    """A patch of a view where it lies, or scratch."""
    outer, line, along, _, _ = spot
    if direct:
        return view.address + outer * view.outer + line * view.inner + along * view.cls
    return scratch


@loop
def one_hot(T, args, spot, labels, y):
    """y <- label == class; +inf where the label is ignored."""
    outer, line, along, lines, columns = spot
    item, view = itemsize(T), args.targets
    here = address_of(labels)
    source = view.address + outer * view.outer + line * view.inner + along * view.cls
    if args.class_along:
        call7(args.load_targets, source, 0, view.inner, 1, lines, here, 0)
        filled(T, y, lines * columns, T(0))
        for i in range(lines):
            k = labels[i] - along
            if labels[i] == args.ignore_index:
                filled(T, y + i * columns * item, columns, T(np.inf))
            elif 0 <= k < columns:
                set_one(T, y, i * columns + k, T(1))
    else:
        for i in range(lines):
            call7(args.load_targets, source + i * view.inner, 0, view.cls, 1, columns, here, 0)
            cls = outer * args.class_outer + (line + i) * args.class_line
            for j in range(columns):
                hit = where(labels[j] == cls, T(1), T(0))
                label = where(labels[j] == args.ignore_index, T(np.inf), hit)
                set_one(T, y, i * columns + j, label)


@loop
def plain(N, T, link, params, n, z, y, low, up, down, scale, loss, g):
    """Loss and gradient of whole vectors of labels, each 1 or ``low``; how many are neither."""
    losses = to_float64(N(0))
    odd = 0
    for start in range(0, n, FLUSH * width(N)):
        sums = N(0)
        for j in range(start, min(n, start + FLUSH * width(N)), width(N)):
            here = j * itemsize(N)
            label = load(N, y + here)
            odd += count_true(is_odd(label, low))
            f, first = plain_cell(link, load(N, z + here), label > T(0), up, down, params, scale)
            sums = sums + f
            if loss != 0:
                store(loss + here, f)
            store(g + here, first)
        losses = losses + to_float64(sums)
    return sum_of_lanes(losses), odd


@loop
def hard(N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, loss, g):
    """Loss and gradient of a patch of yes/no labels."""
    losses = to_float64(N(0))
    for j in range(0, n, width(N)):
        here, left = j * itemsize(N), n - j
        label = masked_load(y + here, left, N(0))
        f, first, second = hard_cell(
            link, masked_load(z + here, left, N(0)), label * factor + shift > T(0.5),
            masked_load(up + here, left, N(0)), masked_load(down + here, left, N(0)), params,
        )  # fmt: skip
        keep = label != ignored
        f = where(keep, f, N(0))
        losses = losses + to_float64(f)
        store(loss + here, f)
        store(g + here, where(keep, first * scale, N(0)))
    return sum_of_lanes(losses)


@loop
def soft(N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, loss, g):
    """Loss and gradient of a patch of labels in [0, 1]."""
    losses = to_float64(N(0))
    for j in range(0, n, width(N)):
        here, left = j * itemsize(N), n - j
        label = masked_load(y + here, left, N(0))
        f, first, second = soft_cell(
            link, masked_load(z + here, left, N(0)), label * factor + shift,
            masked_load(up + here, left, N(0)), masked_load(down + here, left, N(0)), params,
        )  # fmt: skip
        keep = label != ignored
        f = where(keep, f, N(0))
        losses = losses + to_float64(f)
        store(loss + here, f)
        store(g + here, where(keep, first * scale, N(0)))
    return sum_of_lanes(losses)


def curvature(order, N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, h):
    """The second derivatives of a patch of labels, if the kernel is one for them."""
    raise NotImplementedError("compiled code only")


@overload(curvature, jit_options=INLINED)
def _curvature(order, N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, h):
    if order.instance_class is Slope:
        return (
            lambda order, N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, h: (
                None
            )
        )
    return lambda order, N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, h: (
        bends(N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, h)
    )


@loop
def bends(N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, h):
    """The second derivatives of a patch of labels."""
    for j in range(0, n, width(N)):
        here, left = j * itemsize(N), n - j
        label = masked_load(y + here, left, N(0))
        f, first, second = soft_cell(
            link, masked_load(z + here, left, N(0)), label * factor + shift,
            masked_load(up + here, left, N(0)), masked_load(down + here, left, N(0)), params,
        )  # fmt: skip
        store(h + here, where(label != ignored, second * scale, N(0)))


@loop
def weighed(T, n, up, down, s):
    """Both factors times the sample weights."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = j * itemsize(N)
        sample = load(N, s + here)
        store(up + here, load(N, up + here) * sample)
        store(down + here, load(N, down + here) * sample)


@loop
def factor(T, args, view, spot, target):
    """One factor of a patch: moved, or the same number everywhere."""
    if args.load_factor != 0:
        move(args.load_factor, view, spot, target, 0)
    else:
        filled(T, target, spot[3] * spot[4], peek(view.address, T))


@loop
def factors(T, args, spot, up, down, s):
    """Masses of the two outcomes of a patch, sample weights included."""
    if not args.steady:
        factor(T, args, args.pos_factor, spot, up)
        factor(T, args, args.neg_factor, spot, down)
    if args.sample_weight.address != 0:
        move(args.load_sample_weight, args.sample_weight, spot, s, 0)
        weighed(T, spot[3] * spot[4], up, down, s)


@loop
def labels_of(T, args, spot, labels, scratch):
    """Where the labels of a patch are, as numbers."""
    if args.sparse_targets:
        one_hot(T, args, spot, labels, scratch)
    elif not args.direct_targets:
        move(args.load_targets, args.targets, spot, scratch, args.ignore_index * args.may_ignore)
    return place(args.targets, args.direct_targets, spot, scratch)


@loop
def logits_of(T, args, spot, scratch, v):
    """Where the logits of a patch are, capped; with a softcap their slopes in v."""
    n = spot[3] * spot[4]
    if not args.direct_logits:
        move(args.load_logits, args.logits, spot, scratch, 0)
        scale, softcap = T(args.logit_scale), T(args.softcap)
        if softcap > T(0):
            copied(T, scratch, n, v)
            cap_slopes(T, v, n, scale, softcap)
        if softcap > T(0) or scale != T(1):
            capped(T, scratch, n, scale, softcap)
    return place(args.logits, args.direct_logits, spot, scratch)


@loop
def through_cap(T, args, n, z, v, g, h):
    """The chain rule through scale and softcap."""
    scale = T(args.logit_scale)
    if args.softcap > 0.0:
        chained(T, n, g, h, z, v, scale, T(args.softcap))
    elif args.logit_scale != 1.0:
        scaled(T, g, n, scale, g)
        if h != 0:
            scaled(T, h, n, scale * scale, h)


@loop
def element_losses(N, T, args, order, link, params, n, z, y, up, down, loss, g, h):
    """The sum of the losses of a patch; how many labels are ignored, how many are wrong.

    Its losses and gradients are written, and if h is not 0 its curvatures.
    """
    item, low = itemsize(T), T(args.lowest)
    factor, shift, scale = T(args.label_factor), T(args.label_shift), T(args.scale)
    ignored = T(np.inf) if args.may_ignore else T(args.ignore_value)
    omitted, wrong = 0, 0
    if h != 0:
        curvature(order, N, T, link, params, n, z, y, up, down, factor, shift, ignored, scale, h)
    done, losses = 0, 0.0
    if args.plain:
        whole = n // width(N) * width(N)
        losses, odd = plain(
            N, T, link, params, whole, z, y, low, peek(up, T), peek(down, T),
            scale, loss if args.loss.address != 0 else 0, g,
        )  # fmt: skip
        done = whole if odd == 0 else 0
        losses = losses if odd == 0 else 0.0
    if done < n:
        past, left = done * item, n - done
        z, y, up, down = z + past, y + past, up + past, down + past
        odd = 0
        if not args.hard:
            odd, omitted, wrong = odd_numbers(T, y, left, low, ignored)
        if odd == 0 and args.yes_or_no:
            losses += hard(
                N, T, link, params, left, z, y, up, down, factor, shift, ignored, scale,
                loss + past, g + past,
            )  # fmt: skip
        else:
            losses += soft(
                N, T, link, params, left, z, y, up, down, factor, shift, ignored, scale,
                loss + past, g + past,
            )  # fmt: skip
    return losses, omitted * args.real_targets, wrong * args.real_targets


@loop
def element_block(N, T, args, order, link, params, spot, labels, s):
    """What ``element_losses`` gives of a patch; what is asked for of it is written."""
    zs, ys, up, down, loss, g, hs, v, weights = s
    n = spot[3] * spot[4]
    h = hs if args.hess.address != 0 else 0
    z = logits_of(T, args, spot, zs, v)
    y = labels_of(T, args, spot, labels, ys)
    factors(T, args, spot, up, down, weights)
    found = element_losses(N, T, args, order, link, params, n, z, y, up, down, loss, g, h)
    through_cap(T, args, n, z, v, g, h)
    if args.grad.address != 0:
        if args.direct_grad:
            put(T, g, n, place(args.grad, True, spot, g), T(1), args.stream != 0)
        else:
            move(args.store_grad, args.grad, spot, g, 0)
    if args.hess.address != 0:
        move(args.store_hess, args.hess, spot, h, 0)
    if args.loss.address != 0:
        move(args.store_loss, args.loss, spot, loss, 0)
    return found


def elements(Params, T, Lanes, Link, Order):
    """The kernel for labels of single elements."""
    item = np.dtype(T).itemsize

    def elements(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N, link, order = numbers(Lanes, T), Link(), Order()
        piece = padded(args.block) * item
        memory = np.empty(9 * piece + 64, np.uint8)
        labels = np.empty(args.block, np.int64)
        a = align_line(memory)
        up, down = a + 2 * piece, a + 3 * piece
        s = (
            a, a + piece, up, down, a + 4 * piece, a + 5 * piece, a + 6 * piece, a + 7 * piece,
            a + 8 * piece,
        )  # fmt: skip
        lines = min(args.inner, max(1, args.block // args.classes))  # of a patch
        columns = min(args.block, args.classes)
        parts = (args.classes + columns - 1) // columns
        strips = (args.inner + lines - 1) // lines
        if args.steady:  # the factors of every patch are those of the first
            factor(T, args, args.pos_factor, (0, 0, 0, lines, columns), up)
            factor(T, args, args.neg_factor, (0, 0, 0, lines, columns), down)
        for b in range(first, last):
            along = (b % parts) * columns
            line = (b // parts % strips) * lines
            spot = (
                b // parts // strips, line, along,
                min(lines, args.inner - line), min(columns, args.classes - along),
            )  # fmt: skip
            loss, omitted, wrong = element_block(N, T, args, order, link, params, spot, labels, s)
            poke(args.partial + 8 * b, loss)
            put_odd(args, b, omitted, wrong)
        memory[0] = 0  # a last use: addresses do not keep it alive

    return elements
