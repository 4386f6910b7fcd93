"""The command line: flags, messages, signals, exit codes."""

import ast
import itertools
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import config_flags

from dtp_jax.data import DataError
from dtp_jax.fields import Field, local_path
from dtp_jax.parallel import processes
from dtp_jax.parallel.mesh import Mesh, data_share, make_mesh
from dtp_jax.run import backend, guard, loading, loop, signals
from dtp_jax.run.assemble import Plan, plan
from dtp_jax.run.config import fields_of, meant, unknown
from dtp_jax.run.extension import Extension
from dtp_jax.run.files import DiskError, WorkdirError
from dtp_jax.run.provenance import Request
from dtp_jax.run.screen import Screen, SilentScreen
from dtp_jax.run.workdir import FINISHED, Workdir, default_workdir

EXIT_INVALID, EXIT_DATA, EXIT_DIVERGED, EXIT_LOST, EXIT_DISK, EXIT_MEMORY = 2, 3, 4, 5, 6, 7
ABRUPT = (EXIT_INVALID, EXIT_DATA, EXIT_LOST, EXIT_DISK, EXIT_MEMORY)
"""With these a process may be the only one of several that ends."""
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")


def main(argv: list[str], description: str, screen: Screen | None = None) -> int:
    """Runs the command line.

    Args:
      argv: as sys.argv.
      description: what --help says first.
      screen: what the run shows itself on; the whole of it by default.

    Returns:
      The exit code.
    """
    if any(arg in HELP for arg in argv[1:]):
        print(help_text(description))
        return 0
    backend.prepare()
    screen = screen or Screen()
    return signals.until_stopped(
        lambda: _run(argv, screen), "stopped before the first step", screen.abandon
    )


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


def _run(argv: list[str], screen: Screen) -> int:
    """Checks everything that can be checked at once, then trains."""
    try:
        arguments = parse(argv)
        made = plan(
            arguments.config,
            arguments.workdir,
            overridden=arguments.overridden,
            extended=arguments.extended,
        )
    except ValueError as error:
        return _fail(screen, error, EXIT_INVALID)
    except DataError as error:
        return _fail(screen, error, EXIT_DATA)
    experiment, folder = made.experiment, made.workdir
    if made.status == FINISHED:
        limit = experiment.config["max_steps"]
        ended = limit == made.total_steps
        more = f": config.max_steps is {limit}; --config.max_steps=0 goes on" if ended else ""
        screen.note(f"{folder.path}: this run is finished{more}")
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
        return _fail(screen, error, EXIT_INVALID)
    if not processes.is_first():
        screen = SilentScreen()
    code = _train_alone(made, arguments, screen, mesh)
    if code in ABRUPT and jax.process_count() > 1:
        processes.leave(code)
    return code


def _train_alone(made: Plan, arguments: Arguments, screen: Screen, mesh: Mesh | None) -> int:
    """Trains where nobody else does. Returns the exit code."""
    experiment, folder, request = made.experiment, made.workdir, arguments.request
    try:
        with folder.owned(take_over=arguments.take_over):
            screen.start(
                experiment,
                request.config,
                request.overrides,
                made.source.description,
                folder.path,
                mesh,
                extended=str(experiment.extensions[-1]) if experiment.extensions else "",
            )
            with processes.last_words(folder.path), processes.nobody_waits():
                return train(made, request, screen, mesh)
    except WorkdirError as error:
        return _fail(screen, error, EXIT_INVALID)


def parse(argv: list[str]) -> Arguments:
    """Reads the flags and the config file.

    Raises:
      ValueError: one line naming the flag, its value and what is allowed.
    """
    given, rest = _take("config", argv[1:])
    plugins, rest = _take("plugin", rest)
    loading.load_plugins(itertools.chain.from_iterable(p.split(",") for p in plugins))
    loaded = loading.load_config(given[-1] if given else _config_of(rest))
    config, names = loaded.config, [match[1] for match in map(OVERRIDE.match, rest) if match]
    overrides = [
        arg if "=" in arg or not after or after.startswith("-") else f"{arg}={after}"
        for arg, after in itertools.zip_longest(rest, rest[1:])
        if OVERRIDE.match(arg)
    ]
    values = {OVERRIDE.match(arg)[1]: arg.partition("=")[2] for arg in overrides}
    chosen = {kind: values[kind] for kind in ("rule", "network") if kind in values}
    loading.add_brought(config, chosen)
    known = fields_of({**config.to_dict(), **chosen})
    for name in names:
        if name not in known:
            raise unknown(name)
        if config.get(name) is None:  # absl takes the type from there
            raise ValueError(
                f"config.{name}: --config={loaded.shown} lacks it; allowed: fields that it has"
            )
    flags_, argv = flags.FlagValues(), [argv[0], *rest]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=flags_, sys_argv=argv)
        flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=flags_)
        flags.DEFINE_boolean("take-over", False, "See below.", flag_values=flags_)
        flags.DEFINE_string("coordinator", "", "Address of process 0.", flag_values=flags_)
        flags.DEFINE_integer("processes", 0, "How many processes there are.", flag_values=flags_)
        flags.DEFINE_integer("process", -1, "Which of them this is.", flag_values=flags_)
        left = flags_(argv)[1:]
    except flags.Error as error:
        raise ValueError(_flag_message(error, rest, known)) from error
    if left:
        raise ValueError(
            f"argument {left[0]!r} is not understood; allowed: flags such as --config=FILE; see --help"
        )
    folder = default_workdir(loaded.name)
    if flags_.workdir:
        folder = Workdir(local_path("--workdir", flags_.workdir))
    cluster = processes.cluster(flags_.coordinator, flags_.processes, flags_.process, os.environ)
    if cluster and not flags_.workdir:
        raise ValueError(
            "--workdir is missing; allowed: with several processes, a folder that all of them see"
        )
    command = f"{argv[0]} {shlex.join(_told(given, plugins) + rest)}"
    request = Request(loaded.shown, overrides, command.strip())
    return Arguments(
        flags_.config.to_dict(),
        request,
        tuple(names),
        folder,
        flags_["take-over"].value,
        cluster,
        loaded.extended,
    )


def train(made: Plan, request: Request, screen: Screen, mesh: Mesh | None = None) -> int:
    """Trains and prints the summary, or what went wrong. Returns the exit code."""
    folder = made.workdir
    try:
        summary = loop.run(
            made, request, screen, signals.StopSignals(screen.note, screen.abandon), mesh
        )
    except loop.Interrupted as interruption:
        screen.note(str(interruption))
        return 128 + interruption.signal
    except DataError as error:
        return _fail(screen, error, EXIT_DATA)
    except WorkdirError as error:
        return _fail(screen, error, EXIT_INVALID)
    except guard.Diverged as error:
        return _fail(screen, error, EXIT_DIVERGED) if processes.is_first() else EXIT_DIVERGED
    except DiskError as error:
        newest = folder.newest_checkpoint()
        message = f"{error}; once that is mended, the same command goes on from {newest}"
        return _fail(screen, message, EXIT_DISK)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        return _fail_at_run_time(screen, error, folder)
    screen.summary(summary, folder.path)
    return 0


def _fail_at_run_time(screen: Screen, error: Exception, folder: Workdir) -> int:
    """Memory that is used up, or another process that is gone; another error is raised again."""
    newest = folder.newest_checkpoint()
    if processes.is_memory_used_up(error):
        return _fail(
            screen,
            f"memory is used up ({loading.first_line(error)}); allowed: a smaller --config.batch_size, "
            "feedback_samples, channels or eval_batch_size, or images that stay on the host with "
            f"--config.images_on=host; the run can go on from {newest}",
            EXIT_MEMORY,
        )
    message = processes.lost(error)
    if message is None:
        raise error
    return _fail(
        screen,
        f"{message}; the run can go on from {newest}: start all processes again with the same command",
        EXIT_LOST,
    )


def help_text(description: str) -> str:
    """Flags, and the configs with one line each."""
    lines = [
        description.strip(),
        "",
        "Flags:",
        "  --config=CONFIG        a config below by its name, a Python file, or the config.json of a run;",
        "                         default digits_dtp, or the config of the run in --workdir",
        "  --config.FIELD=VALUE   overrides a field of the config",
        "  --workdir=DIR          folder of the run; default runs/<config>/<time>",
        "  --take-over            of a folder whose run was lost on another host, without waiting a minute",
        "  --plugin=FILE          a Python file or module that registers rules or networks",
        "  --coordinator=HOST:PORT --processes=N --process=I",
        "                         several processes; without these flags those of a Slurm step, mpirun or",
        "                         TPU slice; auto looks for others, none for nobody; see docs/cluster.md",
        "",
        "Configs:",
    ]
    width = max(map(len, loading.names()))
    for name in loading.names():
        text = (loading.CONFIGS / f"{name}.py").read_text()
        summary = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
        lines.append(f"  {name:<{width}}  {summary}")
    return "\n".join(lines)


def _take(flag: str, args: list[str]) -> tuple[list[str], list[str]]:
    """All that a flag is given; and the other arguments."""
    given, rest, arguments = [], [], iter(args)
    for arg in arguments:
        if arg in (f"--{flag}", f"-{flag}"):
            given.append(next(arguments, ""))
        elif re.match(rf"--?{flag}=", arg):
            given.append(arg.split("=", 1)[1])
        else:
            rest.append(arg)
    return given, rest


def _told(configs: list[str], plugins: list[str]) -> list[str]:
    """The flags that `_take` has taken out."""
    return [f"--config={c}" for c in configs[-1:]] + [f"--plugin={p}" for p in plugins]


def _config_of(rest: list[str]) -> str:
    """Without --config: that of the run in --workdir, or else the quick start."""
    workdirs, _ = _take("workdir", rest)
    file = Path(workdirs[-1]).expanduser() / "config.json" if workdirs and workdirs[-1] else None
    try:
        json.loads(file.read_text())
        return str(file)
    # No folder, no run, or a damaged one: said later.
    except (AttributeError, OSError, ValueError, RecursionError):
        return loading.QUICK_START


def _flag_message(error: flags.Error, rest: list[str], known: dict[str, Field]) -> str:
    """absl's error, in the words of this program."""
    match = re.match(r"flag --config\.(\w+)=(.*?): ", str(error), re.DOTALL)
    if match and match[1] in known:
        return f"config.{match[1]} is {match[2]!r}; allowed: {known[match[1]].allowed}"
    strange = re.match(r"Unknown command line flag '(\w+)'", str(error))
    fields = meant(strange[1]) if strange else ()
    if fields:
        told = next((arg for arg in rest if arg.lstrip("-").startswith(strange[1])), "")
        value = told.partition("=")[1] + told.partition("=")[2]
        hints = " or ".join(f"--config.{field}{value}" for field in fields)
        return f"--{strange[1]} is no flag; did you mean {hints}? See --help"
    return f"{loading.first_line(error)}; allowed: the flags of --help"


def _fail(screen: Screen, error: Exception | str, code: int) -> int:
    screen.error(str(error))
    return code
