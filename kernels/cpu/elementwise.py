"""Losses of single elements: every logit has a label (sigmoid, and binary probabilities).

The arrays are (outer, lines, columns) after merging axes, in the fields outer, inner and classes of
the kernel's arguments. A block is a patch of lines, or a part of one long line. The arrays of a
patch are contiguous: read in place, or packed into scratch memory.
"""

from typing import NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import address_of, align_line, padded, store_partial_sum
from fusedce.kernels.cpu.element_losses import PatchArrays, PatchOutputs, patch_losses
from fusedce.kernels.cpu.kernel_args import args_at, params_at
from fusedce.kernels.cpu.labels import store_counts
from fusedce.kernels.cpu.load_store import load, store
from fusedce.kernels.cpu.vector_loops import (
    chain_transform,
    copy,
    fill,
    loop,
    multiply,
    set_at,
    store_scaled,
    transform_logits,
    transform_slopes,
)
from fusedce.kernels.intrinsics import call7, peek
from fusedce.kernels.scalar import where
from fusedce.kernels.vector import (
    lane_bytes,
    lanes,
    numbers,
    width,
)


class Patch(NamedTuple):
    """Where a patch begins, and its shape (lines, columns)."""

    outer: int
    line: int
    column: int
    lines: int
    columns: int


class PatchScratch(NamedTuple):
    """Addresses of the buffers of a patch: (block,) T each."""

    logits: int
    labels: int
    pos_factor: int
    neg_factor: int
    loss: int
    grad: int
    hess: int
    slopes: int
    sample_weight: int


@loop
def patch_address(view, patch):
    """The address of the first element of a patch."""
    return (
        view.address + patch.outer * view.outer + patch.line * view.inner + patch.column * view.cls
    )


@loop
def call_packer(packer, view, patch, scratch, extra):
    """Pack a patch of an array into scratch memory, or unpack it from there."""
    here = patch_address(view, patch)
    call7(packer, here, view.inner, view.cls, patch.lines, patch.columns, scratch, extra)


@loop
def patch_or_scratch(view, direct, patch, scratch):
    """The address of a patch that is used in place, else that of its copy in scratch memory."""
    if direct:
        return patch_address(view, patch)
    return scratch


@loop
def one_hot(T, args, patch, labels, y):
    """y <- label == class, for class indices; +inf where the label is ignored.

    labels: int64 array, scratch memory; y: address of (lines, columns) T.
    """
    outer, line, column, lines, columns = patch
    item, view = lane_bytes(T), args.targets
    here = address_of(labels)
    source = view.address + outer * view.outer + line * view.inner + column * view.cls
    if args.class_column:  # classes lie along the columns: one label a line
        call7(args.load_targets, source, 0, view.inner, 1, lines, here, 0)
        fill(T, y, lines * columns, T(0))
        for i in range(lines):
            k = labels[i] - column
            if labels[i] == args.ignore_index:
                fill(T, y + i * columns * item, columns, T(np.inf))
            elif 0 <= k < columns:
                set_at(T, y, i * columns + k, T(1))
    else:
        for i in range(lines):
            call7(args.load_targets, source + i * view.inner, 0, view.cls, 1, columns, here, 0)
            cls = outer * args.class_outer + (line + i) * args.class_line
            for j in range(columns):
                hit = where(labels[j] == cls, T(1), T(0))
                label = where(labels[j] == args.ignore_index, T(np.inf), hit)
                set_at(T, y, i * columns + j, label)


@loop
def multiply_factors(T, n, pos_factor, neg_factor, sample_weight):
    """Both factors <- themselves times the sample weights; addresses of (n,) T."""
    N = lanes(T)
    for j in range(0, n, width(N)):
        here = j * lane_bytes(N)
        sample = load(N, sample_weight + here)
        store(pos_factor + here, load(N, pos_factor + here) * sample)
        store(neg_factor + here, load(N, neg_factor + here) * sample)


@loop
def load_factor(T, args, view, patch, target):
    """target <- one factor of a patch: packed, or the same number for every element."""
    if args.load_factor != 0:
        call_packer(args.load_factor, view, patch, target, 0)
    else:
        fill(T, target, patch.lines * patch.columns, peek(view.address, T))


@loop
def load_factors(T, args, patch, pos_factor, neg_factor, sample_weight):
    """The factors of positive and negative outcomes of a patch, times the sample weights."""
    if not args.constant_factors:
        load_factor(T, args, args.pos_factor, patch, pos_factor)
        load_factor(T, args, args.neg_factor, patch, neg_factor)
    if args.sample_weight.address != 0:
        call_packer(args.load_sample_weight, args.sample_weight, patch, sample_weight, 0)
        n = patch.lines * patch.columns
        multiply_factors(T, n, pos_factor, neg_factor, sample_weight)


@loop
def load_labels(T, args, patch, indices, scratch):
    """The address of the labels of a patch as numbers of type T.

    indices: int64 array, scratch memory for class indices.
    """
    if args.sparse_targets:
        one_hot(T, args, patch, indices, scratch)
    elif not args.direct_targets:
        ignore_index = args.ignore_index * args.may_ignore
        call_packer(args.load_targets, args.targets, patch, scratch, ignore_index)
    return patch_or_scratch(args.targets, args.direct_targets, patch, scratch)


@loop
def load_logits_of_patch(T, args, patch, scratch, slopes):
    """The address of the transformed logits of a patch; slopes <- d(transformed)/d(logit)."""
    n = patch.lines * patch.columns
    if not args.direct_logits:
        call_packer(args.load_logits, args.logits, patch, scratch, 0)
        scale, softcap = T(args.logit_scale), T(args.softcap)
        if softcap > T(0):
            copy(T, scratch, n, slopes)
            transform_slopes(T, slopes, n, scale, softcap)
        if softcap > T(0) or scale != T(1):
            transform_logits(T, scratch, n, scale, softcap)
    return patch_or_scratch(args.logits, args.direct_logits, patch, scratch)


@loop
def chain_patch(T, args, n, logits, slopes, grad, hess):
    """The chain rule through scale and softcap, for n elements."""
    scale = T(args.logit_scale)
    if args.softcap > 0.0:
        chain_transform(T, n, grad, hess, logits, slopes, scale, T(args.softcap))
    elif args.logit_scale != 1.0:
        multiply(T, grad, n, scale, grad)
        if hess != 0:
            multiply(T, hess, n, scale * scale, hess)


@loop
def element_block(N, T, args, order, link, params, patch, indices, scratch):
    """(sum of the losses, ignored labels, invalid labels) of a patch; results are stored.

    indices: int64 array, scratch memory for class indices; scratch: ``PatchScratch``.
    """
    n = patch.lines * patch.columns
    grad, loss = scratch.grad, scratch.loss
    hess = scratch.hess if args.hess.address != 0 else 0
    # 1. Load logits, labels and factors, unless they are read in place.
    logits = load_logits_of_patch(T, args, patch, scratch.logits, scratch.slopes)
    labels = load_labels(T, args, patch, indices, scratch.labels)
    pos_factor, neg_factor = scratch.pos_factor, scratch.neg_factor
    load_factors(T, args, patch, pos_factor, neg_factor, scratch.sample_weight)
    # 2. Losses and derivatives by the transformed logits.
    found = patch_losses(
        N, T, args, order, link, params, PatchArrays(n, logits, labels, pos_factor, neg_factor),
        PatchOutputs(loss, grad, hess),
    )  # fmt: skip
    # 3. Derivatives by the logits as the caller has them.
    chain_patch(T, args, n, logits, scratch.slopes, grad, hess)
    # 4. Store what is wanted.
    if args.grad.address != 0:
        if args.direct_grad:
            there = patch_or_scratch(args.grad, True, patch, grad)
            store_scaled(T, grad, n, there, T(1), args.stream != 0)
        else:
            call_packer(args.store_grad, args.grad, patch, grad, 0)
    if args.hess.address != 0:
        call_packer(args.store_hess, args.hess, patch, hess, 0)
    if args.loss.address != 0:
        call_packer(args.store_loss, args.loss, patch, loss, 0)
    return found


def elementwise(Params, T, Lanes, Link, Order):
    """The kernel for labels of single elements.

    Reads logits (outer, classes, inner) of any float dtype, targets (outer, classes, inner) of any
    dtype or class indices (outer, inner) of any integer dtype, pos_factor and neg_factor (classes,)
    or (1,) of T, and if given sample_weight (outer, classes, inner) or (outer, inner) of any dtype.
    Writes for each block ``partial`` (blocks,), its sum of losses in float64, ``count`` (blocks,)
    int64, its ignored labels, and ``bad`` (blocks,) int64, 0 if any of its labels is invalid, else
    -1; and if wanted loss, grad and hess, each (outer, classes, inner) of any float dtype. Axes
    that the strides of all arrays allow to merge are merged. All arithmetic is of T.

    Params: the rule's NamedTuple; T: the compute dtype; Lanes: ``Wide`` or ``Single``; Link:
    ``Sigmoid`` or ``Identity``; Order: ``Slope`` or ``Curvature``.
    """
    item = np.dtype(T).itemsize

    def elementwise(address, first, last):
        args = args_at(address)
        params = params_at(address, Params, T)
        N, link, order = numbers(Lanes, T), Link(), Order()
        # 1. Allocate the scratch memory, used for one patch after the other.
        size = padded(args.block) * item
        memory = np.empty(9 * size + 64, np.uint8)
        indices = np.empty(args.block, np.int64)
        a = align_line(memory)
        pos_factor, neg_factor = a + 2 * size, a + 3 * size
        scratch = PatchScratch(
            a, a + size, pos_factor, neg_factor, a + 4 * size, a + 5 * size, a + 6 * size,
            a + 7 * size, a + 8 * size,
        )  # fmt: skip
        # 2. The shape of a patch, and how many there are along each axis.
        lines = min(args.inner, max(1, args.block // args.classes))
        columns = min(args.block, args.classes)
        parts = (args.classes + columns - 1) // columns
        strips = (args.inner + lines - 1) // lines
        # 3. Factors that are the same in every patch.
        if args.constant_factors:
            load_factor(T, args, args.pos_factor, Patch(0, 0, 0, lines, columns), pos_factor)
            load_factor(T, args, args.neg_factor, Patch(0, 0, 0, lines, columns), neg_factor)
        for b in range(first, last):
            # 4. Everything of a patch but the sum of its losses.
            column = (b % parts) * columns
            line = (b // parts % strips) * lines
            patch = Patch(
                b // parts // strips, line, column,
                min(lines, args.inner - line), min(columns, args.classes - column),
            )  # fmt: skip
            loss, ignored, invalid = element_block(
                N, T, args, order, link, params, patch, indices, scratch
            )
            # 5. The block's part of the reduced loss, and its counts.
            store_partial_sum(args, b, loss)
            store_counts(args, b, ignored, invalid)
        memory[0] = 0  # the last use of memory: addresses alone do not keep it allocated

    return elementwise
