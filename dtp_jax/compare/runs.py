"""Runs one config after the other; one that fails does not stop those after it."""

from pathlib import Path
from typing import Any, NamedTuple

from dtp_jax.compare.plan import Entry
from dtp_jax.plots.labels import fitting_labels
from dtp_jax.run import backend, cli
from dtp_jax.run.arguments import parse
from dtp_jax.run.assemble import plan
from dtp_jax.run.failures import INTERRUPTED, outcome, refused
from dtp_jax.run.screen import BriefScreen, Screen
from dtp_jax.run.several import Outcome, Seed, plan_seeds


class Run(NamedTuple):
    """One seed of a config: where it is, how it ended, and its summary if it did well."""

    workdir: Path
    code: int
    summary: dict[str, Any] | None


class Result(NamedTuple):
    """All runs of a config, so far."""

    entry: Entry
    runs: list[Run]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        """Of the runs that finished."""
        return [run.summary for run in self.runs if run.summary is not None]

    @property
    def failures(self) -> list[str]:
        """In words, of the runs that did not."""
        return [outcome(run.code) for run in self.runs if run.code != 0]


def run_all(
    entries: list[Entry], seeds: int, workdir: Path, overrides: list[str], screen: Screen
) -> list[Result]:
    """Runs every config with the seeds 0, 1, ..., each in WORKDIR/<label>/seed_<n>.

    Finished runs are taken as they are, others go on where they stopped. Each has a line in the end;
    before, what it does is headed by its number, config and seed.

    Returns:
      One result per config; the runs end with one that was interrupted, if any was.
    """
    results: list[Result] = []
    common, labels = fitting_labels([entry.label for entry in entries])
    if common:
        screen.note(f"all configs: {common}")
    for entry, label in zip(entries, labels, strict=True):
        first = len(results) * seeds + 1
        heads = [
            f"[{first + seed}/{len(entries) * seeds}] {label}, seed {seed}" for seed in range(seeds)
        ]
        outcomes = _run(entry.arguments(overrides), workdir / entry.label, heads, screen)
        results.append(Result(entry, [Run(*outcome[1:]) for outcome in outcomes]))
        if any(one.code >= INTERRUPTED for one in outcomes):
            break
    return results


def _run(argv: list[str], folder: Path, heads: list[str], screen: Screen) -> list[Outcome]:
    """Trains the seeds 0, 1, ... of a config.

    Args:
      argv: as sys.argv, without seeds and folder. heads: one for each seed, before what it shows.
    """
    live = BriefScreen(screen.console, heads[0].partition(",")[0])
    try:
        backend.check_flags()
        backend.prepare()
        # One seed alone makes no folder of seeds: another number of them may follow.
        place = folder / "seed_0" if len(heads) == 1 else folder
        arguments = parse(
            [*argv, "--config.seed=0", f"--config.seeds={len(heads)}", f"--workdir={place}"]
        )
        made = plan(
            arguments.config,
            arguments.workdir,
            overridden=arguments.overridden,
            extended=arguments.extended,
        )
        alone = [Seed(0, made, heads[0])]
        seeds = alone if len(heads) == 1 else plan_seeds(made, arguments, heads.__getitem__)
        mesh = cli.mesh_of(made)
    except Exception as error:
        text, code = refused(error)
        screen.error(text)
        for head in heads:
            screen.note(f"{head}: {outcome(code)}")
        return [Outcome(n, folder / f"seed_{n}", code, None) for n in range(len(heads))]
    return cli.train_seeds(made, seeds, arguments, screen, mesh, live=live)
