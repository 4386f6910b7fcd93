"""A config to be searched around its own values: search.py:CONFIG is CONFIG, with a space.

    dtp sweep --config=benchmarks/paper/search.py:cifar10_small:dtp --trials=12 --config.epochs=3 --from-config

What a rule has of these is searched, on a logarithmic scale: forward_lr, beta and feedback_lr over a decade
with the config's value in the middle (beta no higher than 1), noise from half of it to twice of it. Where the
config has a value for each feedback map, each is searched by itself; one for all stays one for all.
"""

import math
from typing import Any

from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config
from dtp_jax.sweep.dimensions import default_space
from dtp_jax.sweep.space import LogUniform, PerMap

REACH = {
    "forward_lr": math.sqrt(10),
    "beta": math.sqrt(10),
    "feedback_lr": math.sqrt(10),
    "noise": 2.0,
}
"""So many times as large and as small as the config's value the ends are."""
HIGHEST = {"beta": 1.0}


def get_config(given: str) -> Any:
    """The config itself."""
    return load_config(given).config


def space(given: str) -> dict[str, Any]:
    """What is searched for it."""
    config = get_config(given).to_dict()
    is_of_use = default_space(validate(config))
    return {name: _around(name, config[name]) for name in REACH if name in is_of_use}


def _around(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        each = [_around(name, one) for one in value]
        return each[0] if len(each) == 1 else PerMap(*each)
    high = min(value * REACH[name], max(value, HIGHEST.get(name, math.inf)))
    return LogUniform(_short(value / REACH[name]), _short(high))


def _short(value: float) -> float:
    """To three digits: it is read."""
    return float(f"{value:.3g}")
