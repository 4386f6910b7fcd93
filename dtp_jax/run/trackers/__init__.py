"""Trackers of runs, by name; users add their own. See docs/trackers.md.

A library is imported when a tracker starts, and only the one that the config asks for.
"""

import importlib.util
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dtp_jax.fields import Field, error
from dtp_jax.registry import Registry
from dtp_jax.run.trackers.tracker import TrackedRun, Tracker, TrackerError

__all__ = ("TRACKERS", "TrackedRun", "Tracker", "TrackerError", "require", "split", "trackers")

NAMES = Field(
    str, "() or names of trackers", lambda name: name.isprintable() and bool(name), is_tuple=True
)
"""Any names: a folder can be read where nobody has registered its tracker, or installed it."""
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
"""What a tracker imports; the extra of this package that brings it has the name of the tracker."""


def tensorboard() -> Tracker:
    """Event files in WORKDIR/tensorboard."""
    from dtp_jax.run.trackers.tensorboard import Board

    return Board()


def wandb() -> Tracker:
    """Weights & Biases."""
    from dtp_jax.run.trackers.weights_and_biases import WeightsAndBiases

    return WeightsAndBiases()


def mlflow() -> Tracker:
    """MLflow."""
    from dtp_jax.run.trackers.mlflow import MLflow

    return MLflow()


class Trackers(Registry):
    """Name -> what makes a tracker: a class, or a function without arguments."""

    def register(
        self, factory: Callable[[], Any] | None = None, *, name: str | None = None
    ) -> Callable[..., Any]:
        """Adds a tracker; `config.trackers` may then name it. To be called, or as a decorator.

        Args:
          factory: called without arguments once a run starts; returns an object with the methods of
            `Tracker`.
          name: what the config says; that of the factory where not given.

        Raises:
          ValueError: one line; the name is that of another tracker.
        """
        if factory is None:
            return lambda factory: self.register(factory, name=name)
        return super().register(factory, name=name)


trackers = TRACKERS = Trackers("trackers", (tensorboard, wandb, mlflow))
"""What `config.trackers` may name. A new one is a file here and an entry in this table, or a call of
`trackers.register` in a file of your own."""


def split(given: Any) -> Any:
    """The names of a flag, tensorboard,wandb; what is no text stays, to be refused."""
    entries = given if isinstance(given, (tuple, list)) else (given,)
    if not all(isinstance(entry, str) for entry in entries):
        return given
    names = [name.strip() for entry in entries for name in entry.split(",")]
    return tuple(dict.fromkeys(names)) if names != [""] else ()


def require(names: Collection[str], registered_by: Mapping[str, str] | None = None) -> None:
    """Asked before a run begins.

    Args:
      registered_by: what the run's config.json says of who registered what; shown, never run.

    Raises:
      ValueError: one line; a name is no tracker's, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            file = (registered_by or {}).get(f"trackers/{name}")
            plugin = f"; {name!r} with --plugin={file}, if you trust it" if file else ""
            raise error(
                "config.trackers", tuple(names), f"() or some of {', '.join(TRACKERS)}{plugin}"
            )
        package = PACKAGES.get(name)
        found = importlib.util.find_spec(package) if package else None
        if package and (found is None or found.origin is None):  # None: a folder of that name
            raise error(
                "config.trackers",
                tuple(names),
                f"{name!r} after `pip install 'dtp-jax[{name}]'`; the package {package} is not installed",
            )
