"""The picture of a sweep, from its trials."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dtp_jax.plots.search import Parameter, Trial, draw_search
from dtp_jax.plots.style import save
from dtp_jax.sweep.results import COMPLETE, PRUNED, RUNNING, STOPPED, Row, is_log
from dtp_jax.sweep.tell import epochs

STATES = {COMPLETE: "complete", PRUNED: "pruned", RUNNING: "unfinished", STOPPED: "unfinished"}


def draw(
    found: Sequence[Row], record: Mapping[str, Any], shares: Mapping[str, float], file: Path
) -> None:
    """Draws the trials whose values are all drawn; removes the file where there is none."""
    drawn = [one for one in found if one.values.keys() == record["space"].keys()]
    if not drawn:
        file.unlink(missing_ok=True)
        return
    parameters = [
        Parameter(name, is_log(one), one.get("values", ()), (one.get("low", 0), one.get("high", 0)))
        for name, one in record["space"].items()
    ]
    trials = [_trial(one, list(record["space"])) for one in drawn]
    title = f"{record['config']}, {epochs(record)} a trial"
    save(draw_search(trials, parameters, shares, title=title), file)


def _trial(one: Row, names: Sequence[str]) -> Trial:
    accuracy = math.nan if one.value is None else 100 * one.value
    state = STATES.get(one.state, "came to nothing")
    return Trial(state, accuracy, [one.values[name] for name in names])
