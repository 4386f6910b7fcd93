"""What a study and its folder say of the trials, read without touching them."""

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dtp_jax.run.failures import EXIT_DIVERGED, EXIT_INVALID
from dtp_jax.run.owner import lives
from dtp_jax.sweep.dimensions import as_text
from dtp_jax.sweep.trial import CODE, DIVERGED, FAILED, PRUNED, SECONDS, folder_of

if TYPE_CHECKING:
    import optuna

COMPLETE, RUNNING, STOPPED = "complete", "running", "stopped"
CODES = {DIVERGED: EXIT_DIVERGED, FAILED: EXIT_INVALID}
"""Exit codes of trials that an older version has left."""
ENOUGH = 10
"""Trials with an accuracy, before it is said which parameters matter."""


class Row(NamedTuple):
    """A trial."""

    number: int
    state: str
    """COMPLETE, PRUNED, DIVERGED, FAILED, RUNNING, or STOPPED: to be taken up again."""
    value: float | None
    """Validation accuracy after its last epoch so far; None of one that came to nothing."""
    best: float | None
    """The highest of all its epochs."""
    epoch: int
    """The last that was validated."""
    seconds: float | None
    values: dict[str, Any]
    """Of the dimensions, by name."""
    reason: str
    """Why it came to nothing."""
    code: int = 0
    """The exit code that its run would have had then."""

    @property
    def came_to_nothing(self) -> bool:
        """Whether it has ended without an accuracy."""
        return self.state in (DIVERGED, FAILED)

    @property
    def is_finished(self) -> bool:
        """Whether it counts."""
        return self.state not in (RUNNING, STOPPED)


def rows(trials: Sequence["optuna.trial.FrozenTrial"], sweep: Path) -> list[Row]:
    """All trials that somebody has begun, by number."""
    return [_row(one, sweep) for one in trials if one.params or one.state.is_finished()]


def _row(trial: "optuna.trial.FrozenTrial", sweep: Path) -> Row:
    told, attrs, name = trial.intermediate_values, trial.user_attrs, trial.state.name
    state = next((what for what in (DIVERGED, FAILED) if what in attrs), name.lower())
    if not trial.state.is_finished():
        state = RUNNING if lives(folder_of(sweep, trial.number)) else STOPPED
    state = FAILED if state == "fail" else state
    came_to_nothing = state in (DIVERGED, FAILED)
    accuracies = [value for value in told.values() if math.isfinite(value)]
    last = max(told, default=0)
    value = trial.value if state == COMPLETE else told.get(last)
    return Row(
        trial.number,
        state,
        None if came_to_nothing else value,
        None if came_to_nothing else max(accuracies, default=None),
        last,
        attrs.get(SECONDS),
        dict(trial.params),
        str(attrs.get(DIVERGED) or attrs.get(FAILED) or ""),
        attrs.get(CODE, CODES[state]) if came_to_nothing else 0,
    )


def in_order(found: Sequence[Row]) -> list[Row]:
    """The best first: complete ones, pruned ones by how far they came, those that still run, the others."""

    def key(one: Row) -> tuple:
        order = (COMPLETE, PRUNED, RUNNING, STOPPED, DIVERGED, FAILED).index(one.state)
        value = -1.0 if one.value is None else one.value
        return order, -one.epoch if one.state == PRUNED else 0, -value, one.number

    return sorted(found, key=key)


def best(found: Sequence[Row]) -> Row | None:
    """The complete trial with the highest value; None where none is complete."""
    complete = [one for one in in_order(found) if one.state == COMPLETE]
    return complete[0] if complete else None


def fields_of_row(one: Row, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the config that a trial has changed: of a field over maps, a tuple."""
    found: dict[str, Any] = {}
    for name, dimension in record["space"].items():
        value, field = one.values.get(name), dimension["field"]
        found[field] = (*found.get(field, ()), value) if dimension["block"] else value
    return found


def command_of(one: Row, record: Mapping[str, Any]) -> str:
    """What trains a trial's config from the beginning, over all epochs of the config; for a shell."""
    overrides = [text for text in record["overrides"] if not _is_of(text, "epochs")]
    drawn = [f"--config.{n}={as_text(v)}" for n, v in fields_of_row(one, record).items()]
    plugins = [f"--plugin={name}" for name in record["plugins"]]
    words = ["dtp", "train", f"--config={record['config']}", *plugins, *overrides, *drawn]
    return shlex.join(words)


def _is_of(override: str, field: str) -> bool:
    return override.lstrip("-").partition("=")[0] == f"config.{field}"


def importances(found: Sequence[Row], record: Mapping[str, Any]) -> dict[str, float]:
    """Share of the differences in accuracy that each dimension explains, the largest first; {}: too few trials.

    By fANOVA, over the trials that have an accuracy: pruned ones with what they had reached.
    """
    known = [one for one in found if one.is_finished and one.value is not None]
    known = [one for one in known if one.values.keys() == record["space"].keys()]
    if len(known) < ENOUGH or len({one.value for one in known}) < 2:
        return {}
    import optuna

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler())
    ranges = {name: _distribution(one) for name, one in record["space"].items()}
    for one in known:
        study.add_trial(
            optuna.create_trial(value=one.value, params=one.values, distributions=ranges)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _distribution(one: Mapping[str, Any]) -> Any:
    from optuna import distributions

    if one["kind"] == "Choice":
        return distributions.CategoricalDistribution(one["values"])
    if one["kind"] == "IntUniform":
        return distributions.IntDistribution(one["low"], one["high"], log=one["log"])
    return distributions.FloatDistribution(one["low"], one["high"], log=one["kind"] == "LogUniform")


def as_csv(found: Sequence[Row], record: Mapping[str, Any]) -> str:
    """A line for every trial, by number: numbers with all their digits, nothing where there is nothing."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    plain = ("number", "state", "value", "best", "epoch", "seconds")
    names = list(record["space"])
    lines.writerow([*plain, *names, "reason"])
    for one in found:
        drawn = [one.values.get(name) for name in names]
        lines.writerow([*(getattr(one, name) for name in plain), *drawn, one.reason])
    return out.getvalue()


def in_range(one: Mapping[str, Any]) -> str:
    """Where a dimension was searched, from its record."""
    if one["kind"] == "Choice":
        return " | ".join(map(str, one["values"]))
    whole = "whole numbers, " if one["kind"] == "IntUniform" else ""
    return f"{whole}{one['low']:g} to {one['high']:g}" + (", log" if is_log(one) else "")


def is_log(one: Mapping[str, Any]) -> bool:
    """Whether a dimension counts in orders of magnitude, from its record."""
    return one["kind"] == "LogUniform" or bool(one.get("log"))
