"""What fusedce is for: ``python -m benchmarks.digits``. What it costs: ``python -m benchmarks``."""

import sys
from types import TracebackType


def one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """After Ctrl-C the programs end with one line and the status that shells give it."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("interrupted", file=sys.stderr)
    raise SystemExit(130)


if sys.argv[0] == "-m":  # `python -m benchmarks...`, and before its imports, which take seconds
    sys.excepthook = one_line
