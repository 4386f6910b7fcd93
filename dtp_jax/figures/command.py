"""A figure from its arguments to its files."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dtp_jax import fields
from dtp_jax.data import DataError, locate
from dtp_jax.figures.drawing import draw
from dtp_jax.figures.jobs import Job, Progress, compute, jobs_of, missing
from dtp_jax.figures.protocol import FIGURES, Protocol, by_flags, protocol
from dtp_jax.figures.store import Store
from dtp_jax.run import backend, cli
from dtp_jax.run.assemble import remark_on_place
from dtp_jax.run.files import DiskError, disk_errors, write_json
from dtp_jax.run.provenance import Request, now, provenance
from dtp_jax.run.screen import Screen

OF_A_JOB = ("commit", "host", "device", "versions")
"""What a job keeps of its origin, beside its date."""
LINE_SECONDS = 30.0
"""Without a terminal: at most one line of progress in this time."""


def figures(args: argparse.Namespace, command: str, screen: Screen) -> int:
    """Computes what is missing, draws, shows the table.

    Args:
      args: see `__main__.parser_of`. command: as the records quote it.

    Returns:
      The exit code.
    """
    try:
        backend.check_flags()
        backend.prepare()
        backend.require_devices()
        settings = dict(vars(args))
        figure, quick, only_draw = (settings.pop(name) for name in ("figure", "quick", "draw"))
        if figure not in FIGURES:
            raise fields.error("FIGURE", figure, ", ".join(FIGURES))
        default = f"runs/figures/{figure}" + ("_quick" if quick else "")
        folder = fields.local_folder("--workdir", settings.pop("workdir", default))
        made = protocol(figure, settings, quick=quick)
        origin = provenance(Request(figure, (), command), _config(made), None)
        store = Store(folder, {name: origin[name] for name in OF_A_JOB})
        (store.check if only_draw else store.open)(made)
    except ValueError as error:
        screen.error(str(error))
        return cli.EXIT_INVALID
    try:
        with disk_errors(folder):
            jobs = jobs_of(made)
            if not only_draw:
                if damaged := _damaged(missing(jobs, store), store):
                    screen.warn(f"{damaged} of {store.jobs} cannot be read: computed again")
                for line in _on_the_place(made):
                    screen.warn(line)
                with _progress(screen) as progress:
                    compute(made, store, progress)
            return _drawn(made, jobs, store, origin, screen)
    except ValueError as error:  # the images that are there are too few
        screen.error(str(error))
        return cli.EXIT_INVALID
    except DataError as error:
        screen.error(str(error))
        return cli.EXIT_DATA
    except DiskError as error:
        screen.error(f"{error}; once that is mended, the same command goes on")
        return cli.EXIT_DISK


def _on_the_place(made: Protocol) -> list[str]:
    """That --data_dir is not there, where the data is elsewhere.

    Raises:
      DataError: it is nowhere.
    """
    experiment = next(iter(made.experiments.values()))
    source = locate(experiment.config["dataset"], experiment.config["data_dir"])
    return [by_flags(line) for line in remark_on_place(experiment, source, ("data_dir",))]


def _config(made: Protocol) -> dict[str, Any]:
    """That of the first rule."""
    return next(iter(made.experiments.values())).config


def _damaged(left: list[Job], store: Store) -> str:
    """The file of a job that cannot be read, and how many more; "" where all can be."""
    names = [job.name for job in left if store.is_damaged(job.name)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}.npz{more}" if names else ""


def _drawn(made: Protocol, jobs: list[Job], store: Store, origin: dict, screen: Screen) -> int:
    """Pictures, tables, where they come from. Returns the exit code."""
    left = missing(jobs, store)
    damaged = _damaged(left, store)
    unread = f", and {damaged} cannot be read" if damaged else ""
    if not any(store.has(job.name) for job in jobs):
        problem = f"no job has finished in {store.folder}{unread}"
        screen.error(f"--draw: {problem}; allowed: without --draw")
        return cli.EXIT_INVALID
    with screen.task("drawing"):
        drawn = draw(made, store)
    computed = {job.name: store.origin(job.name) for job in jobs if store.has(job.name)}
    record = {**origin, "date": now(), **made.written(), "jobs": computed}
    write_json(store.folder / f"figure_{made.figure}.json", record)
    screen.table(
        "mean ± standard deviation over seeds, beside what is published",
        dict(zip(drawn.header, ["left"] + ["right"] * len(drawn.header))),
        drawn.rows,
        drop=("seeds",),
    )
    if left:
        screen.note(f"{len(left)} of {len(jobs)} jobs are not there yet{unread}")
    screen.note(f"{store.folder}: {', '.join(file.name for file in drawn.files)}")
    return 0


@contextmanager
def _progress(screen: Screen) -> Iterator[Progress]:
    """A line that moves; on a pipe, one now and then."""
    last = -LINE_SECONDS

    def plain(what: str, done: float, total: float) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            screen.progress(f"{done / total:.0%} {what}")

    with screen.hearing(), screen.task("preparing") as moving:
        yield moving or plain
