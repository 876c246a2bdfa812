"""Packing functions: the only code that depends on the dtype and strides of an array.

A packing function copies a (rows, columns) patch of an array of any strides and dtype to scratch
memory of the compute dtype, or back, in one call: ``void(address, row_stride, column_stride, rows,
columns, scratch, pitch)``. Kernels call it by address, so that a float16 or strided input needs no
new compilation of a kernel. ``pitch`` is the elements between rows of scratch memory, 0 for
``columns``.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fusedce.kernels.cpu.blocks import array_at
from fusedce.kernels.cpu.compile import packer
from fusedce.kernels.cpu.dtypes import decode_one, encode_one, load_as, storage, store_as
from fusedce.kernels.cpu.kernel_args import PRESENT
from fusedce.kernels.cpu.load_store import load, masked_store, prefetch, store
from fusedce.kernels.cpu.transpose import (
    Lines,
    load_full_square,
    load_interleaved,
    load_square,
    store_full_square,
    store_interleaved,
    store_square,
)
from fusedce.kernels.cpu.vector_loops import loop
from fusedce.kernels.intrinsics import peek, poke
from fusedce.kernels.scalar import where
from fusedce.kernels.vector import lane_bytes, lanes, width


class PatchView(NamedTuple):
    """A (rows, columns) part of an array: its address, and the bytes between rows and columns."""

    address: int
    row_stride: int
    column_stride: int
    rows: int
    columns: int


@loop
def prefetch_bytes(address, size):
    """Prefetch the cache lines of ``size`` bytes."""
    for k in range(0, size, 64):
        prefetch(address + k)


@loop
def inside(N, size, j, step, rows, columns):
    """Whether whole vectors from column j on end within the patch, the last of them too."""
    end = (j + width(N) - 1) * step + max(rows, width(N)) * size
    return end <= (columns - 1) * step + rows * size


@loop
def load_squares(tag, bits_type, T, address, step, rows, columns, scratch, pitch):
    """scratch <- a patch whose columns are contiguous, in transposed squares of vectors."""
    N, size, item = lanes(T), lane_bytes(bits_type), lane_bytes(T)
    for j in range(0, columns, width(N)):
        source, target = address + j * step, scratch + j * item
        prefetch_bytes(source + columns * step, width(N) * step)
        if j + width(N) <= columns and inside(N, size, j, step, rows, columns):
            for i in range(0, rows, width(N)):
                k = max(0, min(i, rows - width(N)))  # the last square may overlap
                load_full_square(
                    tag, bits_type, N, Lines(source + k * size, step), rows,
                    Lines(target + k * pitch, pitch),
                )  # fmt: skip
        else:
            for i in range(0, rows, width(N)):
                load_square(
                    tag, bits_type, N, Lines(source + i * size, step), columns - j, rows - i,
                    Lines(target + i * pitch, pitch),
                )  # fmt: skip


@loop
def store_squares(tag, bits_type, T, address, step, rows, columns, scratch, pitch):
    """A patch whose columns are contiguous <- scratch, in transposed squares of vectors."""
    N, size, item = lanes(T), lane_bytes(bits_type), lane_bytes(T)
    for j in range(0, columns, width(N)):
        target, source = address + j * step, scratch + j * item
        # What is written beyond the patch is overwritten later.
        tight = rows >= width(N) or step == rows * size
        if tight and j + width(N) <= columns and inside(N, size, j, step, rows, columns):
            for i in range(0, rows, width(N)):
                k = max(0, min(i, rows - width(N)))
                store_full_square(
                    tag, bits_type, N, Lines(source + k * pitch, pitch), rows,
                    Lines(target + k * size, step),
                )  # fmt: skip
        else:
            for i in range(0, rows, width(N)):
                store_square(
                    tag, bits_type, N, Lines(source + i * pitch, pitch), rows - i, columns - j,
                    Lines(target + i * size, step),
                )  # fmt: skip


@loop
def load_patch(tag, bits_type, T, patch, scratch, pitch):
    """scratch <- patch: by rows, in transposed squares of vectors, or element by element."""
    address, row_stride, column_stride, rows, columns = patch
    N, size, item = lanes(T), lane_bytes(bits_type), lane_bytes(T)
    if column_stride == size or columns == 1:
        # Prefetch what is most likely the next patch.
        ahead = columns * size * (rows if row_stride == columns * size else 1)
        for i in range(rows):
            source, target = address + i * row_stride, scratch + i * pitch
            whole = columns // width(N) * width(N)
            for j in range(0, whole, width(N)):
                prefetch(source + ahead + j * size)
                store(target + j * item, load_as(tag, bits_type, N, source + j * size, None))
            if whole < columns:
                rest = columns - whole
                x = load_as(tag, bits_type, N, source + whole * size, rest)
                masked_store(target + whole * item, rest, x)
    elif row_stride == size:
        load_squares(tag, bits_type, T, address, column_stride, rows, columns, scratch, pitch)
    else:
        for i in range(rows):
            source, target = address + i * row_stride, scratch + i * pitch
            for j in range(columns):
                x = T(decode_one(tag, peek(source + j * column_stride, bits_type)))
                poke(target + j * item, x)


@loop
def store_patch(tag, bits_type, T, patch, scratch, pitch):
    """Patch <- scratch."""
    address, row_stride, column_stride, rows, columns = patch
    N, size, item = lanes(T), lane_bytes(bits_type), lane_bytes(T)
    if column_stride == size or columns == 1:
        for i in range(rows):
            target, source = address + i * row_stride, scratch + i * pitch
            whole = columns // width(N) * width(N)
            for j in range(0, whole, width(N)):
                store_as(tag, bits_type, target + j * size, None, load(N, source + j * item))
            for j in range(whole, columns):
                poke(target + j * size, bits_type(encode_one(tag, peek(source + j * item, T))))
    elif row_stride == size:
        store_squares(tag, bits_type, T, address, column_stride, rows, columns, scratch, pitch)
    else:
        for i in range(rows):
            target, source = address + i * row_stride, scratch + i * pitch
            for j in range(columns):
                x = encode_one(tag, peek(source + j * item, T))
                poke(target + j * column_stride, bits_type(x))


def loads(Tag, bits_type, T):
    """The packing function from stored values to numbers of type T."""
    item = np.dtype(T).itemsize

    def loads(address, row_stride, column_stride, rows, columns, scratch, pitch):
        step = (pitch if pitch > 0 else columns) * item
        patch = PatchView(address, row_stride, column_stride, rows, columns)
        load_patch(Tag(), bits_type, T, patch, scratch, step)

    return loads


def stores(Tag, bits_type, T):
    """The packing function from numbers of type T to stored values."""
    item = np.dtype(T).itemsize

    def stores(address, row_stride, column_stride, rows, columns, scratch, pitch):
        step = (pitch if pitch > 0 else columns) * item
        patch = PatchView(address, row_stride, column_stride, rows, columns)
        store_patch(Tag(), bits_type, T, patch, scratch, step)

    return stores


def load_few(Tag, bits_type, T, classes):
    """The packing function for contiguous rows of len(classes) classes, by shuffles of vectors."""
    item = np.dtype(T).itemsize

    def load_few(address, row_stride, column_stride, rows, columns, scratch, pitch):
        N, tag = lanes(T), Tag()
        step = (pitch if pitch > 0 else columns) * item
        whole = columns // width(N) * width(N)
        for j in range(0, whole, width(N)):
            here = address + j * column_stride
            prefetch_bytes(here + columns * column_stride, width(N) * column_stride)
            load_interleaved(tag, bits_type, N, classes, here, scratch + j * item, step)
        rest = PatchView(
            address + whole * column_stride, row_stride, column_stride, rows, columns - whole
        )
        load_patch(tag, bits_type, T, rest, scratch + whole * item, step)

    return load_few


def store_few(Tag, bits_type, T, classes):
    """The reverse of ``load_few``: numbers are stored."""
    item = np.dtype(T).itemsize

    def store_few(address, row_stride, column_stride, rows, columns, scratch, pitch):
        N, tag = lanes(T), Tag()
        step = (pitch if pitch > 0 else columns) * item
        whole = columns // width(N) * width(N)
        for j in range(0, whole, width(N)):
            there = address + j * column_stride
            store_interleaved(tag, bits_type, N, classes, scratch + j * item, step, there)
        rest = PatchView(
            address + whole * column_stride, row_stride, column_stride, rows, columns - whole
        )
        store_patch(tag, bits_type, T, rest, scratch + whole * item, step)

    return store_few


def load_binary_labels(bits_type, T):
    """The packing function from binary integer labels to T; ``ignored`` becomes +inf."""
    nothing, size, item = math.inf, np.dtype(bits_type).itemsize, np.dtype(T).itemsize

    def load_binary_labels(address, row_stride, column_stride, rows, columns, scratch, ignored):
        for i in range(rows):
            place, target = address + i * row_stride, scratch + i * columns * item
            if column_stride == size:
                line = array_at(place, columns, bits_type)
                out = array_at(target, columns, T)
                for j in range(columns):
                    out[j] = where(np.int64(line[j]) == ignored, T(nothing), T(line[j]))
            else:
                for j in range(columns):
                    label = peek(place + j * column_stride, bits_type)
                    x = where(np.int64(label) == ignored, T(nothing), T(label))
                    poke(target + j * item, x)

    return load_binary_labels


def load_indices(bits_type):
    """The packing function from integers of any width to int64."""
    size = np.dtype(bits_type).itemsize

    def load_indices(address, row_stride, column_stride, rows, columns, scratch, pitch):
        out = array_at(scratch, columns, np.int64)
        if column_stride == size:
            line = array_at(address, columns, bits_type)
            for j in range(columns):
                out[j] = np.int64(line[j])
        else:
            for j in range(columns):
                out[j] = np.int64(peek(address + j * column_stride, bits_type))

    return load_indices


@functools.cache
def _packer(dtype: np.dtype[Any], number: type) -> int:
    if number is np.int64:
        return packer(load_indices, dtype.type)
    return packer(loads, *storage(dtype), number)


@functools.cache
def _unpacker(dtype: np.dtype[Any], number: type) -> int:
    return packer(stores, *storage(dtype), number)


def pack_function(array: np.ndarray, number: type) -> int:
    """The address of the function that packs an array."""
    return _packer(array.dtype, number)


def unpack_function(array: np.ndarray, number: type) -> int:
    """The address of the function that unpacks into an array."""
    return _unpacker(array.dtype, number)


def view(array: np.ndarray) -> tuple[int, int, int, int]:
    """(PRESENT, strides) of an array of three axes; the stride of an axis of length 1 is 0."""
    outer, cls, inner = array.strides
    a, b, c = array.shape
    return PRESENT, outer if a > 1 else 0, cls if b > 1 else 0, inner if c > 1 else 0
