"""What the tools of `dtp` have in common."""

import argparse
from typing import Any


def parser_of(program: str, doc: str, **options: Any) -> argparse.ArgumentParser:
    """A parser whose help is a tool's docstring, where {program} stands for what the user has typed."""
    return argparse.ArgumentParser(
        prog=program,
        description=doc.replace("{program}", program),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
