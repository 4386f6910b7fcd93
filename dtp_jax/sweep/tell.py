"""What a sweep says of its trials: a line for each as it ends, a table in the end."""

import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from dtp_jax.run.layout import columns_of, duration
from dtp_jax.run.owner import lives
from dtp_jax.run.screen import Screen
from dtp_jax.sweep.results import (
    COMPLETE,
    ENOUGH,
    PRUNED,
    RUNNING,
    STOPPED,
    Row,
    best,
    command_of,
    fields_of_row,
    in_order,
    rows,
)
from dtp_jax.sweep.trial import DIVERGED, FAILED, folder_of

if TYPE_CHECKING:
    import optuna

MOST_ROWS = 15
"""Of the table on a screen; the CSV file has all."""
INDENT = "    "
STATES = (COMPLETE, PRUNED, DIVERGED, FAILED, RUNNING, STOPPED)


class Teller:
    """Says a line of every trial that has ended since the last time, whichever worker had it."""

    def __init__(self, sweep: Path, trials: int, screen: Screen):
        self._sweep, self._trials, self._screen = sweep, trials, screen
        self._said: set[int] = set()

    def tell(
        self, trials: Sequence["optuna.trial.FrozenTrial"], *, aloud: bool = True
    ) -> list[Row]:
        """Says what is new. Returns the trials.

        Args:
          aloud: False: what has ended by now is no news.
        """
        found = rows(trials, self._sweep)
        news = [one for one in found if one.is_finished and one.number not in self._said]
        top = best(found)
        for one in news:
            self._said.add(one.number)
            if aloud:
                self._screen.note(line(one, self._trials, is_best=top is one))
        return found

    def are_all_taken(self, numbers: Collection[int]) -> bool:
        """Whether others are at work on all of these trials."""
        return all(lives(folder_of(self._sweep, number)) for number in numbers)


def line(one: Row, trials: int, *, is_best: bool) -> str:
    """A trial that has ended."""
    parts = [f"trial {one.number:>{len(str(trials - 1))}}", percent(one.value)]
    if one.state in (DIVERGED, FAILED):
        return f"{parts[0]}  {one.state}: {one.reason}"
    if one.state == PRUNED:
        parts.append(f"pruned after epoch {one.epoch}")
    if one.seconds is not None:
        parts.append(duration(one.seconds))
    if is_best:
        parts.append("the best so far")
    return "  ".join(parts)


def percent(value: float | None) -> str:
    """An accuracy."""
    return "-" if value is None else f"{100 * value:.2f} %"


def show(
    found: Sequence[Row],
    record: Mapping[str, Any],
    shares: Mapping[str, float],
    screen: Screen,
    most: int = MOST_ROWS,
) -> None:
    """The table of the trials, what matters, and the command that trains the best."""
    ordered = in_order(found)
    title = (
        "trials, best first"
        if len(ordered) <= most
        else f"the best {most} of {len(ordered)} trials"
    )
    headings, cells = table(ordered[:most], record)
    by_share = sorted(headings[:4:-1], key=lambda field: _share(field, shares, record))
    screen.table(
        title,
        {name: "left" if name == "state" else "right" for name in headings},
        cells,
        drop=["time", "epochs", *by_share],
    )
    screen.note(counts(found))
    screen.note(in_words(found, shares))
    top = best(found)
    if top is not None:
        accuracy = f"{percent(top.value)} on validation images after {epochs(record)}"
        screen.note(f"\nthe best is trial {top.number}: {accuracy}; over all epochs of the config:")
        _say_command(command_of(top, record), screen)


def _say_command(command: str, screen: Screen) -> None:
    """A command in lines that fit, and can be copied; on a pipe in one."""
    lines, width = [""], columns_of(screen.console)
    for word in shlex.split(command):
        quoted = shlex.quote(word)
        if lines[-1] and len(lines[-1]) + len(quoted) + 3 > width:
            lines[-1] += " \\"
            lines.append(INDENT + quoted)
        else:
            lines[-1] += f" {quoted}" if lines[-1] else quoted
    screen.console.print(Text("\n".join(lines)), soft_wrap=True)


def epochs(record: Mapping[str, Any]) -> str:
    """How long a trial is."""
    return f"{record['epochs']} epoch{'s' if record['epochs'] > 1 else ''}"


def table(found: Sequence[Row], record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(headings, cells): a column for each field that is searched."""
    fields = list(dict.fromkeys(one["field"] for one in record["space"].values()))
    headings = ["trial", "accuracy", "state", "epochs", "time", *fields]
    return headings, [_cells(one, record) for one in found]


def _cells(one: Row, record: Mapping[str, Any]) -> list[str]:
    return [
        str(one.number),
        percent(one.value),
        one.state,
        f"{one.epoch}/{record['epochs']}",
        "-" if one.seconds is None else duration(one.seconds),
        *(_short(value) for value in fields_of_row(one, record).values()),
    ]


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _share(field: str, shares: Mapping[str, float], record: Mapping[str, Any]) -> float:
    """How much a field matters, all its maps together."""
    return sum(share for name, share in shares.items() if record["space"][name]["field"] == field)


def counts(found: Sequence[Row]) -> str:
    """How many trials are in which state."""
    number = Counter(one.state for one in found)
    done = sum(one.is_finished for one in found)
    parts = [f"{number[state]} {state}" for state in STATES if number[state]]
    return (
        f"{done} result{'' if done == 1 else 's'}: {', '.join(parts)}" if found else "no trials yet"
    )


def in_words(found: Sequence[Row], shares: Mapping[str, float]) -> str:
    """Which parameters matter."""
    if shares:
        return "what matters: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    known = sum(one.is_finished and one.value is not None for one in found)
    return f"what matters is said from {ENOUGH} trials with an accuracy on; there are {known}"
