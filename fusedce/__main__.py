"""``python -m fusedce warmup`` and ``python -m fusedce doctor``."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from fusedce import __version__, doctor, warmup, warmup_gpu


class _Parser(argparse.ArgumentParser):
    """Errors in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _architecture(given: str) -> str:
    try:
        warmup_gpu.capability(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = _Parser(prog="python -m fusedce", description="Tools beside the library.")
    parser.add_argument("--version", action="version", version=f"fusedce {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="warmup | doctor")
    warm = commands.add_parser("warmup", help="compile the common kernels ahead of their first use")
    warm.add_argument("--loss", choices=warmup.LOSSES, help="this function only")
    warm.add_argument("--dtype", choices=warmup.DTYPES, help="logits of this dtype only")
    said = "for a GPU of this architecture, say sm_90, which need not be there"
    warm.add_argument("--cuda", type=_architecture, metavar="sm_XX", help=said)
    commands.add_parser("doctor", help="what is installed, found and used, on one screen")
    given = parser.parse_args(arguments)
    if given.command == "doctor":
        return doctor.main()
    return warmup.main(given.loss, given.dtype, given.cuda)


if __name__ == "__main__":
    sys.exit(main())
