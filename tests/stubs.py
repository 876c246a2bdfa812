"""``python -m tests.stubs`` writes fusedce/__init__.pyi, what type checkers know of the package.

The types of every option, out of the signatures that ``help`` shows, and what comes back by
``return_grad`` and ``return_hessian``. test_typing.py sees that it is up to date.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import fusedce
from fusedce.options import Activation, Options, Reduction

PATH = Path(fusedce.__file__).with_name("__init__.pyi")
HEAD = """# Written by ``python -m tests.stubs``.

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

class _Array(Protocol):
    @property
    def dtype(self) -> Any: ...
    @property
    def shape(self) -> Any: ...

_A = TypeVar("_A", bound=_Array)  # an array of any library: the derivatives are of the same
_Activation = Literal["softmax", "sigmoid"] | None
_Reduction = Literal["mean", "sum", "none"]

__version__: str
__all__: list[str]

class _Options(TypedDict, total=False):
"""
OWN = ("activation", "return_grad", "return_hessian")  # whose defaults differ, or what comes back
SHARED = [name for name in Options._fields if name not in OWN]
ALIASES = {Activation: "_Activation", Reduction: "_Reduction"}
TRUE, FALSE = "Literal[True]", "Literal[False]"
RESULTS = (  # return_grad, return_hessian, what comes back; the last one: arrays of nobody, flags
    (f"{TRUE} = True", f"{FALSE} = False", "tuple[Any, _A]"),
    (f"{TRUE} = True", TRUE, "tuple[Any, _A, _A]"),
    (FALSE, f"{FALSE} = False", "Any"),
    (FALSE, TRUE, "tuple[Any, _A]"),
    ("bool = True", "bool = False", "Any"),
)


def written(annotation: Any) -> str:
    """An annotation as text."""
    if annotation in ALIASES:
        return ALIASES[annotation]
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(typing|collections\.abc|fusedce\.\w+)\.", "", text).replace("'", '"')


def parameter(p: inspect.Parameter, instead: dict[str, str]) -> str:
    """A parameter with its type and default, if it is not to be written otherwise."""
    default = "" if p.default is p.empty else f" = {p.default!r}".replace("'", '"')
    return f"{p.name}: {instead.get(p.name, written(p.annotation) + default)}"


def definition(name: str, back: str, instead: dict[str, str]) -> str:
    """One declaration of a function; the options of every loss together."""
    signature = inspect.signature(getattr(fusedce, name))
    found = signature.parameters.values()
    shared = set(SHARED if "return_grad" in signature.parameters else ())
    first = [parameter(p, instead) for p in found if p.kind is not p.KEYWORD_ONLY]
    own = [p for p in found if p.kind is p.KEYWORD_ONLY and p.name not in shared]
    words = [*first, *(["*"] if own else []), *(parameter(p, instead) for p in own)]
    words += ["**options: Unpack[_Options]"] if shared else []
    return f"def {name}(\n    {', '.join(words)}\n) -> {back}: ...\n"


def declared(name: str) -> str:
    """All declarations of a public function."""
    signature = inspect.signature(getattr(fusedce, name))
    if "return_grad" not in signature.parameters:
        return definition(name, written(signature.return_annotation), {})
    text = ""
    for grad, hess, back in RESULTS:
        of_any = "_A" if "_A" in back else "Any"
        instead = {"return_grad": grad, "return_hessian": hess, "logits": of_any}
        text += f"@overload\n{definition(name, back, instead)}"
    return text


def stubs() -> str:
    """The whole file."""
    options = "".join(f"    {n}: {written(Options.__annotations__[n])}\n" for n in SHARED)
    return HEAD + options + "\n" + "".join(map(declared, fusedce.__all__))


if __name__ == "__main__":
    PATH.write_text(stubs())
