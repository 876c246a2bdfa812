"""Elements: every logit has a loss of its own (sigmoid, and binary probabilities).

``flat_elements`` goes through arrays that lie alike from end to end, a few chunks a thread;
``elements`` takes a number a thread, wherever it lies, with weights of classes and of samples, and
class indices for labels.
"""

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from fusedce.kernels.cuda.device import block, thread, threads
from fusedce.kernels.cuda.memory import (
    decoded,
    first_lanes,
    per_chunk,
    read_beside,
    read_logits,
    write_beside,
)
from fusedce.kernels.cuda.params import params_of
from fusedce.kernels.cuda.rows import scale_of
from fusedce.kernels.cuda.seen import Full, seen, through
from fusedce.kernels.cuda.stored import (
    any_integer,
    any_number,
    any_put,
    float_of,
    itemsize,
    number_at,
    poke,
    put_number,
)
from fusedce.kernels.cuda.teams import block_sum
from fusedce.kernels.cuda.unrolled import unrolled
from fusedce.kernels.link import hard_cell, plain_cell, soft_cell
from fusedce.kernels.scalar import INLINED, choose, scalar
from fusedce.kernels.vector import Single, lane, lanes_as, total, vector_of, with_lane


class Yes(NamedTuple):
    """Type tag: every label is yes or no."""


class Sure(NamedTuple):
    """Type tag: every label is yes or no, its factor is not 0, and no curvature is wanted."""


class Soft(NamedTuple):
    """Type tag: labels are numbers in [0, 1]."""


class Whole(NamedTuple):
    """Type tag: labels are integers, of which some may be ignored and some none at all."""


class Given(NamedTuple):
    """Type tag: labels are used as they are."""


@scalar
def hard_or_soft(link, z, y, up, down, params):
    """(loss, gradient, curvature) of labels; where all are 0 or 1 it takes half as long."""
    T = lanes_as(z)
    if total(choose(y * (T(1) - y) != T(0), type(z)(1), type(z)(0))) == T(0):
        return hard_cell(link, z, y, up, down, params)
    return soft_cell(link, z, y, up, down, params)


@scalar
def sure(link, z, y, up, down, params):
    """(loss, gradient, nothing) of such labels."""
    T = lanes_as(z)
    loss, first = plain_cell(link, z, y > type(z)(0.5), up, down, params, T(1))
    return loss, first, first


def cells(tag, labels, link, z, y, up, down, params):
    """The same by what is known of the labels; a rule that takes no vectors, lane by lane."""
    raise NotImplementedError("compiled code only")


@overload(cells, jit_options=INLINED)
def _cells(tag, labels, link, z, y, up, down, params):
    cell = {Yes: hard_cell, Sure: sure, Soft: hard_or_soft}[labels.instance_class]
    if tag.instance_class is not Single or not hasattr(z, "width"):
        return lambda tag, labels, link, z, y, up, down, params: cell(link, z, y, up, down, params)

    @scalar
    def one(k, found, link, z, y, up, down, params):
        f, f1, f2 = cell(link, lane(z, k), lane(y, k), up, down, params)
        losses, first, second = found
        return with_lane(losses, k, f), with_lane(first, k, f1), with_lane(second, k, f2)

    each = unrolled(one, z.width)
    return lambda tag, labels, link, z, y, up, down, params: each(
        (z, z, z), link, z, y, up, down, params
    )


def chained(extra, plan, z, x, first, second):
    """Gradient and curvature by the stored logits z, from those by the logits x as seen."""
    raise NotImplementedError("compiled code only")


@overload(chained, jit_options=INLINED)
def _chained(extra, plan, z, x, first, second):
    if extra.instance_class is not Full:  # nobody asks for the second: it is not even computed
        return lambda extra, plan, z, x, first, second: (first, first)
    return lambda extra, plan, z, x, first, second: through(plan, z, x, first, second)


def checked(check, plan, label, loss, first, second):
    """Nothing where a label is ignored, NaN where it is neither yes nor no."""
    raise NotImplementedError("compiled code only")


@overload(checked, jit_options=INLINED)
def _checked(check, plan, label, loss, first, second):
    if check.instance_class is Given:
        return lambda check, plan, label, loss, first, second: (loss, first, second)

    def of_integers(check, plan, label, loss, first, second):
        N, T = type(label), lanes_as(label)
        wrong = (label != T(plan.lowest)) & (label != T(1))
        bad = choose(wrong, N(np.nan), N(1))
        keep = label != T(plan.ignore_index)
        none = N(0)
        return (
            choose(keep, loss * bad, none),
            choose(keep, first * bad, none),
            choose(keep, second * bad, none),
        )

    return of_integers


@scalar
def evaluated(tag, labels, extra, link, plan, params, z, label, up, down, scale):
    """(losses, gradients, curvatures) of stored logits and labels."""
    N, T = type(z), lanes_as(z)
    x = seen(extra, plan, z, True)
    y = label * float_of(T, plan.label_factor) + float_of(T, plan.label_shift)
    loss, first, second = cells(tag, labels, link, x, y, up, down, params)
    first, second = chained(extra, plan, z, x, first, second)
    if scale == T(0):
        return N(0), N(0), N(0)
    return loss, first * scale, second * scale


def flat_elements(Params: type, T: Any, Form: type, Targets: type, Loss: type, Link: type,
                  Lanes: type, Labels: type, Check: type, Extra: type,
                  Tag: type) -> Any:  # fmt: skip
    """The kernel for arrays that lie alike, with the same factors everywhere."""

    def flat_elements(plan):
        form, targets, out = Form(), Targets(), Loss()
        tag, labels, check, extra, link = Tag(), Labels(), Check(), Extra(), Link()
        N = vector_of(T, Lanes())
        params = params_of(plan, Params, T)
        scale, up, down = scale_of(plan, T), float_of(T, plan.up), float_of(T, plan.down)
        per = np.int64(per_chunk(form))
        first = np.int64(block()) * plan.span + thread()  # chunk
        count = np.int32(
            min(max((plan.classes // per - first + threads() - 1) // threads(), 0), 64)
        )
        e, step = first * per, np.int64(threads()) * per  # numbers
        item, other = np.int64(itemsize(form)), np.int64(itemsize(targets))
        here = plan.logits + e * item
        z = decoded(N, form, read_logits(N, form, here, np.int32(step * item), count))
        there = plan.targets + e * other
        y = decoded(N, targets, read_beside(N, targets, form, there, step * other, count))
        loss, grad, hess = evaluated(tag, labels, extra, link, plan, params, z, y, up, down, scale)
        loss, grad, hess = checked(check, plan, y, loss, grad, hess)
        if plan.grad != 0:
            write_beside(form, form, plan.grad + e * item, step * item, count, grad)
        if plan.hess != 0:
            write_beside(form, form, plan.hess + e * item, step * item, count, hess)
        if plan.loss != 0:
            wide = np.int64(itemsize(out))
            write_beside(out, form, plan.loss + e * wide, step * wide, count, loss)
        present = first_lanes(N, np.int32(count * np.int32(per)))
        sums = total(choose(present, loss, N(0)))
        sums += tail(T, form, targets, labels, check, extra, link, plan, params, up, down, scale)
        if plan.partial != 0:
            sums = block_sum(sums, np.int32(0))
            if thread() == np.int32(0):
                poke(plan.partial + np.int64(block()) * 8, sums)

    return flat_elements


@scalar
def tail(T, form, targets, labels, check, extra, link, plan, params, up, down, scale):
    """The loss of one of the numbers behind the last whole chunk, all of which block 0 takes."""
    e = plan.classes - plan.classes % np.int64(per_chunk(form)) + thread()
    if block() != np.int32(0) or e >= plan.classes:
        return T(0)
    item, other = np.int64(itemsize(form)), np.int64(itemsize(targets))
    z = number_at(T, form, plan.logits + e * item)
    y = number_at(T, targets, plan.targets + e * other)
    loss, grad, hess = evaluated(SINGLE, labels, extra, link, plan, params, z, y, up, down, scale)
    loss, grad, hess = checked(check, plan, y, loss, grad, hess)
    if plan.grad != 0:
        put_number(form, plan.grad + e * item, grad)
    if plan.hess != 0:
        put_number(form, plan.hess + e * item, hess)
    if plan.loss != 0:
        any_put(plan.loss_kind, plan.loss + e * (8 if plan.loss_kind == 0 else 4), loss)
    return loss


SINGLE = Single()


# ------------------------------------------------------------------------ anywhere, any weights


@scalar
def label_of(T, plan, outer, cls, inner):
    """The label of an element; of a class index, whether it is this class; and if it counts."""
    here = plan.targets + outer * plan.targets_outer + inner * plan.targets_inner
    if plan.one_hot != 0:
        label = any_integer(plan.targets_kind, here)
        bad = label < 0 or label > plan.classes
        y = T(1) if label == cls else T(0)
        return T(np.nan) if bad else y, label != plan.ignore_index
    here += cls * plan.targets_cls
    if plan.ignoring != 0:
        label = any_integer(plan.targets_kind, here)
        bad = label != plan.lowest and label != 1
        return T(np.nan) if bad else T(label), label != plan.ignore_index
    return any_number(T, plan.targets_kind, here), True


@scalar
def factors_of(T, plan, outer, cls, inner):
    """What positive and negative outcomes of an element weigh."""
    both = T(1)
    if plan.weight != 0:
        both = any_number(T, plan.weight_kind, plan.weight + cls * plan.weight_step)
    if plan.sample_weight != 0:
        here = plan.sample_weight + outer * plan.sample_outer + inner * plan.sample_inner
        both *= any_number(T, plan.sample_kind, here + cls * plan.sample_cls)
    up = both * float_of(T, plan.up)
    if plan.pos_weight != 0:
        here = plan.pos_weight + cls * plan.pos_weight_step
        up *= any_number(T, plan.pos_weight_kind, here)
    return up, both * float_of(T, plan.down)


@scalar
def divided(n, divisor, magic):
    """(n // divisor, n % divisor) of n < 2**20, or of n < 2 divisor where there is no magic."""
    quotient = (n * magic) >> 40 if magic != 0 else np.int64(n >= divisor)
    return quotient, n - quotient * divisor


@scalar
def element(T, form, extra, labels, link, plan, params, scale, outer, cls, inner):
    """The loss of an element; what is wanted of it is written."""
    z = number_at(
        T, form,
        plan.logits + outer * plan.logits_outer + cls * plan.logits_cls + inner * plan.logits_inner,
    )  # fmt: skip
    label, keep = label_of(T, plan, outer, cls, inner)
    up, down = factors_of(T, plan, outer, cls, inner)
    loss, grad, hess = evaluated(
        SINGLE, labels, extra, link, plan, params, z, label, up, down, scale
    )
    if label != label:
        loss, grad, hess = label, label, label
    if not keep or scale == T(0):
        loss, grad, hess = T(0), T(0), T(0)
    if plan.grad != 0:
        here = plan.grad + outer * plan.grad_outer + cls * plan.grad_cls
        put_number(form, here + inner * plan.grad_inner, grad)
    if plan.hess != 0:
        here = plan.hess + outer * plan.hess_outer + cls * plan.hess_cls
        put_number(form, here + inner * plan.hess_inner, hess)
    if plan.loss != 0:
        here = plan.loss + outer * plan.loss_outer + cls * plan.loss_cls
        any_put(plan.loss_kind, here + inner * plan.loss_inner, loss)
    return loss


def elements(Params: type, T: Any, Form: type, Link: type, Labels: type, Extra: type) -> Any:
    """The kernel for elements anywhere: a block takes ``span`` neighbours in C order."""

    def elements(plan):
        form, labels, extra, link = Form(), Labels(), Extra(), Link()
        params = params_of(plan, Params, T)
        scale = scale_of(plan, T)
        start = np.int64(block()) * plan.span
        n = min(plan.span, plan.outer * plan.classes * plan.inner - start)
        row, inner = start // plan.inner, start % plan.inner
        outer, cls = row // plan.classes, row % plan.classes
        sums, i = T(0), np.int64(thread())
        while i < n:
            rows, here = divided(inner + i, plan.inner, plan.magic_inner)
            over, c = divided(cls + rows, plan.classes, plan.magic_classes)
            sums += element(
                T, form, extra, labels, link, plan, params, scale, outer + over, c, here
            )
            i += threads()
        if plan.partial != 0:
            sums = block_sum(sums, np.int32(0))
            if thread() == np.int32(0):
                poke(plan.partial + np.int64(block()) * 8, sums)

    return elements
