"""What --configs names."""

import re
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
      overrides: "--config.FIELD=VALUE" for all of them.

    Raises:
      ValueError: one line; a config does not exist or is not valid, or two have the same label.
    """
    for flag in flags_of(overrides).given:
        raise ValueError(f"--{flag} is no flag of a comparison; allowed: --config.FIELD=VALUE")
    entries: list[Entry] = []
    for part in re.split(r",(?![^\[]*\])", text):
        entry = _entry(part.strip())
        if entry.label in (other.label for other in entries):
            raise ValueError(
                f"--configs names {entry.label!r} twice; allowed: configs of different names"
            )
        arguments = parse(entry.arguments(overrides))
        if "seed" in arguments.overridden:
            raise ValueError(
                "config.seed is overridden; allowed: --seeds=N, for the seeds 0 to N - 1"
            )
        config = validate(arguments.config).config
        entries.append(entry._replace(config=config))
    return entries


def _entry(text: str) -> Entry:
    match = re.fullmatch(r"([^\[\]]+)((?:\[[^\[\]=]+=[^\[\]]*\])*)", text)
    if not match:
        raise ValueError(
            f"--configs holds {text!r}; allowed: the name of a config, or a path, followed by "
            "[FIELD=VALUE] for each override"
        )
    name, own = match[1], re.findall(r"\[([^\]]+)\]", match[2])
    file, _, argument = name.partition(".py:" if ".py:" in name else ":")
    parts = [Path(file).name.removesuffix(".py"), *filter(None, [argument]), *own]
    label = re.sub(r"[^\w.,=+-]+", "-", "-".join(parts))  # a folder's name on any system
    return Entry(label, name, tuple(f"--config.{one}" for one in own), {})
