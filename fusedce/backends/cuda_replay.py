"""A GPU call like one before: outputs are allocated, addresses filled in, kernels launched.

Kept under everything that decides what is launched, as in ``replay``; here with the alignment of
every array too. No array is kept.
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
    """An array each call makes."""

    slot: int  # in ARRAYS
    shape: tuple[int, ...]
    dtype: Any
    strides: tuple[int, ...] | None  # None: C-contiguous


class Kept(NamedTuple):
    """What a call has worked out, without its arrays."""

    library: Any  # of the results
    device: int
    launches: tuple[Any, ...]
    given: tuple[tuple[str, int], ...]  # what the caller brings, and where it goes
    new: tuple[New, ...]
    results: tuple[tuple[str, int], ...]  # what the caller gets, by name and by place
    written: tuple[int, ...]  # which of the caller's arrays
    spans: dict[int, tuple[int, int]]  # first and last byte of the caller's, from their address

    def again(self, seen: dict[str, Layout], options: dict[str, Any]) -> Any:
        """The results for other arrays; None where the ordinary way has to look."""
        library, device = self.library, self.device
        addresses = [0] * len(ARRAYS)
        for name, slot in self.given:
            addresses[slot] = seen[name].address
        if self.written and not self._apart(addresses):
            return None
        made: dict[int, Any] = {}
        for slot, shape, dtype, strides in self.new:
            made[slot] = x = library.empty(shape, dtype, strides, device)
            addresses[slot] = library.layout(x).address
            if addresses[slot] % 16:
                return None
        stream = library.stream(device)
        for layout in seen.values():
            if layout.stream is not None:
                array_libraries.wait(stream, layout.stream, device)
        if array_libraries.launch(library, self.launches, addresses, device, stream):
            array_libraries.CAPTURED.append(made[SCRATCH])
        results = [made[slot] if slot in made else options[name] for name, slot in self.results]
        return tuple(results) if len(results) > 1 else results[0]

    def _apart(self, addresses: list[int]) -> bool:
        """Whether outputs certainly share no memory, but for a gradient that replaces the logits.

        A gradient at the logits' address lies as they do: that is a part of the signature.
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
    """Everything that decides what a call launches, and its arrays; None if something else may."""
    owner = array_libraries.owner_of(logits)
    beside = array_libraries.owner_of(targets)
    if owner is None or beside is None:
        return None
    seen = {"logits": owner.layout(logits), "targets": beside.layout(targets)}
    key: list[Any] = [owner, type(params), traits, cpu_replay.bits(params, traits)]
    for name, value in options.items():
        kind = type(value)
        if kind in cpu_replay.PLAIN and not (name == "validate" and value):
            key += (name, kind, value)
        elif kind is float:
            key += (name, value.hex())  # 0.0 == -0.0
        elif isinstance(value, np.number):
            key += (name, kind, value.tobytes())
        elif name in SLOT and (owner := array_libraries.owner_of(value)) is not None:
            seen[name] = owner.layout(value)
            key.append(name)
        else:
            return None
    return _closed(key, seen), seen


def _closed(key: list[Any], seen: dict[str, Layout], grad: str = "grad_out") -> tuple[Any, ...]:
    """A signature, with what decides about arrays, and whether one replaces the logits."""
    for layout in seen.values():
        key += (*layout[1:6], layout.address % 16)
    key.append(grad in seen and seen[grad].address == seen["logits"].address)
    return tuple(key)


def again(
    params: Any, traits: Any, logits: Any, targets: Any, options: dict[str, Any]
) -> tuple[Any, Any]:
    """The signature of a call and its results; None for either."""
    found = signature(params, traits, logits, targets, options)
    if found is None:
        return None, None
    key, seen = found
    kept = cpu_replay.recall(key)
    return key, None if kept is None else kept.again(seen, options)


def activate_again(name: str, logits: Any, out: Any, axis: Any) -> tuple[Any, Any]:
    """The same for softmax, sigmoid and their logarithms."""
    owner, beside = array_libraries.owner_of(logits), array_libraries.owner_of(out)
    if owner is None or (out is not None and beside is None) or type(axis) is not int:
        return None, None
    seen = {"logits": owner.layout(logits)}
    if out is not None:
        seen["out"] = beside.layout(out)
    key = _closed([owner, name, axis], seen, "out")
    kept = cpu_replay.recall(key)
    return key, None if kept is None else kept.again(seen, {"out": out})


def keep(
    key: tuple[Any, ...], home: Any, launches: tuple[Any, ...], scratch: int,
    outputs: dict[str, Any], given: dict[str, Any], used: list[Any],
) -> None:  # fmt: skip
    """Keep a finished call, whose outputs and all arrays are seen as shadows."""
    slot = dict(SLOT)
    if used[TOTAL] is not None:
        slot["loss_out"] = TOTAL
    made = [name for name, seen in outputs.items() if seen is not None and given[name] is None]
    brought = [name for name in home.arrays if name not in made]
    new = [_new(slot[name], outputs[name]) for name in made]
    if any(outputs[name].ctypes.data % 16 for name in made):
        return
    if scratch:
        new.append(New(SCRATCH, (scratch,), np.dtype(np.uint8), None))
    kept = Kept(
        library=home.library,
        device=home.device,
        launches=launches,
        given=tuple((name, slot[name]) for name in brought),
        new=tuple(new),
        results=tuple((name, slot[name]) for name, seen in outputs.items() if seen is not None),
        written=tuple(slot[name] for name in brought if name in outputs),
        spans={slot[name]: _span(used[slot[name]]) for name in brought},
    )
    cpu_replay.keep(key, kept)


def _new(slot: int, seen: np.ndarray) -> New:
    return New(slot, seen.shape, seen.dtype, None if seen.flags.c_contiguous else seen.strides)


def _span(seen: np.ndarray) -> tuple[int, int]:
    """The first byte of an array and the one after its last, from its address."""
    first, last = np.lib.array_utils.byte_bounds(seen)
    return first - seen.ctypes.data, last - seen.ctypes.data
