"""The page of the command line: what every tool says with --help."""

import contextlib
import importlib
import io
import os
import re

HEAD = """# Command line

`dtp TOOL --help` says the same. `python -m dtp_jax TOOL` is the same command, and
`python launch.py` is `dtp train` in a checkout.
"""


def page() -> str:
    """All tools, one after the other."""
    from dtp_jax import __main__  # here: it is slow to import

    parts = [HEAD, _block(_help(lambda: __main__.main(["--help"])))]
    for tool in __main__.TOOLS:
        parts += [f"## `dtp {tool}`", _block(_help(lambda tool=tool: _of(tool)))]
    return "\n\n".join(parts) + "\n"


def _of(tool: str) -> None:
    from dtp_jax import __main__
    from dtp_jax.run import cli

    if tool == "train":
        print(cli.help_text(__main__.TRAIN.format(program="dtp train")))
    else:
        importlib.import_module(f"dtp_jax.{tool}.__main__").main(["--help"], f"dtp {tool}")


def _help(shows) -> str:
    """What a call prints, at 100 columns."""
    shown, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            shows()
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())  # newer Pythons colour their help


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"
