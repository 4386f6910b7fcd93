"""The arguments of a command line: flags, overrides of the config, what they stand for."""

import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import config_flags
from ml_collections.config_dict import ConfigDict

from dtp_jax.fields import LONGEST, Field, described, error, first_line, local_folder, shown
from dtp_jax.parallel import processes
from dtp_jax.run import loading
from dtp_jax.run.config import DRAWN, fields_of, meant, unknown
from dtp_jax.run.extension import Extension
from dtp_jax.run.provenance import Request
from dtp_jax.run.workdir import Workdir, default_workdir

OWN_FLAGS = ("config", "plugin", "workdir", "take-over", "coordinator", "processes", "process")
FIELD = re.compile(r"(no)?config\.(.*)", re.DOTALL)


class Arguments(NamedTuple):
    """The command line, read but not yet checked."""

    config: dict[str, Any]
    """With the overrides."""
    request: Request
    """As it is shown and recorded."""
    overridden: tuple[str, ...]
    """Names of the fields that are."""
    workdir: Workdir
    take_over: bool
    """From an owner on another host, without waiting."""
    cluster: processes.Cluster | None
    """None for a process on its own."""
    extended: tuple[Extension, ...]
    """Of the run whose config.json the config is."""
    space: Any = None
    """Of the config file, for `dtp sweep`."""


def parse(argv: list[str]) -> Arguments:
    """Reads the flags and the config file. Of a flag that is given twice, the last one holds.

    Raises:
      ValueError: one line naming the flag, its value and what is allowed.
    """
    given, plugins, fields = flags_of(argv[1:])
    loading.load_plugins(itertools.chain.from_iterable(p.split(",") for p in plugins))
    workdir = local_folder("--workdir", given["workdir"]) if "workdir" in given else None
    loaded = loading.load_config(given.get("config", _config_of(workdir)))
    config = loaded.config
    values = {name: told.partition("=")[2] for name, told in fields.items() if "=" in told}
    chosen = {name: values[name] for name in ("rule", "network") if name in values}
    loading.add_brought(config, chosen)
    known = fields_of({**config.to_dict(), **chosen})
    for name in fields:
        if name not in known:
            raise unknown(name)
        if config.get(name) is None:  # absl takes the type from there
            raise ValueError(
                f"config.{name}: --config={loaded.shown} lacks it; allowed: fields that it has"
            )
        if name not in values and known[name].kind is not bool:
            raise ValueError(f"config.{name}: its value is missing; allowed: {known[name].allowed}")
    if loaded.is_overfit and values.get("overfit_batches") == "0" and "augment" not in fields:
        raise error(
            "config.overfit_batches",
            0,
            f"with --config.augment=True or False: {loaded.shown} has it off for the few images",
        )
    cluster = processes.cluster(
        given.get("coordinator", ""),
        _number("--processes", given.get("processes", "0")),
        _number("--process", given.get("process", "-1")),
        os.environ,
    )
    if cluster and workdir is None:
        raise ValueError(
            "--workdir is missing; allowed: with several processes, a folder that all of them see"
        )
    if cluster and str(values.get("seed", config.seed)) == str(DRAWN):
        raise error(
            "config.seed", DRAWN, "0 or more with several processes: each would draw its own"
        )
    if cluster and str(values.get("seeds", config.get("seeds", 1))) != "1":
        raise error(
            "config.seeds",
            values.get("seeds", config.get("seeds")),
            "1 with several processes; or, in a step of Slurm, --coordinator=none",
        )
    command = f"{argv[0]} {shlex.join(argv[1:])}".strip()
    return Arguments(
        _overridden(config, fields, known).to_dict(),
        Request(loaded.shown, list(fields.values()), command),
        tuple(fields),
        default_workdir(loaded.name) if workdir is None else Workdir(workdir),
        _switch("--take-over", given.get("take-over", "False")),
        cluster,
        loaded.extended,
        loaded.space,
    )


class Flags(NamedTuple):
    """The arguments of a command line."""

    given: dict[str, str]
    """Flags of this program but --plugin, and their values."""
    plugins: list[str]
    fields: dict[str, str]
    """Overridden fields, and how: "--config.NAME=VALUE", "--config.NAME" or "--noconfig.NAME"."""


def flags_of(args: list[str]) -> Flags:
    """Reads arguments. Of a flag that is given twice the last one holds; plugins are all loaded.

    A value stands behind "=", or is the next argument where that is no flag.

    Raises:
      ValueError: one line; an argument is no flag, or one of this program's has no value.
    """
    given: dict[str, str] = {}
    plugins: list[str] = []
    fields: dict[str, str] = {}
    for name, value in _pairs(args):
        field = FIELD.match(name)
        if field:
            if field[1] and value is not None:
                raise error(
                    shown(f"--{name}"), value, "--noconfig.FIELD alone, or --config.FIELD=False"
                )
            fields.pop(field[2], None)  # in the order of those that hold
            fields[field[2]] = f"--{name}" if value is None else f"--{name}={value}"
        elif name not in OWN_FLAGS:
            raise _no_flag(name, value)
        elif value is None and name == "take-over":
            given[name] = "True"
        elif value is None:
            raise error(f"--{name}", "", f"--{name}=VALUE; see --help")
        elif name == "plugin":
            plugins.append(value)
        else:
            given[name] = value
    return Flags(given, plugins, fields)


def _pairs(args: list[str]) -> Iterator[tuple[str, str | None]]:
    """(name, value) of every flag."""
    waiting = list(reversed(args))
    while waiting:
        flag, equals, value = waiting.pop().partition("=")
        if not _is_flag(flag):
            raise _no_argument(flag + equals + value)
        name = flag.removeprefix("-").removeprefix("-")
        follows = not equals and waiting and not name.startswith("noconfig.")
        if follows and not _is_flag(waiting[-1]):
            yield name, waiting.pop()
        else:
            yield name, value if equals else None


def joined(args: list[str]) -> list[str]:
    """Overrides in two arguments as one, for programs with arguments that are no flags."""
    found: list[str] = []
    for argument in args:
        open_ = found and FIELD.match(found[-1].lstrip("-")) and "=" not in found[-1]
        if open_ and not found[-1].lstrip("-").startswith("no") and not _is_flag(argument):
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def _is_flag(argument: str) -> bool:
    """Whether it is a flag; numbers such as -1 are values."""
    return re.match(r"--?[A-Za-z]", argument) is not None and not re.match(r"-inf|-nan", argument)


def _overridden(
    config: ConfigDict, fields: Mapping[str, str], known: Mapping[str, Field]
) -> ConfigDict:
    """The config with these fields changed.

    Raises:
      ValueError: one line; a value is not of the type.
    """
    found, argv = flags.FlagValues(), ["", *fields.values()]
    for name in fields:
        _give_type(config, name, known[name])
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=found, sys_argv=argv)
        found(argv)
    except flags.Error as problem:
        named = re.match(r"flag --config\.(\w+)=", str(problem))
        if not named or named[1] not in known:
            raise ValueError(f"{first_line(problem)}; allowed: the flags of --help") from problem
        value = fields[named[1]].partition("=")[2]
        raise error(f"config.{named[1]}", value, known[named[1]].allowed) from problem
    return found.config


def _give_type(config: ConfigDict, name: str, field: Field) -> None:
    """Gives a value the type of its field: absl reads an override as it finds the value to be."""
    value = config[name]
    value = value.item() if isinstance(value, np.generic) else value
    if field.is_tuple and not isinstance(value, (tuple, list)):
        value = (value,)
    if field.kind is float and type(value) is int:
        value = float(value)
    with config.ignore_type():
        config[name] = value


def _number(flag: str, text: str) -> int:
    """The whole number that a flag is given."""
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise error(flag, text, "a whole number")
    return int(text)


def _switch(flag: str, text: str) -> bool:
    """Whether a flag that needs no value holds."""
    if text.lower() not in ("true", "false"):
        raise error(flag, text, "True or False")
    return text.lower() == "true"


def _config_of(workdir: Path | None) -> str:
    """Without --config: that of the run in --workdir, or else the quick start."""
    try:
        json.loads((workdir / "config.json").read_text())
        return str(workdir / "config.json")
    except (
        TypeError,
        OSError,
        ValueError,
        RecursionError,
    ):  # no folder, no run, or a damaged one: said later
        return loading.QUICK_START


def _no_argument(text: str) -> ValueError:
    """The error for an argument that is no flag; where it is a config, the flag for it."""
    name = text.partition(":")[0]
    is_config = name in loading.names() or name.endswith(".py")
    sayable = is_config and text.isprintable() and len(text) <= LONGEST
    meant = text if sayable else "FILE"
    return ValueError(
        f"argument {described(text)} is not understood; allowed: flags such as --config={meant}; see --help"
    )


def _no_flag(name: str, value: str | None) -> ValueError:
    """The error for a flag that does not exist."""
    told = f"={value}" if value and value.isprintable() and len(value) <= LONGEST else ""
    hints = " or ".join(f"--config.{field}{told}" for field in meant(name))
    does = f"did you mean {hints}? See --help" if hints else "allowed: the flags of --help"
    return ValueError(f"{shown(f'--{name}')} is no flag; {does}")
