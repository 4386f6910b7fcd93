"""A sweep from its arguments: everything is checked here, before anything is written."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dtp_jax.fields import error
from dtp_jax.run import assemble, unused
from dtp_jax.run.arguments import flags_of, parse
from dtp_jax.run.build import Experiment
from dtp_jax.run.config import NOT_COMPARED, validate
from dtp_jax.run.provenance import Request, commit
from dtp_jax.run.seeds import drawn
from dtp_jax.run.workdir import Workdir
from dtp_jax.sweep.dimensions import Dimension, default_space, dimensions, least_fields
from dtp_jax.sweep.study import StudyError

EPOCHS = 10
"""Of a trial, where the config has more and nobody says otherwise."""


class Plan(NamedTuple):
    """A sweep that can start."""

    experiment: Experiment
    """Of the config, with its own values of the fields of the space."""
    config: dict[str, Any]
    """The same, not yet checked: what a trial changes."""
    dimensions: list[Dimension]
    overridden: tuple[str, ...]
    """The fields that the user has set."""
    folder: Path
    pruner: str
    record: dict[str, Any]
    """What the study keeps: it says of which sweep it is."""
    remarks: list[str]
    """What the user is to know, in lines."""
    first: dict[str, Any] | None = None
    """Values of the first trial, as they are stored; None: they are drawn."""

    @property
    def request(self) -> Request:
        """As the runs record it."""
        return Request(self.record["config"], self.record["overrides"], self.record["command"])


def make(
    given: str,
    overrides: Sequence[str],
    folder: Path,
    pruner: str,
    command: str,
    seed: int | None = None,
) -> Plan:
    """Checks the config and its space.

    Args:
      given: as --config takes it. overrides: other arguments, for all trials.
      command: as it was typed.
      seed: instead of one that would be drawn: that of the sweep which goes on.

    Raises:
      ValueError: one line.
    """
    flags = flags_of(list(overrides))
    for flag in flags.given:
        raise ValueError(f"--{flag} is no flag of a sweep; allowed: the flags of --help")
    found = parse(["dtp sweep", f"--config={given}", *overrides])
    config, remarks = dict(found.config), []
    epochs = config.get("epochs")
    if "epochs" not in found.overridden and isinstance(epochs, int) and epochs > EPOCHS:
        config["epochs"] = EPOCHS
        remarks.append(
            f"trials of {EPOCHS} epochs instead of the config's {epochs}; others with --config.epochs=N"
        )
    fields = dict(flags.fields)
    if config.get("seed") == -1:
        config = drawn(config) if seed is None else {**config, "seed": seed}
        fields["seed"] = f"--config.seed={config['seed']}"
    experiment = validate(config, found.overridden)
    _require_validation(experiment.config)
    remarks += unused.remarks(experiment, found.overridden)
    space = found.space
    if space is None:
        space = default_space(experiment)
        remarks.append(f"{given} has no space of its own, so that the default one is searched")
    if isinstance(space, Mapping):
        fixed = [name for name in space if name in found.overridden]
        space = {name: one for name, one in space.items() if name not in fixed}
        remarks += [
            f"{name} is not searched, for it is set to {_value(fields[name])}" for name in fixed
        ]
    dims = dimensions(space, experiment, given)
    record = {
        "config": given,
        "plugins": list(flags.plugins),
        "overrides": [text for name, text in fields.items()],
        "command": command,
        "commit": commit(),
        "fields": _compared(experiment, dims),
        "epochs": experiment.config["epochs"],
        "space": {
            one.name: {"field": one.field, "block": one.block, **one.record()} for one in dims
        },
        "pruner": pruner,
    }
    record = json.loads(json.dumps(record))
    return Plan(
        experiment, config, dims, (*found.overridden, "seed"), folder, pruner, record, remarks
    )


def easiest_trial(made: Plan) -> assemble.Plan:
    """The trial that asks least of the data, planned as if it were to start here: nothing is made.

    What it cannot do no trial can. A trial whose own values ask for more comes to nothing by itself.

    Raises:
      ValueError: one line; there are too few images, for one. DataError: the data is missing or corrupt.
    """
    config = {**made.config, **least_fields(made.dimensions)}
    return assemble.plan(config, Workdir(made.folder / "trial"), overridden=made.overridden)


def _value(text: str) -> str:
    return text.partition("=")[2] or text


def _require_validation(config: Mapping[str, Any]) -> None:
    """Raises ValueError where trials could not be told apart without looking at the test images."""
    if not config["val_split"] and not config["val_per_class"]:
        raise error(
            "config.val_split", 0, "more than 0: a sweep goes by the accuracy on validation images"
        )
    if config.get("seeds", 1) != 1:
        raise error("config.seeds", config["seeds"], "1: every trial is one run")


def _compared(experiment: Experiment, dims: Sequence[Dimension]) -> dict[str, Any]:
    """The fields that all trials of a sweep have in common, and that change their numbers."""
    without = {*NOT_COMPARED, *(one.field for one in dims)}
    return {name: value for name, value in experiment.config.items() if name not in without}


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raises StudyError where a study is of another sweep.

    Args:
      found: the record of the study. wanted: that of the sweep that is to go on.
    """

    def refusal(problem: str) -> StudyError:
        return StudyError(
            f"--workdir is {str(folder)!r}: its sweep has another {problem}; allowed: a new folder, or the "
            "same config, space and pruner"
        )

    for name in dict.fromkeys((*found["fields"], *wanted["fields"])):
        before, here = (one["fields"].get(name) for one in (found, wanted))
        both = name in found["fields"] and name in wanted["fields"]
        if before != here and both:
            raise refusal(f"config: its {name} is {before!r}, here it is {here!r}")
    for name in dict.fromkeys((*found["space"], *wanted["space"])):
        before, here = (one["space"].get(name) for one in (found, wanted))
        if before != here:
            raise refusal(f"space: its {name} is {_range(before)}, here it is {_range(here)}")
    if found["pruner"] != wanted["pruner"]:
        raise refusal(f"pruner: {found['pruner']}, here it is {wanted['pruner']}")


def _range(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not searched"
    if "values" in found:
        return f"Choice({', '.join(map(repr, found['values']))})"
    log = ", log=True" if found.get("log") else ""
    return f"{found['kind']}({found['low']!r}, {found['high']!r}{log})"
