"""A sweep from its arguments to its results."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dtp_jax.data import DataError
from dtp_jax.fields import FOLDER, error, local_folder
from dtp_jax.parallel import processes
from dtp_jax.run import backend, cli
from dtp_jax.run.failures import INTERRUPTED
from dtp_jax.run.files import DiskError
from dtp_jax.run.layout import counted
from dtp_jax.run.loading import load_config, load_plugins
from dtp_jax.run.screen import Screen
from dtp_jax.sweep import plan, pool
from dtp_jax.sweep.dimensions import own_values
from dtp_jax.sweep.files import write_results
from dtp_jax.sweep.results import Row, importances, in_range, rows
from dtp_jax.sweep.study import (
    DATABASE,
    JOURNAL,
    Study,
    StudyError,
    is_finished,
    masked,
    open_storage,
    require_address,
)
from dtp_jax.sweep.tell import Teller, show
from dtp_jax.sweep.trial import Ended
from dtp_jax.sweep.worker import work


def sweep(
    args: argparse.Namespace,
    overrides: list[str],
    command: str,
    given: Sequence[str],
    screen: Screen,
) -> int:
    """Goes on with a sweep until it has its results. Returns the exit code.

    Args:
      overrides: what was given beside the flags of a sweep. command: as it was typed.
      given: its arguments, for other processes.
    """
    if processes.several(os.environ):
        screen.error("there are several processes; allowed: one, and --workers=N or further starts")
        return cli.EXIT_INVALID
    environment = pool.prepare(args.workers)
    return _refusing(lambda: _sweep(args, overrides, command, given, environment, screen), screen)


def _sweep(
    args: argparse.Namespace,
    overrides: list[str],
    command: str,
    given: Sequence[str],
    environment: dict[str, str],
    screen: Screen,
) -> int:
    with _checks():
        backend.check_flags()
        backend.prepare()
        study, made = _begin(args, overrides, masked(command))
    teller = Teller(made.folder, args.trials, screen)
    teller.tell(study.trials(), aloud=False)
    if args.worker is not None:
        pool.end_with_parent()
        return _end(work(made, study, args.trials, teller, screen), screen)
    done = _finished(study, args.trials)
    if done == args.trials:
        screen.note(f"{made.folder}: this sweep is done; more trials with a larger --trials")
        return _finish(made, study, screen)
    _start(made, args, done, screen)
    if args.workers == 1:
        ended = work(made, study, args.trials, teller, screen)
    else:
        start = partial(pool.start, made.folder, given, args.workers, environment)
        ended = pool.work(study, args.trials, args.workers, start, teller, screen)
    return _end(ended, screen) if ended.code else _finish(made, study, screen)


def status(args: argparse.Namespace, screen: Screen) -> int:
    """Shows a sweep, and changes nothing. Returns the exit code."""
    jax.config.update("jax_platforms", "cpu")  # nothing is computed
    return _refusing(lambda: _status(args, screen), screen)


def _status(args: argparse.Namespace, screen: Screen) -> int:
    with _checks():
        folder = _folder(args)
    study = _study(args, folder, writes=False)
    record = study.record()
    if record is None:
        raise StudyError(
            f"--workdir is {str(folder)!r}: no sweep of this name in its storage; allowed: the folder of a "
            "sweep, and its --storage"
        )
    found = rows(study.trials(), folder)
    show(found, record, importances(found, record), screen)
    return 0


def _refusing(action: Callable[[], int], screen: Screen) -> int:
    """What an action returns, or the exit code of what it raises, once that is said in a line."""
    try:
        return action()
    except DataError as problem:
        return _fail(screen, Ended(cli.EXIT_DATA, str(problem)))
    except DiskError as problem:
        return _fail(screen, Ended(cli.EXIT_DISK, str(problem)))
    except StudyError as problem:
        return _fail(screen, Ended(cli.EXIT_INVALID, str(problem)))


@contextlib.contextmanager
def _checks() -> Iterator[None]:
    """A context whose ValueErrors are the user's; those of what comes later are this program's."""
    try:
        yield
    except ValueError as problem:
        raise StudyError(str(problem)) from problem


def _folder(args: argparse.Namespace) -> Path:
    """That of the sweep.

    Raises:
      ValueError: one line.
    """
    if args.workdir is not None:
        return local_folder("--workdir", args.workdir)
    load_plugins(args.plugin)
    return Path("runs") / "sweep" / load_config(args.config).name


def planned(
    args: argparse.Namespace, overrides: list[str], command: str, *, trains_here: bool = False
) -> plan.Plan:
    """What is to be done, checked. Nothing is made.

    Args:
      trains_here: False: the data may lie where only the workers see it.

    Raises:
      ValueError, DataError: one line.
    """
    pruner = args.pruner or "halving"
    made = plan.make(args.config, overrides, _folder(args), pruner, command)
    own = own_values(made.dimensions, made.experiment) if args.from_config else None
    made = made._replace(first=own)
    try:
        unused = plan.easiest_trial(made).unused
    except DataError:
        if trains_here:
            raise
        return made
    return made._replace(remarks=list(dict.fromkeys([*made.remarks, *unused])))


def results_there(args: argparse.Namespace, overrides: list[str], made: plan.Plan) -> int:
    """How many results this sweep has, as far as files on this machine tell. Nothing is made.

    Raises:
      ValueError: one line; what is there is of another sweep, or --storage is no address.
    """
    if args.storage and not args.storage.endswith(JOURNAL):
        require_address(args.storage)
        return 0
    if not (Path(args.storage) if args.storage else made.folder / DATABASE).is_file():
        return 0
    study = _study(args, made.folder, writes=False)
    found = study.record()
    if found is None:
        return 0
    _agreed(made, study, found, args, overrides)
    return _finished(study, args.trials)


def _begin(args: argparse.Namespace, overrides: list[str], command: str) -> tuple[Study, plan.Plan]:
    """The study, and what is to be done; both are made or checked.

    Raises:
      ValueError, DataError, DiskError: one line.
    """
    made = planned(args, overrides, command, trains_here=True)
    folder = made.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise error("--workdir", str(folder), f"{FOLDER}; {problem.strerror}") from problem
    study = _study(args, folder)
    found = study.record()
    if found is None:
        study.make(made.record)
        found = study.record()
    return study, _agreed(made, study, found, args, overrides)


def _agreed(
    made: plan.Plan,
    study: Study,
    found: dict[str, Any],
    args: argparse.Namespace,
    overrides: list[str],
) -> plan.Plan:
    """The plan, with what nobody has said as it was when the sweep began. Raises ValueError where it is another.

    Args:
      found: the record of the study.
    """
    own, remarks, seed = made.first, made.remarks, found["fields"]["seed"]
    if made.record["fields"]["seed"] != seed or args.pruner is None:
        pruner = args.pruner or found["pruner"]
        command = made.record["command"]
        made = plan.make(args.config, overrides, made.folder, pruner, command, seed)
    plan.require_same(found, made.record, made.folder)
    if own is not None and study.first_values() not in (None, own):
        raise ValueError(
            "--from-config comes too late: this sweep has drawn the values of its first trial; "
            f"allowed: without it, or a folder other than {made.folder}"
        )
    return made._replace(first=own, remarks=remarks)


def _finished(study: Study, trials: int) -> int:
    """How many of these trials have a result."""
    return sum(is_finished(one) for one in study.trials() if one.number < trials)


def _study(args: argparse.Namespace, folder: Path, *, writes: bool = True) -> Study:
    storage = open_storage(args.storage, folder, writes=writes)
    return Study(storage, folder, is_own=args.storage is None)


def _start(made: plan.Plan, args: argparse.Namespace, done: int, screen: Screen) -> None:
    """The start-up screen: what is searched, and where."""
    config = made.experiment.config
    there = f", {done} of them there already" if done else ""
    facts = {
        "sweep": f"{made.record['config']}: {counted(args.trials, 'trial')} of "
        f"{counted(config['epochs'], 'epoch')}{there}",
        "rule": f"{config['rule']}, {config['network']} on {config['dataset']}, seed {config['seed']}",
        "pruner": made.pruner,
        "workdir": str(made.folder),
    }
    screen.facts(facts)
    screen.table(
        "what is searched",
        {"parameter": "left", "from": "left"},
        [[name, in_range(one)] for name, one in made.record["space"].items()],
        drop=(),
    )
    for remark in made.remarks:
        screen.note(f"note: {remark}")


def _finish(made: plan.Plan, study: Study, screen: Screen) -> int:
    """Writes and shows the results. Returns the exit code."""
    found = rows(study.trials(), made.folder)
    record = study.record()
    with screen.task("looking at the results"):
        shares = importances(found, record)
    with screen.task("drawing the picture"):
        files = write_results(found, record, shares, made.folder)
    show(found, record, shares, screen)
    screen.note(f"\n{made.folder}: {', '.join(files)}")
    if found and all(one.came_to_nothing for one in found):
        return _fail(screen, _fruitless(found[0], len(found)))
    return 0


def _fruitless(first: Row, trials: int) -> Ended:
    """How a sweep ends whose trials all came to nothing: as its first one did."""
    why = f"trial {first.number} {first.state}: {first.reason}"
    return Ended(first.code, f"none of {counted(trials, 'trial')} has an accuracy; {why}")


def _end(ended: Ended, screen: Screen) -> int:
    """Says why a sweep ends before it is done."""
    if ended.code >= INTERRUPTED:
        screen.note("stopped, and saved; the same command goes on from here")
        return ended.code
    return _fail(screen, ended) if ended.code else 0


def _fail(screen: Screen, ended: Ended) -> int:
    screen.error(ended.message)
    return ended.code
