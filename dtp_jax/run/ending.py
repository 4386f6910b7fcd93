"""Ends of a run before its last step: validation that no longer gains, a limit of time."""

from collections.abc import Mapping
from typing import Any

PATIENCE, MINUTES = "patience", "max_minutes"
"""The fields of the config that end it, as summary.json names them in `ended_by`."""


def ended_by(config: Mapping[str, Any], *, epochs_without_gain: int, seconds: float) -> str | None:
    """The field that ends a run here, None where it goes on.

    Args:
      epochs_without_gain: since the best validation accuracy.
      seconds: of all starts of the run together.
    """
    if config[PATIENCE] and epochs_without_gain >= config[PATIENCE]:
        return PATIENCE
    if config[MINUTES] and seconds >= 60 * config[MINUTES]:
        return MINUTES
    return None


def has_ended(config: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether the run of this summary would end again where it did, under this config."""
    if summary.get("ended_by") not in (PATIENCE, MINUTES):
        return False
    waited = summary.get("epochs_without_gain")
    if isinstance(waited, bool) or not isinstance(waited, int):
        return False
    seconds = summary["wall_seconds"]
    return ended_by(config, epochs_without_gain=waited, seconds=seconds) is not None


def in_words(config: Mapping[str, Any], field: str) -> str:
    """Why a run ended, for its user."""
    if field == PATIENCE:
        return f"validation has not gained for config.patience = {config[field]} epochs"
    return f"config.max_minutes = {config[field]:g} are over"
