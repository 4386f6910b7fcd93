"""Seeds that are trained together: one program, whose leading axis is that of the runs.

On one device it is a vmap; on several each has its share of the runs, and no device asks another for anything.
Beside the chunks of steps every run is the `Run` that it is alone: its metrics, validation, checkpoints.
"""

import contextlib
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dtp_jax.data import Chunk
from dtp_jax.data.feeding import fits_device
from dtp_jax.learning.learner import Metrics, TrainState
from dtp_jax.parallel.mesh import SEEDS, replicated, seeds_mesh
from dtp_jax.run import program
from dtp_jax.run.assemble import Shared, read
from dtp_jax.run.failures import EXIT_CRASHED, INTERRUPTED, explained
from dtp_jax.run.loop import Interrupted, Run, StopSignal, prepare
from dtp_jax.run.provenance import Request
from dtp_jax.run.screen import BriefScreen, Screen
from dtp_jax.run.several import Outcome, Seed, ended
from dtp_jax.run.signals import stop_signals
from dtp_jax.run.workdir import FINISHED


class Member:
    """One of the runs, from its folder's ownership to its end."""

    def __init__(self, seed: Seed, screen: Screen):
        self.seed, self.held = seed, contextlib.ExitStack()
        self.screen = SeedScreen(screen.console, seed.head)
        self.run: Run | None = None
        self.code: int | None = None
        """Its exit code, None while it goes on."""

    def tried(self, job: Callable[["Member"], None]) -> None:
        """job(self). Where it fails, this run has ended, and the others go on."""
        try:
            job(self)
        except Interrupted as interruption:
            self._end(INTERRUPTED + interruption.signal, interruption)
        except Exception as error:
            try:
                text, code = explained(error, self.seed.made.workdir)
                self.screen.error(text)
            except Exception:
                traceback.print_exc()
                code = EXIT_CRASHED
            self._end(code, error)

    def _end(self, code: int, error: Exception | None = None) -> None:
        self.code = code
        if error is None:
            self.held.close()
        else:
            self.held.__exit__(type(error), error, error.__traceback__)

    def finish(self) -> None:
        """Evaluates, writes the summary, gives the folder up."""
        self.run.finish()
        self._end(0)


class SeedScreen(BriefScreen):
    """Of one of several runs at once: its warnings and errors, which say whose they are."""

    @contextlib.contextmanager
    def task(self, what: str) -> Iterator[None]:
        """Nothing."""
        yield None

    def warn(self, text: str) -> None:
        """A line on stderr."""
        super().warn(f"{self.head}: {text}")

    def error(self, text: str) -> None:
        """A line on stderr: why the run ends."""
        super().error(f"{self.head}: {text}")


class LastNumbers:
    """In the place of a run's bar: what it would show, for the mean over all runs."""

    def __init__(self) -> None:
        self.shown: dict[str, Any] = {}
        self._line: tuple[Any, ...] | None = None

    def update(self, epoch: int, steps: int, **numbers: Any) -> None:
        """See `Bar.update`."""
        self.shown = {"epoch": epoch, "steps": steps, **numbers}

    def end_epoch(self, *numbers: Any) -> None:
        """See `Bar.end_epoch`."""
        self._line = numbers

    def take_line(self) -> tuple[Any, ...] | None:
        """What a pass has ended with since this was asked; None where none has ended."""
        line, self._line = self._line, None
        return line


def train_together(
    seeds: Sequence[Seed], screen: Screen, live: Screen, request: Request, *, take_over: bool
) -> list[Outcome] | None:
    """Trains, or goes on training, all seeds at once. One that fails does not end the others.

    Args:
      screen: has a line for every seed that ends. live: shows what all do.
      take_over: see `Workdir.owned`.

    Returns:
      How each ended. A signal ends all that have not finished, when they are saved. None, and nothing is
      done, where the images do not fit the device: those that are streamed are each run's own.

    Raises:
      DataError: the data is corrupt. Nothing has been written then.
    """
    before = [seed.made.workdir.read_summary() for seed in seeds]
    members = [Member(seed, screen) for seed in seeds]
    shared = Shared()
    first = next(seed.made for seed in seeds if seed.made.status != FINISHED)
    splits = read(first, live, shared)
    if first.experiment.config["images_on"] == "auto" and not fits_device(splits):
        live.note("the images do not fit the device; the seeds are trained one after the other")
        return None

    def own(member: Member) -> None:
        member.held.enter_context(member.seed.made.workdir.owned(take_over=take_over))

    def make(member: Member) -> None:
        made, asked = member.seed.made, member.seed.asked(request)
        splits = read(made, member.screen, shared)
        given = (made, splits, asked, member.screen, heard, None, shared)
        member.run = prepare(*given)
        member.run.bar = LastNumbers()
        member.held.enter_context(member.run.opened())

    with contextlib.ExitStack() as everything:
        for member in members:
            everything.push(member.held)
            if member.seed.made.status == FINISHED:
                member.code = 0
            else:
                member.tried(own)
        going_on = [member for member in members if member.code is None]
        heard = Heard(everything.enter_context(stop_signals(live.note, live.abandon)))
        with live.task("preparing the runs"):
            for member in going_on:
                member.tried(make)
        _train([member for member in going_on if member.code is None], live, heard)
    if heard.number is not None:
        place = first.workdir.path.parent
        screen.note(
            f"stopped; all seeds are saved; to go on: the same command with --workdir={place}"
        )
    return [
        ended(member.seed, member.code, old, screen if member.code < INTERRUPTED else None)
        for member, old in zip(members, before, strict=True)
    ]


class Heard:
    """A signal as all runs hear it: asked for once after every chunk, so that all are saved, or none."""

    def __init__(self, ask: StopSignal):
        self._ask = ask
        self.number: int | None = None
        self.is_alone = False
        """Whether one run trains without the others: it asks by itself then."""

    def __call__(self) -> int | None:
        if self.is_alone:
            self.listen()
        return self.number

    def listen(self) -> None:
        """Asks."""
        self.number = self._ask()


def _train(members: list[Member], screen: Screen, heard: Heard) -> None:
    """Trains runs that are prepared to their ends."""
    _catch_up(_going_on(members), screen, heard)
    if training := _going_on(members):
        with screen.task("compiling the training step"):
            program_ = Together([member.run for member in training])
        run = training[0].run
        with screen.training(run.config["epochs"], run.parts.steps_per_epoch) as bar:
            while training := _going_on(members):
                _train_some(training, program_, bar, heard)
    for member in members:
        if member.code is None:
            member.tried(Member.finish)


def _catch_up(members: list[Member], screen: Screen, heard: Heard) -> None:
    """Takes those that were stopped before the others to where these are, each alone."""
    furthest = max((member.run.progress.step for member in members), default=0)
    heard.is_alone = True
    for member in members:
        if member.run.progress.step < furthest and heard.number is None:
            screen.note(f"{member.seed.head}: catches up from step {member.run.progress.step}")
            member.tried(lambda member: member.run.catch_up(furthest))
    heard.is_alone = False
    if heard.number is not None:  # the others are saved as they are
        for member in members:
            if member.code is None:
                member.code = INTERRUPTED + heard.number


def _going_on(members: list[Member]) -> list[Member]:
    return [member for member in members if member.code is None and not member.run.is_over()]


def _train_some(members: list[Member], program_: "Together", bar: Any, heard: Heard) -> None:
    """One chunk of steps of all runs, then whatever is due after it."""
    count = min(member.run.steps_of_next_chunk() for member in members)
    given: dict[int, Chunk] = {}

    def begin(member: Member) -> None:
        member.run.begin_pass()
        given[id(member.run)] = member.run.given(count)

    for member in members:
        member.tried(begin)
    seconds = program_.train(given, count)
    heard.listen()
    for member in members:
        if member.code is None:
            found = program_.found[id(member.run)]
            member.tried(lambda m, found=found: m.run.take_in(given[id(m.run)], found, seconds))
    _show(bar, [member.run.bar for member in members if member.code is None])


class Together:
    """The compiled chunks of several runs, and the states of all of them."""

    def __init__(self, runs: list[Run]):
        """`runs`: at the same step."""
        self.runs, self.among = runs, seeds_mesh(len(runs))
        self.found: dict[int, Metrics] = {}
        """Of the last chunk, by the id of the run."""
        devices = 1 if self.among is None else self.among.size
        # Every device has as many: some train the last run once more, and nobody looks at it.
        self._filled = [*runs, *runs[-1:] * (-len(runs) % devices)]
        self._state = self._divided(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run.state for run in self._filled))
        )
        like = runs[0].parts.feed.train.like
        first = runs[0].parts.feed.train.read(0, 0, 1)
        self._images = [self._on_all(array) for array in (first.images, first.labels)]
        self._chunks = {
            trains: self._compiled(trains, like)
            for trains in set().union(*(run.ways_left() for run in runs))
        }
        used = max(map(program.memory_bytes, self._chunks.values()))
        for run in runs:
            run.compile_rest(used)

    def _compiled(self, trains: tuple[str, ...], like: Chunk) -> Any:
        parts, config = self.runs[0].parts, self.runs[0].config
        chunk = program.train_chunk(
            parts.learner._replace(trains=trains),
            parts.experiment.data,
            augmented=config["augment"],
            seeds=True,
            among=self.among,
        )
        shape = (len(self._filled), *like.batches.shape)
        batches = jax.ShapeDtypeStruct(shape, np.int32, sharding=self._sharding())
        return chunk.lower(self._state, *self._images, batches, np.int32(1)).compile()

    def _sharding(self) -> NamedSharding | None:
        return None if self.among is None else NamedSharding(self.among, PartitionSpec(SEEDS))

    def _divided(self, tree: Any) -> Any:
        return tree if self.among is None else jax.device_put(tree, self._sharding())

    def _on_all(self, array: jax.Array) -> jax.Array:
        """An array of the first device on all of them; there it stays as it is."""
        if self.among is None:
            return array
        copies = [jax.device_put(array, device) for device in self.among.devices.flat]
        whole = replicated(self.among)
        return jax.make_array_from_single_device_arrays(array.shape, whole, copies)

    def train(self, given: dict[int, Chunk], count: int) -> float:
        """Takes steps: every run then has its state, and `found` its metrics. Returns the seconds.

        Args:
          given: what each is trained on, by the id of the run; one that is not there has ended, and is trained
            on whatever there is.
        """
        start, some = time.perf_counter(), next(iter(given.values()), None)
        if some is None:
            return 0.0
        batches = np.stack([given.get(id(run), some).batches for run in self._filled])
        trains = self._trains(given)
        self._state, found = self._chunks[trains](
            self._state, *self._images, self._divided(batches), np.int32(count)
        )
        found, states = jax.device_get(found), self._states()
        for n, run in enumerate(self.runs):
            if id(run) in given:
                run.state = states(n)
                self.found[id(run)] = jax.tree.map(lambda entries, n=n: entries[n][:count], found)
        return time.perf_counter() - start

    def _trains(self, given: dict[int, Chunk]) -> tuple[str, ...]:
        run = next(run for run in self.runs if id(run) in given)
        return run.parts.passes[run.number()].trains

    def _states(self) -> Callable[[int], TrainState]:
        """A function that gives the state of a run, on the first device."""
        each = len(self._filled) // (1 if self.among is None else self.among.size)
        here = jax.devices()[0]

        def state(n: int) -> TrainState:
            device, slot = divmod(n, each)
            shares = jax.tree.map(lambda a: a.addressable_data(device), self._state)
            return jax.device_put(_taken(shares, slot), here)

        return state


@jax.jit
def _taken(tree: Any, slot: int) -> Any:
    return jax.tree.map(lambda a: a[slot], tree)


def _show(bar: Any, shown: list[LastNumbers]) -> None:
    """The means of what the runs show; images/s are those of all."""
    if not shown:
        return
    numbers = [one.shown for one in shown]
    first = numbers[0]
    bar.update(
        first["epoch"],
        first["steps"],
        rate=sum(one["rate"] for one in numbers),
        left=max(one["left"] for one in numbers),
        feedback_loss={
            name: statistics.fmean(one["feedback_loss"][name] for one in numbers)
            for name in first["feedback_loss"]
        },
        only=first["only"],
        **{name: statistics.fmean(one[name] for one in numbers) for name in ("loss", "accuracy")},
    )
    lines = [one.take_line() for one in shown]
    if all(lines):
        epoch, validation, angle, updates = zip(*lines, strict=True)
        bar.end_epoch(epoch[0], _mean(validation), _mean_angle(angle), _mean(updates))


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or of each field of tuples; None where any is missing."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], tuple):
        return type(values[0])(*map(statistics.fmean, zip(*values, strict=True)))
    return statistics.fmean(values)


def _mean_angle(angles: Sequence[tuple[str, float] | None]) -> tuple[str, float] | None:
    if any(angle is None for angle in angles):
        return None
    return angles[0][0], statistics.fmean(degrees for _, degrees in angles)
