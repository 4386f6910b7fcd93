"""Runs one config after the other; one that fails does not stop those after it."""

import traceback
from pathlib import Path
from typing import Any, NamedTuple

from dtp_jax.compare.plan import Entry
from dtp_jax.run import cli
from dtp_jax.run.layout import duration
from dtp_jax.run.screen import BriefScreen, Screen
from dtp_jax.run.workdir import Workdir

INTERRUPTED = 128
"""Exit codes from here on: the number of a signal above it."""


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
    for entry in entries:
        results.append(Result(entry, []))
        for seed in range(seeds):
            folder = workdir / entry.label / f"seed_{seed}"
            number = f"{len(results) * seeds - seeds + seed + 1}/{len(entries) * seeds}"
            head = f"[{number}] {entry.label}, seed {seed}"
            before = Workdir(folder).read_summary()
            code = _run(
                [
                    *entry.arguments(overrides),
                    f"--config.seed={seed}",
                    f"--workdir={folder}",
                ],
                BriefScreen(screen.console, head),
            )
            summary = Workdir(folder).read_summary() if code == 0 else None
            results[-1].runs.append(Run(folder, code, summary))
            text = _line(code, summary, again=summary is not None and summary == before)
            screen.note(f"{head}: {text}")
            if code >= INTERRUPTED:
                return results
    return results


def _run(argv: list[str], screen: Screen) -> int:
    """`cli.main` on this screen. Returns the exit code; 1 for an error that no run should have."""
    try:
        return cli.main(argv, "", screen)
    except Exception:
        traceback.print_exc()
        return 1


def outcome(code: int) -> str:
    """What an exit code other than 0 says of a run."""
    return "diverged" if code == cli.EXIT_DIVERGED else f"failed (exit code {code})"


def _line(code: int, summary: dict[str, Any] | None, *, again: bool) -> str:
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
