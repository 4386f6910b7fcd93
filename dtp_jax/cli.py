"""The command line behind launch.py: flags, messages, signals, exit codes."""

import ast
import datetime
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from dtp_jax import guard, loop
from dtp_jax.config import FIELDS, Experiment, check_sizes, validate
from dtp_jax.data import DataError, Source, locate
from dtp_jax.screen import Screen
from dtp_jax.workdir import FINISHED, Workdir

EXIT_INVALID, EXIT_DATA, EXIT_DIVERGED = 2, 3, 4
ROOT = Path(__file__).resolve().parent.parent
"""The checkout: where configs/ and runs/ are."""
QUICK_START = ROOT / "configs" / "digits_dtp.py"


def main(argv: list[str], description: str) -> int:
    """Runs the command line.

    Args:
      argv: as sys.argv.
      description: what --help says first.

    Returns:
      The exit code.
    """
    if any(arg in ("--help", "-h", "-help", "--helpfull", "--helpshort") for arg in argv[1:]):
        print(help_text(description))
        return 0
    try:
        config, config_file, workdir = parse(argv)
        experiment = validate(config)
        source = locate(experiment.config["dataset"], experiment.config["data_dir"])
        check_sizes(experiment.config, source.train_examples)
        return train(experiment, source, workdir, config_file, [a for a in argv[1:] if a.startswith("--config.")])
    except ValueError as error:
        return _fail(error, EXIT_INVALID)
    except DataError as error:
        return _fail(error, EXIT_DATA)


def parse(argv: list[str]) -> tuple[dict[str, Any], Path, Path | None]:
    """Reads the flags.

    Returns:
      The config with its overrides, the config's file, and --workdir.

    Raises:
      ValueError: one line naming the flag, its value and what is allowed.
    """
    config_file = _config_file(argv)
    for arg in argv[1:]:
        override = re.match(r"--?config\.([^=]+)", arg)
        if override:
            validate_name(override[1])
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_file("config", str(config_file), "Python file with the config.", flag_values=values)
        flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config>/<time>.", flag_values=values)
        rest = values(argv)
        config = values.config.to_dict()
    except flags.Error as error:
        raise ValueError(_flag_message(error)) from error
    except Exception as error:  # a config file may raise anything
        raise ValueError(f"--config is {str(config_file)!r}, which fails with {type(error).__name__}: "
                         f"{_first_line(error)}") from error
    if len(rest) > 1:
        raise ValueError(f"argument {rest[1]!r} is not understood; allowed: flags such as --config=FILE; see --help")
    return config, config_file, Path(values.workdir) if values.workdir else None


def train(experiment: Experiment, source: Source, workdir: Path | None, config_file: Path, overrides: list[str]) -> int:
    """Shows the start-up screen, trains, prints the summary."""
    folder = Workdir(workdir or _default_workdir(config_file))
    status = folder.status(experiment.config, loop.total_steps(
        experiment.config, _train_images(experiment.config, source)))
    screen = Screen()
    if status == FINISHED:
        screen.note(f"{folder.path}: this run is finished")
        screen.summary(folder.read_summary(), folder.path)
        return 0
    screen.start(experiment, os.path.relpath(config_file), overrides, source.description, folder.path)
    stop = StopSignal()
    try:
        summary = loop.run(experiment, source, folder, screen, stop.received)
    except loop.Interrupted as interruption:
        screen.note(str(interruption))
        return 128 + interruption.signal
    except guard.Diverged as error:
        return _fail(error, EXIT_DIVERGED)
    screen.summary(summary, folder.path)
    return 0


class StopSignal:
    """Remembers ctrl-C and SIGTERM until the loop asks; a second one ends the process at once."""

    def __init__(self):
        self._number: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self._number is not None:
            os._exit(128 + number)
        self._number = number
        os.write(2, b"\nstopping after this chunk of steps; once more to stop at once\n")

    def received(self) -> int | None:
        """The number of the signal that came, if one did."""
        return self._number


def help_text(description: str) -> str:
    """Flags, and the configs with one line each."""
    lines = [description.strip(), "", "Flags:",
             "  --config=FILE    the config; default configs/digits_dtp.py",
             "  --workdir=DIR    folder of the run; default runs/<config>/<time>",
             "  --config.FIELD=VALUE", "", "Configs:"]
    for file in sorted((ROOT / "configs").glob("*.py")):
        summary = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
        lines.append(f"  configs/{file.name:<28} {summary}")
    return "\n".join(lines)


def validate_name(name: str) -> None:
    """Raises ValueError where no config field has this name."""
    if name not in FIELDS:
        validate({name: None})


def _config_file(argv: list[str]) -> Path:
    """The file that --config names, or the quick start."""
    given = None
    for i, arg in enumerate(argv):
        if arg in ("--config", "-config"):
            given = argv[i + 1] if i + 1 < len(argv) else ""
        elif re.match(r"--?config=", arg):
            given = arg.split("=", 1)[1]
    if given is None:
        return QUICK_START
    # `file.py:argument` hands the argument to get_config.
    file = Path(re.sub(r"(?<=\.py):.*", "", given))
    if file.suffix != ".py" or not file.is_file():
        known = ", ".join(f"configs/{f.name}" for f in sorted((ROOT / "configs").glob("*.py")))
        raise ValueError(f"--config is {given!r}, which is no Python file; allowed: a file such as {known}")
    return file


def _flag_message(error: flags.Error) -> str:
    """absl's error, in the words of this program."""
    match = re.match(r"flag --config\.(\w+)=(.*?): ", str(error), re.DOTALL)
    if match and match[1] in FIELDS:
        return f"config.{match[1]} is {match[2]!r}; allowed: {FIELDS[match[1]].allowed}"
    return f"{_first_line(error)}; allowed: --config, --workdir, --config.FIELD; see --help"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _default_workdir(config_file: Path) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path("runs") / config_file.stem / now


def _train_images(config: dict[str, Any], source: Source) -> int:
    return source.train_examples - round(config["val_split"] * source.train_examples)


def _fail(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
