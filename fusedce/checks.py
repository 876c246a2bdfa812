"""Every error text of the package, and the checks that raise them before any work is done."""

import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from fusedce import arrays
from fusedce.arrays import FLOATS

ACTIVATIONS = ("softmax", "sigmoid", None)
REDUCTIONS = ("mean", "sum", "none")


def mixed(first: str, x: Any, other: str, y: Any) -> TypeError:
    """Arguments on a GPU and not."""
    return TypeError(
        f"{first} is on a GPU ({arrays.kind(x)}) and {other} is not ({arrays.kind(y)}): "
        "move one of them"
    )


def apart(first: str, device: int, other: str, elsewhere: int) -> ValueError:
    """Arguments on two GPUs."""
    return ValueError(
        f"{first} is on GPU {device} and {other} on GPU {elsewhere}: move one of them"
    )


def part_of_a_graph(x: Any) -> TypeError:
    """A tensor whose gradient is asked of its own library."""
    return TypeError(
        f"a {arrays.kind(x)} that requires grad would not know of this loss: pass x.detach()"
    )


def unaligned(name: str, array: np.ndarray) -> ValueError:
    """An array on a GPU that starts in the middle of a number."""
    return ValueError(
        f"{name} must lie at a multiple of {array.dtype.alignment} bytes, "
        f"got an address that ends in {array.ctypes.data % 16:#x}"
    )


def unread(name: str, dtype: Any) -> TypeError:
    """A dtype that GPUs do not have."""
    return TypeError(f"{name} has dtype {dtype}, which is not read on a GPU")


def masked(x: Any) -> TypeError:
    """An array with a mask, which would be passed over."""
    return TypeError(f"a {arrays.kind(x)} with a mask is not read: pass its data")


_INSTEAD_OF_MASKS = {
    "targets": "targets.filled(ignore_index)",
    "logits": "logits.filled(-numpy.inf), where a loss is not to see rows with sample_weight=0",
    "sample_weight": "sample_weight.filled(0)",
}


def masked_array(name: str, x: Any) -> TypeError:
    """An array of numpy.ma, whose mask would be passed over."""
    instead = _INSTEAD_OF_MASKS.get(name, f"{name}.data")
    if name == "targets" and getattr(x, "dtype", np.dtype(float)).kind in "bu":
        instead = "targets.astype(numpy.int64).filled(ignore_index)"  # True is no ignore_index
    return TypeError(f"{name} is an array of numpy.ma, whose mask is not read: pass {instead}")


def no_numbers(name: str, x: Any, why: str) -> TypeError:
    """An argument of which NumPy makes no array of numbers."""
    library = type(x).__module__.partition(".")[0]
    instead = {
        "torch": "; fusedce.adapters.torch takes tensors of every dtype",
        "pandas": "; pass its .to_numpy(dtype=..., na_value=...)",
    }.get(library, "")
    return TypeError(f"{name} must be an array of numbers, got {arrays.kind(x)}: {why}{instead}")


def no_cupy() -> ImportError:
    """Arrays of no library that could make another."""
    return ImportError(
        "results for objects with __cuda_array_interface__ are CuPy arrays, and CuPy is not "
        "installed: pip install cupy-cuda12x or cupy-cuda13x"
    )


def logits(array: np.ndarray, name: str = "logits") -> np.ndarray:
    """Floating-point logits."""
    if array.dtype not in FLOATS and array.dtype.newbyteorder("=") not in FLOATS:
        raise TypeError(f"{name} must be float64, float32, float16 or bfloat16, got {array.dtype}")
    return array


def missing(name: str) -> TypeError:
    """An argument that there has to be."""
    return TypeError(f"{name} must be an array, got None")


def class_axis(value: Any, array: np.ndarray) -> int:
    """The class axis of logits as a number from 0."""
    if array.ndim == 0:
        raise ValueError("logits must have a class axis, got a single number, of shape ()")
    return axis(value, array.ndim)


def axis(value: Any, ndim: int) -> int:
    """The class axis as a number from 0."""
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
    """One of a few words."""
    for word in allowed:
        if value is word or (isinstance(value, str) and value == word):
            return value
    words = ", ".join(repr(a) for a in allowed)
    raise ValueError(f"{name} must be one of {words}, got {value!r}")


def flag(name: str, value: Any) -> bool:
    """A yes or no."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def whole(name: str, value: Any) -> int:
    """An integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must fit in 64 bits, got {value}")
    return int(value)


def no_class_balance(alpha: float, where: str) -> ValueError:
    """A balance of yes and no, where classes compete."""
    return ValueError(
        f"alpha={alpha!r} has no meaning with {where}: pass weight=, one number for each class"
    )


def balance(name: str, value: Any) -> float | None:
    """A weight of positive labels in [0, 1], or None."""
    if value is not None and np.ndim(value) > 0:
        raise TypeError(
            f"{name} must be None or in [0, 1], got {value!r}: pass weight= for classes"
        )
    return None if value is None else number(name, value, 0, 1, allowed="None or in [0, 1]")


def meaningless(option: str, value: Any, where: str) -> ValueError:
    """An option that says nothing here."""
    return ValueError(f"{option}={value!r} has no meaning with {where}")


def useless(loss: str, where: str) -> ValueError:
    """A loss that says nothing here."""
    return ValueError(f"{loss} has no meaning with {where}")


def no_competition(loss: str, where: str) -> ValueError:
    """A loss that tells yes from no, where classes compete."""
    return ValueError(f"{loss} has no meaning with {where}: classes must not compete")


def unwanted(name: str, option: str) -> ValueError:
    """A buffer for a result that was not asked for."""
    return ValueError(f"{name} was given but {option}=False")


def no_classes(shape: tuple[int, ...], axis: int) -> ValueError:
    """A softmax over nothing."""
    return ValueError(f"logits must have at least one class, got shape {shape} and axis={axis}")


def no_number(name: str, value: Any) -> TypeError:
    """An array where a number is wanted."""
    return TypeError(f"{name} must be a finite number > 0, got {value!r}")


def target_form(shape: tuple[int, ...], targets: np.ndarray, axis_: int, activation: Any) -> bool:
    """Whether targets are class indices (True) or one label for each logit (False)."""
    rows = shape[:axis_] + shape[axis_ + 1 :]
    if not arrays.is_real(targets.dtype):
        raise TypeError(f"targets must be integers, booleans or floats, got {targets.dtype}")
    if targets.shape == shape:
        return False
    if shape and targets.shape == rows:
        if activation != "softmax" and shape[axis_] == 1:
            raise one_class(shape, targets.shape, axis_)
        if activation == "sigmoid" and targets.ndim == 0:
            raise one_label(shape)
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


def one_class(shape: tuple[int, ...], targets: tuple[int, ...], axis_: int) -> ValueError:
    """Labels without the class axis beside logits of one class mean yes and no."""
    before = ":, " * axis_
    return ValueError(
        f"targets of shape {targets} would be class indices for logits of shape {shape}, which "
        f"have one class: for labels 0 and 1 pass targets[{before}None] with these logits, or "
        f"logits[{before}0] with these targets"
    )


def one_label(shape: tuple[int, ...]) -> ValueError:
    """A single target beside several logits may mean two things."""
    return ValueError(
        f"targets of shape () would be a class index for logits of shape {shape}: for one label "
        "of all elements pass numpy.full_like(logits, targets), for a class index logits[None] "
        "and targets[None]"
    )


def class_form(name: str, value: np.ndarray, classes: int, *, scalar: bool = False) -> np.ndarray:
    """A vector over classes, or a scalar where allowed."""
    wanted = f"({classes},)" + (" or a scalar" if scalar else "")
    if not arrays.is_real(value.dtype):
        raise TypeError(f"{name} must hold real numbers, got {value.dtype}")
    if value.shape != (classes,) and not (scalar and value.ndim == 0):
        raise ValueError(f"{name} must have shape {wanted}, got {value.shape}")
    return value


def class_vector(name: str, value: np.ndarray, classes: int, *, scalar: bool = False) -> np.ndarray:
    """A finite vector over classes, or a scalar where allowed, in float64."""
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
    """A buffer the caller wants filled."""
    if arrays.is_masked(array):
        raise masked_array(name, array)
    if not isinstance(array, np.ndarray):
        raise no_array(name, array, "NumPy")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} must have shape {shape} and dtype {dtype}, got {array.shape} and {array.dtype}"
        )
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    if array.size and any(s == 0 < n - 1 for s, n in zip(array.strides, array.shape, strict=True)):
        raise ValueError(f"{name} must have a place for each element, got strides {array.strides}")
    return array


def no_array(name: str, value: Any, wanted: str) -> ValueError:
    """A buffer that is no array, or one elsewhere."""
    return ValueError(f"{name} must be a {wanted} array, got {arrays.kind(value)}")


def overlaps(outputs: dict[str, Any], inputs: dict[str, Any], in_place: str = "grad_out") -> None:
    """Outputs lie apart from inputs and each other; grad_out=logits alone is allowed."""
    outs = [(n, a) for n, a in outputs.items() if isinstance(a, np.ndarray)]
    ins = [(n, a) for n, a in inputs.items() if isinstance(a, np.ndarray)]
    for k, (name, out) in enumerate(outs):
        for other, array in ins + outs[k + 1 :]:
            if name == in_place and other == "logits" and arrays.same(out, array):
                continue
            if arrays.overlap(out, array):
                raise ValueError(
                    f"{name} overlaps {other} in memory: only {in_place}=logits, the very same "
                    "array, may be computed in place"
                )


def bad_label(label: Any, place: tuple[int, ...], allowed: str, ignore_index: int) -> IndexError:
    """A label that names no class."""
    return IndexError(
        f"target {label} at position {_position(place)} is out of range: {allowed}, "
        f"or ignore_index={ignore_index}"
    )


def bad_number(label: Any, place: tuple[int, ...], allowed: str, ignore_index: int) -> ValueError:
    """A label of a single element that is no probability."""
    return ValueError(
        f"target {label} at position {_position(place)} is out of range: {allowed}, "
        f"or ignore_index={ignore_index}"
    )


def mixed_row(place: tuple[int, ...], ignore_index: int) -> ValueError:
    """A distribution that is ignored in part."""
    return ValueError(
        f"the targets of the row at position {_position(place)} hold ignore_index={ignore_index} "
        "beside other numbers: a distribution is ignored as a whole, where all its targets are "
        "ignore_index"
    )


def _position(place: tuple[int, ...]) -> Any:
    return place[0] if len(place) == 1 else place


def probabilities(array: np.ndarray) -> None:
    """Probabilities within [0, 1]; NaN is let through to its own element."""
    array = np.atleast_1d(array)
    step = max(1, (1 << 16) * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        part = array[start : start + step]
        wrong = (part < 0) | (part > 1)
        if wrong.any():
            place = tuple(int(k) for k in np.argwhere(wrong)[0])
            value, place = part[place], (place[0] + start, *place[1:])
            raise ValueError(
                f"with activation=None logits are probabilities between 0 and 1, "
                f"got {value} at position {_position(place)}"
            )


_MEANT = {
    "class_weight": "'weight'",
    "class_weights": "'weight'",
    "weights": "'weight' (of classes) or 'sample_weight' (of rows)",
}


def unknown(function: str, names: set[str], known: Iterable[str] = ()) -> TypeError:
    """A keyword nobody knows, in Python's own words, and the one that may have been meant."""
    import difflib
    import inspect

    name = sorted(names)[0]
    own = getattr(sys.modules["fusedce"], function, None)
    known = [*known, *(inspect.signature(own).parameters if own else ())]
    close = [repr(found) for found in difflib.get_close_matches(name, known, 1, 0.7)]
    meant = _MEANT.get(name) or "".join(close)
    text = f"{function}() got an unexpected keyword argument {name!r}"
    return TypeError(f"{text}: did you mean {meant}?" if meant else text)
