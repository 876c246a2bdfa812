"""The options of every loss: type, default, check, meaning and documentation, declared once."""

import inspect
import re
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np

from fusedce import arrays, checks

Activation = Literal["softmax", "sigmoid"] | None
Reduction = Literal["mean", "sum", "none"]
IGNORE_INDEX = -100  # the default; without effect where targets cannot hold it


class Option(NamedTuple):
    """What is declared of an option in addition to its type and its default."""

    values: str  # what may be passed, as in docstrings
    text: str  # what it does, as in docstrings
    check: Callable[[str, Any], Any] | None = None  # (name, value) -> value; None: see ``call``
    activations: tuple[str | None, ...] = checks.ACTIVATIONS  # that it has a meaning with
    index_activations: tuple[str | None, ...] = checks.ACTIVATIONS  # the same for class indices
    kernel: bool = False  # kernels have an argument of its name, a float; None is passed as 0
    transforms_logits: bool = False  # it changes the logits before the activation


class Options(NamedTuple):
    """The keyword arguments of every loss.

    This is their one declaration. The signatures and the docstrings that ``help`` shows, the checks
    of a call, what is passed to the kernels, and ``fusedce/__init__.pyi`` follow from it.
    """

    activation: Annotated[
        Activation,
        Option(
            '{"softmax", "sigmoid", None}, default "softmax"',
            'How logits become probabilities. "softmax": over the class axis. "sigmoid": each '
            "element on its own. None: the logits are probabilities already.",
            partial(checks.choice, allowed=checks.ACTIVATIONS),
        ),
    ] = "softmax"
    weight: Annotated[
        Any, Option("array (C,), optional", "Weight of each class: any finite numbers.")
    ] = None
    pos_weight: Annotated[
        Any,
        Option(
            "float or array (C,), optional",
            "Weight of positive labels, for all classes or for each class. Not with softmax.",
            activations=("sigmoid", None),
            index_activations=("sigmoid",),
        ),
    ] = None
    sample_weight: Annotated[
        Any,
        Option(
            "array (N,) or of the shape of the unreduced loss, optional",
            "Weight of each sample, row or element: any finite numbers. The mean does not divide "
            "by their sum.",
        ),
    ] = None
    ignore_index: Annotated[
        int,
        Option(
            "int, default -100",
            "Target that is ignored: its loss and its gradient are 0, and the mean does not count "
            "it. The target is a class index, the label of an element, or a row of a distribution "
            "in which every number is equal to ``ignore_index``. A ValueError is raised if it is "
            "passed and targets of this dtype cannot hold it, or if only some numbers of a row of "
            "a distribution are equal to it.",
            checks.whole,
        ),
    ] = IGNORE_INDEX
    label_smoothing: Annotated[
        float,
        Option(
            "float in [0, 1], default 0",
            "With eps = label_smoothing a target y becomes (1 - eps) y + eps / C if each row has "
            "one loss, and (1 - eps) y + eps / 2 if each element has its own.",
            partial(checks.number, low=0, high=1, allowed="in [0, 1]"),
        ),
    ] = 0.0
    normalize_targets: Annotated[
        bool,
        Option(
            "bool, default False",
            "Divide each distribution by the number of its entries that are not 0. The mean does "
            "not count a row that has none. Only with softmax.",
            checks.flag,
            activations=("softmax",),
            index_activations=(),
        ),
    ] = False
    neg_label: Annotated[
        Literal[0, -1],
        Option(
            "{0, -1}, default 0",
            "The negative label if each element has its own label. The positive label is 1.",
            partial(checks.choice, allowed=(0, -1)),
            activations=("sigmoid", None),
            index_activations=(),
        ),
    ] = 0
    z_loss: Annotated[
        float,
        Option(
            "float, default 0",
            "Adds z_loss * log(sum_j exp(z_j))**2 to the loss of each row. Only with softmax. "
            "Class weights do not multiply it: its mean is over the rows that are not ignored, "
            "unless ``denominator`` is given.",
            checks.number,
            activations=("softmax",),
            kernel=True,
        ),
    ] = 0.0
    softcap: Annotated[
        float | None,
        Option(
            "float > 0, optional",
            "Replaces a logit z by softcap * tanh(logit_scale * z / softcap). The gradient is the "
            "derivative by z. Not with ``activation=None``.",
            checks.positive,
            activations=("softmax", "sigmoid"),
            kernel=True,
            transforms_logits=True,
        ),
    ] = None
    logit_scale: Annotated[
        float,
        Option(
            "float, default 1",
            "Multiplies the logits before everything else. Not with ``activation=None``.",
            checks.number,
            activations=("softmax", "sigmoid"),
            kernel=True,
            transforms_logits=True,
        ),
    ] = 1.0
    reduction: Annotated[
        Reduction,
        Option(
            '{"mean", "sum", "none"}, default "mean"',
            'How losses become one number. "mean": their sum, divided by the number of rows or '
            "elements that are not ignored; with class indices and softmax, or class indices and "
            '``activation=None``, by the sum of the class weights of those rows. "none": the '
            "unreduced loss is returned, and each gradient is that of its own loss.",
            partial(checks.choice, allowed=checks.REDUCTIONS),
        ),
    ] = "mean"
    denominator: Annotated[
        Any,
        Option(
            "float > 0, optional",
            "Number by which the mean divides instead. On a GPU it may also be an array of one "
            "number.",
        ),
    ] = None
    axis: Annotated[int, Option("int, default -1", "The class axis.")] = -1
    return_grad: Annotated[
        bool, Option("bool, default True", "Whether to return the gradient.", checks.flag)
    ] = True
    return_hessian: Annotated[
        bool,
        Option(
            "bool, default False", "Whether to return the exact diagonal of the Hessian.",
            checks.flag,
        ),
    ] = False  # fmt: skip
    loss_out: Annotated[
        Any,
        Option(
            "array, optional",
            "Array to write the loss to, of its shape and dtype. It is returned as the loss.",
        ),
    ] = None
    grad_out: Annotated[
        Any,
        Option(
            "array of the shape and dtype of the logits, optional",
            "Array to write the gradient to. It is returned as the gradient. ``grad_out=logits`` "
            "overwrites the logits. If a call raises an error, the three output arrays are "
            "unchanged, with one exception: after an error about a float label, an output array "
            "that is not also the logits may hold any numbers.",
        ),
    ] = None
    hess_out: Annotated[
        Any,
        Option(
            "array of the shape and dtype of the logits, optional",
            "Array to write the diagonal of the Hessian to. It is returned as the Hessian.",
        ),
    ] = None
    validate: Annotated[
        bool | None,
        Option(
            "bool, optional",
            "On the CPU labels are always checked. On a GPU they are checked only with "
            "``validate=True``, which waits for the GPU. Without it, loss and gradient of a row or "
            "element whose label is out of range are NaN.",
            checks.optional_flag,
        ),
    ] = None


TYPES = typing.get_type_hints(Options)
DEFAULTS = Options._field_defaults
OPTIONS: dict[str, Option] = {
    name: annotation.__metadata__[0]
    for name, annotation in typing.get_type_hints(Options, include_extras=True).items()
}
_CHECKS = {name: option.check for name, option in OPTIONS.items() if option.check is not None}


def checked(options: Options) -> Options:
    """The options with every check that needs no array."""
    found = {name: check(name, getattr(options, name)) for name, check in _CHECKS.items()}
    return options._replace(**found)


def kernel_arguments(options: Options) -> dict[str, float]:
    """The options that kernels read, by the names of the kernels' arguments."""
    found = {name: getattr(options, name) for name, option in OPTIONS.items() if option.kernel}
    return {name: 0.0 if value is None else value for name, value in found.items()}


def transforms_logits(options: Options) -> bool:
    """Whether an option changes the logits before the activation."""
    names = (name for name, option in OPTIONS.items() if option.transforms_logits)
    return any(getattr(options, name) != DEFAULTS[name] for name in names)


_RETURNS = """Returns
-------
loss, grad, hess
    As in ``cross_entropy``.
"""
_RAISES = """Raises
------
TypeError, ValueError, IndexError
    As in ``cross_entropy``.
"""


def _documentation(width: int, without: str) -> list[str]:
    """The lines of the sections that all losses have, except for what a docstring describes."""
    lines = [] if "Returns\n" in without else _RETURNS.split("\n")
    lines += ["Other Parameters", "----------------"]
    for name, option in OPTIONS.items():
        if not re.search(rf"^ *{name} :", without, flags=re.MULTILINE):
            lines += [f"{name} : {option.values}", *_wrapped(option.text, width)]
    return lines if "Raises\n" in without else [*lines, "", *_RAISES.rstrip().split("\n")]


@cache
def _wrapped(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    return [f"    {line}" for line in lines]


Function = TypeVar("Function", bound=Callable[..., Any])
_PARAMETERS = [
    inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=annotation
    )
    for name, annotation in TYPES.items()
]


def with_options(function: Function) -> Function:
    """Let the signature of a public function name the options that ``**options`` stands for.

    A parameter of the function itself, such as ``activation``, replaces the option of that name. A
    line ``{options}`` of the docstring is replaced by a section of the options that it does not
    describe, and by the sections Returns and Raises if it has none.
    """
    signature = inspect.signature(function)
    own = signature.parameters
    named = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    named += [p for p in _PARAMETERS if p.name not in own]
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    text = function.__doc__ or ""
    place = re.search(r"^( *)\{options\}$", text, flags=re.MULTILINE)
    if place:
        lines = _documentation(92 - len(place[1]), text)
        found = "\n".join((place[1] + line).rstrip() for line in lines)
        function.__doc__ = text[: place.start()] + found + text[place.end() :]
    return function


class Traits(NamedTuple):
    """What a call needs to know of its loss in addition to the rule."""

    name: str  # of the public function, for messages
    alpha: float | None = None
    sigmoid_only: bool = False  # the rule has another formula for negative outcomes
    soft: bool = False  # the rule has another formula for labels between 0 and 1, by the logit
    mixed: str | None = None  # value of the option that makes a loss a function of both outcomes
    # Targets that are floats or bools may be any number: none is ignored, none is out of range.
    any_label: bool = False


@dataclass(slots=True)
class Call:
    """The arguments of a call after their checks."""

    options: Options  # as ``checked`` returns them; arrays among them as the caller passed them
    logits: np.ndarray
    targets: np.ndarray
    sparse_targets: bool  # targets are class indices
    axis: int  # the class axis, counted from 0
    weight: np.ndarray | None
    pos_weight: np.ndarray | None
    sample_weight: np.ndarray | None  # of the shape of the unreduced loss
    denominator: Any  # a number, None, or on a GPU a view of an array of one number
    any_label: bool
    inputs: dict[str, Any]  # the arrays of the caller, to find overlaps with the outputs

    @property
    def classes(self) -> int:
        """The extent of the class axis."""
        return int(self.logits.shape[self.axis])

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape without the class axis."""
        return self.logits.shape[: self.axis] + self.logits.shape[self.axis + 1 :]

    @property
    def by_row(self) -> bool:
        """Whether each row of classes has one loss, instead of each element."""
        activation = self.options.activation
        return activation == "softmax" or (activation is None and self.sparse_targets)

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """The shape of the unreduced loss."""
        return self.rows if self.by_row else self.logits.shape

    @property
    def integer_targets(self) -> bool:
        """Whether targets are integers: class indices, or labels of elements."""
        return self.sparse_targets or (self.targets.dtype.kind in "iu" and not self.by_row)

    @property
    def real_targets(self) -> bool:
        """Whether targets may be equal to ignore_index or out of range, and are no integer labels.

        These are distributions, and float labels of elements.
        """
        return not (self.integer_targets or self.any_label or self.targets.dtype == bool)

    @property
    def can_be_ignored(self) -> bool:
        """Whether the dtype of the targets can hold ignore_index."""
        kind, ignore_index = self.targets.dtype.kind, self.options.ignore_index
        if kind == "b" or (self.any_label and not self.integer_targets):
            return False
        if kind in "iu":
            range_ = np.iinfo(self.targets.dtype)
            return range_.min <= ignore_index <= range_.max
        read_as = arrays.compute_type(self.logits.dtype) if self.options.activation else np.float64
        with np.errstate(over="ignore"):
            stored = self.targets.dtype.type(ignore_index)
        return float(stored) == float(read_as(ignore_index)) == ignore_index

    @property
    def allowed(self) -> str:
        """The range of the labels, for messages."""
        if not self.sparse_targets:
            if self.targets.dtype.kind not in "iu" and self.options.neg_label == 0:
                return "a label is a number in [0, 1]"
            return f"a label is {self.options.neg_label} or 1"
        if self.options.activation == "sigmoid":
            return f"0 <= target <= {self.classes} ({self.classes}: background)"
        return f"0 <= target < {self.classes}"
