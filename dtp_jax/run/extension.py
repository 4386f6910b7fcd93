"""More epochs for a run that has its config already.

An extended run is not a run that had so many epochs from the start: its learning rate has gone to the
minimum once. So the schedule of the first epochs stays as it was, the minimum is kept after it, and
everything that a run writes says where it was extended.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dtp_jax.fields import AT_LEAST_1, MOST, checked, error
from dtp_jax.run.passes import passes


class Extension(NamedTuple):
    """One extension of a run."""

    at_step: int
    """The last step of the run as it was before."""
    from_epochs: int
    to_epochs: int
    t_max: int
    """Epochs to the cosine's minimum, from `at_step` on; it is kept afterwards."""

    def __str__(self) -> str:
        return (
            f"at step {self.at_step}: {self.to_epochs} epochs instead of {self.from_epochs}, "
            f"the rate at its minimum after epoch {self.t_max}"
        )


def first_t_max(config: Mapping[str, Any], epochs: int) -> int:
    """Epochs to the minimum of a run of so many epochs, as the paper has it: 85 of 90."""
    return config["t_max"] or max(1, round(epochs * 85 / 90))


def from_json(saved: Mapping[str, Any]) -> tuple[Extension, ...]:
    """The extensions that a config.json speaks of.

    Raises:
      ValueError: one line; it speaks of something else.
    """
    told = saved.get("extended", ())
    if not isinstance(told, (list, tuple)) or not all(map(_is_extension, told)):
        names = ", ".join(Extension._fields)
        raise error("extended", told, f"objects of {names}, each a whole number, 1 or more")
    return tuple(Extension(**one) for one in told)


def _is_extension(one: Any) -> bool:
    return (
        isinstance(one, Mapping)
        and one.keys() == set(Extension._fields)
        and all(type(value) is int and 1 <= value <= MOST for value in one.values())
        and one["from_epochs"] < one["to_epochs"]
    )


def continued(
    config: Mapping[str, Any],
    saved: Mapping[str, Any] | None,
    steps_per_epoch: int,
    inherited: tuple[Extension, ...] = (),
) -> tuple[dict[str, Any], tuple[Extension, ...]]:
    """How a config goes on in a folder: extended, where it has more epochs than the folder's.

    Args:
      config: all fields. saved: the content of config.json, None where the folder is new.
      inherited: extensions of the run whose config.json this config is; a new run repeats them, unless
        it has another number of epochs.

    Returns:
      (the config to go on with, all extensions of the run so far).

    Raises:
      ValueError: one line; it has fewer epochs, or another limit ends it before the added ones.
    """
    config = dict(config)

    def steps(epochs: int) -> int:
        return len(passes({**config, "epochs": epochs})) * steps_per_epoch

    if saved is None or "epochs" not in saved:
        same = inherited and config["epochs"] == inherited[-1].to_epochs
        again = tuple(one._replace(at_step=steps(one.from_epochs)) for one in inherited)
        return config, again if same else ()
    known, had = from_json(saved), checked("epochs of config.json", saved["epochs"], AT_LEAST_1)
    asked, config["t_max"] = config["t_max"], saved.get("t_max", 0)
    if known and config["epochs"] == known[0].from_epochs:
        raise error(
            "config.epochs",
            config["epochs"],
            f"{had} or more, for this run was extended {known[-1]}; --workdir alone goes on with it",
        )
    if config["epochs"] <= had:
        if not (known and asked == known[-1].t_max):  # the command that extended it, once more
            config["t_max"] = asked
        return config, known
    if config["max_steps"] and config["max_steps"] <= steps(had):
        raise error(
            "config.max_steps",
            config["max_steps"],
            f"0, or more than the {steps(had)} steps of the first {had} epochs",
        )
    kept = known[-1].t_max if known else first_t_max(config, had)
    t_max = kept if asked in (0, config["t_max"]) else asked
    return config, (*known, Extension(steps(had), had, config["epochs"], t_max))
