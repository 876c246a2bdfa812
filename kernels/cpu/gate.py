"""A C function that XLA's threads call, in front of a Python function that they may not always.

A ctypes callback has two holes. A thread that asks for the interpreter lock while the interpreter
ends never comes back, and whoever joins that thread waits for ever. And where Ctrl-C arrives before
the callback's first instruction, it returns whatever lies there. So the gate counts who is inside,
lets nobody in once it is closed, and sees by its result whether the callback was run to its end.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from fusedce.kernels.machine import peek, take_number

CLOSED, ENTERED, LEFT = range(3)  # the words of a gate's state
NOT_RUN = -1
_I64 = ir.IntType(64)


@intrinsic
def _ask(typingctx, callback, x):
    """What ``void f(x, int64* result)`` at an address leaves; NOT_RUN if nothing."""

    def codegen(context, builder, signature, args):
        result = builder.alloca(_I64)
        builder.store(ir.Constant(_I64, NOT_RUN), result)
        kind = ir.FunctionType(ir.VoidType(), [_I64, _I64.as_pointer()])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1], result])
        return builder.load(result)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _signal(typingctx, function):
    """``void f(void)`` at an address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _call(typingctx, function, x):
    """``int64 f(int64)`` at an address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I64, [_I64])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(types.int64, types.int64), codegen


def gate(callback: int, state: int, refusal: Sequence[int], closed: int, not_run: int) -> Any:
    """A compiled ``int64 f(int64 x)``, to be called at its ``address`` as long as it is kept.

    ``callback`` is the address of ``void f(x, int64* result)``, ``state`` that of three int64.
    Where the callback is not to be called, or leaves no result, which Python is told to take for
    Ctrl-C, the result is that of a C function of one argument, ``closed`` or ``not_run``. It is
    found by two offsets, ``refusal``: that of an address in x, and its own from there.
    """
    outer, inner = refusal
    interrupt = ctypes.cast(ctypes.pythonapi.PyErr_SetInterrupt, ctypes.c_void_p).value

    @cfunc("int64(int64)", error_model="numpy")
    def enter(x):
        take_number(state + 8 * ENTERED)
        if peek(state + 8 * CLOSED, np.int64) == 0:
            result = _ask(callback, x)
            why = not_run
            if result == NOT_RUN:
                _signal(interrupt)
        else:
            result = NOT_RUN
            why = closed
        if result == NOT_RUN:
            result = _call(peek(peek(x + outer, np.int64) + inner, np.int64), why)
        take_number(state + 8 * LEFT)
        return result

    return enter
