"""What a job asks for: --submit=WHERE, --submit.KEY=VALUE, and the same keys in a TOML file."""

import datetime
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dtp_jax.fields import error, first_line, local_path, shown

PLACES = ("slurm", "local")
WHERE, FILE, KEY, PRINT = "submit", "submit-file", "submit.", "submit.print"
EXTRA = "extra"
GRACE_SECONDS = 120
TAKEN = {
    "array": "submit.array, and the runs",
    "error": "the folder of the logs",
    "nodes": "submit.nodes",
    "ntasks": "one for each node",
    "ntasks-per-node": "one for each node",
    "open-mode": "append",
    "output": "the folder of the logs",
    "requeue": "always",
    "signal": "submit.grace",
    "time": "submit.time",
}
"""Parameters of sbatch that are no extras, and what gives them."""


class Options(NamedTuple):
    """What a job asks for; "" and 0: it says nothing."""

    where: str
    """One of PLACES."""
    partition: str = ""
    time: int = 0
    """Minutes."""
    gpus: str = ""
    """Per node: a number, or TYPE:NUMBER."""
    nodes: int = 1
    cpus: int = 0
    """Per node."""
    memory: str = ""
    """Per node."""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    array: int = 0
    """Jobs that run at once."""
    name: str = ""
    setup: tuple[str, ...] = ()
    """Lines of shell before the program starts."""
    grace: int = 0
    """Seconds before the end of the time at which a run is told to save."""
    requeues: int = 100
    """How often a job whose time is up is queued again."""
    extra: Mapping[str, str | bool] = {}
    """Other parameters of sbatch."""
    only_print: bool = False

    @property
    def gpu_count(self) -> int:
        """Per node."""
        return int(self.gpus.rpartition(":")[2] or 0)


def _minutes(name: str, text: str) -> int:
    found = re.fullmatch(r"(?:(\d{1,3})-(?=\d\d:))?(\d{1,4}):([0-5]\d):([0-5]\d)", text, re.ASCII)
    if found:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = 1440 * days + 60 * hours + minutes + (seconds > 0)
        total = 0 if found[1] and hours > 23 else total
    else:
        total = int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else 0
    if not total:
        raise error(name, text, "minutes, HH:MM:SS or D-HH:MM:SS, a minute or more")
    return total


def _matching(pattern: str, allowed: str, kind: type = str) -> Callable[[str, str], Any]:
    def read(name: str, text: str) -> Any:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise error(name, text, allowed)
        return kind(text)

    return read


_count = _matching(r"[1-9]\d{0,5}", "a whole number, 1 or more", int)
_word = _matching(r"[^\s'\"#\\$`]+", "a word without quotes, $, # and backslash")
READ: Mapping[str, Callable[[str, str], Any]] = {
    "partition": _word,
    "time": _minutes,
    "gpus": _matching(r"([\w.-]+:)?\d{1,3}", "a number, or TYPE:NUMBER such as a100:2"),
    "nodes": _count,
    "cpus": _count,
    "memory": _matching(
        r"0|[1-9]\d{0,7}[KMGT]B?", "a number and K, M, G or T, such as 64G; 0: all"
    ),
    "account": _word,
    "qos": _word,
    "constraint": _word,
    "array": _count,
    "name": _word,
    "setup": _matching(r"[^\x00-\x08\x0a-\x1f\x7f]+", "a line of shell"),
    "grace": _count,
    "requeues": _matching(r"\d{1,6}", "a whole number, 0 or more", int),
}
KEYS = ", ".join([*READ, f"{EXTRA}.NAME"])
EXTRA_NAME = re.compile(r"[a-z][a-z0-9-]*")
EXTRA_VALUE = _matching(r"[ -~]*", "printable ASCII")


def split(args: list[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Takes the flags that begin with --submit out of arguments.

    Returns:
      Their names and values (None: none was given), and what is left.
    """
    mine, others, waiting = [], [], list(reversed(args))
    while waiting:
        argument = waiting.pop()
        name, equals, value = argument.partition("=")
        name = name.removeprefix("-").removeprefix("-")
        if not argument.startswith("-") or not re.match(r"submit\b", name):
            others.append(argument)
            continue
        if not equals and name != PRINT and waiting and not waiting[-1].startswith("-"):
            value, equals = waiting.pop(), "="
        mine.append((name, value if equals else None))
    return mine, others


def read(flags: list[tuple[str, str | None]]) -> Options:
    """The options that flags and the file which they name give. Flags win over the file.

    Raises:
      ValueError: one line with the key, the value and what is allowed.
    """
    values, extra = {}, {}
    files = [value for name, value in flags if name == FILE]
    if files:
        values, extra = _read_file(files[-1] or "")
    setup: list[str] = []
    where, only_print = "", False
    for name, value in flags:
        if name == PRINT:
            if value is not None:
                raise error(f"--{PRINT}", value, f"--{PRINT} alone")
            only_print = True
        elif value is None:
            raise error(f"--{name}", "", f"--{name}=VALUE")
        elif name == WHERE:
            where = value
        elif name == FILE:
            continue
        elif name == KEY + "setup":
            setup.append(READ["setup"](f"--{name}", value))
        elif name.startswith(f"{KEY}{EXTRA}."):
            extra[_extra_name(f"--{name}")] = EXTRA_VALUE(f"--{name}", value)
        elif name.removeprefix(KEY) in READ and name.startswith(KEY):
            values[name.removeprefix(KEY)] = READ[name.removeprefix(KEY)](f"--{name}", value)
        else:
            raise ValueError(
                f"{shown(f'--{name}')} is no flag; allowed: --{WHERE}, --{FILE}, --{PRINT} and "
                f"--{KEY}KEY=VALUE with {KEYS}"
            )
    if where not in PLACES:
        raise error(f"--{WHERE}", where, " or ".join(PLACES))
    if setup:
        values["setup"] = tuple(setup)
    return _complete(Options(where, **values, extra=extra, only_print=only_print))


def _complete(options: Options) -> Options:
    """With the grace that nobody has given. Raises ValueError, one line, for what does not go together."""
    if options.where == "slurm" and not options.time:
        raise ValueError(
            "--submit.time is missing; allowed: minutes, HH:MM:SS or D-HH:MM:SS; a job whose time is "
            "up saves and is queued again"
        )
    if options.where == "local" and options.nodes > 1:
        raise error("--submit.nodes", options.nodes, "1 with --submit=local")
    if options.where == "local" and options.only_print:
        raise ValueError(
            "--submit.print prints the script for sbatch; allowed: with --submit=slurm"
        )
    if options.time and options.grace >= 60 * options.time:
        raise error(
            "--submit.grace", options.grace, f"less than the {60 * options.time} s of submit.time"
        )
    half = 30 * options.time or GRACE_SECONDS
    return options._replace(grace=options.grace or min(GRACE_SECONDS, half))


def _read_file(name: str) -> tuple[dict[str, Any], dict[str, str | bool]]:
    """The keys of a TOML file, and its extras."""
    path = local_path(f"--{FILE}", name)
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as problem:
        said = getattr(problem, "strerror", None) or "no text"
        raise error(f"--{FILE}", name, f"a TOML file that can be read; {said}") from problem
    except tomllib.TOMLDecodeError as problem:
        raise error(f"--{FILE}", name, f"a TOML file; {first_line(problem)}") from problem
    extras, values, extra = found.pop(EXTRA, {}), {}, {}
    if not isinstance(extras, dict):
        raise ValueError(
            f"{name}: {EXTRA} is no table; allowed: [{EXTRA}] with parameters of sbatch"
        )
    for key, value in found.items():
        if key not in READ:
            raise ValueError(f"{name}: {shown(key)} is no key; allowed: {KEYS}")
        lines = value if key == "setup" and isinstance(value, list) else [value]
        for line in lines:
            if isinstance(line, bool) or not isinstance(line, (str, int, datetime.time)):
                raise error(f"{name}: {key}", line, "text or a whole number")
        several = tuple(READ[key](f"{name}: {key}", str(line)) for line in lines)
        values[key] = several if key == "setup" else several[0]
    for key, value in extras.items():
        said = f"{name}: {EXTRA}.{key}"
        if value is not True and (
            isinstance(value, bool) or not isinstance(value, (str, int, datetime.time))
        ):
            raise error(
                said, value, "text, a whole number, or true for a parameter without a value"
            )
        extra[_extra_name(said)] = value if value is True else EXTRA_VALUE(said, str(value))
    return values, extra


def _extra_name(said: str) -> str:
    """The name of a parameter of sbatch behind the last dot."""
    name = said.rpartition(f"{EXTRA}.")[2]
    if not EXTRA_NAME.fullmatch(name):
        raise ValueError(f"{shown(said)} is no parameter of sbatch; allowed: a name like mail-type")
    if name in TAKEN:
        raise ValueError(f"{said} is given already, by {TAKEN[name]}; allowed: other parameters")
    return name
