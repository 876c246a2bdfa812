"""A Python function that XLA calls on its own buffers, by the C interface of its FFI.

The structures are those of ``xla/ffi/api/c_api.h``, a header in jaxlib, as far as they are used.
"""

import atexit
import ctypes
import os
import re
import threading
import traceback
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fusedce.adapters import hugepages
from fusedce.arrays import BFLOAT16
from fusedce.kernels.cpu import xla_callback


class Call(NamedTuple):
    """One call: its only attribute, the text, and the buffers of XLA as arrays."""

    text: bytes
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("extension", c_void_p), ("dtype", c_int), ("data", c_void_p),
        ("rank", c_int64), ("dims", POINTER(c_int64)),
    )  # fmt: skip


class _Buffers(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("extension", c_void_p), ("size", c_int64),
        ("types", c_void_p), ("items", POINTER(POINTER(_Buffer))),
    )  # fmt: skip


class _Text(ctypes.Structure):
    _fields_ = (("start", c_void_p), ("size", c_size_t))


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("extension", c_void_p), ("size", c_int64),
        ("types", c_void_p), ("names", c_void_p), ("items", POINTER(POINTER(_Text))),
    )  # fmt: skip


class _Version(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int),
    )  # fmt: skip


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", c_size_t), ("version", _Version), ("traits", c_uint32))


class _Extension(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("type", c_int), ("next", c_void_p),
        ("metadata", POINTER(_Metadata)),
    )  # fmt: skip


class _Error(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int),
    )  # fmt: skip


class _Api(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("extension", c_void_p), ("version", _Version),
        ("internal", c_void_p), ("error", ctypes.CFUNCTYPE(c_int64, POINTER(_Error))),
    )  # fmt: skip


class _Frame(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t), ("extension", POINTER(_Extension)), ("api", POINTER(_Api)),
        ("context", c_void_p), ("stage", c_int), ("inputs", _Buffers), ("outputs", _Buffers),
        ("attributes", _Attributes),
    )  # fmt: skip


_METADATA = 1  # the type of an extension
_CANCELLED, _INVALID_ARGUMENT, _UNIMPLEMENTED = 1, 3, 12
_DTYPE = {
    code: np.dtype(kind)
    for code, kind in {
        1: "?", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 6: "u1", 7: "u2", 8: "u4", 9: "u8",
        10: "f2", 11: "f4", 12: "f8", 16: BFLOAT16,
    }.items()
}  # fmt: skip


def _array(buffer: _Buffer) -> np.ndarray:
    """An array on the memory of a buffer."""
    shape, dtype = tuple(buffer.dims[: buffer.rank]), _DTYPE[buffer.dtype]
    if 0 in shape:
        return np.empty(shape, dtype)
    size = dtype.itemsize
    for n in shape:
        size *= n
    return np.ndarray(shape, dtype, (ctypes.c_char * size).from_address(buffer.data))


def _arrays(buffers: _Buffers) -> list[np.ndarray]:
    return [_array(buffers.items[k].contents) for k in range(buffers.size)]


def _text(attributes: _Attributes) -> bytes:
    text = attributes.items[0].contents
    return ctypes.string_at(text.start, text.size)


def _code(error: BaseException) -> int:
    if isinstance(error, NotImplementedError):
        return _UNIMPLEMENTED
    return _INVALID_ARGUMENT if isinstance(error, Exception) else _CANCELLED


def version(include: str) -> tuple[int, int]:
    """The version of the interface, as its header states it."""
    text = (Path(include) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    major, minor = int(found["MAJOR"]), int(found["MINOR"])
    if major != 0:
        raise ImportError(f"XLA's foreign functions have version {major}.{minor}, not 0.x")
    return major, minor


def _status(text: str, code: int) -> _Error:
    return _Error(ctypes.sizeof(_Error), None, text.encode(), code)


class Handler:
    """``work`` as XLA calls it, from any of its threads; its exception becomes the call's status.

    An exception of a signal handler during the call is raised in the thread that called XLA, after
    the call.
    """

    def __init__(self, work: Callable[[Call], None], version: tuple[int, int]) -> None:
        self.work, self.version = work, version
        self.texts = (
            _status("Python is about to end", _CANCELLED),
            _status("interrupted, and Python can start no thread", _CANCELLED),
        )
        refusal = _Frame.api.offset, _Api.error.offset
        texts = map(ctypes.addressof, self.texts)
        self.guard = xla_callback.CallbackGuard(self._once, self._again, refusal, *texts)
        self.address = self.guard.address
        atexit.register(self.guard.close)  # JAX joins its threads while it holds the GIL
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.guard.reopen)

    def _once(self, address: int) -> None:
        frame = _Frame.from_address(address)
        if frame.extension and frame.extension.contents.type == _METADATA:
            metadata = frame.extension.contents.metadata.contents
            metadata.version.major, metadata.version.minor = self.version
            metadata.traits = 0
            return
        inputs, outputs = _arrays(frame.inputs), _arrays(frame.outputs)
        for output in outputs:
            hugepages.advise(output)
        self.work(Call(_text(frame.attributes), inputs, outputs))

    def _again(self, address: int) -> None:
        """Repeat the work where no signal handler runs: an exception is then the work's own."""
        raised = xla_callback.Raised.from_address(address)
        held, own = raised.held, ("", "")
        try:
            self._once(raised.x)
            raised.result = 0
        except BaseException as error:
            own = type(error).__name__, str(error)
            status = _status(own[1] or own[0], _code(error))
            raised.result = _Frame.from_address(raised.x).api.contents.error(status)
        try:
            if held and own != (type(held[0]).__name__, str(held[0])):
                _raise_later(held, raised.thread)
        finally:
            xla_callback.stop_waiting(raised)


def _raise_later(held: tuple[BaseException, Any, int], thread: int) -> None:
    """Raise an exception in a thread as soon as the thread runs Python code again."""
    error: BaseException | None = held[0]
    while error is not None:  # these frames hold arrays on buffers that XLA frees after the call
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    if thread != threading.main_thread().ident:
        kind = ctypes.py_object(type(held[0]))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), kind)
    elif not xla_callback.raise_in_main_thread(held):
        raise held[0]  # Python's queue of pending calls is full: at least print it
