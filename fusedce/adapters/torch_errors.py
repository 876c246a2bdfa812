"""Errors of the losses for PyTorch, of the types that its own functions raise."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

SECOND = (
    "fusedce has first derivatives alone: for a second one, also by the upstream gradient, take "
    "the loss of torch.nn.functional"
)
FORWARD = (
    "fusedce has no forward-mode derivatives (torch.func.jvp, jacfwd, linearize and hessian, "
    "torch.autograd.forward_ad): take torch.func.vjp, grad or jacrev for a first derivative, and "
    "the loss of torch.nn.functional for a second one"
)


def probabilities(name: str, array: np.ndarray) -> None:
    """Raise PyTorch's error for numbers outside [0, 1], or NaN, with the first of them."""
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        place = tuple(int(k) for k in np.argwhere(~((array >= 0) & (array <= 1)))[0])
        raise RuntimeError(
            f"all elements of {name} should be between 0 and 1, got {array[place]} "
            f"at position {place[0] if len(place) == 1 else place}"
        )


def in_terms_of(reference: Callable[..., Tensor], shared: int | None = None) -> Any:
    """Raise errors of the type that ``reference`` raises for the same arguments.

    ``shared``: pass it only this many first arguments, and of the later ones those that it has.
    """

    def wrap(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> Tensor:
            try:
                return function(*args, **options)
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as wrong:
                first, rest = args, {k: v for k, v in options.items() if k != "inplace"}
                if shared is not None:
                    given = inspect.signature(function).bind(*args, **options)
                    given.apply_defaults()
                    known = inspect.signature(reference).parameters
                    first, later = given.args[:shared], list(given.arguments.items())[shared:]
                    rest = {k: v for k, v in later if k in known}
                raise _translated(wrong, lambda: reference(*first, **rest)) from wrong

        return wrapped

    return wrap


def _translated(wrong: Exception, theirs: Callable[[], Tensor]) -> Exception:
    """The error in the type that PyTorch's function raises; unchanged if that raises none."""
    try:
        with torch.no_grad():
            theirs()
    except Exception as error:
        return type(error)(error if isinstance(wrong, AttributeError) else wrong)
    return wrong
