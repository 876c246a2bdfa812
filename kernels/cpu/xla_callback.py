"""C callback for XLA threads that calls a Python function, unless the interpreter is shutting down.

A ctypes callback has two problems. First, a thread that requests the GIL while the interpreter
shuts down never returns, and a thread that joins it waits forever. Second, Python runs signal
handlers in the main thread, between any two bytecode instructions. An exception that a handler
raises is not an error of the callback, and if it is raised before the callback's first instruction,
the callback cannot catch it.

The callback is therefore compiled. ``CallbackGuard`` counts the calls that have begun and ended.
After ``close``, a call no longer enters Python and returns an error instead. If the Python function
raises an exception, the callback starts another thread, in which Python runs no signal handler,
calls the function there once more, and waits for the result. An exception that is raised there too
is an error of the function, and XLA gets it. Any other exception came from a signal handler, and is
raised in the main thread after XLA has returned.
"""

import _thread
import ctypes
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fusedce.kernels.intrinsics import peek, poke, take_number

_CLOSED, _ENTERED, _LEFT, _WORK, _AGAIN, _OUTER, _INNER, _CLOSED_TEXT, _NO_THREAD = range(9)
_I64 = ir.IntType(64)
_INT = 0xFFFFFFFF  # the bits of a C int


class Raised(ctypes.Structure):
    """A call whose function raised: the retry stores ``result``, then releases ``lock``.

    ``held`` is the tuple (exception, frame that called XLA or None, index of the instruction in
    that frame). It is None if the function was not called, because an earlier exception has not yet
    been raised in the main thread.
    """

    _fields_ = (
        ("x", ctypes.c_int64), ("held", ctypes.py_object), ("thread", ctypes.c_int64),
        ("lock", ctypes.c_void_p), ("result", ctypes.c_int64),
    )  # fmt: skip


_X, _HELD, _IDENT, _WAIT, _RESULT = (getattr(Raised, f[0]).offset for f in Raised._fields_)
_KIND, _VALUE, _TRACEBACK = (ctypes.sizeof(Raised) + 8 * k for k in range(3))  # further words
_WORDS = ctypes.sizeof(Raised) // 8 + 3


def _python(name: str) -> int:
    """The address of a function of Python's C API."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


_ENSURE_GIL, _RELEASE_GIL = _python("PyGILState_Ensure"), _python("PyGILState_Release")
_NEW_LOCK, _FREE_LOCK = _python("PyThread_allocate_lock"), _python("PyThread_free_lock")
_ACQUIRE, _THREAD = _python("PyThread_acquire_lock"), _python("PyThread_get_thread_ident")
_KEEP, _FORGET, _TYPE = _python("Py_IncRef"), _python("Py_DecRef"), _python("PyObject_Type")
_NUMBER, _VALUE_OF = _python("PyLong_FromLongLong"), _python("PyLong_AsLongLong")
_TUPLE, _ITEM, _SET_ITEM = (_python(f"PyTuple_{name}") for name in ("New", "GetItem", "SetItem"))
_FETCH, _NORMALIZE = _python("PyErr_Fetch"), _python("PyErr_NormalizeException")
_CLEAR, _SET = _python("PyErr_Clear"), _python("PyErr_SetObject")
_SET_TRACEBACK = _python("PyException_SetTraceback")
_FRAME, _BACK = _python("PyEval_GetFrame"), _python("PyFrame_GetBack")
_PLACE, _CALL = _python("PyFrame_GetLasti"), _python("PyObject_CallOneArg")
_LATER = _python("Py_AddPendingCall")
_NONE = id(None)
_shared = np.zeros(2, np.int64)
# Addresses of the number of pending exceptions, and of the address of ``_raise``.
_WAITING, _RAISE = (_shared.ctypes.data + 8 * k for k in range(2))


@intrinsic
def _c_call(typingctx, function, arguments):
    """Call ``int64 f(int64, ...)`` at an address."""

    def codegen(context, builder, signature, args):
        given = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(_I64, [_I64] * len(given))
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)

    return types.int64(types.int64, arguments), codegen


@intrinsic
def _stack_words(typingctx, count):
    """The address of ``count`` int64 zeros on the stack of this call."""

    def codegen(context, builder, signature, args):
        place = cgutils.alloca_once(builder, ir.ArrayType(_I64, count.literal_value), zfill=True)
        return builder.ptrtoint(place, _I64)

    return (types.int64(count), codegen) if isinstance(count, types.IntegerLiteral) else None


@njit
def _is_under(caller, place):
    """Whether the current Python frame was called, directly or not, from an instruction of a frame.

    caller: the address of that frame; place: the index of the instruction.
    """
    frame = _c_call(_FRAME, ())
    if frame == 0 or frame == caller:
        return False
    _c_call(_KEEP, (frame,))
    while frame != 0 and frame != caller:
        inner = frame
        frame = _c_call(_BACK, (inner,))
        _c_call(_FORGET, (inner,))
    if frame == 0:
        return False
    now = _c_call(_PLACE, (frame,)) & _INT
    _c_call(_FORGET, (frame,))
    return now == place


@cfunc("int32(int64)")
def _raise(held):
    """Raise the exception of ``held``, whose reference it owns: a pending call of the main thread.

    While XLA computes, the main thread also runs handlers of other signals, finalizers and
    callbacks. In these the exception is not raised: the call is added to the queue again.
    """
    place = _c_call(_VALUE_OF, (_c_call(_ITEM, (held, 2)),))
    under = _is_under(_c_call(_ITEM, (held, 1)), place)
    if under and _c_call(_LATER, (peek(_RAISE, np.int64), held)) & _INT == 0:
        return np.int32(0)
    poke(_WAITING, peek(_WAITING, np.int64) - 1)
    exception = _c_call(_ITEM, (held, 0))
    kind = _c_call(_TYPE, (exception,))
    _c_call(_SET, (kind, exception))
    _c_call(_FORGET, (kind,))
    _c_call(_FORGET, (held,))
    return np.int32(-1)


_shared[1] = _raise.address


@njit
def _raise_later(held):
    """Add the call of ``_raise`` to the main thread's queue; False if the queue is full."""
    _c_call(_KEEP, (held,))
    if _c_call(_LATER, (peek(_RAISE, np.int64), held)) & _INT != 0:
        _c_call(_FORGET, (held,))
        return False
    poke(_WAITING, peek(_WAITING, np.int64) + 1)
    return True


def raise_in_main_thread(held: tuple[BaseException, Any, int]) -> bool:
    """``_raise_later`` for Python code: raise an exception in the main thread."""
    return bool(_raise_later(id(held)))


def stop_waiting(raised: Raised) -> None:
    """Release the lock of a call whose function raised: its result is stored."""
    ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(raised.lock))


@njit
def _hold(raised):
    """Take the current exception, with its traceback and the frame that called XLA, as a tuple."""
    kind, value, traceback = raised + _KIND, raised + _VALUE, raised + _TRACEBACK
    _c_call(_FETCH, (kind, value, traceback))
    _c_call(_NORMALIZE, (kind, value, traceback))
    if peek(traceback, np.int64) != 0:
        _c_call(_SET_TRACEBACK, (peek(value, np.int64), peek(traceback, np.int64)))
        _c_call(_FORGET, (peek(traceback, np.int64),))
    _c_call(_FORGET, (peek(kind, np.int64),))
    frame, place = _c_call(_FRAME, ()), 0
    if frame == 0:
        frame = _NONE
    else:
        place = _c_call(_PLACE, (frame,)) & _INT
    _c_call(_KEEP, (frame,))
    held = _c_call(_TUPLE, (3,))
    _c_call(_SET_ITEM, (held, 0, peek(value, np.int64)))
    _c_call(_SET_ITEM, (held, 1, frame))
    _c_call(_SET_ITEM, (held, 2, _c_call(_NUMBER, (place,))))
    return held


@njit
def _did(work, x, raised):
    """Call ``work(x)``; False if it raised, or was not called because of a pending exception."""
    if peek(_WAITING, np.int64) != 0:  # the pending call would interrupt it
        _c_call(_KEEP, (_NONE,))
        poke(raised + _HELD, _NONE)
        return False
    number = _c_call(_NUMBER, (x,))
    done = _c_call(_CALL, (work, number))
    _c_call(_FORGET, (number,))
    if done == 0:
        poke(raised + _HELD, _hold(raised))
        return False
    _c_call(_FORGET, (done,))
    return True


@njit
def _hand_over(raised, again, python):
    """Call ``again(raised)``, which starts a thread, and wait for it; False if none started."""
    lock = _c_call(_NEW_LOCK, ())
    _c_call(_ACQUIRE, (lock, 1))
    poke(raised + _WAIT, lock)
    poke(raised + _IDENT, _c_call(_THREAD, ()))
    arguments = _c_call(_TUPLE, (1,))
    _c_call(_SET_ITEM, (arguments, 0, _c_call(_NUMBER, (raised,))))
    started = _c_call(_CALL, (again, arguments))
    _c_call(_FORGET, (arguments,))
    if started != 0:
        _c_call(_FORGET, (started,))
        _c_call(_RELEASE_GIL, (python,))
        _c_call(_ACQUIRE, (lock, 1))
        _c_call(_ENSURE_GIL, ())
    _c_call(_FREE_LOCK, (lock,))
    return started != 0


@cfunc("int64(int64, int64)")
def _call_guarded(x, state):
    """The body of the callback: 0, or the address of an XLA error object."""
    take_number(state + 8 * _ENTERED)
    why, result = peek(state + 8 * _CLOSED_TEXT, np.int64), 0
    if peek(state + 8 * _CLOSED, np.int64) == 0:
        why = 0
        python = _c_call(_ENSURE_GIL, ()) & _INT
        raised = _stack_words(_WORDS)
        poke(raised + _X, x)
        if not _did(peek(state + 8 * _WORK, np.int64), x, raised):
            if _hand_over(raised, peek(state + 8 * _AGAIN, np.int64), python):
                result = peek(raised + _RESULT, np.int64)
            else:
                why = peek(state + 8 * _NO_THREAD, np.int64)
                _c_call(_CLEAR, ())
                if peek(raised + _HELD, np.int64) != _NONE:
                    _raise_later(peek(raised + _HELD, np.int64))
            _c_call(_FORGET, (peek(raised + _HELD, np.int64),))
        _c_call(_RELEASE_GIL, (python,))
    if why != 0:
        api = peek(x + peek(state + 8 * _OUTER, np.int64), np.int64)
        result = _c_call(peek(api + peek(state + 8 * _INNER, np.int64), np.int64), (why,))
    take_number(state + 8 * _LEFT)
    return result


class CallbackGuard:
    """A compiled ``int64 f(int64 x)`` at ``address``, valid as long as this object exists.

    It calls ``work(x)`` and returns 0. If ``work`` raises an exception, it starts a thread that
    calls ``again`` with the address of a ``Raised``, waits until ``again`` has stored a result
    there, and returns that result. Python runs no signal handler in that thread. After ``close``,
    or if no thread can be started, it returns what an XLA function of one argument returns, called
    with ``closed`` or ``no_thread``. The two offsets ``refusal`` tell where that function is: the
    first is the offset in x of a pointer to a table, the second that of the function in the table.
    """

    def __init__(
        self, work: Callable[[int], None], again: Callable[[int], None],
        refusal: tuple[int, int], closed: int, no_thread: int,
    ) -> None:  # fmt: skip
        start = partial(_thread.start_new_thread, again)  # in C only: no signal handler runs in it
        self.kept = work, start, _call_guarded, _raise, _shared
        words = 0, 0, 0, id(work), id(start), *refusal, closed, no_thread
        self._state = np.array(words, np.int64)
        inside, state = _call_guarded.address, self._state.ctypes.data

        @cfunc("int64(int64)")
        def enter(x):
            return _c_call(inside, (x, state))

        self.compiled = enter
        self.address = enter.address

    def close(self) -> None:
        """Keep further calls from entering Python, and wait until no call is running."""
        self._state[_CLOSED] = 1
        while self._state[_ENTERED] != self._state[_LEFT]:
            time.sleep(0.001)

    def reopen(self) -> None:
        """Reset the counts in a forked process, where the threads of the calls do not exist."""
        self._state[[_CLOSED, _ENTERED, _LEFT]] = 0
