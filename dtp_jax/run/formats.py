"""What runs have written, by whichever version: config.json as its version meant it.

Every config.json and every checkpoint says of which format it is. A field that a config.json lacks has
the value with which its version computed, never today's default.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dtp_jax.fields import Field, checked, described, first_line
from dtp_jax.run.config import fields_of
from dtp_jax.run.extension import from_json
from dtp_jax.version import __version__

FORMAT = 2
"""Of what this version writes: one more where an older version could not go on with it."""
UNNUMBERED = 1
"""The format of what bears no number."""

ALWAYS = (
    "rule",
    "network",
    "channels",
    "hidden",
    "activation",
    "bias",
    "dataset",
    "data_dir",
    "val_split",
    "augment",
    "seed",
    "epochs",
    "max_steps",
    "batch_size",
    "beta",
    "noise",
    "feedback_iterations",
    "feedback_lr",
    "feedback_momentum",
    "feedback_samples",
    "forward_lr",
    "momentum",
    "weight_decay",
    "schedule",
    "t_max",
    "eta_min",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "eval_batch_size",
    "diagnostics",
)
"""The fields of every version: a config.json without one of them is damaged."""

BEFORE: dict[str, Any] = {
    "batch_norm": False,
    "split_stages": False,
    "val_per_class": 0,
    "train_images": 0,
    "overfit_batches": 0,
    "seeds": 1,
    "seeds_as": "auto",
    "flip": False,
    "feedback_optimizer": "sgd",
    "feedback_weight_decay": 0.0,
    "feedback_eps": 1e-8,
    "feedback_activation": "linear",
    "stale_gradients": "none",
    "pretrain_epochs": 0,
    "feedback_pass": False,
    "alternate": False,
    "forward_optimizer": "sgd",
    "block_forward_lr": (),
    "normalize_lr": False,
    "forward_eps": (1e-8,),
    "images_on": "auto",
    "data_parallel": 1,
    "layer_parallel": 1,
    "precision": "tf32",
    "checkpoint_minutes": 0.0,
    "trackers": ("tensorboard",),
    "project": "dtp_jax",
    "ahead_mb": 1024,
    "guard": "stop",
    "init_symmetric": False,
    "patience": 0,
    "max_minutes": 0.0,
    "step_epochs": 30,
    "gamma": 0.1,
    "diagnostics_every": 1000,
    "diagnostics_iterations": "off",
    "diagnostics_updates": "off",
    "diagnostics_jacobians": "off",
    "diagnostics_gauss_newton": "off",
    "diagnostics_eigenvalues": "off",
}
"""Fields that came later: what the versions before computed with. These values stay for ever."""


class FormatError(ValueError):
    """A file of a run cannot be used. One line, for the user: its `problem` goes on after the file's name."""

    def __init__(self, problem: str, allowed: str, detail: str = ""):
        super().__init__(f"{problem}{detail and ': '}{detail}; allowed: {allowed}")
        self.problem, self.allowed, self.detail = problem, allowed, detail


A_CONFIG_FILE = "the config.json of a run"


def read(file: Path, *, whole: bool = True) -> dict[str, Any]:
    """The content of a config.json, as `parse` has it.

    Raises:
      FormatError: see `parse`; or the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FormatError("cannot be read", A_CONFIG_FILE, first_line(error)) from error
    return parse(text, whole=whole)


def parse(text: str, *, whole: bool = True) -> dict[str, Any]:
    """What a config.json holds: every field in its type, and where the run came from.

    Rules and networks that nobody has registered pass; so do fields that nobody knows, unseen.

    Args:
      whole: with all fields that every version has.

    Raises:
      FormatError: it is damaged, or of a newer format.
    """
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        require_known(found)
        return _fields(found, whole)
    except FormatError:
        raise
    except RecursionError as error:
        raise FormatError("cannot be read", A_CONFIG_FILE, "it is nested too deep") from error
    except ValueError as error:
        problem, says, allowed = first_line(error).partition("; allowed: ")
        if says:
            raise FormatError(f"says {problem}", allowed) from error
        raise FormatError("cannot be read", A_CONFIG_FILE, problem) from error


def require_known(found: Mapping[str, Any], what: str = "") -> None:
    """Raises FormatError where a newer version wrote this.

    Args:
      found: the content of a config.json, or of a checkpoint's format.json. what: a part of the file.
    """
    number = found.get("format", UNNUMBERED)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        problem = f"{what}has the format {described(number)}"
        raise FormatError(problem, f"a whole number from 1 to {FORMAT}")
    if number > FORMAT:
        writer = writer_of(found)
        raise FormatError(
            f"{what}is of format {described(number)}, which {writer} wrote, and this is dtp_jax {__version__}, "
            f"which reads formats up to {FORMAT}",
            f"{writer}, or a newer one",
        )


def writer_of(found: Mapping[str, Any]) -> str:
    """The version that wrote a config.json or a checkpoint's format.json, in words."""
    origin = found.get("provenance", found)
    origin = origin if isinstance(origin, dict) else {}
    versions = origin.get("versions")
    version = versions.get("dtp_jax") if isinstance(versions, dict) else None
    number, commit = found.get("format", UNNUMBERED), origin.get("commit")
    if not _is_line(version):
        return f"a dtp_jax of format {described(number)}"
    return f"dtp_jax {version}" + (f" at commit {commit}" if _is_line(commit) else "")


def _fields(found: dict[str, Any], whole: bool) -> dict[str, Any]:
    """The content with every value checked, and with what its version did not know."""
    from_json(found)
    _check_origin(found)
    missing = [name for name in ALWAYS if name not in found]
    if whole and missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FormatError(f"lacks {', '.join(missing[:3])}{more}", A_CONFIG_FILE)
    known = _known(found)
    values = {
        name: checked(name, value, known[name]) if name in known else value
        for name, value in found.items()
    }
    brought = {
        name: checked(name, field.default, field)
        for name, field in known.items()
        if field.default is not None
    }
    return {**BEFORE, **brought, **values}


def _known(found: Mapping[str, Any]) -> dict[str, Field]:
    """The fields that can be checked; of rule and network only that they are names."""
    for kind in ("rule", "network"):
        if kind in found and not isinstance(found[kind], str):
            raise FormatError(f"has the {kind} {described(found[kind])}", "text")
    names = dict.fromkeys(("rule", "network"), Field(str, "text"))
    return {**fields_of(found), **names}


def _check_origin(found: Mapping[str, Any]) -> None:
    """Raises FormatError where `provenance` is nothing that a run writes."""
    origin = found.get("provenance", {})
    by = origin.get("registered_by", {}) if isinstance(origin, dict) else None
    if not isinstance(by, dict) or not all(map(_is_line, by.values())):
        raise FormatError("has a malformed provenance", "what a run writes, or none")


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()
