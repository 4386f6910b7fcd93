"""What a report says in tables, the same for a page and for a terminal."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from dtp_jax.plots.labels import SAME, places
from dtp_jax.report import words
from dtp_jax.report.differences import Difference
from dtp_jax.report.folders import Group
from dtp_jax.report.predictions import size_of
from dtp_jax.report.reading import Reading, attempt, last_of
from dtp_jax.run.layout import duration

MOST_CLASSES = 20
"""Of more, only the worst and the best ten are shown."""
FACTS = ("date", "commit", "host", "device")
PACKAGES = ("python", "dtp_jax", "jax", "jaxlib", "flax", "optax", "numpy")

CURVES = {"loss": "loss", "angle": "angle, degrees", "distance": "distance"}
"""What a look into the feedback training has of every map: its headings."""
RARE = ("test at best validation, %", "time", "images/s", "diagnostics + compilation")
"""Columns of runs that a narrow terminal leaves out first."""


class Table(NamedTuple):
    """Cells as text; empty where there is nothing to say."""

    title: str
    headings: Sequence[str]
    sides: str
    """For each column l or r: on which side its cells are; the last letter stands for all further columns."""
    rows: Sequence[Sequence[str]]
    note: str = ""
    drop: Sequence[str] = ()
    """Headings of columns that a narrow terminal leaves out, the first ones first."""

    @property
    def columns(self) -> list[tuple[str, Literal["left", "right"]]]:
        """Headings, and the sides of their cells. Two may have the same heading."""
        sides = self.sides.ljust(len(self.headings), self.sides[-1])
        return [
            (name, "left" if side == "l" else "right") for name, side in zip(self.headings, sides)
        ]


def results(
    groups: Sequence[Group], sizes: Mapping[str, tuple[str, str]], unknown: str = ""
) -> Table:
    """One row for each config: means over the finished seeds, memory, how its runs ended.

    Args:
      sizes: label -> parameters, and bytes of the state of training, in words.
      unknown: why some have none.
    """
    rows = []
    for group in groups:
        done = [run.summary for run in group.finished]
        times = [one["wall_seconds"] for one in done]
        memory = [used for used in _numbers(done, "memory_bytes") if used > 0]
        rows.append([
            group.label,
            words.spread(_numbers(done, "test_accuracy", 100)),
            words.spread(_numbers(done, "val_accuracy", 100)),
            f"{len(done)} of {len(group.runs)}",
            str(group.config.get("rule", words.NONE)),
            duration(sum(times) / len(times)) if times else words.NONE,
            words.spread(_numbers(done, "images_per_second"), 0),
            words.size(max(memory)) if memory else words.NONE,
            *sizes.get(group.label, (words.NONE, words.NONE)),
        ])  # fmt: skip
    note = (
        "Mean ± standard deviation over the finished seeds, of the weights after the last epoch. "
        "Memory: what the training program takes of a device, by its compiler: state, images on it and "
        "activations. Parameters: forward and feedback. Training state: parameters, optimizers and random "
        "state."
    )
    held_out = ("val_split", "val_per_class")
    if all(g.config and not any(map(g.config.get, held_out)) for g in groups):
        note += " No images were held out for validation."
    note += f" {unknown}" if unknown else ""
    headings = (
        "config",
        "test accuracy, %",
        "validation, %",
        "finished",
        "rule",
        "time",
        "images/s",
    )
    headings += ("memory", "parameters", "training state")
    drop = (
        "training state",
        "parameters",
        "memory",
        "images/s",
        "finished",
        "rule",
        "time",
        "validation, %",
    )
    return Table("Results", headings, "lrrrlr", rows, note, drop)


def memory(groups: Sequence[Group]) -> tuple[dict[str, tuple[str, str]], str]:
    """(label -> number of parameters, and bytes of the state of training; why some are not known, or "").

    Most often one reason holds for all, such as a rule that is not registered here: it is said of the first.
    """
    found, problems = {}, []
    for group in groups:
        what = f"No parameters of {group.label}"
        sizes = attempt(what, partial(size_of, group.runs[0]), problems)
        if sizes is not None:
            count = sizes["forward"][0] + sizes["feedback"][0]
            found[group.label] = (f"{count:,}", words.size(sizes["state"][1]))
    others = [group.label for group in groups if group.label not in found][1:]
    return found, " ".join([*problems[:1], *([f"Nor of {', '.join(others)}."] if others else [])])


def feedback_ends(curves: Mapping[str, np.ndarray], title: str) -> Table:
    """Where the feedback training of every map begins and ends in one batch.

    Args:
      curves: "loss/<map>", "angle/<map>", "distance/<map>", each (iterations,).
    """
    rows = [
        [name, *(_ends(curves.get(f"{kind}/{name}")) for kind in CURVES)]
        for name in dict.fromkeys(name.partition("/")[2] for name in curves)
    ]
    return _without_empty(Table(title, ("map", *CURVES.values()), "lr", rows))


def _ends(curve: np.ndarray | None) -> str:
    return "" if curve is None else words.ends(curve[0], curve[-1])


def runs(groups: Sequence[Group]) -> Table:
    """One row for each run."""
    rows = [
        [
            group.label,
            words.NONE if run.seed is None else str(run.seed),
            run.status,
            *_outcome(run),
        ]
        for group in groups
        for run in group.runs
    ]
    notes = [f"comparison.csv says of {g.label}: {g.note}." for g in groups if g.note]
    notes += [
        f"{g.label}: {problem}." for g in groups for run in g.runs for problem in run.problems
    ]
    headings = ("config", "seed", "state", "steps", "test, %", "top 5, %", "validation, %", *RARE)
    drop = (*reversed(RARE), "top 5, %", "steps", "validation, %")
    if all(row[2] == rows[0][2] == "finished" for row in rows):
        drop += ("state",)
    return _without_empty(Table("Runs", headings, "lrlr", rows, " ".join(notes), drop))


def _outcome(run: Reading) -> list[str]:
    summary = run.summary
    if summary is None:
        step = last_of(run.metrics, "step")
        return ["" if step is None else f"{step:.0f}", *[""] * 7]
    names = ("test_accuracy", "test_top5_accuracy", "val_accuracy", "test_accuracy_of_best_val")
    shares = [_numbers([summary], name, 100) for name in names]
    apart = [_numbers([summary], f"diagnostics_{n}") for n in ("seconds", "compile_seconds")]
    return [
        str(summary["steps"]),
        *(f"{share[0]:.2f}" if share else "" for share in shares),
        duration(summary["wall_seconds"]),
        f"{summary['images_per_second']:.0f}",
        " + ".join(f"{one[0]:.1f} s" for one in apart if one),
    ]


def paired(found: Sequence[Difference], reference: str) -> Table:
    """Differences to a config, over the seeds that both have finished."""
    rows = [
        [
            one.label,
            str(one.seeds),
            words.signed(one.mean),
            words.NONE if one.error is None else f"{one.error:.2f}",
            words.signed(one.t),
            words.p_value(one.p),
        ]
        for one in found
    ]
    headings = ("config", "seeds", "difference, points", "standard error", "t", "p")
    note = (
        f"Test accuracy minus that of {reference} with the same seed: mean over n seeds, its standard error, "
        "Student's paired t-test, two-sided."
    )
    if any(one.seeds == 1 for one in found):
        note += " Of one seed there is no test."
    if any(one.seeds > 1 and one.t is None for one in found):
        note += " Where all differences are equal there is no test."
    if len(found) > 1:
        note += " The p-values are not corrected for the number of configs."
    return Table(
        f"Differences to {reference}", headings, "lr", rows, note, ("t", "standard error", "seeds")
    )


def config_differences(groups: Sequence[Group]) -> Table | None:
    """The fields in which configs differ; None where none do."""
    fields = [name for name in _fields(groups) if len({_field(g, name) for g in groups}) > 1]
    if not fields:
        return None
    title, note = "What sets the configs apart", "All other fields are equal."
    if len(groups) <= len(fields):
        return _side_by_side(title, groups, fields)._replace(note=note)
    columns = [places([_field(group, name) for group in groups])[1] for name in fields]
    rows = [[group.label, *cells] for group, *cells in zip(groups, *columns, strict=True)]
    if any(SAME in cell for column in columns for cell in column):
        note += f" {SAME} stands for what is equal in all."
    return Table(title, ["config", *fields], "l", rows, note)


def whole_config(groups: Sequence[Group]) -> Table:
    """Every field of every config; of a config whose runs differ in bookkeeping, as the first one has it."""
    return _side_by_side("All fields", groups, _fields(groups))


def _side_by_side(title: str, groups: Sequence[Group], fields: Sequence[str]) -> Table:
    rows = [[name, *(_field(group, name) for group in groups)] for name in fields]
    return Table(title, ["field", *(group.label for group in groups)], "l", rows)


def _fields(groups: Sequence[Group]) -> list[str]:
    return [n for n in dict.fromkeys(n for g in groups for n in g.config) if n != "seed"]


def _field(group: Group, name: str) -> str:
    return words.field(group.config[name]) if name in group.config else ""


def origins(groups: Sequence[Group]) -> Table:
    """Where each run was trained, by which program; what all have in common stands below."""
    headings = ["config", "seed", *FACTS, *PACKAGES, "command"]
    rows = [
        [group.label, words.NONE if run.seed is None else str(run.seed), *_origin(run)]
        for group in groups
        for run in group.runs
    ]
    note, kept = "", list(range(len(headings)))
    if len(rows) > 1:
        same = [i for i in kept[2:] if rows[0][i] and len({row[i] for row in rows}) == 1]
        note = ", ".join(f"{headings[i]} {rows[0][i]}" for i in same)
        note, kept = note and f"All runs: {note}.", [i for i in kept if i not in same]
    drop = ["command", "host", *reversed(PACKAGES), "date", "device"]
    found = Table("Provenance", headings, "l", rows, note, drop)
    return _without_empty(_with_columns(found, kept))


def _origin(run: Reading) -> list[str]:
    """Facts, versions and command, as the run has told them at its end or, else, its start; "" where it has not."""
    origin = (run.summary or {}).get("provenance") or run.origin
    origin = origin if isinstance(origin, dict) else {}
    versions = origin.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    told = (
        [origin.get(name) for name in FACTS],
        map(versions.get, PACKAGES),
        [origin.get("command")],
    )
    return [str(one or "") for part in told for one in part]


def _without_empty(table: Table) -> Table:
    """Without the columns that have no cell."""
    numbers = range(len(table.headings))
    return _with_columns(table, [i for i in numbers if i == 0 or any(row[i] for row in table.rows)])


def _with_columns(table: Table, kept: Sequence[int]) -> Table:
    sides = table.sides.ljust(len(table.headings), table.sides[-1])
    return table._replace(
        headings=[table.headings[i] for i in kept],
        sides="".join(sides[i] for i in kept),
        rows=[[row[i] for i in kept] for row in table.rows],
    )


def _numbers(summaries: Sequence[dict], name: str, factor: float = 1) -> list[float]:
    found = (summary.get(name) for summary in summaries)
    return [factor * v for v in found if isinstance(v, (int, float)) and not isinstance(v, bool)]
