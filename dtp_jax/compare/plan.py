"""What --configs names."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dtp_jax.run.arguments import flags_of, parse
from dtp_jax.run.config import validate


class Entry(NamedTuple):
    """One config of a comparison."""

    label: str
    """Its name in tables and pictures, and that of its folder."""
    given: str
    """As --config takes it."""
    overrides: tuple[str, ...]
    """--config.FIELD=VALUE for it alone."""
    config: dict[str, Any]
    """With all overrides; its seed is of no meaning."""

    def arguments(self, overrides: list[str]) -> list[str]:
        """Those of `dtp train`, with overrides for all configs before its own."""
        return ["dtp train", f"--config={self.given}", *overrides, *self.overrides]


def parse_configs(text: str, overrides: list[str]) -> list[Entry]:
    """Reads a list of configs and checks all of them.

    Args:
      text: separated by commas, what --config takes: names or paths, with :ARGUMENT for those that
        take one; and [FIELD=VALUE] for each override, e.g. "digits_dtp,digits_dtp[beta=0.5]".
        [FIELD=VALUE|VALUE|...] makes a config with each value, several of these all combinations.
      overrides: "--config.FIELD=VALUE" for all of them.

    Raises:
      ValueError: one line; a config does not exist or is not valid, or two have the same label.
    """
    for flag in flags_of(overrides).given:
        raise ValueError(f"--{flag} is no flag of a comparison; allowed: --config.FIELD=VALUE")
    entries: list[Entry] = []
    parts = re.split(r",(?![^\[]*\])", text)
    for entry in itertools.chain.from_iterable(_entries(part.strip()) for part in parts):
        if entry.label in (other.label for other in entries):
            raise ValueError(
                f"--configs names {entry.label!r} twice; allowed: configs of different names"
            )
        try:
            arguments = parse(entry.arguments(overrides))
            config = validate(arguments.config).config
        except ValueError as error:
            raise _naming_lists(error, entry) from error
        for name in ("seed", "seeds"):
            if name in arguments.overridden:
                raise ValueError(
                    f"config.{name} is overridden; allowed: --seeds=N, for the seeds 0 to N - 1"
                )
        entries.append(entry._replace(config=config))
    return entries


def _naming_lists(error: ValueError, entry: Entry) -> ValueError:
    """Where it is a value with a comma that is refused, several values may have been meant."""
    lists = [own.removeprefix("--").partition("=")[0] for own in entry.overrides if "," in own]
    if not str(error).startswith(tuple(f"{name} is " for name in lists)):
        return error
    return ValueError(f"{error}; several values to compare: [FIELD=VALUE|VALUE]")


def _entries(text: str) -> Iterator[Entry]:
    """One for each combination of values."""
    match = re.fullmatch(r"([^\[\]]+)((?:\[[^\[\]=]+=[^\[\]]*\])*)", text)
    if not match:
        raise ValueError(
            f"--configs holds {text!r}; allowed: the name of a config, or a path, followed by "
            "[FIELD=VALUE] for each override, or [FIELD=VALUE|VALUE] for a config with each value"
        )
    name, overrides = match[1], re.findall(r"\[([^\]=]+)=([^\]]*)\]", match[2])
    file, _, argument = name.partition(".py:" if ".py:" in name else ":")
    head = [Path(file).name.removesuffix(".py"), *filter(None, [argument])]
    choices = (
        [f"{field}={value.strip()}" for value in values.split("|")] for field, values in overrides
    )
    for own in itertools.product(*choices):
        # A folder's name on any system.
        label = re.sub(r"[^\w.,=+-]+", "-", "-".join([*head, *own]))
        yield Entry(label, name, tuple(f"--config.{one}" for one in own), {})
