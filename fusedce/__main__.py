"""``python -m fusedce warmup`` and ``python -m fusedce doctor``."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from fusedce import __version__
from fusedce.tools import doctor, warmup, warmup_cuda


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _architecture(given: str) -> str:
    try:
        warmup_cuda.capability(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return given


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    about = "Commands of fusedce; COMMAND --help describes one of them."
    parser = _Parser(prog="python -m fusedce", description=about)
    parser.add_argument("--version", action="version", version=f"fusedce {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    summary = "compile the usual calls now, so that later processes do not compile them"
    detail = (
        f"{summary[0].upper()}{summary[1:]}. All of them take minutes; calls that are compiled "
        "already are skipped. The code is stored in the cache folder that doctor prints."
    )
    warm = commands.add_parser("warmup", help=summary, description=detail)
    names = f"only this function: {', '.join(warmup.LOSSES)}"
    warm.add_argument("--loss", choices=warmup.LOSSES, metavar="NAME", help=names)
    names = f"only logits of this dtype: {', '.join(warmup.DTYPES)}"
    warm.add_argument("--dtype", choices=warmup.DTYPES, metavar="NAME", help=names)
    names = "for a GPU instead of this CPU, by its compute capability: sm_90 for 9.0; no GPU needed"
    warm.add_argument("--cuda", type=_architecture, metavar="sm_XX", help=names)
    summary = "show versions, threads, vector width, cache folder and GPUs, and what is missing"
    commands.add_parser("doctor", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    given = parse(arguments)
    if given.command == "doctor":
        return doctor.main()
    return warmup.main(given.loss, given.dtype, given.cuda)


if __name__ == "__main__":
    sys.exit(main())
