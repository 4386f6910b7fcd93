"""Runs that differ in their seeds: one config, a folder seed_<n> for each, what they have in common made once.

A folder of seeds holds config.json, with `seeds`, and summary.json: means over the runs that finished, and
each of them. Every seed_<n> in it is the folder of a run like any other, and can go on alone.
"""

import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dtp_jax.parallel.mesh import Mesh
from dtp_jax.run.arguments import Arguments
from dtp_jax.run.assemble import Plan, Shared, plan
from dtp_jax.run.build import Experiment, schedule_of
from dtp_jax.run.extension import Extension, from_json
from dtp_jax.run.failures import EXIT_CRASHED, INTERRUPTED, outcome
from dtp_jax.run.layout import duration
from dtp_jax.run.provenance import Request, provenance
from dtp_jax.run.screen import BriefScreen, Screen
from dtp_jax.run.signals import until_stopped
from dtp_jax.run.workdir import FINISHED, Workdir

MEANS = ("val_accuracy", "test_accuracy", "test_top5_accuracy")
"""In summary.json, each with its standard deviation as <name>_std."""
OTHER_MEANS = ("steps", "wall_seconds", "images_per_second", "diagnostics_seconds", "memory_bytes")
OF_EACH = ("seed", "steps", *MEANS, "best_val_accuracy", "test_accuracy_of_best_val")
OF_EACH += ("ended_by", "wall_seconds", "images_per_second")
"""What summary.json says of each seed."""
Train = Callable[["Seed", Screen, Shared], int]
"""Trains a run; returns its exit code."""


class Seed(NamedTuple):
    """A run of several, planned."""

    number: int
    made: Plan
    head: str
    """Before what it shows."""

    def asked(self, request: Request) -> Request:
        """What was asked for, as its own folder records it."""
        return request._replace(overrides=[*request.overrides, f"--config.seed={self.number}"])


class Outcome(NamedTuple):
    """How a run of several ended, and its summary if it did well."""

    seed: int
    workdir: Path
    code: int
    summary: dict[str, Any] | None


def plan_seeds(
    made: Plan, arguments: Arguments, head: Callable[[int], str] = "seed {}".format
) -> list[Seed]:
    """A plan for every seed of a config, in its folder's seed_<n>.

    Args:
      made: of the folder of all. head: what stands before what a seed shows.

    Raises:
      ValueError, DataError: see `plan`; or some would be made longer, and others would begin so long.
    """
    config, extensions = made.experiment.config, made.experiment.extensions
    first, count = config["seed"], config["seeds"]
    found = []
    for number in range(first, first + count):
        folder = Workdir(made.workdir.path / f"seed_{number}")
        given, extended = arguments.config, arguments.extended
        saved = folder.read_config()
        if saved is None:  # as the others were, and are to be
            given, extended = {**given, "t_max": config["t_max"]}, extensions
        elif extensions and (saved.get("extended") or saved["epochs"] < config["epochs"]):
            given = {**given, "t_max": extensions[-1].t_max}
        own = plan(
            {**given, "seed": number, "seeds": 1},
            folder,
            overridden=(*arguments.overridden, "seed"),
            extended=extended,
        )
        found.append(Seed(number, own._replace(unused=()), head(number)))
    require_one_schedule(
        made.workdir.path, {f"seed {seed.number}": seed.made.experiment for seed in found}
    )
    return found


def require_one_schedule(folder: Path, experiments: Mapping[str, Experiment]) -> None:
    """Raises ValueError where runs that are to be averaged would come to have different learning rates.

    Those that have them already go on: an older version made such folders.

    Args:
      folder: of all. experiments: as each is about to run in its folder there, seed_<n>, by "seed <n>".
    """
    schedules = {name: schedule_of(one) for name, one in experiments.items()}
    if len(set(schedules.values())) == 1 or not any(one.extensions for one in experiments.values()):
        return
    had = {name: _extensions_had(folder / name.replace(" ", "_")) for name in experiments}
    if all(_is_as_it_was(had[name], one.extensions) for name, one in experiments.items()):
        return
    longer = next(name for name, one in experiments.items() if one.extensions)
    other = next(name for name in experiments if schedules[name] != schedules[longer])
    is_new = had[other] is None
    raise ValueError(
        f"config.epochs is {experiments[longer].config['epochs']}: {longer} in {folder} "
        f"{'has become' if had[longer] else 'becomes'} longer than it was, and {other} would have "
        f"{'so many from the start' if is_new else 'other learning rates'}; allowed: "
        f"{'' if had[longer] else 'the epochs that it had, or '}a new folder"
    )


def _is_as_it_was(had: tuple | None, extensions: tuple) -> bool:
    return had is not None and len(had) == len(extensions)


def _extensions_had(folder: Path) -> tuple[Extension, ...] | None:
    """Those of the run in a folder so far; None where there is none."""
    saved = Workdir(folder).read_config()
    return None if saved is None else from_json(saved)


def moved(seeds: Sequence[Seed], made: Plan, arguments: Arguments) -> Sequence[Seed]:
    """The seeds in the folder that is theirs now: a default one gets another name where it is taken."""
    is_here = seeds[0].made.workdir.path.parent == made.workdir.path
    return seeds if is_here else plan_seeds(made, arguments)


def is_finished(made: Plan, seeds: Sequence[Seed]) -> bool:
    """Whether all have finished, and the summary of their folder is of just these."""
    if any(seed.made.status != FINISHED for seed in seeds):
        return False
    summary = made.workdir.read_summary() or {}
    listed = [one.get("seed") for one in summary.get("seeds", []) if isinstance(one, dict)]
    return listed == [seed.number for seed in seeds]


def train_in_turn(seeds: Sequence[Seed], screen: Screen, train: Train) -> list[Outcome]:
    """Trains one after the other, with programs that are compiled once. One that fails costs only itself.

    Each has a line in the end. A signal ends them all: the last outcome is then that of the run it stopped.
    """
    shared, outcomes = Shared(), []
    for seed in seeds:
        before = seed.made.workdir.read_summary()
        own = BriefScreen(screen.console, seed.head)
        code = 0 if seed.made.status == FINISHED else _tried(train, seed, own, shared)
        outcomes.append(ended(seed, code, before, screen))
        if code >= INTERRUPTED:
            break
    return outcomes


def _tried(train: Train, seed: Seed, screen: Screen, shared: Shared) -> int:
    """The exit code; 1 for an error that no run should have."""
    try:
        return until_stopped(
            lambda: train(seed, screen, shared), "stopped before the first step", screen.abandon
        )
    except Exception:
        traceback.print_exc()
        return EXIT_CRASHED


def ended(seed: Seed, code: int, before: dict[str, Any] | None, screen: Screen | None) -> Outcome:
    """What came of a run, and says it in a line.

    Args:
      before: its summary before it was started. screen: None where it has been said.
    """
    workdir = seed.made.workdir
    summary = workdir.read_summary() if code == 0 else None
    again = summary is not None and summary == before
    if screen is not None:
        screen.note(f"{seed.head}: {in_words(code, summary, again=again)}")
    return Outcome(seed.number, workdir.path, code, summary)


def in_words(code: int, summary: dict[str, Any] | None, *, again: bool) -> str:
    """How a run ended, in a line.

    Args:
      again: it had finished before.
    """
    if code >= INTERRUPTED:
        return "interrupted; the same command goes on from here"
    if summary is None:
        return outcome(code)
    parts = [f"{100 * summary['test_accuracy']:.2f} % test"]
    if summary["val_accuracy"] is not None:
        parts.append(f"{100 * summary['val_accuracy']:.2f} % val")
    parts.append(duration(summary["wall_seconds"]))
    parts.append(f"{summary['images_per_second']:.0f} images/s")
    return ", ".join(parts) + (" (finished before)" if again else "")


def summarize(
    made: Plan, outcomes: Sequence[Outcome], request: Request, mesh: Mesh | None
) -> dict[str, Any] | None:
    """Writes the summary of a folder of seeds, and returns it; None, and no file, where none finished.

    Numbers are means over the seeds that finished; the standard deviation is that of a sample (n - 1).
    """
    finished = [one.summary for one in outcomes if one.summary is not None]
    if not finished:
        return None
    config, first = made.experiment.config, finished[0]
    origin = provenance(request, config, mesh)
    failed = [one for one in outcomes if one.code]
    summary = {
        **{name: config[name] for name in ("rule", "network", "dataset", "seed", "epochs")},
        "seeds": [_of_each(one) for one in outcomes if one.summary is not None],
        "failed": [{"seed": one.seed, "outcome": outcome(one.code)} for one in failed],
        **{name: _mean(finished, name) for name in OTHER_MEANS},
        **{name: _mean(finished, name) for name in MEANS},
        **{f"{name}_std": _std(finished, name) for name in MEANS},
        "device": first["device"],
        "versions": origin["versions"],
        "provenance": origin,
    }
    made.workdir.write_summary(summary)
    return summary


def _of_each(one: Outcome) -> dict[str, Any]:
    known = {name: one.summary[name] for name in OF_EACH if name in one.summary}
    return known | {"workdir": one.workdir.name}


def _values(summaries: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [one[name] for one in summaries if one.get(name) is not None]


def _mean(summaries: Sequence[dict[str, Any]], name: str) -> float | None:
    values = _values(summaries, name)
    return statistics.fmean(values) if values else None


def _std(summaries: Sequence[dict[str, Any]], name: str) -> float | None:
    values = _values(summaries, name)
    return statistics.stdev(values) if values[1:] else None


def way(config: dict[str, Any], left: int) -> tuple[bool, str]:
    """Whether seeds are trained together, and in words how and why.

    Args:
      left: how many are not finished.
    """
    asked, devices = config["seeds_as"], jax.local_devices()
    if left <= 1:
        return False, "one is left" if left else "none is left"
    if asked == "together":
        return True, _together(len(devices), left)
    if asked == "in_turn":
        return False, "one after the other, compiled once"
    if config["data_parallel"] * config["layer_parallel"] > 1:
        return False, "one after the other, each on the whole mesh"
    if config["images_on"] == "host":
        return False, "one after the other, for their images are streamed"
    if devices[0].platform == "cpu":
        return False, "one after the other, compiled once: a CPU gains nothing from more at once"
    return True, _together(len(devices), left)


def _together(devices: int, left: int) -> str:
    if devices == 1:
        return "together on one device"
    each = -(-left // devices)
    return f"together, at most {each} on each of {-(-left // each)} devices"
