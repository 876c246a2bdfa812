"""Checks of arguments, which raise before anything is computed; their texts are in errors.py."""

import math
from typing import Any

import numpy as np

from fusedce import arrays, errors
from fusedce.arrays import FLOATS

ACTIVATIONS = ("softmax", "sigmoid", None)


REDUCTIONS = ("mean", "sum", "none")


def logits(array: np.ndarray, name: str = "logits") -> np.ndarray:
    """The logits, if they are floats of a supported dtype."""
    if array.dtype not in FLOATS and array.dtype.newbyteorder("=") not in FLOATS:
        raise TypeError(f"{name} must be float64, float32, float16 or bfloat16, got {array.dtype}")
    return array


def class_axis(value: Any, array: np.ndarray) -> int:
    """The class axis of logits, counted from 0."""
    if array.ndim == 0:
        raise ValueError("logits must have a class axis, got a single number, of shape ()")
    return axis(value, array.ndim)


def axis(value: Any, ndim: int) -> int:
    """An axis, counted from 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"axis must be an int, got {value!r}")
    if not -ndim <= value < ndim:
        raise ValueError(f"axis must be between {-ndim} and {ndim - 1}, got {value}")
    return int(value) % ndim


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *,
           open_low: bool = False, open_high: bool = False,
           allowed: str = "a finite number") -> float:  # fmt: skip
    """A finite scalar within bounds."""
    x: float = value
    if type(value) is not float:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, bool | str | bytes | complex) or not np.isscalar(value):
            raise TypeError(f"{name} must be {allowed}, got {value!r}")
        x = float(value)  # type: ignore[arg-type]
    if (
        not math.isfinite(x)
        or not low <= x <= high
        or (open_low and x == low)
        or (open_high and x == high)
    ):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return x


def positive(name: str, value: Any) -> float | None:
    """A finite scalar above 0, or None."""
    if value is None:
        return None
    return number(name, value, 0, open_low=True, allowed="a finite number > 0")


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """One of a few values."""
    for word in allowed:
        if value is word or (isinstance(value, str) and value == word):
            return value
    words = ", ".join(repr(a) for a in allowed)
    raise ValueError(f"{name} must be one of {words}, got {value!r}")


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def optional_flag(name: str, value: Any) -> bool | None:
    """True, False or None."""
    return None if value is None else flag(name, value)


def whole(name: str, value: Any) -> int:
    """An integer of 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must fit in 64 bits, got {value}")
    return int(value)


def balance(name: str, value: Any) -> float | None:
    """A weight of positive labels in [0, 1], or None."""
    if value is not None and np.ndim(value) > 0:
        raise TypeError(
            f"{name} must be None or in [0, 1], got {value!r}: pass weight= for classes"
        )
    return None if value is None else number(name, value, 0, 1, allowed="None or in [0, 1]")


def target_form(shape: tuple[int, ...], targets: np.ndarray, axis_: int, activation: Any) -> bool:
    """Whether targets are class indices (True) or one label for each logit (False)."""
    rows = shape[:axis_] + shape[axis_ + 1 :]
    if not arrays.is_real(targets.dtype):
        raise TypeError(f"targets must be integers, booleans or floats, got {targets.dtype}")
    if targets.shape == shape:
        return False
    if shape and targets.shape == rows:
        if activation != "softmax" and shape[axis_] == 1:
            raise errors.one_class(shape, targets.shape, axis_)
        if activation == "sigmoid" and targets.ndim == 0:
            raise errors.one_label(shape)
        if targets.dtype.kind not in "iu":
            raise TypeError(
                f"class indices must be integers, got targets of dtype {targets.dtype} "
                f"and shape {targets.shape} for logits of shape {shape}"
            )
        return True
    what = "a distribution" if activation == "softmax" else "a label for each element"
    raise ValueError(
        f"targets must have shape {rows} (class indices) or {shape} ({what}) "
        f"for logits of shape {shape} and axis={axis_}, got {targets.shape}"
    )


def class_form(name: str, value: np.ndarray, classes: int, *, scalar: bool = False) -> np.ndarray:
    """A vector over classes, or a scalar if allowed, by dtype and shape alone."""
    wanted = f"({classes},)" + (" or a scalar" if scalar else "")
    if not arrays.is_real(value.dtype):
        raise TypeError(f"{name} must hold real numbers, got {value.dtype}")
    if value.shape != (classes,) and not (scalar and value.ndim == 0):
        raise ValueError(f"{name} must have shape {wanted}, got {value.shape}")
    return value


def class_vector(name: str, value: np.ndarray, classes: int, *, scalar: bool = False) -> np.ndarray:
    """A finite vector over classes, or a scalar if allowed, in float64."""
    value = class_form(name, value, classes, scalar=scalar)
    wide = value.astype(np.float64).reshape(-1)
    if not np.isfinite(wide).all():
        position = int(np.flatnonzero(~np.isfinite(wide))[0])
        raise ValueError(f"{name} must be finite, got {wide[position]} at {position}")
    return wide


def sample_weight(value: np.ndarray, loss: tuple[int, ...], rows: tuple[int, ...],
                  axis_: int) -> np.ndarray:  # fmt: skip
    """Sample weights broadcast to the shape of the unreduced loss."""
    if not arrays.is_real(value.dtype):
        raise TypeError(f"sample_weight must hold real numbers, got {value.dtype}")
    spread = value
    if loss != rows and value.shape == rows:
        spread = np.expand_dims(value, axis_)
    elif value.ndim <= len(loss):
        spread = value.reshape(value.shape + (1,) * (len(loss) - value.ndim))
    try:
        return np.broadcast_to(spread, loss)
    except ValueError:
        raise ValueError(
            f"sample_weight must have shape {loss[:1]} or that of the unreduced loss, {loss}, "
            f"got {value.shape}"
        ) from None


def output(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An output array of the caller."""
    if arrays.is_masked(array):
        raise errors.masked_array(name, array)
    if not isinstance(array, np.ndarray):
        raise errors.no_array(name, array, "NumPy")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} must have shape {shape} and dtype {dtype}, got {array.shape} and {array.dtype}"
        )
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    if array.size and any(s == 0 < n - 1 for s, n in zip(array.strides, array.shape, strict=True)):
        raise ValueError(f"{name} must have a place for each element, got strides {array.strides}")
    return array


def overlaps(outputs: dict[str, Any], inputs: dict[str, Any], in_place: str = "grad_out") -> None:
    """Raise if an output overlaps another array; only grad_out=logits is allowed."""
    outs = [(n, a) for n, a in outputs.items() if isinstance(a, np.ndarray)]
    ins = [(n, a) for n, a in inputs.items() if isinstance(a, np.ndarray)]
    for k, (name, out) in enumerate(outs):
        for other, array in ins + outs[k + 1 :]:
            if name == in_place and other == "logits" and arrays.same_elements(out, array):
                continue
            if arrays.overlap(out, array):
                raise ValueError(
                    f"{name} overlaps {other} in memory: only {in_place}=logits, the very same "
                    "array, may be computed in place"
                )


def probabilities(array: np.ndarray) -> None:
    """Raise for probabilities outside [0, 1]; NaN is allowed and gives NaN for its element."""
    array = np.atleast_1d(array)
    step = max(1, (1 << 16) * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        part = array[start : start + step]
        wrong = (part < 0) | (part > 1)
        if wrong.any():
            index = tuple(int(k) for k in np.argwhere(wrong)[0])
            value, index = part[index], (index[0] + start, *index[1:])
            raise errors.bad_probability(value, index)
