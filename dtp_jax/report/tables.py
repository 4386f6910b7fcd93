"""What a report says in tables, the same for a page and for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from dtp_jax.report import words
from dtp_jax.report.differences import Difference
from dtp_jax.report.folders import Group
from dtp_jax.report.predictions import size_of
from dtp_jax.report.reading import Reading, last_of
from dtp_jax.run.layout import duration

MOST_CLASSES = 20
"""Of more, only the worst and the best ten are shown."""
PACKAGES = ("python", "dtp_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class Table(NamedTuple):
    """Cells as text; empty where there is nothing to say."""

    title: str
    columns: Mapping[str, Literal["left", "right"]]
    rows: Sequence[Sequence[str]]
    note: str = ""
    drop: Sequence[str] = ()
    """Headings of columns that a narrow terminal leaves out, the first ones first."""


def results(groups: Sequence[Group], sizes: Mapping[str, tuple[str, str]]) -> Table:
    """One row for each config: means over the finished seeds, memory, how its runs ended.

    Args:
      sizes: label -> parameters, and bytes of the state of training, in words.
    """
    rows = []
    for group in groups:
        done = [run.summary for run in group.finished]
        times = [one["wall_seconds"] for one in done]
        rows.append([
            group.label,
            words.spread(_numbers(done, "test_accuracy", 100)),
            words.spread(_numbers(done, "val_accuracy", 100)),
            f"{len(done)} of {len(group.runs)}",
            str(group.config.get("rule", words.NONE)),
            duration(sum(times) / len(times)) if times else words.NONE,
            words.spread(_numbers(done, "images_per_second"), 0),
            *sizes.get(group.label, (words.NONE, words.NONE)),
        ])  # fmt: skip
    note = (
        "Mean ± standard deviation over the finished seeds, of the weights after the last epoch. "
        "Memory: forward and feedback parameters; with optimizers and random state, what a checkpoint holds. "
        "Activations and what the compiler takes come on top of it and are not recorded."
    )
    if not any(_numbers([r.summary for r in g.finished], "val_accuracy") for g in groups):
        note += " No images were held out for validation."
    columns = {
        "config": "left",
        "test accuracy, %": "right",
        "validation, %": "right",
        "finished": "right",
        "rule": "left",
        "time": "right",
        "images/s": "right",
        "parameters": "right",
        "memory": "right",
    }
    drop = ("memory", "parameters", "images/s", "finished", "rule", "time", "validation, %")
    return Table("Results", columns, rows, note, drop)


def memory(groups: Sequence[Group]) -> dict[str, tuple[str, str]]:
    """Label -> number of parameters, and bytes of the state of training; without those that are not known."""
    found = {}
    for group in groups:
        try:
            sizes = size_of(group.runs[0])
        except ValueError:  # its rule is not registered here, or its config is damaged
            continue
        count = sizes["forward"][0] + sizes["feedback"][0]
        found[group.label] = (f"{count:,}", words.size(sizes["state"][1]))
    return found


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
    columns = {
        "config": "left",
        "seed": "right",
        "state": "left",
        "steps": "right",
        "test, %": "right",
        "top 5, %": "right",
        "validation, %": "right",
        "test at best validation, %": "right",
        "time": "right",
        "images/s": "right",
        "diagnostics": "right",
    }
    drop = ("diagnostics", "top 5, %", "test at best validation, %", "images/s", "time", "steps")
    drop += ("validation, %",)
    return _without_empty(Table("Runs", columns, rows, " ".join(notes), drop))


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
    columns = {"config": "left", "seeds": "right", "difference, points": "right"}
    columns |= {"standard error": "right", "t": "right", "p": "right"}
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
    return Table(f"Differences to {reference}", columns, rows, note, ("t", "standard error"))


def config_differences(groups: Sequence[Group]) -> Table | None:
    """The fields in which configs differ; None where none do."""
    fields = [name for name in _fields(groups) if len({_field(g, name) for g in groups}) > 1]
    if not fields:
        return None
    title, note = "What sets the configs apart", "All other fields are equal."
    if len(groups) > len(fields):
        columns = {"config": "left", **dict.fromkeys(fields, "left")}
        rows = [[group.label, *(_field(group, name) for name in fields)] for group in groups]
    else:
        columns = {"field": "left", **{group.label: "left" for group in groups}}
        rows = [[name, *(_field(group, name) for group in groups)] for name in fields]
    return Table(title, columns, rows, note)


def whole_config(groups: Sequence[Group]) -> Table:
    """Every field of every config; the seed is that of the first run."""
    columns = {"field": "left", **{group.label: "left" for group in groups}}
    rows = [[name, *(_field(group, name) for group in groups)] for name in (*_fields(groups),)]
    return Table("All fields", columns, rows)


def _fields(groups: Sequence[Group]) -> list[str]:
    return [n for n in dict.fromkeys(n for g in groups for n in g.config) if n != "seed"]


def _field(group: Group, name: str) -> str:
    return words.field(group.config[name]) if name in group.config else ""


def origins(groups: Sequence[Group]) -> Table:
    """Where each run was trained, by which program; what all have in common stands below."""
    rows = []
    for group in groups:
        for run in group.runs:
            origin = (run.summary or {}).get("provenance") or run.origin
            origin = origin if isinstance(origin, dict) else {}
            versions = origin.get("versions")
            versions = versions if isinstance(versions, dict) else {}
            facts = [str(origin.get(name) or "") for name in ("date", "commit", "host", "device")]
            row = [group.label, words.NONE if run.seed is None else str(run.seed), *facts]
            rows.append(
                [
                    *row,
                    *(str(versions.get(name, "")) for name in PACKAGES),
                    str(origin.get("command") or ""),
                ]
            )
    names = ("config", "seed", "date", "commit", "host", "device", *PACKAGES, "command")
    values = {name: {row[i] for row in rows} for i, name in enumerate(names)}
    common = [n for n in names[2:] if len(values[n]) == 1 and len(rows) > 1 and "" not in values[n]]
    note = (
        "All runs: " + ", ".join(f"{n} {next(iter(values[n]))}" for n in common) + "."
        if common
        else ""
    )
    kept = [i for i, name in enumerate(names) if name not in common]
    columns = {names[i]: "left" for i in kept}
    rows = [[row[i] for i in kept] for row in rows]
    drop = (
        "command",
        "host",
        "optax",
        "flax",
        "numpy",
        "jaxlib",
        "python",
        "date",
        "device",
        "jax",
    )
    return _without_empty(Table("Provenance", columns, rows, note, drop))


def _without_empty(table: Table) -> Table:
    """Without the columns that have no cell."""
    kept = [i for i in range(len(table.columns)) if any(row[i] for row in table.rows) or i == 0]
    headings = list(table.columns.items())
    rows = [[row[i] for i in kept] for row in table.rows]
    columns = dict(headings[i] for i in kept)
    return table._replace(columns=columns, rows=rows, drop=[n for n in table.drop if n in columns])


def _numbers(summaries: Sequence[dict], name: str, factor: float = 1) -> list[float]:
    found = (summary.get(name) for summary in summaries)
    return [factor * v for v in found if isinstance(v, (int, float)) and not isinstance(v, bool)]
