"""Losses and derivatives of the elements of a patch, whose arrays are contiguous."""

from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cpu.labels import count_numbers, is_not_binary
from fusedce.kernels.cpu.load_store import load, masked_load, store
from fusedce.kernels.cpu.vector_loops import (
    FLUSH,
    loop,
)
from fusedce.kernels.intrinsics import peek
from fusedce.kernels.link import Slope, hard_cell, plain_cell, soft_cell
from fusedce.kernels.scalar import generated, scalar, where
from fusedce.kernels.vector import (
    count_true,
    lane_bytes,
    sum_of_lanes,
    to_float64,
    width,
)


class PatchArrays(NamedTuple):
    """The n elements of a patch: addresses of (n,) T each."""

    n: int
    logits: int
    labels: int
    pos_factor: int
    neg_factor: int


class PatchOutputs(NamedTuple):
    """Addresses of the results of a patch: (n,) T each."""

    loss: int
    grad: int
    hess: int  # 0: none


class LabelScalars(NamedTuple):
    """Numbers of type T: y = label * factor + shift, a label that is ignored, 1 / denominator."""

    factor: Any
    shift: Any
    ignore_value: Any
    scale: Any


class UniformScalars(NamedTuple):
    """Numbers of type T: the smaller of the two labels, both factors, 1 / denominator."""

    lowest: Any
    pos_factor: Any
    neg_factor: Any
    scale: Any


@loop
def uniform_losses(N, T, link, params, n, logits, labels, scalars, out):
    """(sum of the losses, labels that are neither 1 nor ``lowest``) of n elements.

    For labels of 0 and 1, or -1 and 1, none of them ignored, with the same factors everywhere. n is
    a multiple of a vector's lanes; out: addresses of losses (0: not wanted) and gradients.
    """
    lowest, pos_factor, neg_factor, scale = scalars
    losses_out, grad_out = out
    losses = to_float64(N(0))
    not_binary = 0
    for start in range(0, n, FLUSH * width(N)):
        total = N(0)
        for j in range(start, min(n, start + FLUSH * width(N)), width(N)):
            here = j * lane_bytes(N)
            label = load(N, labels + here)
            not_binary += count_true(is_not_binary(label, lowest))
            loss, grad = plain_cell(
                link, load(N, logits + here), label > T(0), pos_factor, neg_factor, params, scale
            )
            total = total + loss
            if losses_out != 0:
                store(losses_out + here, loss)
            store(grad_out + here, grad)
        losses = losses + to_float64(total)
    return sum_of_lanes(losses), not_binary


@scalar
def binary_element(link, z, y, pos_factor, neg_factor, params):
    """Loss, gradient and second derivative of an element whose label y is 0 or 1."""
    return hard_cell(link, z, y > type(y)(0.5), pos_factor, neg_factor, params)


def losses_by(element):
    """The loop over a patch whose elements ``element`` evaluates; returns the sum of the losses."""

    @loop
    def losses_of_patch(N, T, link, params, arrays, scalars, out):
        n, logits, labels, pos_factor, neg_factor = arrays
        factor, shift, ignore_value, scale = scalars
        losses_out, grad_out = out
        losses = to_float64(N(0))
        for j in range(0, n, width(N)):
            here, left = j * lane_bytes(N), n - j
            label = masked_load(labels + here, left, N(0))
            loss, first, second = element(
                link, masked_load(logits + here, left, N(0)), label * factor + shift,
                masked_load(pos_factor + here, left, N(0)),
                masked_load(neg_factor + here, left, N(0)), params,
            )  # fmt: skip
            keep = label != ignore_value
            loss = where(keep, loss, N(0))
            losses = losses + to_float64(loss)
            store(losses_out + here, loss)
            store(grad_out + here, where(keep, first * scale, N(0)))
        return sum_of_lanes(losses)

    return losses_of_patch


# Of labels that are 0 and 1, or -1 and 1; and of labels y = label * factor + shift in [0, 1].
binary_losses, soft_losses = losses_by(binary_element), losses_by(soft_cell)


@generated
def write_hessian(order, N, T, link, params, arrays, scalars, hess):
    """hess <- the second derivatives of a patch, in kernels for ``Curvature``; else nothing."""
    if order.instance_class is Slope:
        return lambda order, N, T, link, params, arrays, scalars, hess: None
    return lambda order, N, T, link, params, arrays, scalars, hess: soft_hessian(
        N, T, link, params, arrays, scalars, hess
    )


@loop
def soft_hessian(N, T, link, params, arrays, scalars, hess):
    """hess <- the second derivatives of a patch of labels; address of (n,) T."""
    n, logits, labels, pos_factor, neg_factor = arrays
    factor, shift, ignore_value, scale = scalars
    for j in range(0, n, width(N)):
        here, left = j * lane_bytes(N), n - j
        label = masked_load(labels + here, left, N(0))
        loss, first, second = soft_cell(
            link, masked_load(logits + here, left, N(0)), label * factor + shift,
            masked_load(pos_factor + here, left, N(0)), masked_load(neg_factor + here, left, N(0)),
            params,
        )  # fmt: skip
        store(hess + here, where(label != ignore_value, second * scale, N(0)))


@loop
def patch_losses(N, T, args, order, link, params, arrays, out):
    """(sum of the losses, ignored labels, invalid labels) of a patch; derivatives go to ``out``."""
    n, logits, labels, pos_factor, neg_factor = arrays
    loss, grad, hess = out
    item, lowest = lane_bytes(T), T(args.lowest)
    factor, shift, scale = T(args.label_factor), T(args.label_shift), T(args.scale)
    ignore_value = T(np.inf) if args.may_ignore else T(args.ignore_value)
    scalars = LabelScalars(factor, shift, ignore_value, scale)
    n_ignored, n_invalid = 0, 0
    # 1. Second derivatives.
    if hess != 0:
        write_hessian(order, N, T, link, params, arrays, scalars, hess)
    done, losses = 0, 0.0
    # 2. The fastest loop, over whole vectors; its results count if every label was binary.
    if args.uniform:
        whole = n // width(N) * width(N)
        uniform = UniformScalars(lowest, peek(pos_factor, T), peek(neg_factor, T), scale)
        losses, not_binary = uniform_losses(
            N, T, link, params, whole, logits, labels, uniform,
            (loss if args.loss.address != 0 else 0, grad),
        )  # fmt: skip
        done = whole if not_binary == 0 else 0
        losses = losses if not_binary == 0 else 0.0
    # 3. The remaining elements: one evaluation of the rule for binary labels, else two.
    if done < n:
        past, left = done * item, n - done
        rest = PatchArrays(left, logits + past, labels + past, pos_factor + past, neg_factor + past)
        not_binary = 0
        if not args.binary:
            not_binary, n_ignored, n_invalid = count_numbers(
                T, rest.labels, left, lowest, ignore_value
            )
        if not_binary == 0 and args.unsmoothed:
            losses += binary_losses(N, T, link, params, rest, scalars, (loss + past, grad + past))
        else:
            losses += soft_losses(N, T, link, params, rest, scalars, (loss + past, grad + past))
    return losses, n_ignored * args.real_targets, n_invalid * args.real_targets
