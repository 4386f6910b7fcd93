"""What --config and --plugin name: files, bare names, the config.json of a run."""

import copy
import importlib
import importlib.util
import os
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import config_dict

from dtp_jax.fields import checked, choice, first_line, local_path
from dtp_jax.networks import NETWORKS
from dtp_jax.rules import RULES
from dtp_jax.run import formats
from dtp_jax.run.config import ORIGIN, fields_of, unknown
from dtp_jax.run.extension import Extension, from_json

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
QUICK_START = "digits_dtp"


class Loaded(NamedTuple):
    """A config, not yet checked, and what it is called."""

    config: config_dict.ConfigDict
    name: str
    """Of the folder of its runs."""
    shown: str
    """On the start-up screen."""
    extended: tuple[Extension, ...] = ()
    """Of the run whose config.json it is."""
    space: Any = None
    """What the file calls `space`, for `dtp sweep`; None where there is no such name. A function of this
    name has been called as get_config is."""
    is_overfit: bool = False
    """Whether it is that of a run whose `overfit_batches` had turned `augment` off: nobody knows what it was."""


def load_config(given: str) -> Loaded:
    """The config that --config names.

    Args:
      given: NAME of a config of this package or FILE.py, with :ARGUMENT for those that take one; or the
        config.json of a run.

    Raises:
      ValueError: one line; there is no such config, or it fails.
    """
    if given.endswith(".json"):
        return _from_json(local_path("--config", given))
    file, arguments = _split(given)

    def error(problem: str) -> ValueError:
        return ValueError(f"--config is {given!r}, {problem}")

    if not os.path.isfile(file) or file.suffix != ".py":
        raise error(_what_is_wrong(file, arguments))
    try:
        names_of_file = runpy.run_path(str(file))
        config = names_of_file["get_config"](*arguments)
        space = names_of_file.get("space")
        space = space(*arguments) if callable(space) else space
    except (Exception, SystemExit) as problem:  # a config file may raise anything
        raise error(
            f"which fails with {_in_words(problem, 'a file whose get_config returns a config')}"
        ) from problem
    if not isinstance(config, config_dict.ConfigDict):
        raise error(f"whose get_config returns {config!r}; allowed: a ml_collections.ConfigDict")
    # Neither frozen nor locked, nobody else's, and a field that refers to another one still does.
    config = config_dict.ConfigDict(copy.deepcopy(config)).unlock()
    return Loaded(config, file.stem, _relative(given), space=space)


def load_plugins(given: Iterable[str]) -> None:
    """Imports modules, or runs files, that register rules, networks and trackers.

    Raises:
      ValueError: one line; there is none of this name, or it fails.
    """
    for name in given:
        file = None
        if name.endswith(".py") or os.sep in name or not name.isprintable():
            file = local_path("--plugin", name)
        try:
            if file is not None:
                _run_file(file)
            else:
                importlib.import_module(name)
        except (Exception, SystemExit) as problem:  # it may raise anything
            raise ValueError(
                f"--plugin is {name!r}, which fails with "
                f"{_in_words(problem, 'a module that can be imported, or a Python file')}"
            ) from problem


def add_brought(config: config_dict.ConfigDict, chosen: Mapping[str, str]) -> None:
    """Gives the config the fields that its registered rule and network bring, at their defaults.

    Args:
      chosen: "rule" and "network" as they are overridden, where they are.
    """
    for name, field in fields_of({**config.to_dict(), **chosen}).items():
        if name not in config and field.default is not None:
            config[name] = (field.default,) if field.per_block else field.default


def names() -> list[str]:
    """The configs of this package."""
    return sorted(file.stem for file in CONFIGS.glob("*.py") if file.stem != "__init__")


def _from_json(file: Path) -> Loaded:
    """The config of an earlier run, as the version meant it that wrote it."""
    try:
        saved = formats.read(file)
    except formats.FormatError as problem:
        raise ValueError(f"--config is {str(file)!r}, which {problem}") from problem
    origin = saved.get("provenance", {})
    require_registered(saved, origin.get("registered_by", {}), str(file))
    fields = {name: value for name, value in saved.items() if name not in ORIGIN}
    for table in (RULES, NETWORKS):  # first: they say which fields there are
        checked(f"config.{table.kind}", fields[table.kind], choice(table))
    for name in fields.keys() - fields_of(fields).keys():
        raise unknown(name)
    images = fields.get("overfit_batches", 0) * fields.get("batch_size", 0)
    is_overfit = bool(images) and fields.get("train_images") == images
    if is_overfit:  # follows from it, and may follow from another
        fields["train_images"] = 0
    config = config_dict.ConfigDict(fields)
    name = Path(str(origin.get("config", ""))).name.partition(".py")[0].partition(":")[0]
    name = name or file.absolute().parent.name
    return Loaded(config, name, _relative(str(file)), from_json(saved), is_overfit=is_overfit)


def require_registered(saved: Mapping[str, Any], by: Mapping[str, str], where: str) -> None:
    """Raises ValueError where a run has a rule or network that nobody has registered here.

    What the run says of its origin is shown to the user, and never imported: a folder of data runs no
    code.
    """
    for table in (RULES, NETWORKS):
        name = saved.get(table.kind)
        if isinstance(name, str) and name not in table and table.kind in by:
            raise ValueError(
                f"{where}: its {table.kind} {name!r} was registered by {by[table.kind]}; "
                f"allowed: together with --plugin={by[table.kind]}, if you trust it"
            )


def _run_file(file: Path) -> None:
    """Runs a Python file under its own name, without making it a module that others could import."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or not file.is_file():
        raise FileNotFoundError(f"no Python file {file}")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _split(given: str) -> tuple[Path, list[str]]:
    """FILE.py:ARGUMENT or NAME:ARGUMENT as the file and its arguments, of which there is one or none."""
    file, suffix, argument = given.partition(".py:")
    if suffix:
        return local_path("--config", file + ".py"), [argument]
    name, colon, argument = given.partition(":")
    inside = CONFIGS / f"{name}.py", [argument] if colon else []
    if name in names():
        return inside
    path = local_path("--config", given)
    return inside if re.fullmatch(r"\w+", name) and not os.path.exists(path) else (path, [])


def _in_words(problem: BaseException, allowed: str) -> str:
    """What a user's file has raised; if that does not say what is allowed, this does."""
    line = f"{type(problem).__name__}: {first_line(problem)}"
    return line if "; allowed: " in line else f"{line}; allowed: {allowed}"


def _what_is_wrong(file: Path, arguments: Sequence[str]) -> str:
    known = f"allowed: a Python file, a config.json, or one of {', '.join(names())}"
    if os.path.isdir(file) and (file / "config.json").is_file():
        return f"which is a folder; did you mean {file / 'config.json'}?"
    if os.path.exists(file):
        return f"which is no Python file; {known}"
    meant = ":".join([file.stem, *arguments])
    hint = f"; did you mean {meant}?" if file.stem in names() and meant.isprintable() else ""
    return f"which does not exist{hint or f'; {known}'}"


def _relative(given: str) -> str:
    """A path relative to the current folder, where it lies in it."""
    try:
        relative = os.path.relpath(given)
    except OSError:  # the current folder is gone
        return given
    return given if relative.startswith(os.pardir) else relative
