"""Text that fits a terminal: nothing is broken inside a word that fits in a line."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dtp_jax.output import writable

NO_BREAK = "\N{NO-BREAK SPACE}"


def fitted_table(
    columns: Mapping[str, Literal["left", "right"]],
    rows: Sequence[Sequence[str]],
    *,
    drop: Sequence[str],
    width: float,
    totals: bool = False,
) -> Table:
    """A table that is not wider than `width`.

    Args:
      columns: headings, and on which side their cells are.
      drop: headings of columns that are left out as far as they do not fit, the first ones first. Where
        that is not enough, cells wrap at spaces, and after that the first column folds as `wrapped` does.
      totals: the last row is apart from the others.
    """
    texts = {heading: [heading, *(row[i] for row in rows)] for i, heading in enumerate(columns)}
    widths = {heading: max(map(cell_len, texts[heading])) for heading in columns}

    def excess() -> float:
        return sum(widths.values()) + 3 * len(widths) + 1 - width

    def shrink(heading: str, split: Callable[[str], list[str]]) -> None:
        least = max(cell_len(piece) for text in texts[heading] for piece in split(text))
        widths[heading] = max(least, widths[heading] - int(max(0, excess())))

    for heading in drop:
        if excess() > 0:
            del widths[heading]
    for heading in reversed(widths):
        shrink(heading, lambda text: text.split(" "))
    first = next(iter(widths))
    shrink(first, _pieces)
    shrink(first, list)  # nothing that could be read: cut, so that the lines stay whole
    table = Table(width=sum(widths.values()) + 3 * len(widths) + 1)
    for heading, room in widths.items():
        lines = ("\n".join(wrapped(text, room)) for text in texts[heading])
        texts[heading] = [text.replace(NO_BREAK, " ") for text in lines]
        table.add_column(Text(texts[heading][0]), justify=columns[heading], width=room)
    for i in range(1, len(rows) + 1):
        if totals and i == len(rows):
            table.add_section()
        table.add_row(*(Text(texts[heading][i]) for heading in widths))
    return table


def wrapped(text: str, width: float) -> list[str]:
    """Lines of at most this width.

    They end at spaces, but not at no-break spaces. A word that is wider than a line, such as a path, is
    folded where its parts end, at /, -, _ and commas and before brackets, and only a part that is wider
    still is cut.
    """
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for space, word in re.findall(r"( *)([^ ]+)", line):
            if cell_len(lines[-1] + space + word) <= width:
                lines[-1] += space + word
                continue
            if lines[-1]:
                lines.append("")
            for piece in _pieces(word) if cell_len(word) > width else (word,):
                for cut in chop_cells(piece, int(width)) if cell_len(piece) > width else (piece,):
                    if lines[-1] and cell_len(lines[-1] + cut) > width:
                        lines.append("")
                    lines[-1] += cut
    return lines


def _pieces(word: str) -> list[str]:
    """A word, or words, in the parts that may stand on lines of their own."""
    return [piece for piece in re.split(r" |(?<=[/_,-])|(?=\[)", word) if piece]


def shortened(text: str, width: int) -> str:
    """The text with an ellipsis for what is too much, before its last eight characters: a seed's number."""
    if cell_len(text) <= width:
        return text
    return chop_cells(text, max(1, width - 9))[0] + "…" + text[-8:]


def parts_that_fit(parts: Sequence[str], width: int) -> str:
    """The first parts of a line, with an ellipsis for those that do not fit."""
    for kept in range(len(parts), 0, -1):
        line = "".join(parts[:kept]) + (" …" if kept < len(parts) else "")
        if cell_len(line) <= width:
            return line
    return chop_cells(parts[0], max(1, width - 1))[0] + "…" if parts else ""


def columns_of(console: Console) -> float:
    """Columns of a terminal; without bound on a pipe."""
    return console.width if console.is_terminal else math.inf


def show(console: Console, text: str, style: str = "") -> None:
    """Prints text as it is: no markup, for names may hold brackets."""
    text = writable(text, console.encoding)
    lines = wrapped(text, columns_of(console)) if console.is_terminal else [text]
    console.print(Text("\n".join(lines), style), soft_wrap=True)


def counted(count: int, what: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
