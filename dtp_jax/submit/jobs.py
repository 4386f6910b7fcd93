"""What becomes a job: the command line of a tool, checked, in the pieces that run by themselves."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dtp_jax.compare.__main__ import arguments_of
from dtp_jax.compare.plan import parse_configs
from dtp_jax.data import DataError
from dtp_jax.fields import AT_LEAST_1, MOST, error, local_folder
from dtp_jax.run.arguments import Arguments, flags_of, parse
from dtp_jax.run.assemble import Plan, plan
from dtp_jax.run.build import Experiment
from dtp_jax.run.config import DRAWN, validate
from dtp_jax.run.extension import continued
from dtp_jax.run.layout import counted
from dtp_jax.run.several import require_one_schedule
from dtp_jax.run.workdir import FINISHED, Workdir
from dtp_jax.submit.options import Options
from dtp_jax.sweep.__main__ import arguments_of as arguments_of_sweep
from dtp_jax.sweep.command import planned, results_there


class Job(NamedTuple):
    """One command line that runs by itself."""

    label: str
    """In words, on the screen."""
    arguments: tuple[str, ...]
    """A tool and its arguments."""
    workdir: Path | None
    """Of the run, where the job is one run."""


class Jobs(NamedTuple):
    """All jobs of a command."""

    folder: Path
    """In which all of them work, and where the logs go."""
    jobs: list[Job]
    finished: list[str]
    """Labels of runs that need no job."""
    afterwards: tuple[str, ...] = ()
    """A tool and its arguments, once all jobs have done well."""
    together: bool = False
    """Whether they are meant to run beside each other."""


def train(args: list[str], options: Options, warn: Callable[[str], None]) -> Jobs:
    """One run, or with --config.seeds=N and --submit.array one job for each seed.

    Raises:
      ValueError: one line; the command is not valid.
    """
    seeds = flags_of(args).fields.get("seeds") if options.array else None
    given = _without_seeds(args) if seeds else args
    arguments = parse(["dtp train", *given])
    config, folder = arguments.config, arguments.workdir.path
    fixed = []
    if "workdir" not in flags_of(args).given:
        folder = _unused(folder)
        fixed = [f"--workdir={folder}"]
    if options.nodes > 1:
        if fixed:
            raise ValueError("--workdir is missing; allowed: a folder that all nodes see")
        if config["seed"] == DRAWN:
            raise error(
                "config.seed", DRAWN, "0 or more on several nodes: each process would draw its own"
            )
    count = _count("config.seeds", seeds.partition("=")[2] if seeds else config.get("seeds", 1))
    if not options.array or count == 1:
        return _checked(folder, [Job(str(folder), ("train", *args, *fixed), folder)], warn)
    if config["seed"] == DRAWN:
        raise error("config.seed", DRAWN, "0 or more with a job for each seed")
    if "config" not in flags_of(args).given and (folder / "config.json").is_file():
        given = [f"--config={folder / 'config.json'}", *given]  # also for seeds that are new there
    _continued(parse(["dtp train", *args, *fixed]))
    jobs, experiments = [], {}
    for seed in range(config["seed"], config["seed"] + count):
        place = folder / f"seed_{seed}"
        flags = [*given, "--config.seeds=1", f"--config.seed={seed}", f"--workdir={place}"]
        jobs.append(Job(f"seed {seed}", ("train", *flags), place))
        experiments[f"seed {seed}"] = _continued(parse(["dtp train", *flags]))
    require_one_schedule(folder, experiments)
    return _checked(folder, jobs, warn)._replace(afterwards=("train", *args, *fixed))


def compare(args: list[str], options: Options, warn: Callable[[str], None]) -> Jobs:
    """A job for each config and seed, in the folders of a comparison.

    Raises:
      ValueError: one line; the command is not valid.
    """
    found, overrides = arguments_of(args, "dtp compare")
    folder = local_folder("--workdir", found.workdir)
    jobs = []
    for entry in parse_configs(found.configs, overrides):
        for seed in range(found.seeds):
            place = folder / entry.label / f"seed_{seed}"
            flags = entry.arguments(overrides)[1:]
            flags += [f"--config.seed={seed}", f"--workdir={place}"]
            jobs.append(Job(f"{entry.label}, seed {seed}", ("train", *flags), place))
    return _checked(folder, jobs, warn)._replace(afterwards=("compare", *args))


def sweep(args: list[str], options: Options, warn: Callable[[str], None]) -> Jobs:
    """As many workers as --workers says, which share the trials of one sweep.

    Raises:
      ValueError: one line; the command is not valid.
    """
    found, overrides = arguments_of_sweep(args, "dtp sweep")
    if found.status:
        raise ValueError("--status is no job; allowed: --status without --submit")
    if options.nodes > 1:
        raise error(
            "--submit.nodes", options.nodes, "1: the workers of a sweep are jobs, --workers=N"
        )
    count = _count("--workers", found.workers)
    made = planned(found, overrides, "dtp sweep")
    folder = made.folder
    if results_there(found, overrides, made) == found.trials:
        return Jobs(folder, [], [f"the sweep of {counted(found.trials, 'trial')} in {folder}"])
    kept = {name: getattr(found, name) for name in ("config", "trials", "storage", "pruner")}
    flags = [f"--{name}={value}" for name, value in kept.items() if value is not None]
    flags += [f"--workdir={folder}", *(["--from-config"] if found.from_config else [])]
    workers = [Job(f"worker {n}", ("sweep", *flags, *overrides), None) for n in range(count)]
    return Jobs(folder, workers, [], together=True)


def _checked(folder: Path, jobs: list[Job], warn: Callable[[str], None]) -> Jobs:
    """The jobs whose runs are not finished, each of which could start here but for its device.

    Data may lie where only the jobs see it: what is wrong with it is no more than a warning.
    """
    left, finished, said = [], [], set()
    for job in jobs:
        try:
            if _status(parse(["dtp train", *job.arguments[1:]])) == FINISHED:
                finished.append(job.label)
                continue
        except DataError as problem:
            if str(problem) not in said:
                warn(f"on this machine: {problem}")
            said.add(str(problem))
        left.append(job)
    return Jobs(folder, left, finished)


def _continued(arguments: Arguments) -> Experiment:
    """What a command is about to run in its folder. Looks at no data: only the jobs may see it.

    Raises:
      ValueError: one line; it is not valid, or the folder is that of something else.
    """
    folder = Workdir(arguments.workdir.path)
    experiment = validate(arguments.config, arguments.overridden)
    limitless = {
        **experiment.config,
        "max_steps": 0,
    }  # a limit in steps can be checked with data alone
    fields, extensions = continued(limitless, folder.read_config(), 1, arguments.extended)
    folder.status({**fields, "max_steps": experiment.config["max_steps"]}, MOST)
    return experiment._replace(config=fields, extensions=extensions)


def _status(arguments: Arguments) -> str:
    """Of the run's folder; "" for several seeds, whose job looks after the folders of each."""
    made = _plan(arguments)
    return made.status if made.experiment.config["seeds"] == 1 else ""


def _plan(arguments: Arguments) -> Plan:
    return plan(
        arguments.config,
        Workdir(arguments.workdir.path),
        overridden=(*arguments.overridden, "seed"),  # an array of its own gives a job no seed
        extended=arguments.extended,
    )


def _count(name: str, given: str | int) -> int:
    text = str(given)
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise error(name, given, AT_LEAST_1.allowed)
    return int(text)


def _without_seeds(args: Sequence[str]) -> list[str]:
    """The arguments but for --config.seeds, whose value may be the next one."""
    names = ("--config.seeds", "-config.seeds")
    kept, skip = [], False
    for argument in args:
        if skip or argument.partition("=")[0] in names:
            skip = not skip and argument in names
            continue
        kept.append(argument)
    return kept


def _unused(folder: Path) -> Path:
    """This folder, or one beside it that nobody has."""
    beside = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([folder], beside) if not place.exists())
