"""Loads and stores: the only code that knows dtypes and strides.

A mover copies a (rows, columns) patch between an array of any strides and dtype and contiguous
scratch of the compute dtype, in one call: ``void(address, row_stride, column_stride, rows,
columns, scratch, extra)``. Kernels call movers by address, so a float16 or strided input costs no
new compilation of a kernel. Half precision travels as the bits it is stored in: int16 stands for
float16, uint16 for bfloat16 (``BITS`` in arrays.py).
"""

import math
from typing import NamedTuple

import numpy as np
from numba import carray
from numba.extending import overload

from fusedce.kernels.cpu.machine import (
    bfloat_to_single,
    half_to_single,
    peek,
    pointer,
    poke,
    single_to_bfloat,
    single_to_half,
)
from fusedce.kernels.scalar import INLINED


class Plain(NamedTuple):
    """Type tag: a number stored as itself."""


class Half(NamedTuple):
    """Type tag: float16 in the bits of an int16."""


class Bfloat(NamedTuple):
    """Type tag: bfloat16 in the bits of a uint16."""


def widen(form, x):
    """The number of a stored value."""
    raise NotImplementedError("compiled code only")


def narrow(form, x):
    """The stored value of a number."""
    raise NotImplementedError("compiled code only")


@overload(widen, jit_options=INLINED)
def _widen(form, x):
    if form.instance_class is Half:
        return lambda form, x: half_to_single(x)
    if form.instance_class is Bfloat:
        return lambda form, x: bfloat_to_single(x)
    return lambda form, x: x


@overload(narrow, jit_options=INLINED)
def _narrow(form, x):
    if form.instance_class is Half:
        return lambda form, x: single_to_half(np.float32(x))
    if form.instance_class is Bfloat:
        return lambda form, x: single_to_bfloat(np.float32(x))
    return lambda form, x: x


def load(Form, stored, T):
    """The mover from stored values to numbers of type T."""
    size = np.dtype(stored).itemsize

    def load(address, row_stride, column_stride, rows, columns, scratch, extra):
        form = Form()
        out = carray(pointer(scratch, T), (rows * columns,))
        for i in range(rows):
            target = out[i * columns : (i + 1) * columns]
            line = carray(pointer(address + i * row_stride, stored), (columns,))
            if column_stride == size:
                for j in range(columns):
                    target[j] = T(widen(form, line[j]))
            else:
                place = address + i * row_stride
                for j in range(columns):
                    target[j] = T(widen(form, peek(place + j * column_stride, stored)))

    return load


def load_labels(stored, T):
    """The mover from integer yes/no labels to numbers; ``extra`` (ignore_index) becomes +inf."""
    ignored = math.inf

    def load_labels(address, row_stride, column_stride, rows, columns, scratch, extra):
        out = carray(pointer(scratch, T), (rows * columns,))
        for i in range(rows):
            place = address + i * row_stride
            for j in range(columns):
                label = peek(place + j * column_stride, stored)
                out[i * columns + j] = T(ignored) if np.int64(label) == extra else T(label)

    return load_labels


def store(Form, stored, T):
    """The mover from numbers of type T to stored values."""
    size = np.dtype(stored).itemsize

    def store(address, row_stride, column_stride, rows, columns, scratch, extra):
        form = Form()
        source = carray(pointer(scratch, T), (rows * columns,))
        for i in range(rows):
            origin = source[i * columns : (i + 1) * columns]
            line = carray(pointer(address + i * row_stride, stored), (columns,))
            if column_stride == size:
                for j in range(columns):
                    line[j] = stored(narrow(form, origin[j]))
            else:
                place = address + i * row_stride
                for j in range(columns):
                    poke(place + j * column_stride, stored(narrow(form, origin[j])))

    return store
