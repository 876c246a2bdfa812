"""The command line of every program: of the package, the benchmarks and the tests."""

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose help text keeps its line breaks, and whose errors are one line.

    ``usage`` is what follows the name of the program.
    """

    def __init__(
        self, prog: str, description: str | None, usage: str = "[options]", **more: Any
    ) -> None:
        super().__init__(
            prog=prog, usage=f"{prog} {usage}".rstrip(), description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter, **more,
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        """End with an error of one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}; --help says more\n")
