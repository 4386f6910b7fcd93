"""The dimensions of a search: every field of a space, checked against the config that it varies."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dtp_jax.fields import Field, checked, described, error, first_line, plain, shown
from dtp_jax.run.build import Experiment
from dtp_jax.run.config import BOOKKEEPING, fields_of, unknown, validate
from dtp_jax.run.unused import why_unused
from dtp_jax.sweep.space import Choice, Distribution, IntUniform, LogUniform, PerMap, Uniform

KINDS = {
    float: (Uniform, LogUniform, IntUniform, Choice),
    int: (IntUniform, Choice),
    str: (Choice,),
    bool: (Choice,),
}
"""Kind of a field -> what it may be drawn from."""
FIXED = ("seed", "seeds", "epochs", "dataset", "val_split", "val_per_class", "overfit_batches")
"""What all trials have in common, or their accuracies would not be comparable."""
SIZES = ("batch_size", "train_images")
"""Fields whose larger values need more images."""


class Dimension(NamedTuple):
    """One number, or one choice, of every trial."""

    name: str
    """Of the parameter, as Optuna and the table know it: the field, and of a map /<block>."""
    field: str
    distribution: Distribution
    block: str = ""
    """The block of the feedback map whose value it is; "" of a field that has one value."""

    @property
    def is_log(self) -> bool:
        """Whether it counts in orders of magnitude."""
        one = self.distribution
        return isinstance(one, LogUniform) or isinstance(one, IntUniform) and one.log

    @property
    def texts(self) -> dict[Any, Any]:
        """Of a choice: how a storage names a value -> the value. Tuples are written as on a command line."""
        return {as_stored(value): value for value in self.distribution.values}

    def record(self) -> dict[str, Any]:
        """What a study keeps of it, as JSON."""
        one = self.distribution
        if isinstance(one, Choice):
            return {"kind": "Choice", "values": list(self.texts)}
        return {"kind": type(one).__name__, **dataclasses.asdict(one)}


def as_stored(value: Any) -> Any:
    """A choice as a storage holds it."""
    return as_text(value) if isinstance(value, tuple) else value


def fields_at(dimensions: Sequence[Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config at a point of the space.

    Args:
      values: of all dimensions, by name, as they are stored.
    """
    found: dict[str, Any] = {}
    for one in dimensions:
        value = values[one.name]
        value = one.texts[value] if isinstance(one.distribution, Choice) else value
        found[one.field] = (*found.get(one.field, ()), value) if one.block else value
    return found


def dimensions(space: Any, experiment: Experiment, where: str) -> list[Dimension]:
    """Those of a space, in its order; all its ends and choices are values that the config may have.

    Args:
      space: what the config file calls so.
      where: the config, as the user has given it.

    Raises:
      ValueError: one line with the field, what it is given, and what is allowed.
    """
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        raise error(f"space of {where}", space, 'a dict such as {"beta": Uniform(0.01, 1)}')
    if not space:
        raise ValueError(f"space of {where} is empty; allowed: one field or more, or no space")
    config, maps = experiment.config, trained_maps(experiment)
    known, found = fields_of(config), []
    for name, given in space.items():
        if name not in known:
            raise ValueError(f"space of {where}: {unknown(name)}")
        _require_of_use(name, experiment)
        found += _of_field(name, known[name], given, maps)
    for one in found:
        _check_ends(one, known[one.field], config, maps)
    return found


def least_fields(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """The fields of a space that say how many images there must be, as far as it has them: at their least."""
    found = {}
    for one in dimensions:
        if one.field in SIZES:
            drawn = one.distribution
            found[one.field] = min(drawn.values) if isinstance(drawn, Choice) else drawn.low
    return found


def own_values(dimensions: Sequence[Dimension], experiment: Experiment) -> dict[str, Any]:
    """The config's own values as a point of the space: by name, as they are stored.

    Raises:
      ValueError: one line; it lies outside of the space.
    """
    maps, found = trained_maps(experiment), {}
    for one in dimensions:
        value = experiment.config[one.field]
        if one.block:
            value = value[maps.index(one.block)]
        elif isinstance(value, tuple) and not isinstance(one.distribution, Choice):
            value = value[0] if len(set(value)) == 1 else value
        if not _holds(one.distribution, value):
            raise ValueError(
                f"--from-config: config.{one.field} is {described(value)}, which is outside of "
                f"space[{one.field!r}]; allowed: a space around the values of the config"
            )
        found[one.name] = as_stored(value)
    return found


def _holds(one: Distribution, value: Any) -> bool:
    if isinstance(one, Choice):
        return value in one.values
    return isinstance(value, (int, float)) and one.low <= value <= one.high


def trained_maps(experiment: Experiment) -> list[str]:
    """The blocks whose feedback maps are trained."""
    training = experiment.rule.feedback_training
    if training is None:
        return []
    return [experiment.network[i].name for i in training.blocks(experiment.network)]


def default_space(experiment: Experiment) -> dict[str, Any]:
    """What the users of the original search over, as far as the config's rule has it."""
    config, maps = experiment.config, trained_maps(experiment)
    size = config["batch_size"]
    wanted = {
        "beta": Uniform(0.01, 1.0),
        "noise": PerMap(LogUniform(0.01, 1.0)),
        "feedback_lr": PerMap(LogUniform(1e-4, 1e-1)),
        "forward_lr": LogUniform(1e-4, 1e-1),
    }
    space = {name: one for name, one in wanted.items() if not why_unused(name, experiment)}
    sizes = [n for n in (size // 2, size, 2 * size) if _is_valid(config, "batch_size", n, maps)]
    return {**space, "batch_size": Choice(*sizes)} if sizes[1:] else space


def _require_of_use(name: str, experiment: Experiment) -> None:
    """Raises ValueError where trials that differ in this field could not be compared, or would not differ."""
    if name in FIXED:
        raise ValueError(
            f"space[{name!r}]: all trials of a sweep have the same; allowed: --config.{name}=VALUE"
        )
    if name in BOOKKEEPING:
        raise ValueError(f"space[{name!r}]: it changes no number of a run; allowed: other fields")
    reason = why_unused(name, experiment)
    if reason:
        raise ValueError(f"space[{name!r}]: {reason}; allowed: a space without it")


def _of_field(name: str, field: Field, given: Any, maps: Sequence[str]) -> list[Dimension]:
    """The dimensions of a field: one, or one for each map."""
    shown_name, of = f"space[{name!r}]", given.of if isinstance(given, PerMap) else (given,)
    names = " or ".join(kind.__name__ for kind in KINDS[field.kind])
    if not of or not all(isinstance(one, KINDS[field.kind]) for one in of):
        each = f", or PerMap of {names}" if field.per_block else ""
        raise error(shown_name, _in_words(given), f"{names}{each}")
    of = [_plain(one) for one in of]
    for one in of:
        _check_order(shown_name, one)
    if not isinstance(given, PerMap):
        return [Dimension(name, name, of[0])]
    if not field.per_block:
        raise error(shown_name, _in_words(given), f"{names}: it has no value for each feedback map")
    of = of * len(maps) if len(of) == 1 else of
    if len(of) != len(maps):
        allowed = f"PerMap of one for all, or of {len(maps)}, for {', '.join(maps)}"
        raise error(shown_name, _in_words(given), allowed)
    return [
        Dimension(f"{name}/{block}", name, one, block) for block, one in zip(maps, of, strict=True)
    ]


def _in_words(given: Any) -> Any:
    """What stands in a space, as it was written."""
    return _Written(repr(given)) if isinstance(given, (Distribution, PerMap)) else given


class _Written(str):
    """A text that is shown without quotes."""

    __repr__ = str.__str__


def _plain(one: Distribution) -> Distribution:
    """With Python's numbers, and tuples for lists."""
    if isinstance(one, Choice):
        values = (plain(value) for value in one.values)
        return Choice(*(tuple(v) if isinstance(v, list) else v for v in values))
    return dataclasses.replace(one, low=plain(one.low), high=plain(one.high))


def _check_order(name: str, one: Distribution) -> None:
    """Raises ValueError where there is nothing to draw from."""
    if isinstance(one, Choice):
        stored = [as_stored(value) for value in one.values]
        if not all(isinstance(value, (str, bool, int, float)) for value in stored):
            raise error(name, _in_words(one), "numbers, texts, True and False, tuples of numbers")
        if len(one.values) < 2 or len(set(stored)) < len(stored):
            raise error(name, _in_words(one), "two values or more, all of them different")
        return
    kinds = int if isinstance(one, IntUniform) else (int, float)
    ends = (one.low, one.high)
    if any(isinstance(end, bool) or not isinstance(end, kinds) for end in ends):
        raise error(name, _in_words(one), "two whole numbers" if kinds is int else "two numbers")
    if not all(map(math.isfinite, ends)) or one.low >= one.high:
        raise error(name, _in_words(one), "two finite numbers, the lower one first")
    if (isinstance(one, LogUniform) or getattr(one, "log", False)) and one.low <= 0:
        raise error(name, _in_words(one), "two numbers above 0, for it counts in logarithms")


def _check_ends(one: Dimension, field: Field, config: Mapping[str, Any], maps: list[str]) -> None:
    """Raises ValueError where an end or a choice is no value of the field, or does not fit the config."""
    drawn = one.distribution
    values = drawn.values if isinstance(drawn, Choice) else (drawn.low, drawn.high)
    for value in values:
        checked(f"space[{one.field!r}]", value, field)
    for value in values:
        try:
            found = trained_maps(validate({**config, one.field: value}, (one.field,)))
        except ValueError as problem:
            written = described(value)
            raise ValueError(
                f"space[{one.field!r}] has {written}, which does not go with this config: "
                f"{first_line(problem)}"
            ) from problem
        if found != maps:
            raise ValueError(
                f"space[{one.field!r}] has {described(value)}, with which {_count(found)} trained, "
                f"and the config has {_count(maps)}; allowed: values that leave the maps as they are"
            )


def _count(maps: Sequence[str]) -> str:
    return f"{len(maps)} feedback map{'s are' if len(maps) != 1 else ' is'}"


def _is_valid(config: Mapping[str, Any], name: str, value: Any, maps: list[str]) -> bool:
    """Whether the config may have this value."""
    try:
        return trained_maps(validate({**config, name: value})) == maps
    except ValueError:
        return False


def as_text(value: Any) -> str:
    """A value as a command line takes it, with all its digits."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_text, value)) or "()"
    return value if isinstance(value, str) else shown(repr(value))
