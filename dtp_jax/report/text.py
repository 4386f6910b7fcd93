"""The report in a terminal: its tables, and what the figures show in numbers."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from dtp_jax.report import words
from dtp_jax.report.content import Content
from dtp_jax.report.folders import Group, seeds_of
from dtp_jax.report.series import LEARNING, MEASURES, Curve, measured
from dtp_jax.report.tables import Table
from dtp_jax.run.layout import columns_of, wrapped
from dtp_jax.run.screen import Screen

FOLDED = 12
"""Columns of a terminal to which names of configs may be folded."""
PIPE = 80
"""Columns of a config's fields on a pipe: a line of them all would be read by nobody."""


def show(content: Content, groups: Sequence[Group], screen: Screen) -> None:
    """Prints it; a table is as wide as the terminal takes."""
    screen.note(f"{content.title}\n{content.made}")
    for problem in content.problems:
        screen.warn(problem)
    for one in content.sweeps:
        _table(one.table, screen)
        if one.command:
            screen.note(f"\nthe best over all epochs of its config:\n{one.command}")
    for table in _main_tables(content):
        _table(table, screen)
    if content.config_differences is None:
        _config(content.config, screen)
    for table in filter(None, (content.updates, *_over_epochs(groups), *content.feedback_ends)):
        _table(table, screen)
    if content.no_pairs:
        screen.note(f"\n{content.no_pairs}")
    if content.update_note:
        screen.note(f"\n{content.update_note}")
    for line in content.no_feedback:
        screen.note(f"\n{line}")
    for one in content.looks:
        screen.note("\n" + ", ".join(filter(None, (one.label, one.run, one.accuracy))))
        for problem in one.problems:
            screen.note(problem)
        for table in filter(None, (one.classes, one.confused)):
            if table.rows:
                _table(table, screen)
    _table(content.origins, screen)


def _main_tables(content: Content) -> Iterator[Table]:
    found = (content.results, content.paired, content.runs, content.config_differences)
    return (table for table in found if table is not None)


def _config(table: Table, screen: Screen) -> None:
    """All fields of the one config, beside each other: a line for each would be longer than all else."""
    if table.rows:
        width = min(PIPE, columns_of(screen.console))
        fields = "  ".join(sorted(f"{name}={value}" for name, value, *_ in table.rows))
        screen.note("\n" + "\n".join(["Configuration", *wrapped(fields, width)]))


def _over_epochs(groups: Sequence[Group]) -> Iterator[Table]:
    """What the figures of a page show: the first and the last value of every curve, of each config."""
    curves = {f"{one.title}, {one.unit}": one for one in LEARNING}
    for measure, (title, unit) in MEASURES.items():
        curves |= {f"{title} of {one.title}, {unit}": one for one in measured(groups, measure)}
    for start in range(0, len(groups), 3):  # three configs beside each other fit a terminal
        some = groups[start : start + 3]
        rows = [
            [title, *(_ends(group, curve) for group in some)] for title, curve in curves.items()
        ]
        rows = [row for row in rows if any(cell != words.NONE for cell in row[1:])]
        if rows:
            headings = ["first to last epoch", *(group.label for group in some)]
            is_mean = any(len(group.runs) > 1 for group in some)
            title = f"Curves, means over {seeds_of(some)}" if is_mean else "Curves"
            yield Table(title, headings, "lr", rows)


def _ends(group: Group, curve: Curve) -> str:
    found = [one for run in group.counted if (one := curve.of(run))]
    if not found:
        return words.NONE
    first, last = ([one[end(one)] for one in found] for end in (min, max))
    return words.ends(*(sum(part) / len(part) for part in (first, last)))


def _table(table: Table, screen: Screen) -> None:
    """A table, or a paragraph for each row where the terminal is too narrow for that."""
    screen.note("")
    columns = dict(table.columns)
    if len(columns) == len(table.headings) and _least_width(table) <= columns_of(screen.console):
        drop = [name for name in table.drop if name in columns]
        screen.table(table.title, columns, table.rows, drop=drop)
    else:
        screen.note(table.title)
        for row in table.rows:
            screen.note(row[0])
            for heading, cell in zip(table.headings[1:], row[1:], strict=True):
                screen.note(f"  {heading}: {cell}")
    if table.note:
        screen.note(table.note)


def _least_width(table: Table) -> int:
    """Of a terminal, with all columns dropped that may be."""
    widths = []
    for number, heading in enumerate(table.headings):
        pieces = [piece for row in table.rows for piece in row[number].split(" ")]
        if heading not in table.drop:
            widths.append(max(map(cell_len, [*heading.split(" "), *pieces])))
    return sum(widths[1:]) + min(widths[0], FOLDED) + 3 * len(widths) + 1
