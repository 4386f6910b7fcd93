"""The seed of a run, where the config leaves it open: drawn, or that of a task in a Slurm array."""

import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dtp_jax.fields import error
from dtp_jax.run.config import DRAWN

TASK = "SLURM_ARRAY_TASK_ID"
SUBMITTED = "DTP_JAX_SUBMITTED"
"""In the environment of jobs that have their seeds already, whatever array they are a task of."""


def drawn(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with a seed that nobody has chosen instead of -1."""
    if config.get("seed") != DRAWN:
        return dict(config)
    count = config.get("seeds", 1)
    room = 2**31 - count + 1 if isinstance(count, int) and 1 <= count < 2**31 else 2**31
    return {**config, "seed": secrets.randbelow(room)}


def with_seed(
    config: Mapping[str, Any],
    read_saved: Callable[[], Mapping[str, Any] | None],
    overridden: Collection[str],
    environment: Mapping[str, str],
) -> tuple[dict[str, Any], str]:
    """The config with the seed that the run has, and in words where it is from ("": the config).

    A seed of -1 is drawn. In a task of a Slurm array, the number of the task is added to a seed that
    nobody has given: an array over one command is as many seeds (with `seeds`, so many for each task, none
    twice). A run that goes on has the seed that
    it began with.

    Args:
      read_saved: gives the content of the folder's config.json, None where the folder is new.
      overridden: the fields that the user has set.

    Raises:
      ValueError: one line; the task has no number, or the folder cannot be read.
    """
    config, seed = dict(config), config.get("seed")
    task = "" if environment.get(SUBMITTED) else environment.get(TASK, "")
    is_of_task = bool(task) and "seed" not in overridden and isinstance(seed, int) and seed >= 0
    if seed != DRAWN and not is_of_task:
        return config, ""
    saved = read_saved() or {}
    if saved.get("seed", DRAWN) != DRAWN:
        return {**config, "seed": saved["seed"]}, f"seed {saved['seed']}, as the run began"
    if seed == DRAWN:
        config = drawn(config)
        return config, f"seed {config['seed']}, drawn"
    count = config.get("seeds", 1)
    if not (task.isascii() and task.isdigit()):
        raise error(f"${TASK}", task, "a whole number, 0 or more")
    config["seed"] = seed + int(task) * count
    times = "" if count == 1 else f"{count} times "
    return config, f"seed {config['seed']}: {seed} and {times}the number of this task, ${TASK}"
