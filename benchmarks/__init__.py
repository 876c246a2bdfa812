"""Training with fusedce (``python -m benchmarks.digits``) and its speed (``-m benchmarks``)."""

import sys
from types import TracebackType


def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The exception hook of the programs: one line and status 130 after Ctrl-C."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("interrupted", file=sys.stderr)
    raise SystemExit(130)


if sys.argv[0] == "-m":  # a program; its imports, which take seconds, come after this
    sys.excepthook = one_line
