"""What the tools of `dtp` have in common."""

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Says in one line what is not valid: argparse puts all flags before it."""

    def error(self, message: str) -> NoReturn:
        """Leaves with 2, as argparse does."""
        said = " ".join(message.splitlines())  # an argument may hold the end of a line
        self.exit(2, f"{self.prog}: error: {said}; {self.prog} --help has all flags\n")


def parser_of(program: str, doc: str, **options: Any) -> argparse.ArgumentParser:
    """A parser whose help is a tool's docstring, where {program} stands for what the user has typed."""
    return Parser(
        prog=program,
        description=doc.replace("{program}", program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
