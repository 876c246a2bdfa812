"""What holds while Numba compiles: one thread does it, no fork comes between, and Ctrl-C waits.

A Ctrl-C that arrives in LLVM's callbacks is lost with no trace but a printed line, and one that
arrives while Numba takes its lock leaves it taken, and every other thread waiting. So it is raised
when the kernel is there, some seconds later at most; a second one is raised at once.
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

# A child forked while another thread compiles inherits a lock that nobody will open: forks wait.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Where Numba compiles a kernel, or loads it from disk."""
    with _interrupts_later(), global_compiler_lock:
        config.reload_config()  # the compiler does it too: now, and it finds nothing new later
        with _jit_enabled():
            yield


@contextlib.contextmanager
def _jit_enabled() -> Iterator[None]:
    """Compile in spite of NUMBA_DISABLE_JIT.

    It is set to measure the coverage of a project's own functions; these here work on addresses,
    which Python cannot.
    """
    with global_compiler_lock:
        before, config.DISABLE_JIT = config.DISABLE_JIT, 0
        try:
            yield
        finally:
            config.DISABLE_JIT = before


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit, in spite of NUMBA_DISABLE_JIT."""

    def decorate(fn: Callable[..., Any]) -> Any:
        with _jit_enabled():
            return numba.njit(**options)(fn)

    return decorate


class _Later:
    """A handler of SIGINT that keeps the first for later."""

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
    """What handles Ctrl-C is called at the end. Python calls it in the main thread only."""
    previous = signal.getsignal(signal.SIGINT)
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield
        return
    later = _Later(previous)
    try:
        signal.signal(signal.SIGINT, later)
    except ValueError:  # the main thread of another interpreter than the main one
        yield
        return
    try:
        yield
    finally:
        later.waiting = False
        signal.signal(signal.SIGINT, previous)
        if later.missed is not None:
            previous(*later.missed)
