"""Errors with their texts, for ``checks`` and the backends to raise."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from fusedce import arrays


def host_and_device(first: str, x: Any, other: str, y: Any) -> TypeError:
    """The error for arguments of which only some are on a GPU."""
    return TypeError(
        f"{first} is on a GPU ({arrays.type_name(x)}) and {other} is not ({arrays.type_name(y)}): "
        "move one of them"
    )


def different_devices(first: str, device: int, other: str, elsewhere: int) -> ValueError:
    """The error for arguments on two GPUs."""
    return ValueError(
        f"{first} is on GPU {device} and {other} on GPU {elsewhere}: move one of them"
    )


def requires_grad(x: Any) -> TypeError:
    """The error for a tensor for which its library records operations to differentiate them."""
    return TypeError(
        f"a {arrays.type_name(x)} that requires grad is not accepted, because fusedce records no "
        "operations for automatic differentiation: pass x.detach()"
    )


def unaligned(name: str, array: np.ndarray) -> ValueError:
    """The error for a GPU array whose address is no multiple of its dtype's alignment."""
    return ValueError(
        f"{name} must lie at a multiple of {array.dtype.alignment} bytes, "
        f"got an address that ends in {array.ctypes.data % 16:#x}"
    )


def unsupported_dtype(name: str, dtype: Any) -> TypeError:
    """The error for a dtype that GPU kernels do not read."""
    return TypeError(f"{name} has dtype {dtype}, which is not read on a GPU")


def masked(x: Any) -> TypeError:
    """The error for a GPU array with a mask, which kernels would ignore."""
    return TypeError(f"a {arrays.type_name(x)} with a mask is not read: pass its data")


_INSTEAD_OF_MASKS = {
    "targets": "targets.filled(ignore_index)",
    "logits": "logits.filled(-numpy.inf), where a loss is not to see rows with sample_weight=0",
    "sample_weight": "sample_weight.filled(0)",
}


def masked_array(name: str, x: Any) -> TypeError:
    """The error for an array of numpy.ma, whose mask kernels would ignore."""
    instead = _INSTEAD_OF_MASKS.get(name, f"{name}.data")
    if name == "targets" and getattr(x, "dtype", np.dtype(float)).kind in "bu":
        instead = "targets.astype(numpy.int64).filled(ignore_index)"  # True is no ignore_index
    return TypeError(f"{name} is an array of numpy.ma, whose mask is not read: pass {instead}")


def no_numbers(name: str, x: Any, why: str) -> TypeError:
    """The error for an argument that NumPy cannot convert to an array of numbers."""
    library = type(x).__module__.partition(".")[0]
    instead = {
        "torch": "; fusedce.adapters.torch takes tensors of every dtype",
        "pandas": "; pass its .to_numpy(dtype=..., na_value=...)",
    }.get(library, "")
    return TypeError(
        f"{name} must be an array of numbers, got {arrays.type_name(x)}: {why}{instead}"
    )


def no_cupy() -> ImportError:
    """The error for GPU arrays whose library cannot be found to allocate results."""
    return ImportError(
        "results for objects with __cuda_array_interface__ are CuPy arrays, and CuPy is not "
        "installed: pip install cupy-cuda12x or cupy-cuda13x"
    )


def missing(name: str) -> TypeError:
    """The error for a required argument that is None."""
    return TypeError(f"{name} must be an array, got None")


def no_class_balance(alpha: float, where: str) -> ValueError:
    """The error for ``alpha`` with softmax."""
    return ValueError(
        f"alpha={alpha!r} has no meaning with {where}: pass weight=, one number for each class"
    )


def meaningless(option: str, value: Any, where: str) -> ValueError:
    """The error for an option that has no meaning with another argument."""
    return ValueError(f"{option}={value!r} has no meaning with {where}")


def useless(loss: str, where: str) -> ValueError:
    """The error for a loss that has no meaning with these targets."""
    return ValueError(f"{loss} has no meaning with {where}")


def no_competition(loss: str, where: str) -> ValueError:
    """The error for softmax with a loss that is defined for the sigmoid only."""
    return ValueError(f"{loss} has no meaning with {where}: classes must not compete")


def unwanted(name: str, option: str) -> ValueError:
    """The error for an output array of a result that is not asked for."""
    return ValueError(f"{name} was given but {option}=False")


def no_classes(shape: tuple[int, ...], axis: int) -> ValueError:
    """The error for softmax over an axis of extent 0."""
    return ValueError(f"logits must have at least one class, got shape {shape} and axis={axis}")


def no_number(name: str, value: Any) -> TypeError:
    """The error for an array in index of a number."""
    return TypeError(f"{name} must be a finite number > 0, got {value!r}")


def one_class(shape: tuple[int, ...], targets: tuple[int, ...], axis_: int) -> ValueError:
    """The error for targets without class axis where logits have one class.

    Such targets are labels 0 and 1 rather than class indices.
    """
    before = ":, " * axis_
    return ValueError(
        f"targets of shape {targets} would be class indices for logits of shape {shape}, which "
        f"have one class: for labels 0 and 1 pass targets[{before}None] with these logits, or "
        f"logits[{before}0] with these targets"
    )


def one_label(shape: tuple[int, ...]) -> ValueError:
    """The error for a single target with several logits, which may mean two things."""
    return ValueError(
        f"targets of shape () would be a class index for logits of shape {shape}: for one label "
        "of all elements pass numpy.full_like(logits, targets), for a class index logits[None] "
        "and targets[None]"
    )


def no_array(name: str, value: Any, wanted: str) -> ValueError:
    """The error for an output that is no array of the library that is expected."""
    return ValueError(f"{name} must be a {wanted} array, got {arrays.type_name(value)}")


def bad_label(label: Any, index: tuple[int, ...], allowed: str, ignore_index: int) -> IndexError:
    """The error for an integer label out of range."""
    return IndexError(
        f"target {label} at position {_position(index)} is out of range: {allowed}, "
        f"or ignore_index={ignore_index}"
    )


def bad_number(label: Any, index: tuple[int, ...], allowed: str, ignore_index: int) -> ValueError:
    """The error for a float label out of range."""
    return ValueError(
        f"target {label} at position {_position(index)} is out of range: {allowed}, "
        f"or ignore_index={ignore_index}"
    )


def mixed_row(index: tuple[int, ...], ignore_index: int) -> ValueError:
    """The error for a distribution in which only some targets are ignore_index."""
    return ValueError(
        f"the targets of the row at position {_position(index)} hold ignore_index={ignore_index} "
        "beside other numbers: a distribution is ignored as a whole, where all its targets are "
        "ignore_index"
    )


def bad_probability(value: Any, index: tuple[int, ...]) -> ValueError:
    """The error for a probability out of range."""
    return ValueError(
        f"with activation=None logits are probabilities between 0 and 1, "
        f"got {value} at position {_position(index)}"
    )


def _position(index: tuple[int, ...]) -> Any:
    return index[0] if len(index) == 1 else index


_MEANT = {
    "class_weight": "'weight'",
    "class_weights": "'weight'",
    "weights": "'weight' (of classes) or 'sample_weight' (of rows)",
}


def unknown(function: str, names: set[str], known: Iterable[str] = ()) -> TypeError:
    """Python's error for an unexpected keyword, with the option that may be meant."""
    import difflib
    import inspect

    name = sorted(names)[0]
    own = getattr(sys.modules["fusedce"], function, None)
    known = [*known, *(inspect.signature(own).parameters if own else ())]
    close = [repr(found) for found in difflib.get_close_matches(name, known, 1, 0.7)]
    meant = _MEANT.get(name) or "".join(close)
    text = f"{function}() got an unexpected keyword argument {name!r}"
    return TypeError(f"{text}: did you mean {meant}?" if meant else text)
