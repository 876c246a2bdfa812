"""Compile under a lock: one thread at a time, no fork meanwhile, Ctrl-C deferred to the end.

A KeyboardInterrupt in one of LLVM's callbacks is only printed, and one that comes while Numba takes
its lock leaves the lock taken, so that every other thread blocks. It is therefore raised once the
kernel is compiled, some seconds later at most; a second Ctrl-C is raised at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

# A child forked while another thread compiles inherits a lock that is never released.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """The context in which Numba compiles a kernel, or loads it from disk."""
    with _interrupts_later(), global_compiler_lock:
        config.reload_config()  # the compiler does so too, and then finds nothing new
        with _jit_enabled():
            yield


@contextlib.contextmanager
def _jit_enabled() -> Iterator[None]:
    """A context that compiles in spite of NUMBA_DISABLE_JIT.

    That variable is set to measure the coverage of a project's own functions. The functions here
    work on addresses, which Python itself cannot do.
    """
    with global_compiler_lock:
        before, config.DISABLE_JIT = config.DISABLE_JIT, 0
        try:
            yield
        finally:
            config.DISABLE_JIT = before


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit that ignores NUMBA_DISABLE_JIT."""

    def decorate(fn: Callable[..., Any]) -> Any:
        with _jit_enabled():
            return numba.njit(**options)(fn)

    return decorate


class _Later:
    """A handler of SIGINT that defers the first signal."""

    def __init__(self, previous: Callable[..., Any]) -> None:
        self.previous = previous
        self.waiting = True
        self.missed: tuple[Any, ...] | None = None

    def __call__(self, *signal_and_frame: Any) -> None:
        if self.waiting and self.missed is None:
            self.missed = signal_and_frame
        else:
            self.previous(*signal_and_frame)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Call the handler of Ctrl-C at the end. Python calls it in the main thread only."""
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield
        return
    later = _Later(previous)
    try:
        signal.signal(signal.SIGINT, later)
    except ValueError:  # the main thread of a subinterpreter
        yield
        return
    try:
        yield
    finally:
        later.waiting = False
        signal.signal(signal.SIGINT, previous)
        if later.missed is not None:
            previous(*later.missed)
