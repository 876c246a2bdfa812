"""A call on a GPU: arrays are seen as shadows, numbers are looked at by kernels alone.

Nothing here waits for the GPU but a call with ``validate=True``.
"""

import math
from typing import Any

import numpy as np

from fusedce import arrays, checks
from fusedce.backends import array_libraries, cuda_replay
from fusedce.backends.array_libraries import Shadow
from fusedce.backends.cpu import HOST, Host
from fusedce.kernels.cuda.kernel_args import ARRAYS, STATS_BAD_LABEL
from fusedce.kernels.problem import Problem
from fusedce.options import Call

INPUTS = ("weight", "pos_weight", "sample_weight", "denominator")


def home(**named: Any) -> "Host | Gpu":
    """Where a call is at home: there has to be all of it."""
    gpu = [name for name, x in named.items() if array_libraries.owner_of(x) is not None]
    if not gpu:
        return HOST
    for name, x in named.items():
        if name not in gpu and (name == "logits" or not (x is None or _is_number(x))):
            raise checks.mixed(gpu[0], named[gpu[0]], name, x)
    return Gpu(named["logits"])


def _is_number(x: Any) -> bool:
    return np.isscalar(x) or (isinstance(x, np.ndarray) and x.ndim == 0)


class Gpu:
    """What a call asks of the place where its arrays are; ``host.Host`` answers the same."""

    def __init__(self, logits: Any) -> None:
        owner = array_libraries.owner_of(logits)
        self.device = owner.layout(logits).device
        self.library = owner.maker  # of results
        self.stream = self.library.stream(self.device)
        self.arrays: dict[str, Any] = {}  # of the caller, or in their place
        self.scratch: dict[str, Any] = {}  # results to be brought home
        self.plain = True  # whether the kernels work on the caller's very arrays

    def ndim(self, x: Any) -> int:
        """The number of axes."""
        owner = array_libraries.owner_of(x)
        return np.ndim(x) if owner is None else len(owner.layout(x).shape)

    def read(self, **named: Any) -> list[Any]:
        """Shadows of the arguments; None stays None."""
        return [None if x is None else self._seen(name, x) for name, x in named.items()]

    def _seen(self, name: str, x: Any) -> np.ndarray:
        owner = array_libraries.owner_of(x)
        if owner is None:
            return self._number(name, x)
        layout = owner.layout(x)
        if layout.device != self.device and 0 not in layout.shape:
            raise checks.apart("logits", self.device, name, layout.device)
        if layout.stream is not None:
            array_libraries.wait(self.stream, layout.stream, self.device)
        self.arrays[name] = x
        return array_libraries.shadow(layout)

    def _number(self, name: str, x: Any) -> np.ndarray:
        """A number of the host; one that kernels look for in an array is put there."""
        value = np.asarray(x)
        if name not in ("targets", "sample_weight") or value.dtype.kind not in "biuf":
            return value
        self.plain = False
        there = self.empty(name, (), value.dtype)
        self._fill(name, value[()])
        return there

    def _fill(self, name: str, value: Any) -> None:
        owner = array_libraries.owner_of(self.arrays[name])
        self._after(owner)
        owner.fill(self.arrays[name], value)
        self._before(owner)

    def _after(self, owner: Any) -> None:
        """What a library does next comes after what the kernels do."""
        array_libraries.wait(owner.stream(self.device), self.stream, self.device)

    def _before(self, owner: Any) -> None:
        """What a library has done comes before what the kernels do."""
        array_libraries.wait(self.stream, owner.stream(self.device), self.device)

    def native(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array as kernels can read it."""
        if not array.dtype.isnative or array.dtype.itemsize > 8:
            raise checks.unread(name, array.dtype)
        return array if array.flags.aligned else self._packed(name, array)

    def _packed(self, name: str, seen: np.ndarray) -> np.ndarray:
        """A contiguous copy of what is seen of an argument, by its own library."""
        owner = array_libraries.owner_of(self.arrays[name])
        self.plain = False
        self._after(owner)
        copy = owner.packed(self.arrays[name], seen)
        self._before(owner)
        self.arrays[name] = copy
        return array_libraries.shadow(array_libraries.owner_of(copy).layout(copy))

    def vector(
        self, name: str, value: np.ndarray, classes: int, *, scalar: bool = False
    ) -> np.ndarray:
        """A vector over classes, or a scalar where allowed."""
        if not isinstance(value, Shadow):
            return checks.class_vector(name, value, classes, scalar=scalar)
        return self.native(name, checks.class_form(name, value, classes, scalar=scalar))

    def denominator(self, value: Any) -> Any:
        """What the mean divides by: a number, or the shadow of one."""
        if array_libraries.owner_of(value) is None:
            return checks.positive("denominator", value)
        seen = self._seen("denominator", value)
        if seen.ndim or not arrays.is_real(seen.dtype):
            raise checks.no_number("denominator", seen)
        return self.native("denominator", seen)

    def probabilities(self, array: np.ndarray) -> None:
        """Left to the kernels: outside [0, 1] loss and gradient are NaN."""

    def output(self, name: str, x: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A buffer the caller wants filled."""
        if array_libraries.owner_of(x) is None:
            raise checks.no_array(name, x, "GPU")
        seen = checks.output(name, self._seen(name, x), shape, dtype)
        if not seen.flags.aligned:
            raise checks.unaligned(name, seen)
        return seen

    def empty(
        self, name: str, shape: tuple[int, ...], dtype: Any, strides: Any = None
    ) -> np.ndarray:
        """A new array for a result."""
        x = self.arrays[name] = self.library.empty(shape, dtype, strides, self.device)
        return array_libraries.shadow(self.library.layout(x))

    def like(self, name: str, array: np.ndarray) -> np.ndarray:
        """A new array that lies as another one does."""
        return self.empty(name, array.shape, array.dtype, array_libraries.strides_like(array))

    def view3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An input as three axes."""
        try:
            return array.reshape(shape, copy=False)
        except ValueError:
            return self._packed(name, array).reshape(shape)

    def out3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An output as three axes."""
        try:
            return array.reshape(shape, copy=False)
        except ValueError:
            self.plain = False
            owner = array_libraries.owner_of(self.arrays[name])
            x = self.scratch[name] = owner.empty(shape, array.dtype, None, self.device)
            return array_libraries.shadow(array_libraries.owner_of(x).layout(x))

    def factors(self, call: Call, alpha: float | None, compute: Any) -> dict[str, Any]:
        """The fields of a problem that say how much a class weighs."""
        one, given, scale = np.ones(1, compute), call.pos_weight, 1.0
        if given is not None and not isinstance(given, Shadow):
            scale, given = float(given[0]), None
        return {
            "weight": call.weight, "pos_factor": one, "neg_factor": one,
            "pos_weight": given, "pos_scale": scale, "alpha": alpha,
        }  # fmt: skip

    def single(self, logits: Any, targets: Any) -> tuple[Any, ...]:
        """A logit and its label as arrays of one."""
        self.read(logits=logits, targets=targets)
        there = self.arrays.get("targets")  # None: what is no number at all
        return _reshaped(logits, (1,)), targets if there is None else _reshaped(there, (1,))

    def number(self, result: Any) -> Any:
        """An array of one without axes."""
        return _reshaped(result, ())

    def activate(
        self, name: str, source: np.ndarray, result: np.ndarray, shape: tuple[int, int, int],
        out: Any, key: Any,
    ) -> None:  # fmt: skip
        """result <- softmax, ... of source."""
        from fusedce.kernels.cuda import dispatch

        z, target = self.view3("logits", source, shape), self.out3("out", result, shape)
        compute = arrays.compute_type(source.dtype)
        program = dispatch.activation(name, z, target, compute, array_libraries.facts(self.device))
        there = {"logits": z, "grad": target}
        used = [there.get(name) for name in ARRAYS]
        launches = self._run(program, used)
        self._bring_home()
        if key is not None and self.plain:
            outputs, given = {"out": result}, {"out": out}
            cuda_replay.keep(key, self, launches, program.scratch, outputs, given, used)

    def activated(self, result: np.ndarray) -> Any:
        """What the caller gets."""
        return self.arrays["out"]

    def finish(
        self, traits: Any, call: Call, problem: Problem, outputs: dict[str, Any],
        given: dict[str, Any], key: Any, validate: bool,
    ) -> Any:  # fmt: skip
        """Compute a call whose arguments are in order."""
        from fusedce.kernels.cuda import dispatch

        total = None
        if call.reduction != "none":
            total = outputs["loss_out"]
            if total is None:
                total = self.empty("loss_out", (), arrays.loss_dtype(call.logits.dtype))
                outputs["loss_out"] = total
        results = [self.arrays[name] for name, seen in outputs.items() if seen is not None]
        if not call.logits.size:
            if total is not None:
                empty_mean = call.reduction == "mean" and call.denominator is None
                self._fill("loss_out", math.nan if empty_mean else 0.0)
            return tuple(results) if len(results) > 1 else results[0]
        divisor, there = _divisor(call)
        program = dispatch.plan(
            problem, divisor=divisor, user_denominator=there, validate=validate, total=total,
            facts=array_libraries.facts(self.device),
        )  # fmt: skip
        inputs = [problem.logits, problem.targets, problem.sample_weight, problem.weight]
        more = [problem.pos_weight, there, problem.loss, problem.grad, problem.hess, total]
        used = [*inputs, *more, None]
        launches = self._run(program, used, call if validate else None)
        self._bring_home()
        if key is not None and self.plain:
            cuda_replay.keep(key, self, launches, program.scratch, outputs, given, used)
        return tuple(results) if len(results) > 1 else results[0]

    def _run(
        self, program: Any, used: list[np.ndarray | None], checked: Call | None = None
    ) -> tuple[Any, ...]:
        """Launch a program, with its labels looked at first if a call is to be checked."""
        addresses = [0 if a is None else _address(a) for a in used]
        scratch = None
        if program.scratch:
            scratch = self.library.empty((program.scratch,), np.uint8, None, self.device)
            addresses[-1] = self.library.layout(scratch).address
        where = self.device, self.stream
        if checked is not None and program.label_pass:
            array_libraries.launch(self.library, program.label_pass, addresses, *where)
            bad = array_libraries.read(addresses[-1] + STATS_BAD_LABEL, np.int64, *where)
            if bad >= 0:
                raise self._bad_label(checked, int(bad))
            launches: tuple[Any, ...] = program.losses
        else:
            launches = program.label_pass + program.losses
        if array_libraries.launch(self.library, launches, addresses, *where):
            array_libraries.CAPTURED.append(scratch)
        return launches

    def _bad_label(self, call: Call, position: int) -> IndexError | ValueError:
        targets = call.targets
        if call.real_targets and call.by_row:
            return checks.mixed_row(arrays.place(position, call.rows), call.ignore_index)
        place = arrays.place(position, targets.shape)
        address = _address(targets) + sum(
            k * s for k, s in zip(place, targets.strides, strict=True)
        )
        label = array_libraries.read(address, targets.dtype, self.device, self.stream)
        wrong = checks.bad_number if call.real_targets else checks.bad_label
        return wrong(label, place, call.allowed, call.ignore_index)

    def _bring_home(self) -> None:
        for name, x in self.scratch.items():
            owner = array_libraries.owner_of(self.arrays[name])
            self._after(owner)
            owner.assign(self.arrays[name], x)
            self._before(owner)


def _address(seen: np.ndarray) -> int:
    return int(seen.ctypes.data)


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    if not hasattr(x, "reshape"):
        x = array_libraries.foreign_view(array_libraries.owner_of(x).layout(x), x)
    return x.reshape(shape)


def _divisor(call: Call) -> tuple[float | None, np.ndarray | None]:
    """What the mean divides by, if that is known here, or the array it is in."""
    if call.reduction != "mean":
        return 1.0, None
    if isinstance(call.denominator, np.ndarray):
        return None, call.denominator
    if call.denominator is not None:
        return call.denominator, None
    weighted = call.sparse_targets and call.by_row and call.weight is not None
    if call.normalize or weighted or call.can_be_ignored:
        return None, None
    return float(math.prod(call.loss_shape)), None
