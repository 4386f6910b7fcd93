"""The lines that move while a run trains, and the one that stays of an epoch."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dtp_jax.output import writable
from dtp_jax.run.layout import columns_of, duration, parts_that_fit, shortened

if TYPE_CHECKING:
    from dtp_jax.run.screen import Screen

PLAIN_LINE_SECONDS = 10.0
"""Without a terminal: at most one line of progress in this time."""
WIDEST_BAR, NARROWEST_BAR = 24, 5
"""Where there is less room, there is no bar."""


class Line:
    """A line that moves: words, a bar where something is counted and there is room for it, words."""

    def __init__(self, head: str, what: str, spinner: Spinner | None = None):
        self.head, self.what, self.spinner = head, what, spinner
        self.after: Callable[[], list[str]] = list
        self.done: float = 0
        self.total: float | None = None

    def show(self, what: str, done: float, total: float | None) -> None:
        """So much of a total has been done."""
        self.what, self.done, self.total = what, done, total

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        width = options.max_width - (2 if self.spinner else 0)
        head, what = (writable(text, options.encoding) for text in (self.head, self.what))
        before = f"{shortened(head, width // 2)}  {what}" if head else what
        after = self.after()
        room = width - cell_len(before) - cell_len("  ".join(after)) - 2
        cells: list[Any] = [self.spinner] if self.spinner else []
        if self.total and room >= NARROWEST_BAR:
            bar = ProgressBar(self.total, self.done, width=min(room, WIDEST_BAR))
            cells += [Text(before), bar, Text("  ".join(after), "progress.download")]
        else:
            cells.append(Text(parts_that_fit([before, *(f"  {one}" for one in after)], width)))
        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        yield line


class TrainingLines:
    """The line of the epoch, and below it what does not fit beside it in 80 columns."""

    def __init__(self, head: str, what: str):
        self.line = Line(head, what)
        self.below: list[list[str]] = []
        """Lines, in the parts that are shown or left out as a whole."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        yield self.line
        yield from (Text(parts_that_fit(parts, options.max_width)) for parts in self.below)


class Bar:
    """One bar per epoch, or a plain line now and then."""

    def __init__(
        self, screen: "Screen", epochs: int, steps_per_epoch: int, lines: TrainingLines | None
    ):
        self.screen, self.epochs, self.steps_per_epoch, self.lines = (
            screen,
            epochs,
            steps_per_epoch,
            lines,
        )
        self.last_line = time.monotonic()
        self.loss = self.accuracy = self.rate = 0.0
        self.only = ""

    def update(
        self,
        epoch: int,
        steps: int,
        *,
        rate: float,
        loss: float,
        accuracy: float,
        left: float,
        feedback_loss: Mapping[str, float],
        only: str = "",
    ) -> None:
        """Shows the state of the epoch.

        Args:
          only: what is trained, where that is not everything.
          steps: steps taken in this epoch. rate: images/s. loss, accuracy: means over the epoch so far.
          left: seconds to the end of the run. feedback_loss: of the last step, by block.
        """
        self.loss, self.accuracy, self.rate, self.only = loss, accuracy, rate, only
        name = self._name(epoch) + (f" {only} only" if only else "")
        speed = [f"{rate:.0f} images/s", f"{duration(left)} left"]
        losses = [f"loss {loss:.3f}", f"  accuracy {accuracy:.3f}"]
        feedback = [f" {block} {value:.2g}" for block, value in feedback_loss.items()]
        if feedback:
            feedback[0] = f"feedback loss{feedback[0]}"
        if self.lines is not None:
            self.lines.below = [losses, feedback] if feedback else [losses]
            counted = f"{steps}/{self.steps_per_epoch}"
            self.lines.line.after = lambda: [counted, *speed]
            self.lines.line.show(name, steps, self.steps_per_epoch)
        elif time.monotonic() - self.last_line >= PLAIN_LINE_SECONDS:
            self.last_line = time.monotonic()
            counted = f"step {steps}/{self.steps_per_epoch}"
            columns = (name, counted, *speed, "".join(losses), "".join(feedback))
            self.screen.progress("  ".join(filter(None, columns)))

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"

    def end_epoch(
        self,
        epoch: int,
        validation: Any | None,
        angle: tuple[str, float] | None = None,
        updates: float | None = None,
    ) -> None:
        """The line that stays of an epoch; its columns stand below those of the line before.

        Args:
          angle: a block, and the degrees between its feedback map and its forward weights.
          updates: mean degrees between updates and backprop's gradients.
        """
        # A pass that trains not everything says so in the place of its images/s.
        speed = f"{self.only} only" if self.only else f"{_short_rate(self.rate)} images/s"
        columns = {
            "epoch": self._name(epoch),
            "speed": f"{speed:<14}",
            "training": f"loss {_five(self.loss)} acc {self.accuracy:.3f}",
        }
        if validation is not None:
            columns["val"] = f"val {_five(validation.loss)} acc {validation.accuracy:.3f}"
        elif self.only == "feedback" and angle is not None:
            columns["val"] = " " * len("val 0.000 acc 0.000")  # of the pass between, which has one
        degrees = writable("°", self.screen.console.encoding)
        if angle is not None:
            columns["angle"] = f"{angle[0]} {angle[1]:2.0f}{degrees}"
        if updates is not None:
            columns["updates"] = f"updates {updates:2.0f}{degrees}"
        order = ("updates", *(() if self.only else ("speed",)), "angle", "training")
        for name in order:
            if cell_len("  ".join(columns.values())) > columns_of(self.screen.console):
                columns.pop(name, None)
        self.last_line = time.monotonic()
        self.screen.note("  ".join(columns.values()).rstrip())


def _short_rate(rate: float) -> str:
    """At most five digits, right-aligned."""
    return f"{rate:5.0f}" if rate < 99_999.5 else f"{rate / 1000:4.0f}k"


def _five(number: float) -> str:
    """Five characters, with up to three decimals; more where the number has more digits."""
    texts = [f"{number:5.{decimals}f}" for decimals in (3, 2, 1, 0)]
    return next((text for text in texts if len(text) == 5), texts[-1])
