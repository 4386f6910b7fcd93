"""The report in a terminal: its tables, and what the figures show in numbers."""

from collections.abc import Iterator, Sequence

from dtp_jax.report import figures, words
from dtp_jax.report.content import Content
from dtp_jax.report.folders import Group
from dtp_jax.report.tables import Table
from dtp_jax.run.screen import Screen


def show(content: Content, groups: Sequence[Group], screen: Screen) -> None:
    """Prints it; a table is as wide as the terminal takes."""
    screen.note(f"{content.title}\n{content.made}")
    for problem in content.problems:
        screen.warn(problem)
    for table in (*_main_tables(content), *_over_epochs(groups)):
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
    found = (content.results, content.paired, content.runs, content.config_differences, content.updates)
    return (table for table in found if table is not None)


def _over_epochs(groups: Sequence[Group]) -> Iterator[Table]:
    """What the figures of a page show: the first and the last value of every curve, of each config."""
    curves = {
        "validation accuracy, %": lambda run: _percent(run.metrics.of("val").by_epoch("accuracy")),
        "training accuracy, %": lambda run: _percent(run.metrics.of("train").by_epoch("accuracy")),
        "validation loss": lambda run: run.metrics.of("val").by_epoch("loss"),
        "training loss": lambda run: run.metrics.of("train").by_epoch("loss"),
    }
    for measure, (title, unit) in figures.MEASURES.items():
        for name in figures.measured(groups, measure):
            curves[f"{title} of {name}, {unit}"] = lambda run, n=f"{measure}/{name}": figures.series(run, n)
    for start in range(0, len(groups), 3):  # three configs beside each other fit a terminal
        some = groups[start : start + 3]
        rows = [[title, *(_ends(group, read) for group in some)] for title, read in curves.items()]
        rows = [row for row in rows if any(cell != words.NONE for cell in row[1:])]
        if rows:
            columns = {"first to last epoch": "left", **{group.label: "right" for group in some}}
            yield Table("Curves, means over the seeds", columns, rows)


def _ends(group: Group, read) -> str:
    found = [one for run in group.runs if (one := read(run))]
    if not found:
        return words.NONE
    first, last = ([one[end(one)] for one in found] for end in (min, max))
    return " to ".join(words.significant(sum(part) / len(part)) for part in (first, last))


def _percent(values: dict[int, float]) -> dict[int, float]:
    return {epoch: 100 * value for epoch, value in values.items()}


def _table(table: Table, screen: Screen) -> None:
    screen.note("")
    screen.table(table.title, table.columns, table.rows, drop=table.drop)
    if table.note:
        screen.note(table.note)
