"""The command line: what it starts, messages, exit codes."""

import ast
import json
from typing import Any

import jax

from dtp_jax.data import DataError
from dtp_jax.fields import first_line
from dtp_jax.parallel import processes
from dtp_jax.parallel.mesh import Mesh, data_share, make_mesh
from dtp_jax.run import backend, ending, guard, loading, loop, signals
from dtp_jax.run.arguments import Arguments, parse
from dtp_jax.run.assemble import Plan, plan
from dtp_jax.run.files import DiskError, WorkdirError
from dtp_jax.run.provenance import Request
from dtp_jax.run.screen import Screen, SilentScreen
from dtp_jax.run.workdir import FINISHED, Workdir

EXIT_INVALID, EXIT_DATA, EXIT_DIVERGED, EXIT_LOST, EXIT_DISK, EXIT_MEMORY = 2, 3, 4, 5, 6, 7
ABRUPT = (EXIT_INVALID, EXIT_DATA, EXIT_LOST, EXIT_DISK, EXIT_MEMORY)
"""With these a process may be the only one of several that ends."""
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
    screen = screen or Screen()
    code = signals.until_stopped(
        lambda: _run(argv, screen), "stopped before the first step", screen.abandon
    )
    if processes.is_joining():  # in a thread that nothing can end
        processes.leave(code)
    return code


def _run(argv: list[str], screen: Screen) -> int:
    """Checks everything that can be checked at once, then trains."""
    try:
        backend.check_flags()
        backend.prepare()
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
        summary = folder.read_summary()
        screen.note(f"{folder.path}: this run is finished{_limit(made, summary)}")
        screen.summary(summary, folder.path)
        return 0
    try:
        if arguments.cluster is not None:
            processes.join(arguments.cluster, screen.note)
            processes.require_same(
                "config or workdir",
                json.dumps([experiment.config, folder.path.name], sort_keys=True),
            )
        backend.require_devices()
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


def _limit(made: Plan, summary: dict[str, Any]) -> str:
    """What ended a run before its last epoch, and how it goes on; "" where nothing did."""
    config = made.experiment.config
    field = summary["ended_by"] if ending.has_ended(config, summary) else None
    if field is None and config["max_steps"] == made.total_steps:
        field = "max_steps"
    return (
        "" if field is None else f": config.{field} is {config[field]}; --config.{field}=0 goes on"
    )


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


def train(
    made: Plan,
    request: Request,
    screen: Screen,
    mesh: Mesh | None = None,
    watch: loop.Watch | None = None,
) -> int:
    """Trains and prints the summary, or what went wrong. Returns the exit code."""
    folder, stop_signals = made.workdir, signals.StopSignals(screen.note, screen.abandon)
    try:
        summary = loop.run(made, request, screen, stop_signals, mesh, watch)
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
            f"memory is used up ({first_line(error)}); allowed: a smaller --config.batch_size, "
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


def _fail(screen: Screen, error: Exception | str, code: int) -> int:
    screen.error(str(error))
    return code
