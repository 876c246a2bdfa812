"""The results of every kernel whose machine code test_cuda_code.py checks, emulated.

The calls are the same, with numbers in their arrays. The kernels are those that are compiled there,
on the layouts and alignments that they are made for, with all checks of the emulator.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba_cuda")

import fusedce
from tests.core.test_losses import near
from tests.cuda import calls
from tests.cuda.calls import Array
from tests.emulator import machine, programs
from tests.emulator.device import Emulated
from tests.emulator.extent import part
from tests.listed import LOSSES

if why := programs.missing():
    pytest.skip(why, allow_module_level=True)

CALLS = {call.name: call for call in calls.calls()}
NAMES = list(CALLS)
COVERING = calls.covering()
# All listed losses except those whose terms have one sign for every label.
CANCELLING = set(LOSSES) - {"cross_entropy", "focal", "poly1"}


def laid_out(spec, values):
    """The values in an array with the strides and the 16-byte offset of a specification."""
    dtype = np.dtype(spec.dtype)
    size = (spec.shape[0] if spec.shape else 1) * (
        spec.strides[0] if spec.shape else dtype.itemsize
    )
    room = np.full(size + 32, 0xA5, np.uint8)
    start = -room.ctypes.data % 16 + spec.offset
    found = np.ndarray(spec.shape, dtype, room, start, spec.strides)
    found[...] = values
    return found


def logits_of(call, rng):
    """Random logits, some of them large; with class indices, one class is masked with -inf."""
    shape, activation = call.logits.shape, call.options.get("activation", "softmax")
    if activation is None:
        return laid_out(call.logits, rng.uniform(0.01, 0.99, shape))
    z = rng.normal(size=shape) * 3
    if activation == "sigmoid" or call.targets is None:
        z[0] *= 8
    elif len(call.targets.shape) < len(shape) and not call.options.get("label_smoothing"):
        z.reshape(shape[0], -1)[0, -1] = -np.inf
        z.reshape(shape[0], -1)[-1, 0] = 25
    return laid_out(call.logits, z)


def targets_of(call, rng):
    """Class indices (the last one is ignored), labels of elements, or distributions."""
    spec, kind = call.targets, np.dtype(call.targets.dtype)
    axis = call.options.get("axis", -1)
    classes = call.logits.shape[axis]
    if len(spec.shape) < len(call.logits.shape):
        t = rng.integers(0, classes, spec.shape)
        t.reshape(-1)[0], t.reshape(-1)[-1] = 0, -100
        return laid_out(spec, t)
    if kind.kind in "iub":
        return laid_out(spec, rng.integers(0, 2, spec.shape))
    if call.options.get("activation", "softmax") != "softmax":
        hard, soft = rng.integers(0, 2, spec.shape), rng.random(spec.shape)
        soft[: len(soft) // 2] = 0  # threads that have only hard labels take another path
        return laid_out(spec, hard if cancels(call) else np.where(soft < 0.5, hard, soft))
    t = rng.gamma(0.3, size=spec.shape) + 1e-6
    return laid_out(spec, t / t.sum(axis=axis, keepdims=True))


def cancels(call):
    """Whether terms of opposite signs cancel, so that an element may be much smaller than they."""
    distribution = call.targets is not None and call.targets.shape == call.logits.shape
    return call.function in CANCELLING or (
        distribution and call.options.get("activation", "softmax") == "softmax"
    )


def host_call(call):
    """(positional arguments, options) on the host."""
    rng = np.random.default_rng(len(call.name))
    args = [logits_of(call, rng)]
    if call.targets is not None:
        args.append(targets_of(call, rng))
    options = dict(call.own)
    for name, value in call.options.items():
        given = isinstance(value, Array)
        numbers = rng.uniform(0.5, 2, value.shape) if given and name.endswith("weight") else 0
        options[name] = laid_out(value, numbers) if given else value
    return args, options


def emulated(call, capability, order):
    """Compare the results of a call with the CPU's; the device after it."""
    device = Emulated(order, calls.facts(capability), seed=3)
    args, options = host_call(call)
    want = getattr(fusedce, call.function)(*args, **options)
    if "grad_out" in options:
        want = tuple(np.array(a) for a in want)
    got = getattr(device, call.function)(*args, **options)
    slack = 1e-2 if cancels(call) else 1e-3
    dtype = next(k for k, v in calls.DTYPES.items() if np.dtype(v) == args[0].dtype)
    several = isinstance(got, tuple)
    for a, b in zip(got, want, strict=True) if several else [(got, want)]:
        near(dtype, a, b, slack)
    return device


@pytest.mark.parametrize("name", part(NAMES, *COVERING))
def test_as_the_cpu(name):
    """The cases alternate between orders of threads; test_cuda_code.py checks the same launches."""
    order = machine.ORDERS[NAMES.index(name) % 3]
    device = emulated(CALLS[name], (9, 0), order)
    listed = {(one.kernel, one.threads) for one in calls.launched(CALLS[name])}
    assert {(one.kernel, one.threads) for one in device.launched} == listed


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (10, 0)], ids=str)
@pytest.mark.parametrize("name", part(calls.SELECTED, *calls.SELECTED[::4]))
def test_other_architectures(name, capability):
    emulated(CALLS[name], capability, "forward")
