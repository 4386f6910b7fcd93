"""Everything that a report says, in its order; for a page and for a terminal."""

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dtp_jax.report import figures, tables, words
from dtp_jax.report.differences import differences, reference_of
from dtp_jax.report.drawing import Section
from dtp_jax.report.folders import Found, Group
from dtp_jax.report.looks import Look, look, update_note
from dtp_jax.report.series import measured
from dtp_jax.report.sweeps import Sweep, sweep
from dtp_jax.report.tables import Table
from dtp_jax.version import __version__


class Content(NamedTuple):
    """Of a report."""

    title: str
    made: str
    problems: Sequence[str]
    sweeps: Sequence[Sweep]
    results: Table
    paired: Table | None
    no_pairs: str
    """Why there is no comparison; "" where there is one, or one config alone."""
    runs: Table
    config_differences: Table | None
    config: Table
    curves: Section
    alignment: Sequence[Section]
    """Of weights and updates over the epochs."""
    further: Sequence[Section]
    """Other measures, of less general interest."""
    update_bars: Section | None
    updates: Table | None
    update_note: str
    feedback: Sequence[Section]
    """Of the iterations of one batch, of each config that has any."""
    feedback_ends: Sequence[Table]
    """The same in numbers."""
    no_feedback: Sequence[str]
    looks: Sequence[Look]
    origins: Table


FIRST = ("angle", "update-angle")
"""Measures that are not folded."""


def content(
    found: Found,
    *,
    reference: str | None = None,
    predictions: bool = True,
    pictures: bool = True,
    told: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Content:
    """Reads and draws everything.

    Args:
      reference: label of the config that others are compared with; see `reference_of`.
      predictions: checkpoints and data are read, too; not of a sweep, for these are test images.
      pictures: figures of runs are drawn; a terminal does without.
      told: told what is being done, and how much of how much is.

    Raises:
      ValueError: one line; no config is called as `reference`.
    """
    groups = found.groups
    predictions = predictions and not found.sweeps  # they are of test images, and a search goes on
    base = reference_of(groups, reference)
    looks = []
    for number, group in enumerate(groups if predictions else ()):
        told(f"looking at {group.label}", number, len(groups))
        looks.append(look(group, number, has_updates=bool(_measured_updates(group))))
    told("drawing", len(groups), len(groups))
    angles = _update_angles(groups, looks)
    pairs = differences(groups, base) if base is not None else []
    aligned = figures.alignment(groups) if pictures else []
    inside = [_feedback(group, n, len(groups), pictures) for n, group in enumerate(groups)]
    sizes, unknown = tables.memory(groups)
    swept = [sweep(folder) for folder in found.sweeps]
    return Content(
        title=_title(groups, found.common) if not swept else ", ".join(one.title for one in swept),
        made=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, dtp_jax {__version__}",
        problems=found.passed_over,
        sweeps=swept,
        results=tables.results(groups, sizes, unknown),
        paired=tables.paired(pairs, base.label) if pairs else None,
        no_pairs=_no_pairs(groups, pairs),
        runs=tables.runs(groups),
        config_differences=tables.config_differences(groups),
        config=tables.whole_config(groups),
        curves=figures.curves(groups) if pictures else Section("curves", "Learning curves", ()),
        alignment=[one for one in aligned if one.name in FIRST],
        further=[one for one in aligned if one.name not in FIRST],
        update_bars=figures.update_bars([g.label for g in groups], angles) if pictures else None,
        updates=_update_table(groups, angles),
        update_note=update_note(looks),
        feedback=[one.section for one, _ in inside if one is not None and one.section is not None],
        feedback_ends=[one.ends for one, _ in inside if one is not None],
        no_feedback=_together((g.label, why) for g, (_, why) in zip(groups, inside, strict=True)),
        looks=looks,
        origins=tables.origins(groups),
    )


def _title(groups: Sequence[Group], common: str) -> str:
    labels = [group.label for group in groups]
    more = f" and {len(labels) - 3} more" if len(labels) > 4 else ""
    return (f"{common}: " if common else "") + ", ".join(labels[:3] if more else labels) + more


def _no_pairs(groups: Sequence[Group], pairs: Sequence) -> str:
    if len(groups) == 1 or pairs:
        return ""
    return "No two configs have finished the same seed: there is no comparison."


def _measured_updates(group: Group) -> dict[str, list[float]]:
    """<block>/<parameter> -> degrees after the last epoch of every run that counts, as metrics.jsonl has them."""
    return {one.title: one.last(group) for one in measured([group], "update_angle")}


def _update_angles(
    groups: Sequence[Group], looks: Sequence[Look]
) -> dict[str, dict[str, list[float]]]:
    """Label -> <block>/<parameter> -> degrees, one for each run that has them."""
    computed = {one.label: one.updates for one in looks if one.updates}
    found = {}
    for group in groups:
        angles = _measured_updates(group)
        angles = angles or {n: [a] for n, a in computed.get(group.label, {}).items()}
        if any(np.isfinite(values).any() for values in angles.values()):
            found[group.label] = angles
    return found


def _update_table(groups: Sequence[Group], angles: dict) -> Table | None:
    """Update angles in numbers: parameters, and the configs beside each other."""
    names = list(dict.fromkeys(name for one in angles.values() for name in one))
    if not names:
        return None
    labels = [group.label for group in groups if group.label in angles]
    if len(labels) > len(names):
        headings = ["config", *names]
        cells = [[angles[label].get(name, ()) for name in names] for label in labels]
    else:
        headings = ["parameter", *labels]
        cells = [[angles[label].get(name, ()) for label in labels] for name in names]
    begins = labels if headings[1:] == names else names
    rows = [
        [one, *(words.spread(v, 1) for v in row)] for one, row in zip(begins, cells, strict=True)
    ]
    note = "Degrees between the rule's update and backprop's gradient, for a small beta."
    return Table("Update angles", headings, "lr", rows, note)


def _together(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """A line for every reason, with the configs of which it holds."""
    found: dict[str, list[str]] = {}
    for label, why in reasons:
        found.setdefault(why, []).append(label)
    return [f"{', '.join(labels)}: {why}." for why, labels in found.items() if why]


def _feedback(
    group: Group, number: int, count: int, pictures: bool
) -> tuple[figures.Inside | None, str]:
    """The feedback training inside a batch, of the first run that has any; else why there is none."""
    if "feedback_loss/" not in "".join(name for run in group.runs for name in run.metrics):
        trains = group.config.get("rule", "its rule")
        return None, "" if count > 1 else f"{trains} trains no feedback maps, or has not begun"
    why = ""
    for run in group.runs:
        seed = "" if run.seed is None else f", seed {run.seed}"
        name, title = f"feedback-{number}", f"{group.label}{seed}"
        found, problem = figures.feedback(run, name, title, pictures=pictures)
        if found is not None:
            return found, ""
        why = why or problem
    return None, why
