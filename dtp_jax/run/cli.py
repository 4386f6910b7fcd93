"""The command line behind launch.py: flags, messages, signals, exit codes."""

import ast
import datetime
import itertools
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import config_dict, config_flags

from dtp_jax.data import DataError, Source, locate, training_examples
from dtp_jax.parallel import processes
from dtp_jax.parallel.mesh import Mesh, data_share, make_mesh
from dtp_jax.run import backend, guard, loop, signals
from dtp_jax.run.build import Experiment
from dtp_jax.run.config import FIELDS, check_sizes, validate
from dtp_jax.run.passes import total_steps
from dtp_jax.run.screen import Screen, SilentScreen
from dtp_jax.run.workdir import FINISHED, Workdir, WorkdirError

EXIT_INVALID, EXIT_DATA, EXIT_DIVERGED, EXIT_LOST = 2, 3, 4, 5
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
QUICK_START = CONFIGS / "digits_dtp.py"
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def main(argv: list[str], description: str, screen: Screen | None = None) -> int:
    """Runs the command line.

    Args:
      argv: as sys.argv.
      description: what --help says first.
      screen: what the run shows itself on; the whole of it by default.

    Returns:
      The exit code.
    """
    if any(arg in ("--help", "-h", "-help", "--helpfull", "--helpshort") for arg in argv[1:]):
        print(help_text(description))
        return 0
    backend.prepare()
    try:
        with signals.stopping_at_once():
            return _run(argv, screen or Screen())
    except signals.Stopped as stopped:
        print("stopped before the first step", file=sys.stderr)
        return 128 + stopped.signal


class Arguments(NamedTuple):
    """The command line, read but not yet checked."""

    config: dict[str, Any]
    """With the overrides."""
    config_file: str
    """As the start-up screen shows it."""
    overrides: list[str]
    workdir: Path
    cluster: processes.Cluster | None
    """None for a process on its own."""


def _run(argv: list[str], screen: Screen) -> int:
    """Checks everything that can be checked at once, then trains."""
    try:
        arguments = parse(argv)
        experiment = validate(arguments.config)
        source = locate(experiment.config["dataset"], experiment.config["data_dir"])
        left = _train_images(experiment.config, source)
        check_sizes(experiment.config, left)
        folder = Workdir(arguments.workdir)
        status = folder.status(
            experiment.config,
            total_steps(experiment.config, left),
        )
    except ValueError as error:
        return _fail(error, EXIT_INVALID)
    except DataError as error:
        return _fail(error, EXIT_DATA)
    if status == FINISHED:
        screen.note(f"{folder.path}: this run is finished")
        screen.summary(folder.read_summary(), folder.path)
        return 0
    try:
        if arguments.cluster is not None:
            processes.join(arguments.cluster)
            processes.require_same(
                "config or workdir",
                json.dumps([experiment.config, folder.path.name], sort_keys=True),
            )
        mesh = make_mesh(experiment.config["data_parallel"], experiment.config["layer_parallel"])
        data_share(mesh)
    except ValueError as error:
        return _fail(error, EXIT_INVALID)
    if not processes.is_first():
        screen = SilentScreen()
    screen.start(
        experiment,
        arguments.config_file,
        arguments.overrides,
        source.description,
        folder.path,
        mesh,
    )
    with processes.last_words(folder.path), processes.nobody_waits():
        code = train(experiment, source, folder, screen, mesh)
    if code in (EXIT_LOST, EXIT_DATA, EXIT_INVALID) and jax.process_count() > 1:
        processes.leave(code)
    return code


def parse(argv: list[str]) -> Arguments:
    """Reads the flags and the config file.

    Raises:
      ValueError: one line naming the flag, its value and what is allowed.
    """
    given, rest = _take_config(argv)
    names = [match[1] for match in map(OVERRIDE.match, rest) if match]
    for name in names:
        validate_name(name)
    config = load_config(given)
    for name in names:
        if config.get(name) is None:  # absl takes the type from there
            raise ValueError(
                f"config.{name}: --config={given} lacks it; allowed: fields that it has"
            )
    values, argv = flags.FlagValues(), [argv[0], *rest]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
        flags.DEFINE_string("coordinator", "", "Address of process 0.", flag_values=values)
        flags.DEFINE_integer("processes", 0, "How many processes there are.", flag_values=values)
        flags.DEFINE_integer("process", -1, "Which of them this is.", flag_values=values)
        left = values(argv)[1:]
    except flags.Error as error:
        raise ValueError(_flag_message(error)) from error
    if left:
        raise ValueError(
            f"argument {left[0]!r} is not understood; allowed: flags such as --config=FILE; see --help"
        )
    overrides = [
        arg if "=" in arg or not after or after.startswith("-") else f"{arg}={after}"
        for arg, after in itertools.zip_longest(rest, rest[1:])
        if OVERRIDE.match(arg)
    ]
    workdir = (
        Path(values.workdir).expanduser() if values.workdir else _default_workdir(_split(given)[0])
    )
    cluster = processes.cluster(values.coordinator, values.processes, values.process, os.environ)
    if cluster and not values.workdir:
        raise ValueError(
            "--workdir is missing; allowed: with several processes, a folder that all of them see"
        )
    return Arguments(values.config.to_dict(), _shown(given), overrides, workdir, cluster)


def load_config(given: str) -> config_dict.ConfigDict:
    """What get_config of a Python file returns.

    Args:
      given: FILE, or FILE:ARGUMENT; the argument is handed to get_config.

    Raises:
      ValueError: one line; there is no such file, or it fails.
    """

    def error(problem: str) -> ValueError:
        return ValueError(f"--config is {given!r}, {problem}")

    file, arguments = _split(given)
    if not file.is_file() or file.suffix != ".py":
        what = "which is no Python file" if file.exists() else "which does not exist"
        known = ", ".join(f"configs/{found.name}" for found in _configs())
        raise error(f"{what}; allowed: a file such as {known}")
    try:
        config = runpy.run_path(str(file))["get_config"](*arguments)
    except (Exception, SystemExit) as problem:  # a config file may raise anything
        raise error(
            f"which fails with {type(problem).__name__}: {_first_line(problem)}; "
            "allowed: a file whose get_config returns a config"
        ) from problem
    if not isinstance(config, config_dict.ConfigDict):
        raise error(f"whose get_config returns {config!r}; allowed: a ml_collections.ConfigDict")
    return config


def train(
    experiment: Experiment,
    source: Source,
    folder: Workdir,
    screen: Screen,
    mesh: Mesh | None = None,
) -> int:
    """Trains and prints the summary, or what went wrong. Returns the exit code."""
    try:
        summary = loop.run(
            experiment,
            source,
            folder,
            screen,
            signals.StopSignals(screen.note, screen.abandon),
            mesh,
        )
    except loop.Interrupted as interruption:
        screen.note(str(interruption))
        return 128 + interruption.signal
    except DataError as error:
        return _fail(error, EXIT_DATA)
    except WorkdirError as error:
        return _fail(error, EXIT_INVALID)
    except guard.Diverged as error:
        return _fail(error, EXIT_DIVERGED) if processes.is_first() else EXIT_DIVERGED
    except jax.errors.JaxRuntimeError as error:
        message = processes.lost(error)
        if message is None:
            raise
        return _fail(
            f"{message}; the run can go on from {folder.newest_checkpoint()}: start all processes "
            "again with the same command",
            EXIT_LOST,
        )
    screen.summary(summary, folder.path)
    return 0


def help_text(description: str) -> str:
    """Flags, and the configs with one line each."""
    lines = [
        description.strip(),
        "",
        "Flags:",
        "  --config=FILE          the config; default configs/digits_dtp.py",
        "  --config.FIELD=VALUE   overrides a field of the config",
        "  --workdir=DIR          folder of the run; default runs/<config>/<time>",
        "  --coordinator=HOST:PORT --processes=N --process=I",
        "                         several processes; without these flags those of a Slurm step, mpirun or",
        "                         TPU slice; auto looks for others, none for nobody; see docs/cluster.md",
        "",
        "Configs:",
    ]
    files = _configs()
    width = max(len(file.name) for file in files)
    for file in files:
        summary = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]
        lines.append(f"  configs/{file.name:<{width}}  {summary}")
    return "\n".join(lines)


def validate_name(name: str) -> None:
    """Raises ValueError where no config field has this name."""
    if name not in FIELDS:
        validate({name: None})


def _configs() -> list[Path]:
    return sorted(CONFIGS.glob("*.py"))


def _take_config(argv: list[str]) -> tuple[str, list[str]]:
    """What --config names, or the quick start; and the other arguments."""
    given, rest, arguments = str(QUICK_START), [], iter(argv[1:])
    for arg in arguments:
        if arg in ("--config", "-config"):
            given = next(arguments, "")
        elif re.match(r"--?config=", arg):
            given = arg.split("=", 1)[1]
        else:
            rest.append(arg)
    return given, rest


def _split(given: str) -> tuple[Path, list[str]]:
    """FILE:ARGUMENT as the file and its arguments, of which there is one or none."""
    file, suffix, argument = given.partition(".py:")
    return (Path(file + ".py"), [argument]) if suffix else (Path(given), [])


def _shown(given: str) -> str:
    """A path relative to the current folder, where it lies in it."""
    relative = os.path.relpath(given)
    return given if relative.startswith(os.pardir) else relative


def _flag_message(error: flags.Error) -> str:
    """absl's error, in the words of this program."""
    match = re.match(r"flag --config\.(\w+)=(.*?): ", str(error), re.DOTALL)
    if match and match[1] in FIELDS:
        return f"config.{match[1]} is {match[2]!r}; allowed: {FIELDS[match[1]].allowed}"
    return f"{_first_line(error)}; allowed: the flags of --help"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _default_workdir(config_file: Path) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path("runs") / config_file.stem / now


def _train_images(config: dict[str, Any], source: Source) -> int:
    left = training_examples(source, config["val_split"], val_per_class=config["val_per_class"])
    if config["val_split"] and left == source.train_examples:
        raise ValueError(
            f"config.val_split is {config['val_split']}; allowed: 0, or enough for one of the "
            f"{source.train_examples} training images"
        )
    return min(left, config["train_images"] or left)


def _fail(error: Exception | str, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
