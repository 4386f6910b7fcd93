"""--only PATTERN of the programs here: which of the named things are meant."""

import argparse
import re
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Named(Protocol):
    """What has a name to be chosen by."""

    @property
    def name(self) -> str:
        """As it is shown."""


One = TypeVar("One", bound=Named)


def matching(
    parser: argparse.ArgumentParser, patterns: Sequence[str], known: Sequence[One]
) -> list[One]:
    """Those whose name a pattern matches; ends the program, in a line, at a pattern that matches none."""
    found = []
    for pattern in patterns:
        try:
            own = [one.name for one in known if re.search(pattern, one.name)]
        except re.error as problem:
            parser.error(f"--only is {pattern!r}; allowed: a pattern of names; {problem}")
        if not own:
            names = ", ".join(one.name for one in known)
            parser.error(f"--only is {pattern!r}; allowed: a pattern of these names: {names}")
        found += own
    return [one for one in known if one.name in found]
