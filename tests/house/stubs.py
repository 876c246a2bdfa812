"""Write the two files that follow from the list of losses.

fusedce/__init__.pyi is what type checkers read: the types of every option,
from the signatures that help shows, and the return types for return_grad and
return_hessian; test_typing.py checks that it is up to date. The other is the
table of losses in fusedce/README.md; test_pages.py checks that.

Writes: fusedce/__init__.pyi, and the table in fusedce/README.md.
Takes:  a second.

For example:
  python -m tests.house.stubs
      after a change of a loss or of an option
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import fusedce
from fusedce.losses import LOSSES
from fusedce.losses.declaration import Loss
from fusedce.options import TYPES, Activation, Reduction
from fusedce.tools.command_line import Parser

PATH = Path(fusedce.__file__).with_name("__init__.pyi")
PAGE = Path(__file__).resolve().parents[2] / "fusedce" / "README.md"
BEGIN, END = "<!-- losses: python -m tests.house.stubs -->\n", "<!-- /losses -->"
TABLE = """| loss | usual activation, the default first | what it is | source |
|---|---|---|---|
"""
HEAD = """# Written by ``python -m tests.house.stubs``.

from collections.abc import Callable
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np

from fusedce.options import Activation, Reduction

# Derivatives of NumPy arrays are NumPy arrays of the same dtype; those of others are not described.
_A = TypeVar("_A", bound=np.ndarray[Any, Any])
_Float = float | np.floating[Any] | np.integer[Any]
_Int = int | np.integer[Any]
_Bool = bool | np.bool

__version__: str
__all__: list[str]

class _Options(TypedDict, total=False):
"""
ALIASES = {Activation: "Activation", Reduction: "Reduction"}
WORDS = {"float": "_Float", "int": "_Int", "bool": "_Bool"}  # NumPy's scalars are accepted too
# Options that each function declares itself: their defaults differ, or the return type depends on
# them.
OWN = ("activation", "return_grad", "return_hessian")
SHARED = [name for name in TYPES if name not in OWN]
TRUE, FALSE = "Literal[True]", "Literal[False]"
# return_grad, return_hessian, return type. The last one is for arrays of other libraries, and for
# flags that are known only when the call runs.
RESULTS = (
    (f"{TRUE} = True", f"{FALSE} = False", "tuple[Any, _A]"),
    (f"{TRUE} = True", TRUE, "tuple[Any, _A, _A]"),
    (FALSE, f"{FALSE} = False", "Any"),
    (FALSE, TRUE, "tuple[Any, _A]"),
    ("_Bool = True", "_Bool = False", "Any"),
)


def written(annotation: Any) -> str:
    """An annotation as text."""
    if annotation in ALIASES:
        return ALIASES[annotation]
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(typing|collections\.abc|fusedce\.\w+)\.", "", text).replace("'", '"')


def taken(annotation: Any) -> str:
    """An annotation of a parameter as text; NumPy's scalars are accepted too."""
    return re.sub(r"\b(float|int|bool)\b", lambda word: WORDS[word[0]], written(annotation))


def parameter(p: inspect.Parameter, instead: dict[str, str]) -> str:
    """A parameter with its type and default, or with the text in ``instead``."""
    default = "" if p.default is p.empty else f" = {p.default!r}".replace("'", '"')
    return f"{p.name}: {instead.get(p.name, taken(p.annotation) + default)}"


def definition(name: str, back: str, instead: dict[str, str]) -> str:
    """One declaration of a function; the options that all losses share are one TypedDict."""
    signature = inspect.signature(getattr(fusedce, name))
    found = signature.parameters.values()
    shared = set(SHARED if "return_grad" in signature.parameters else ())
    first = [parameter(p, instead) for p in found if p.kind is not p.KEYWORD_ONLY]
    own = [p for p in found if p.kind is p.KEYWORD_ONLY and p.name not in shared]
    words = [*first, *(["*"] if own else []), *(parameter(p, instead) for p in own)]
    words += ["**options: Unpack[_Options]"] if shared else []
    lines = "".join(f"    {word},\n" for word in words)
    return f"def {name}(\n{lines}) -> {back}: ...\n"


def declared(name: str) -> str:
    """All declarations of a public function: of a loss, one for each return type."""
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
    """The text of fusedce/__init__.pyi."""
    options = "".join(f"    {n}: {taken(TYPES[n])}\n" for n in SHARED)
    return HEAD + options + "\n" + "".join(map(declared, sorted(fusedce.__all__)))


def row(loss: Loss) -> str:
    """A row of the page's table of losses: call with own options, activations, summary, source."""
    own = [p for p in inspect.signature(loss.function).parameters.values()
           if p.name not in {*TYPES, "logits", "targets"}]  # fmt: skip
    words = ["z", "y", *(f"{p.name}={p.default!r}".replace("'", '"') for p in own)]
    usual = " or ".join(str(activation) for activation in loss.activations)
    return f"| `{loss.name}({', '.join(words)})` | {usual} | {loss.summary} | {loss.source} |\n"


def with_table(page: str) -> str:
    """fusedce/README.md with the table of losses between its markers."""
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    table = "".join(row(loss) for _, loss in sorted(LOSSES.items()))
    return page[:start] + TABLE + table + page[end:]


def parser() -> Parser:
    """The command line, which has no options."""
    return Parser("python -m tests.house.stubs", __doc__, "")


if __name__ == "__main__":
    parser().parse_args()
    PATH.write_text(stubs())
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
