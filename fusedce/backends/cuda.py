"""Calls on GPU arrays. The host sees addresses, shapes and strides; only kernels read values.

Only a call with ``validate=True`` waits for the GPU.
"""

import math
from typing import Any

import numpy as np

from fusedce import arrays, checks, errors
from fusedce.backends import array_libraries, cuda_replay
from fusedce.backends.array_libraries import DeviceView
from fusedce.backends.cpu import CPU, CpuBackend
from fusedce.kernels.cuda.kernel_args import ARRAYS, STATS_BAD_LABEL
from fusedce.kernels.problem import Problem
from fusedce.options import Call

# Options that may be arrays on a GPU, apart from outputs.
INPUTS = ("weight", "pos_weight", "sample_weight", "denominator")


def backend_of(**named: Any) -> "CpuBackend | CudaBackend":
    """The backend of these arguments: all of its arrays must be on the same side."""
    gpu = [name for name, x in named.items() if array_libraries.owner_of(x) is not None]
    if not gpu:
        return CPU
    for name, x in named.items():
        if name not in gpu and (name == "logits" or not (x is None or _is_number(x))):
            raise errors.host_and_device(gpu[0], named[gpu[0]], name, x)
    return CudaBackend(named["logits"])


def _is_number(x: Any) -> bool:
    return np.isscalar(x) or (isinstance(x, np.ndarray) and x.ndim == 0)


class CudaBackend:
    """One call on a GPU; the methods of ``cpu.CpuBackend``, which describes them."""

    def __init__(self, logits: Any) -> None:
        owner = array_libraries.owner_of(logits)
        self.device = owner.layout(logits).device
        self.library = owner.maker  # allocates the results
        self.stream = self.library.stream(self.device)
        self.arrays: dict[str, Any] = {}  # the caller's, or contiguous copies of them
        self.scratch: dict[str, Any] = {}  # outputs to be copied into the caller's arrays
        self.copied = False  # whether an argument was copied: such a call is not replayed

    def ndim(self, x: Any) -> int:
        """The number of axes."""
        owner = array_libraries.owner_of(x)
        return np.ndim(x) if owner is None else len(owner.layout(x).shape)

    def read(self, **named: Any) -> list[Any]:
        """Views of the arguments; None stays None."""
        return [None if x is None else self._view(name, x) for name, x in named.items()]

    def _view(self, name: str, x: Any) -> np.ndarray:
        """The view of an argument, once the work of its stream is ordered before the kernels."""
        owner = array_libraries.owner_of(x)
        if owner is None:
            return self._from_host(name, x)
        layout = owner.layout(x)
        if layout.device != self.device and 0 not in layout.shape:
            raise errors.different_devices("logits", self.device, name, layout.device)
        if layout.stream is not None:
            array_libraries.wait(self.stream, layout.stream, self.device)
        self.arrays[name] = x
        return array_libraries.device_view(layout)

    def _from_host(self, name: str, x: Any) -> np.ndarray:
        """A number of the host; targets and sample weights are copied to the device."""
        value = np.asarray(x)
        if name not in ("targets", "sample_weight") or value.dtype.kind not in "biuf":
            return value
        self.copied = True
        view = self.empty(name, (), value.dtype)
        self._fill(name, value[()])
        return view

    def _fill(self, name: str, value: Any) -> None:
        owner = array_libraries.owner_of(self.arrays[name])
        self._library_waits(owner)
        owner.fill(self.arrays[name], value)
        self._kernels_wait(owner)

    def _library_waits(self, owner: Any) -> None:
        """Order the next work of a library's stream after the kernels launched so far."""
        array_libraries.wait(owner.stream(self.device), self.stream, self.device)

    def _kernels_wait(self, owner: Any) -> None:
        """Order the next kernels after the work of a library's stream so far."""
        array_libraries.wait(self.stream, owner.stream(self.device), self.device)

    def native(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array, or an aligned copy; an error for a dtype that kernels do not read."""
        if not array.dtype.isnative or array.dtype.itemsize > 8:
            raise errors.unsupported_dtype(name, array.dtype)
        return array if array.flags.aligned else self._contiguous(name, array)

    def _contiguous(self, name: str, view: np.ndarray) -> np.ndarray:
        """A contiguous copy of a view of an argument, made by the library of its array."""
        owner = array_libraries.owner_of(self.arrays[name])
        self.copied = True
        self._library_waits(owner)
        copy = owner.packed(self.arrays[name], view)
        self._kernels_wait(owner)
        self.arrays[name] = copy
        return array_libraries.device_view(array_libraries.owner_of(copy).layout(copy))

    def vector(
        self, name: str, value: np.ndarray, classes: int, *, scalar: bool = False
    ) -> np.ndarray:
        """A vector over classes, or a scalar where allowed."""
        if not isinstance(value, DeviceView):
            return checks.class_vector(name, value, classes, scalar=scalar)
        return self.native(name, checks.class_form(name, value, classes, scalar=scalar))

    def denominator(self, value: Any) -> Any:
        """What the mean divides by: a number, or a view of an array of one number."""
        if array_libraries.owner_of(value) is None:
            return checks.positive("denominator", value)
        view = self._view("denominator", value)
        if view.ndim or not arrays.is_real(view.dtype):
            raise errors.no_number("denominator", view)
        return self.native("denominator", view)

    def probabilities(self, array: np.ndarray) -> None:
        """No check: kernels write NaN for probabilities outside [0, 1]."""

    def output(self, name: str, x: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The view of an output array of the caller."""
        if array_libraries.owner_of(x) is None:
            raise errors.no_array(name, x, "GPU")
        view = checks.output(name, self._view(name, x), shape, dtype)
        if not view.flags.aligned:
            raise errors.unaligned(name, view)
        return view

    def empty(
        self, name: str, shape: tuple[int, ...], dtype: Any, strides: Any = None
    ) -> np.ndarray:
        """A new array for a result."""
        x = self.arrays[name] = self.library.empty(shape, dtype, strides, self.device)
        return array_libraries.device_view(self.library.layout(x))

    def like(self, name: str, array: np.ndarray) -> np.ndarray:
        """A new array with the shape, dtype and memory order of another one."""
        return self.empty(name, array.shape, array.dtype, array_libraries.strides_like(array))

    def view3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An input as a view (outer, class, inner), or of a copy where there is none."""
        try:
            return array.reshape(shape, copy=False)
        except ValueError:
            return self._contiguous(name, array).reshape(shape)

    def out3(self, name: str, array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """An output as a view (outer, class, inner), or scratch where there is none."""
        try:
            return array.reshape(shape, copy=False)
        except ValueError:
            self.copied = True
            owner = array_libraries.owner_of(self.arrays[name])
            x = self.scratch[name] = owner.empty(shape, array.dtype, None, self.device)
            return array_libraries.device_view(array_libraries.owner_of(x).layout(x))

    def factors(self, call: Call, alpha: float | None, compute: Any) -> dict[str, Any]:
        """The weight fields of ``Problem``."""
        one, given, scale = np.ones(1, compute), call.pos_weight, 1.0
        if given is not None and not isinstance(given, DeviceView):
            scale, given = float(given[0]), None
        return {
            "weight": call.weight, "pos_factor": one, "neg_factor": one,
            "pos_weight": given, "pos_scale": scale, "alpha": alpha,
        }  # fmt: skip

    def single(self, logits: Any, targets: Any) -> tuple[Any, ...]:
        """A single logit and its label as arrays of shape (1,)."""
        self.read(logits=logits, targets=targets)
        label = self.arrays.get("targets")  # None: targets are no number, for which ``read`` raises
        return _reshaped(logits, (1,)), targets if label is None else _reshaped(label, (1,))

    def number(self, result: Any) -> Any:
        """An array of one element with shape ()."""
        return _reshaped(result, ())

    def activate(
        self, name: str, source: np.ndarray, result: np.ndarray, shape: tuple[int, int, int],
        out: Any, key: Any,
    ) -> None:  # fmt: skip
        """Write an activation of ``source`` into ``result``; both are split as ``shape``."""
        from fusedce.kernels.cuda import dispatch

        z, target = self.view3("logits", source, shape), self.out3("out", result, shape)
        compute = arrays.compute_type(source.dtype)
        plan = dispatch.activation(name, z, target, compute, array_libraries.facts(self.device))
        views = {"logits": z, "grad": target}
        used = [views.get(name) for name in ARRAYS]
        launches = self._run(plan, used)
        self._copy_back()
        if key is not None and not self.copied:
            arguments = cuda_replay.Arguments(used, {"out": result}, {"out": out})
            cuda_replay.store(key, self, launches, plan.scratch, arguments)

    def activated(self, result: np.ndarray) -> Any:
        """What the public function returns for an array it made."""
        return self.arrays["out"]

    def execute(
        self, traits: Any, call: Call, problem: Problem, outputs: dict[str, Any], key: Any
    ) -> Any:
        """Compute a call whose arguments are checked."""
        from fusedce.kernels.cuda import dispatch

        given, total = call.options, None
        validate = bool(given.validate)
        if given.reduction != "none":
            total = outputs["loss_out"]
            if total is None:
                total = self.empty("loss_out", (), arrays.loss_dtype(call.logits.dtype))
                outputs["loss_out"] = total
        results = [self.arrays[name] for name, view in outputs.items() if view is not None]
        if not call.logits.size:
            if total is not None:
                empty_mean = given.reduction == "mean" and call.denominator is None
                self._fill("loss_out", math.nan if empty_mean else 0.0)
            return tuple(results) if len(results) > 1 else results[0]
        divisor, on_device = _divisor(call)
        plan = dispatch.plan(
            problem, divisor=divisor, user_denominator=on_device, validate=validate, total=total,
            facts=array_libraries.facts(self.device),
        )  # fmt: skip
        inputs = [problem.logits, problem.targets, problem.sample_weight, problem.weight]
        more = [problem.pos_weight, on_device, problem.loss, problem.grad, problem.hess, total]
        used = [*inputs, *more, None]
        launches = self._run(plan, used, call if validate else None)
        self._copy_back()
        if key is not None and not self.copied:
            buffers = {name: getattr(given, name) for name in outputs}
            arguments = cuda_replay.Arguments(used, outputs, buffers)
            cuda_replay.store(key, self, launches, plan.scratch, arguments)
        return tuple(results) if len(results) > 1 else results[0]

    def _run(
        self, plan: Any, used: list[np.ndarray | None], checked: Call | None = None
    ) -> tuple[Any, ...]:
        """Launch a plan and return its launches; wait for its label pass to check a call."""
        addresses = [0 if a is None else _address(a) for a in used]
        scratch = None
        if plan.scratch:
            scratch = self.library.empty((plan.scratch,), np.uint8, None, self.device)
            addresses[-1] = self.library.layout(scratch).address
        where = self.device, self.stream
        if checked is not None and plan.label_pass:
            array_libraries.launch(self.library, plan.label_pass, addresses, *where)
            bad = array_libraries.read(addresses[-1] + STATS_BAD_LABEL, np.int64, *where)
            if bad >= 0:
                raise self._bad_label(checked, int(bad))
            launches: tuple[Any, ...] = plan.losses
        else:
            launches = plan.label_pass + plan.losses
        if array_libraries.launch(self.library, launches, addresses, *where):
            array_libraries.CAPTURED.append(scratch)
        return launches

    def _bad_label(self, call: Call, position: int) -> IndexError | ValueError:
        targets = call.targets
        if call.real_targets and call.by_row:
            row = arrays.unravel(position, call.rows)
            return errors.mixed_row(row, call.options.ignore_index)
        index = arrays.unravel(position, targets.shape)
        address = _address(targets) + sum(
            k * s for k, s in zip(index, targets.strides, strict=True)
        )
        label = array_libraries.read(address, targets.dtype, self.device, self.stream)
        wrong = errors.bad_number if call.real_targets else errors.bad_label
        return wrong(label, index, call.allowed, call.options.ignore_index)

    def _copy_back(self) -> None:
        """Copy outputs from scratch into the caller's arrays."""
        for name, x in self.scratch.items():
            owner = array_libraries.owner_of(self.arrays[name])
            self._library_waits(owner)
            owner.assign(self.arrays[name], x)
            self._kernels_wait(owner)


def _address(view: np.ndarray) -> int:
    return int(view.ctypes.data)


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    if not hasattr(x, "reshape"):
        x = array_libraries.foreign_view(array_libraries.owner_of(x).layout(x), x)
    return x.reshape(shape)


def _divisor(call: Call) -> tuple[float | None, np.ndarray | None]:
    """What the mean divides by, if the host knows it; or the device array that contains it.

    (None, None): kernels count the targets that are not ignored.
    """
    if call.options.reduction != "mean":
        return 1.0, None
    if isinstance(call.denominator, np.ndarray):
        return None, call.denominator
    if call.denominator is not None:
        return call.denominator, None
    weighted = call.sparse_targets and call.by_row and call.weight is not None
    if call.options.normalize_targets or weighted or call.can_be_ignored:
        return None, None
    return float(math.prod(call.loss_shape)), None
