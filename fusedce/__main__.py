"""``python -m fusedce warmup`` and ``python -m fusedce doctor``."""

import argparse
import sys
from collections.abc import Sequence

from fusedce import __version__
from fusedce.tools import doctor, warmup, warmup_cuda
from fusedce.tools.command_line import Parser

ABOUT = """Compile fusedce's kernels in advance, or examine an installation of fusedce.

Writes: warmup writes compiled kernels into the cache folder, doctor nothing.
Takes:  warmup under two minutes on two cores, doctor a second.

For example:
  python -m fusedce warmup --loss focal
  python -m fusedce doctor
"""
WARMUP = """Compile the usual kernels now, so that later processes do not compile them.

Kernels that are in the cache folder already are skipped.

Writes: compiled kernels into the cache folder, which doctor prints.
Takes:  under two minutes on two cores; of one loss and dtype half a minute;
        --cuda of one loss and dtype about a minute, of all some half an hour.

For example:
  python -m fusedce warmup --loss focal --dtype float32
      the kernels of one loss and dtype for this CPU
  python -m fusedce warmup --cuda sm_90
      all kernels for GPUs of compute capability 9.0; needs numba-cuda, no GPU
"""
DOCTOR = """Print versions, threads, vector width, cache and GPUs, and what is missing.

For what is missing it says how to get it. The exit status is always 0.

Writes: nothing; the cache folder is made if there is none.
Takes:  a second.

For example:
  python -m fusedce doctor
      one screen; wrapped to the width of the terminal or to COLUMNS
"""


def _architecture(given: str) -> str:
    try:
        warmup_cuda.capability(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return given


def _parser() -> argparse.ArgumentParser:
    """The command line: two commands, and the options of warmup."""
    prog = "python -m fusedce"
    parser = Parser(prog, ABOUT, "COMMAND [options]")
    text = "print the version of fusedce and exit"
    parser.add_argument("--version", action="version", version=f"fusedce {__version__}", help=text)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands",
        description="COMMAND --help describes one of them.",
    )  # fmt: skip
    warm, _ = (
        commands.add_parser(
            name, prog=f"{prog} {name}", description=about,
            help=f"{about[0].lower()}{about.splitlines()[0][1:-1]}",
        )
        for name, about in (("warmup", WARMUP), ("doctor", DOCTOR))
    )  # fmt: skip
    text = f"compile for this loss or activation only: {', '.join(warmup.LOSSES)} (default: all)"
    warm.add_argument("--loss", choices=warmup.LOSSES, metavar="NAME", help=text)
    text = f"compile for logits of this dtype only: {', '.join(warmup.DTYPES)} (default: all)"
    warm.add_argument("--dtype", choices=warmup.DTYPES, metavar="NAME", help=text)
    text = "compile for GPUs of this compute capability: sm_90 for 9.0 (default: for this CPU)"
    warm.add_argument("--cuda", type=_architecture, metavar="sm_XX", help=text)
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    return _parser().parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    given = parse(arguments)
    if given.command == "doctor":
        return doctor.main()
    return warmup.main(given.loss, given.dtype, given.cuda)


if __name__ == "__main__":
    sys.exit(main())
