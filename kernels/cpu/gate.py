"""A C function that XLA's threads call, in front of a Python function that they may not always.

A ctypes callback has two holes. A thread that asks for the interpreter lock while the interpreter
ends never comes back, and whoever joins that thread waits for ever. And in the main thread Python
runs signal handlers, at any instruction: what a handler raises is not the callback's own error, and
before the first instruction the callback cannot even catch it. So the gate counts who is inside,
lets nobody in once it is closed, and calls Python itself. Where the call raises, the work is done
once more in a thread of its own, where no handler runs, and the exception is left to it.
"""

import _thread
import ctypes
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedce.kernels.machine import peek, poke, take_number

_CLOSED, _ENTERED, _LEFT, _WORK, _AGAIN, _OUTER, _INNER, _CLOSED_TEXT, _NO_THREAD = range(9)
_I64 = ir.IntType(64)
_INT = 0xFFFFFFFF  # the bits of a C int


class Raised(ctypes.Structure):
    """A call that has raised: ``lock`` is to be released once ``result`` is there."""

    _fields_ = (
        ("x", ctypes.c_int64), ("exception", ctypes.py_object), ("thread", ctypes.c_int64),
        ("lock", ctypes.c_void_p), ("result", ctypes.c_int64),
    )  # fmt: skip


_X, _EXCEPTION, _IDENT, _HELD, _RESULT = (getattr(Raised, f[0]).offset for f in Raised._fields_)
_KIND, _TRACEBACK = (ctypes.sizeof(Raised) + 8 * k for k in range(2))  # two words more
_WORDS = ctypes.sizeof(Raised) // 8 + 2


def _python(name: str) -> int:
    """The address of a function of Python's."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


_LOCK, _UNLOCK = _python("PyGILState_Ensure"), _python("PyGILState_Release")
_NUMBER, _FORGET = _python("PyLong_FromLongLong"), _python("Py_DecRef")
_TUPLE, _SET_ITEM = _python("PyTuple_New"), _python("PyTuple_SetItem")
_CALL, _TYPE = _python("PyObject_CallOneArg"), _python("PyObject_Type")
_FETCH, _NORMALIZE = _python("PyErr_Fetch"), _python("PyErr_NormalizeException")
_CLEAR, _SET = _python("PyErr_Clear"), _python("PyErr_SetObject")
_SET_TRACEBACK = _python("PyException_SetTraceback")
_LATER, _THREAD = _python("Py_AddPendingCall"), _python("PyThread_get_thread_ident")
_NEW_LOCK, _FREE_LOCK = _python("PyThread_allocate_lock"), _python("PyThread_free_lock")
_ACQUIRE = _python("PyThread_acquire_lock")


@intrinsic
def _call(typingctx, function, arguments):
    """``int64 f(int64, ...)`` at an address."""

    def codegen(context, builder, signature, args):
        given = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(_I64, [_I64] * len(given))
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)

    return types.int64(types.int64, arguments), codegen


@intrinsic
def _words(typingctx, count):
    """The address of some int64 of this call's own, all 0."""

    def codegen(context, builder, signature, args):
        place = cgutils.alloca_once(builder, ir.ArrayType(_I64, count.literal_value), zfill=True)
        return builder.ptrtoint(place, _I64)

    return (types.int64(count), codegen) if isinstance(count, types.IntegerLiteral) else None


@cfunc("int32(int64)")
def _raise(exception):
    """Raise an exception, which is given away: a call that Python's main thread has pending."""
    kind = _call(_TYPE, (exception,))
    _call(_SET, (kind, exception))
    _call(_FORGET, (kind,))
    _call(_FORGET, (exception,))
    return np.int32(-1)


_RAISING = _raise.address


def raise_in_main_thread(exception: BaseException) -> bool:
    """Have Python's main thread raise it as soon as it runs Python; False if too many wait."""
    given = ctypes.py_object(exception)
    ctypes.pythonapi.Py_IncRef(given)
    if ctypes.pythonapi.Py_AddPendingCall(ctypes.c_void_p(_RAISING), given) == 0:
        return True
    ctypes.pythonapi.Py_DecRef(given)
    return False


def stop_waiting(raised: Raised) -> None:
    """Let a call that has raised go on: its result is there."""
    ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(raised.lock))


@njit
def _take_exception(raised):
    """Python's exception, with its traceback, becomes that of the call."""
    kind, value, traceback = raised + _KIND, raised + _EXCEPTION, raised + _TRACEBACK
    _call(_FETCH, (kind, value, traceback))
    _call(_NORMALIZE, (kind, value, traceback))
    if peek(traceback, np.int64) != 0:
        _call(_SET_TRACEBACK, (peek(value, np.int64), peek(traceback, np.int64)))
        _call(_FORGET, (peek(traceback, np.int64),))
    _call(_FORGET, (peek(kind, np.int64),))


@njit
def _hand_over(raised, again, python):
    """Call ``again(raised)``, which starts a thread, and wait for the result; whether it did."""
    lock = _call(_NEW_LOCK, ())
    _call(_ACQUIRE, (lock, 1))
    poke(raised + _HELD, lock)
    poke(raised + _IDENT, _call(_THREAD, ()))
    arguments = _call(_TUPLE, (1,))
    _call(_SET_ITEM, (arguments, 0, _call(_NUMBER, (raised,))))
    started = _call(_CALL, (again, arguments))
    _call(_FORGET, (arguments,))
    if started != 0:
        _call(_FORGET, (started,))
        _call(_UNLOCK, (python,))
        _call(_ACQUIRE, (lock, 1))
        _call(_LOCK, ())
    _call(_FREE_LOCK, (lock,))
    return started != 0


@cfunc("int64(int64, int64)")
def _enter(x, state):
    """A call of XLA's: 0, or the address of what it takes for an error."""
    take_number(state + 8 * _ENTERED)
    why, result = peek(state + 8 * _CLOSED_TEXT, np.int64), 0
    if peek(state + 8 * _CLOSED, np.int64) == 0:
        why = 0
        python = _call(_LOCK, ()) & _INT
        number = _call(_NUMBER, (x,))
        done = _call(_CALL, (peek(state + 8 * _WORK, np.int64), number))
        _call(_FORGET, (number,))
        if done != 0:
            _call(_FORGET, (done,))
        else:
            raised = _words(_WORDS)
            poke(raised + _X, x)
            _take_exception(raised)
            exception = peek(raised + _EXCEPTION, np.int64)
            if _hand_over(raised, peek(state + 8 * _AGAIN, np.int64), python):
                result = peek(raised + _RESULT, np.int64)
                _call(_FORGET, (exception,))
            else:
                why = peek(state + 8 * _NO_THREAD, np.int64)
                _call(_CLEAR, ())
                _call(_LATER, (_RAISING, exception))
        _call(_UNLOCK, (python,))
    if why != 0:
        api = peek(x + peek(state + 8 * _OUTER, np.int64), np.int64)
        result = _call(peek(api + peek(state + 8 * _INNER, np.int64), np.int64), (why,))
    take_number(state + 8 * _LEFT)
    return result


class Gate:
    """A compiled ``int64 f(int64 x)``, to be called at ``address`` as long as the gate is kept.

    It calls ``work(x)``; the result is 0. Where that raises, it starts a thread that is given the
    address of a ``Raised`` and waits until ``again`` has left a result there: no signal handler
    runs meanwhile. Where Python is not to be called, or no thread can be started, the result is
    that of a C function of one argument, ``closed`` or ``no_thread``. It is found by two offsets,
    ``refusal``: that of an address in x, and its own from there.
    """

    def __init__(
        self, work: Callable[[int], None], again: Callable[[int], None],
        refusal: tuple[int, int], closed: int, no_thread: int,
    ) -> None:  # fmt: skip
        start = partial(_thread.start_new_thread, again)  # C all through: no handler runs in it
        self.kept = work, start, _enter, _raise
        words = 0, 0, 0, id(work), id(start), *refusal, closed, no_thread
        self._state = np.array(words, np.int64)
        inside, state = _enter.address, self._state.ctypes.data

        @cfunc("int64(int64)")
        def enter(x):  # type: ignore[no-untyped-def]
            return _call(inside, (x, state))

        self.compiled = enter
        self.address = enter.address

    def close(self) -> None:
        """Let nobody in any more, and wait for those inside."""
        self._state[_CLOSED] = 1
        while self._state[_ENTERED] != self._state[_LEFT]:
            time.sleep(0.001)

    def reopen(self) -> None:
        """Begin anew after a fork: the threads that were inside are not there."""
        self._state[[_CLOSED, _ENTERED, _LEFT]] = 0
