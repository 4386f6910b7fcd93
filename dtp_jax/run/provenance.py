"""Where a run came from: what was asked for, by which program, on which machine."""

import datetime
import platform
import shutil
import socket
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dtp_jax.networks import NETWORKS
from dtp_jax.parallel.mesh import Mesh
from dtp_jax.rules import RULES
from dtp_jax.run.trackers import TRACKERS
from dtp_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
"""What the numbers of a run depend on, beside this package."""


GIT_SECONDS = 10
"""After this time nobody waits for git any more."""


class Request(NamedTuple):
    """What somebody asked for."""

    config: str
    """As it was given: a name, a file, or what stood for it."""
    overrides: Sequence[str]
    """--config.FIELD=VALUE."""
    command: str
    """The whole of it, to be typed again."""


def provenance(request: Request, config: dict[str, Any], mesh: Mesh | None) -> dict[str, Any]:
    """What config.json and summary.json say of their origin, as JSON holds it."""
    return {
        "config": request.config,
        "overrides": list(request.overrides),
        "command": request.command,
        "commit": commit(),
        "host": socket.gethostname(),
        "device": device(mesh),
        "versions": versions(),
        "date": now(),
        "registered_by": {
            table.kind: table.origins[config[table.kind]]
            for table in (RULES, NETWORKS)
            if config[table.kind] in table.origins
        }
        | {
            f"trackers/{name}": TRACKERS.origins[name]
            for name in config["trackers"]
            if name in TRACKERS.origins
        },
    }


def now() -> str:
    """The time, with its zone, in seconds."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def device(mesh: Mesh | None) -> str:
    """How many devices of which kind compute."""
    return f"{mesh.size if mesh else 1} x {jax.devices()[0].device_kind}"


def commit() -> str | None:
    """The commit of the checkout that this package runs from; None where it does not run from one.

    It ends with -dirty where a file of the package is not that of the commit.
    A package that lies in a repository without belonging to it, as in a virtual environment, has none.
    """
    here, git = Path(__file__).resolve(), shutil.which("git")
    if git is None:
        return None

    def ask(*args: str | Path) -> str | None:
        try:
            done = subprocess.run(
                [git, "-C", here.parent, *args],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=GIT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):  # a git that does not run, or does not end
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not ask("ls-files", "--error-unmatch", here.name):
        return None
    name = ask("describe", "--always", "--abbrev=12")
    # Of the package: results and pages of a checkout change without any other number.
    is_changed = ask("status", "--porcelain", "--untracked-files=no", "--", here.parents[1])
    return f"{name}-dirty" if name and is_changed else name


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "dtp_jax": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
