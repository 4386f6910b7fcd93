"""The command line: what it starts, messages, exit codes."""

import ast
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import jax

from dtp_jax.parallel import processes
from dtp_jax.parallel.mesh import Mesh, data_share, make_mesh
from dtp_jax.run import backend, ending, loading, loop, signals
from dtp_jax.run.arguments import Arguments, parse
from dtp_jax.run.assemble import Plan, Shared, plan
from dtp_jax.run.failures import (
    EXIT_DATA,
    EXIT_DISK,
    EXIT_DIVERGED,
    EXIT_INVALID,
    EXIT_LOST,
    EXIT_MEMORY,
    INTERRUPTED,
    explained,
    outcome,
    refused,
)
from dtp_jax.run.files import WorkdirError
from dtp_jax.run.provenance import Request, provenance
from dtp_jax.run.screen import Screen, SilentScreen
from dtp_jax.run.several import (
    Outcome,
    Seed,
    is_finished,
    moved,
    plan_seeds,
    summarize,
    train_in_turn,
    way,
)
from dtp_jax.run.together import train_together
from dtp_jax.run.workdir import FINISHED

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
    except Exception as error:
        return _fail(screen, *refused(error))
    experiment, folder = made.experiment, made.workdir
    if experiment.config["seeds"] > 1:
        return _run_seeds(made, arguments, screen)
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
        mesh = mesh_of(made)
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


def _train_alone(
    made: Plan,
    arguments: Arguments,
    screen: Screen,
    mesh: Mesh | None,
    shared: Shared | None = None,
) -> int:
    """Trains where nobody else does. Returns the exit code."""
    folder = made.workdir
    try:
        with folder.owned(take_over=arguments.take_over):
            _start(made, arguments, screen, mesh)
            with processes.last_words(folder.path), processes.nobody_waits():
                return train(made, arguments.request, screen, mesh, shared)
    except WorkdirError as error:
        return _fail(screen, error, EXIT_INVALID)


def _start(
    made: Plan, arguments: Arguments, screen: Screen, mesh: Mesh | None, seeds: str = ""
) -> None:
    """The start-up screen."""
    extensions, request = made.experiment.extensions, arguments.request
    screen.start(
        made.experiment,
        request.config,
        request.overrides,
        made.source.description,
        made.workdir.path,
        mesh,
        extended=str(extensions[-1]) if extensions else "",
        seeds=seeds,
    )


def train(
    made: Plan,
    request: Request,
    screen: Screen,
    mesh: Mesh | None = None,
    shared: Shared | None = None,
    watch: loop.Watch | None = None,
) -> int:
    """Trains and prints the summary, or what went wrong. Returns the exit code."""
    folder = made.workdir
    stopping = signals.stop_signals(screen.note, screen.abandon)
    try:
        summary = loop.run(made, request, screen, stopping, mesh, shared, watch)
    except loop.Interrupted as interruption:
        screen.note(str(interruption))
        return INTERRUPTED + interruption.signal
    except Exception as error:
        text, code = explained(error, folder)
        is_said = code != EXIT_DIVERGED or processes.is_first()
        return _fail(screen, text, code) if is_said else code
    screen.summary(summary, folder.path)
    return 0


def _run_seeds(made: Plan, arguments: Arguments, screen: Screen) -> int:
    """Trains several seeds, and shows what came out. Returns the exit code."""
    folder = made.workdir
    try:
        seeds = plan_seeds(made, arguments)
        mesh = mesh_of(made)
    except Exception as error:
        return _fail(screen, *refused(error))
    if is_finished(made, seeds):
        screen.note(f"{folder.path}: these runs are finished")
        outcomes = []
    else:
        outcomes = train_seeds(made, seeds, arguments, screen, mesh, live=screen)
    codes = [one.code for one in outcomes if one.code]
    stopped = max(codes, default=0) >= INTERRUPTED
    # What stands there is of these runs only where one of them has finished, now or before.
    is_new = not outcomes or any(one.summary is not None for one in outcomes)
    summary = folder.read_summary() if is_new and not stopped else None
    if summary is not None:
        screen.summary(summary, folder.path)
    return max(codes) if stopped else next(iter(codes), 0)


def mesh_of(made: Plan) -> Mesh | None:
    """The devices of a run; None for a single one. Raises ValueError where they are not there."""
    backend.require_devices()
    config = made.experiment.config
    return make_mesh(config["data_parallel"], config["layer_parallel"])


def train_seeds(
    made: Plan,
    seeds: Sequence[Seed],
    arguments: Arguments,
    screen: Screen,
    mesh: Mesh | None,
    *,
    live: Screen,
) -> list[Outcome]:
    """Trains the seeds of a config, in the way that is fastest here, and sums them up in their folder.

    Args:
      made: of that folder. Where there is one seed alone, nothing is written to it.
      screen: has a line for every seed that ends, and errors. live: what goes on, where seeds are trained
        together.

    Returns:
      How each ended, up to one that a signal stopped.
    """
    try:
        return _train_seeds(made, seeds, arguments, screen, mesh, live)
    except Exception as error:  # of the folder, or of the data that all train on
        code = _fail(screen, *explained(error, made.workdir))
    for seed in seeds:
        screen.note(f"{seed.head}: {outcome(code)}")
    return [Outcome(seed.number, seed.made.workdir.path, code, None) for seed in seeds]


def _train_seeds(
    made: Plan,
    seeds: Sequence[Seed],
    arguments: Arguments,
    screen: Screen,
    mesh: Mesh | None,
    live: Screen,
) -> list[Outcome]:
    config, folder, request = made.experiment.config, made.workdir, arguments.request

    def alone(seed: Seed, own: Screen, shared: Shared) -> int:
        asked = arguments._replace(request=seed.asked(request))
        return _train_alone(seed.made, asked, own, mesh, shared)

    for line in made.unused if len(seeds) > 1 else ():
        screen.warn(line)
    left = sum(seed.made.status != FINISHED for seed in seeds)
    is_together, how = way(config, left)
    is_new = len(seeds) > 1 and not is_finished(made, seeds)
    with contextlib.ExitStack() as held:
        if is_new:
            held.enter_context(folder.owned(take_over=arguments.take_over))
            seeds = moved(seeds, made, arguments)
            if is_together or live is screen:  # else each of them has its start
                numbers = f"{seeds[0].number} to {seeds[-1].number}"
                _start(made, arguments, live, mesh, seeds=f"{numbers}, {how}")
            origin = provenance(request, config, mesh)
            folder.create(config, origin, [one._asdict() for one in made.experiment.extensions])
        outcomes = None
        if is_together:
            outcomes = _together(seeds, arguments, screen, live)
        if outcomes is None:
            outcomes = train_in_turn(seeds, screen, alone)
        if is_new and all(one.code < INTERRUPTED for one in outcomes):
            summarize(made, outcomes, request, mesh)
    return outcomes


def _together(
    seeds: Sequence[Seed], arguments: Arguments, screen: Screen, live: Screen
) -> list[Outcome] | None:
    """`train_together`. A signal that comes when all is saved ends what would come next."""
    found: list[Outcome] | None = None

    def work() -> int:
        nonlocal found
        take_over = arguments.take_over
        found = train_together(seeds, screen, live, arguments.request, take_over=take_over)
        return max((one.code for one in found or ()), default=0)

    code = signals.until_stopped(work, "stopped before the first step", live.abandon)
    if code >= INTERRUPTED and found is None:
        return [Outcome(seed.number, seed.made.workdir.path, code, None) for seed in seeds]
    return found


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
        "  --plugin=FILE          a Python file or module that registers rules, networks or trackers",
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
