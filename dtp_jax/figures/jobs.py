"""The jobs of a figure: one for each seed and map that is trained, one for each seed and series measured."""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from dtp_jax.data import load_splits, locate
from dtp_jax.figures.protocol import Protocol, Series
from dtp_jax.figures.store import Store
from dtp_jax.figures.training import Batch, batch_of, train_map
from dtp_jax.figures.updates import measure
from dtp_jax.learning.learner import Learner
from dtp_jax.run.layout import duration

WAIT_SECONDS = 2.0
"""Between looks at jobs that another process has."""
Progress = Callable[[str, float, float], None]
"""(what goes on, done, of how much)"""


class Job(NamedTuple):
    """One file of results."""

    name: str
    network: str
    rule: str
    seed: int
    n: int | None
    """The map that is trained, counted from 0; None: a series is measured."""
    series: Series | None
    needs: dict[str, str]
    """Jobs that must have finished, by the block whose map they train."""
    cost: float
    """Floating-point operations of an example: what the time left goes by."""


def jobs_of(protocol: Protocol) -> list[Job]:
    """All jobs, in an order in which each has what it needs; of a seed, the longest ones first."""
    found = []
    for seed in protocol.seeds:
        pairs = [(network, rule) for network in protocol.networks for rule in protocol.rules]
        jobs = [job for pair in pairs for job in _jobs(protocol, *pair, seed)]
        found += sorted(jobs, key=lambda job: (job.series is not None, -job.cost))
    return found


def _jobs(protocol: Protocol, network: str, rule: str, seed: int) -> list[Job]:
    """Those of one network, rule and seed."""
    series = [one for one in protocol.series if one.rule == rule]
    learner, trainings = protocol.learner(network, rule), {}
    if any(one.feedback in ("trained", "stale") for one in series):
        maps = list(enumerate(learner.trained))
        for n, block in maps if protocol.figure != "4.2" else maps[-1:]:
            name = f"{network}_{rule}_{block.name}_seed{seed}"
            cost = learner.feedback_flops[n]
            trainings[block.name] = Job(name, network, rule, seed, n, None, {}, cost)
    if protocol.figure == "4.2":
        return list(trainings.values())
    names = {block: job.name for block, job in trainings.items()}
    return [*trainings.values()] + [
        Job(
            name=measured(network, one, seed),
            network=network,
            rule=rule,
            seed=seed,
            n=None,
            series=one,
            needs=names if one.feedback in ("trained", "stale") else {},
            cost=4 * sum(block.forward_flops for block in learner.network),
        )
        for one in series
    ]


def measured(network: str, series: Series, seed: int) -> str:
    """Name of the job that measures a series."""
    return f"{network}_{series.rule}_{series.feedback}_seed{seed}"


def missing(jobs: list[Job], store: Store) -> list[Job]:
    """What is not done yet, without trainings whose results have been measured: these files are all that
    a figure is drawn from, and can be kept without the weights."""
    left = [job for job in jobs if not store.has(job.name)]
    needed = {name for job in jobs for name in job.needs.values()}
    still = {name for job in left for name in job.needs.values()}
    return [job for job in left if job.name not in needed or job.name in still]


def compute(protocol: Protocol, store: Store, progress: Progress) -> None:
    """Does what is `missing`, beside other processes that do the same.

    Raises:
      DataError: the images are missing or corrupt.
    """
    jobs = jobs_of(protocol)
    clock = Clock(jobs, store, progress)
    batches = lru_cache(maxsize=4)(lambda *names: _prepared(protocol, *names))
    todo = missing(jobs, store)
    while todo:
        left = [job for job in todo if not _try(job, store, batches, clock)]
        if len(left) == len(todo):
            clock.show(f"waiting for another process: {left[0].name}")
            time.sleep(WAIT_SECONDS)
        todo = left


def _try(
    job: Job, store: Store, batches: Callable[..., tuple[Learner, Batch]], clock: "Clock"
) -> bool:
    """Does a job unless another process has it, or it needs one that has not finished. Whether it is done."""
    with store.claim(job.name) as is_mine:
        if not is_mine or not all(store.has(name) for name in job.needs.values()):
            return False
        if not store.has(job.name):
            clock.start(job)
            learner, batch = batches(job.network, job.rule, job.seed)
            if job.series is None:
                train_map(store, job.name, learner, job.n, batch, clock.iterations)
            else:
                measure(store, job.name, job.series, learner, batch, job.needs)
        clock.end(job)
        return True


def _prepared(protocol: Protocol, network: str, rule: str, seed: int) -> tuple[Learner, Batch]:
    experiment, learner = protocol.experiments[network, rule], protocol.learner(network, rule)
    config = experiment.config
    source = locate(config["dataset"], config["data_dir"])
    splits = load_splits(source, config["val_split"], seed)
    return learner, batch_of(learner, experiment, splits, seed)


class Clock:
    """How much is done, and how long the rest will take at the speed so far."""

    def __init__(self, jobs: list[Job], store: Store, progress: Progress):
        self.progress = progress
        self.total = sum(job.cost for job in jobs)
        left = {job.name for job in missing(jobs, store)}
        self.done = sum(job.cost for job in jobs if job.name not in left)
        self.job: Job | None = None
        self.here = 0.0
        """Done by this process, in its `seconds`."""
        self.seconds = 0.0

    def start(self, job: Job) -> None:
        """A job begins, or goes on."""
        self.job, self.since, self.first = job, time.monotonic(), None
        self.show(job.name)

    def iterations(self, done: int, of: int) -> None:
        """So many iterations of the job's have been done."""
        share = done / of
        self.first = share if self.first is None else self.first
        here = (share - self.first) * self.job.cost
        self.show(f"{self.job.name}, iteration {done} of {of}", share * self.job.cost, here)

    def end(self, job: Job) -> None:
        """A job is done."""
        if self.job is job:
            self.here += job.cost * (1 - (self.first or 0))
            self.seconds += time.monotonic() - self.since
        self.done += job.cost
        self.job = None

    def show(self, what: str, more: float = 0.0, here: float = 0.0) -> None:
        """What goes on, and the time left once anything is known of it."""
        spent = self.seconds + (time.monotonic() - self.since if self.job else 0)
        done = self.done + more
        speed = (self.here + here) / spent if spent else 0
        left = (self.total - done) / speed if speed else math.nan
        self.progress(what + (f", {duration(left)} left" if speed else ""), done, self.total)
