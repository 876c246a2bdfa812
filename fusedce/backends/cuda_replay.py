"""Prepared calls on GPU arrays: allocate the outputs, insert addresses, launch the kernels.

They are stored in the cache of ``cpu_replay``, keyed by all that decides what is launched, which
on a GPU includes the alignment of every array. No array is stored.
"""

from typing import Any, NamedTuple

import numpy as np

from fusedce.backends import array_libraries, cpu_replay
from fusedce.backends.array_libraries import Layout
from fusedce.kernels.cuda.kernel_args import ARRAYS

SLOTS = {
    "logits": "logits", "targets": "targets", "sample_weight": "sample_weight",
    "weight": "weight", "pos_weight": "pos_weight", "denominator": "user_denominator",
    "loss_out": "loss", "grad_out": "grad", "hess_out": "hess", "out": "grad",
}  # fmt: skip
SLOT = {name: ARRAYS.index(array) for name, array in SLOTS.items()}
LOGITS, GRAD = ARRAYS.index("logits"), ARRAYS.index("grad")
TOTAL, SCRATCH = ARRAYS.index("total"), ARRAYS.index("scratch")


class New(NamedTuple):
    """An array that each call allocates."""

    slot: int  # index in ARRAYS
    shape: tuple[int, ...]
    dtype: Any
    strides: tuple[int, ...] | None  # None: C-contiguous


class Prepared(NamedTuple):
    """What a call launches and what it allocates, without its arrays."""

    library: Any  # that allocates the results
    device: int
    launches: tuple[Any, ...]
    given: tuple[tuple[str, int], ...]  # (argument of the caller that is an array, index in ARRAYS)
    new: tuple[New, ...]
    results: tuple[tuple[str, int], ...]  # the same of the arrays that are returned
    written: tuple[int, ...]  # indices of the caller's arrays that are written
    spans: dict[
        int, tuple[int, int]
    ]  # of the caller's arrays: bytes [first, last) from the address

    def run(self, layouts: dict[str, Layout], options: dict[str, Any]) -> Any:
        """The results for these arrays; None if the call has to be made with all checks."""
        library, device = self.library, self.device
        addresses = [0] * len(ARRAYS)
        for name, slot in self.given:
            addresses[slot] = layouts[name].address
        if self.written and not self._disjoint(addresses):
            return None
        made: dict[int, Any] = {}
        for slot, shape, dtype, strides in self.new:
            made[slot] = x = library.empty(shape, dtype, strides, device)
            addresses[slot] = library.layout(x).address
            if addresses[slot] % 16:
                return None
        stream = library.stream(device)
        for layout in layouts.values():
            if layout.stream is not None:
                array_libraries.wait(stream, layout.stream, device)
        if array_libraries.launch(library, self.launches, addresses, device, stream):
            array_libraries.CAPTURED.append(made[SCRATCH])
        results = [made[slot] if slot in made else options[name] for name, slot in self.results]
        return tuple(results) if len(results) > 1 else results[0]

    def _disjoint(self, addresses: list[int]) -> bool:
        """Whether outputs certainly share no memory; grad_out may be the logits themselves.

        A gradient at the address of the logits has their strides: the signature includes that.
        """
        spans = [(k, addresses[k] + a, addresses[k] + b) for k, (a, b) in self.spans.items()]
        for out, low, high in (s for s in spans if s[0] in self.written):
            for k, first, last in spans:
                in_place = out == GRAD and k == LOGITS and low == first
                if k != out and not in_place and low < last and first < high:
                    return False
        return True


def signature(
    params: Any, traits: Any, logits: Any, targets: Any, options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Layout]] | None:
    """(key of a call, layouts of its arrays). None: it cannot be replayed."""
    owner = array_libraries.owner_of(logits)
    targets_owner = array_libraries.owner_of(targets)
    if owner is None or targets_owner is None:
        return None
    layouts = {"logits": owner.layout(logits), "targets": targets_owner.layout(targets)}
    numbers = cpu_replay.parameter_bytes(params, traits)
    key: list[Any] = [owner, type(params), traits, numbers]
    for name, value in options.items():
        kind = type(value)
        if kind in cpu_replay.PLAIN and not (name == "validate" and value):
            key += (name, kind, value)
        elif kind is float:
            key += (name, value.hex())  # 0.0 == -0.0
        elif isinstance(value, np.number):
            key += (name, kind, value.tobytes())
        elif name in SLOT and (owner := array_libraries.owner_of(value)) is not None:
            layouts[name] = owner.layout(value)
            key.append(name)
        else:
            return None
    return _with_layouts(key, layouts), layouts


def _with_layouts(
    key: list[Any], layouts: dict[str, Layout], grad: str = "grad_out"
) -> tuple[Any, ...]:
    """The key with the layouts of its arrays, and whether the gradient replaces the logits."""
    for layout in layouts.values():
        key += (*layout[1:6], layout.address % 16)
    key.append(grad in layouts and layouts[grad].address == layouts["logits"].address)
    return tuple(key)


def run(
    params: Any, traits: Any, logits: Any, targets: Any, options: dict[str, Any]
) -> tuple[Any, Any]:
    """(key, results) of a call; None for a call that cannot be replayed, or was not prepared."""
    found = signature(params, traits, logits, targets, options)
    if found is None:
        return None, None
    key, layouts = found
    prepared = cpu_replay.lookup(key)
    return key, None if prepared is None else prepared.run(layouts, options)


def run_activation(name: str, logits: Any, out: Any, axis: Any) -> tuple[Any, Any]:
    """The same for softmax, sigmoid and their logarithms."""
    owner, out_owner = array_libraries.owner_of(logits), array_libraries.owner_of(out)
    if owner is None or (out is not None and out_owner is None) or type(axis) is not int:
        return None, None
    layouts = {"logits": owner.layout(logits)}
    if out is not None:
        layouts["out"] = out_owner.layout(out)
    key = _with_layouts([owner, name, axis], layouts, "out")
    prepared = cpu_replay.lookup(key)
    return key, None if prepared is None else prepared.run(layouts, {"out": out})


class Arguments(NamedTuple):
    """The arrays of a finished call, as views."""

    used: list[Any]  # in the order of ARRAYS
    outputs: dict[str, Any]  # by name; None: not asked for
    buffers: dict[str, Any]  # outputs that the caller passed; None: allocated by the call


def store(
    key: tuple[Any, ...], backend: Any, launches: tuple[Any, ...], scratch: int, arrays: Arguments
) -> None:
    """Store a finished call; ``scratch`` is the number of bytes that its launches need."""
    used, outputs, buffers = arrays
    slot = dict(SLOT)
    if used[TOTAL] is not None:
        slot["loss_out"] = TOTAL
    made = [name for name, view in outputs.items() if view is not None and buffers[name] is None]
    given = [name for name in backend.arrays if name not in made]
    new = [_new(slot[name], outputs[name]) for name in made]
    if any(outputs[name].ctypes.data % 16 for name in made):
        return
    if scratch:
        new.append(New(SCRATCH, (scratch,), np.dtype(np.uint8), None))
    prepared = Prepared(
        library=backend.library,
        device=backend.device,
        launches=launches,
        given=tuple((name, slot[name]) for name in given),
        new=tuple(new),
        results=tuple((name, slot[name]) for name, view in outputs.items() if view is not None),
        written=tuple(slot[name] for name in given if name in outputs),
        spans={slot[name]: _span(used[slot[name]]) for name in given},
    )
    cpu_replay.store(key, prepared)


def _new(slot: int, view: np.ndarray) -> New:
    return New(slot, view.shape, view.dtype, None if view.flags.c_contiguous else view.strides)


def _span(view: np.ndarray) -> tuple[int, int]:
    """Bytes [first, last) of an array, counted from its address."""
    first, last = np.lib.array_utils.byte_bounds(view)
    return first - view.ctypes.data, last - view.ctypes.data
