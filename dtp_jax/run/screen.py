"""What a run shows: the start-up screen, progress bars or plain lines, and TensorBoard.

JAX is imported by the functions that need it: a screen can speak before JAX is there.
"""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dtp_jax.parallel.mesh import Mesh
    from dtp_jax.run.build import Experiment

PLAIN_LINE_SECONDS = 10.0
"""Without a terminal: at most one line of progress in this time."""
NO_BREAK = "\N{NO-BREAK SPACE}"
WIDEST_BAR, NARROWEST_BAR = 24, 5
"""Where there is less room, there is no bar."""


class Screen:
    """Everything printed. On a terminal bars move; on a pipe there are plain lines.

    On a terminal nothing is broken inside a word that fits in a line; on a pipe lines are whole, for
    whoever reads a log.
    """

    head = ""
    """Before every line of progress, where there are several runs."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.errors = Console(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        """A line of information."""
        _print(self.console, text)

    def warn(self, text: str) -> None:
        """A line on stderr."""
        _print(self.errors, f"warning: {text}")

    def error(self, text: str) -> None:
        """A line on stderr: why the run ends."""
        _print(self.errors, f"error: {text}")

    def progress(self, text: str) -> None:
        """What goes on at the moment, on a pipe."""
        _print(self.console, f"{self.head}  {text}" if self.head else text)

    def abandon(self) -> None:
        """Leaves the terminal usable when the process ends at once."""
        self.console.show_cursor(True)

    def start(
        self,
        experiment: "Experiment",
        config_file: str,
        overrides: list[str],
        source: str,
        workdir: Path,
        mesh: "Mesh | None" = None,
        extended: str = "",
    ) -> None:
        """The start-up screen: what will run, on what.

        Args:
          extended: how a run that goes on has become longer than it was.
        """
        config = experiment.config
        facts = {
            "config": config_file + (f"  {' '.join(overrides)}" if overrides else ""),
            "rule": f"{config['rule']}, seed {config['seed']}, {_length(config)}, "
            f"batches of {config['batch_size']}",
            "data": f"{config['dataset']}: {source}",
            "devices": _devices(experiment, mesh),
            "workdir": str(workdir),
        }
        if extended:
            facts["extended"] = extended
        self._facts(facts)
        self._block_table(experiment)

    @contextlib.contextmanager
    def task(self, what: str) -> Iterator[Any]:
        """A line (on a terminal: a spinner) while something takes its time. Tasks are not nested.

        Yields:
          A callback (what, done, total), for tasks that can count; None on a pipe.
        """
        if not self.console.is_terminal:
            self.progress(what)
            yield None
            return
        line, start = _Line(self.head, what, spinner=Spinner("dots")), time.monotonic()
        line.after = lambda: [duration(time.monotonic() - start)]
        with self._live(line):
            yield line.show

    @contextlib.contextmanager
    def training(self, epochs: int, steps_per_epoch: int) -> Iterator["_Bar"]:
        """Progress of the epochs."""
        if not self.console.is_terminal:
            yield _Bar(self, epochs, steps_per_epoch, None)
            return
        lines = _TrainingLines(self.head, "the first step")
        with self._live(lines):
            yield _Bar(self, epochs, steps_per_epoch, lines)

    def table(
        self,
        title: str,
        columns: Mapping[str, Literal["left", "right"]],
        rows: Sequence[Sequence[str]],
        *,
        drop: Sequence[str],
        totals: bool = False,
    ) -> None:
        """A table below its title; see `fitted_table`."""
        _print(self.console, title, "italic")
        table = fitted_table(columns, rows, drop=drop, width=_width(self.console), totals=totals)
        self.console.print(table, soft_wrap=True)

    @contextlib.contextmanager
    def tensorboard(self, folder: Path, step: int) -> Iterator["Board"]:
        """Event files in `folder`; anything already there after `step` is purged."""
        from tensorboardX import SummaryWriter  # lazily: it is slow to import

        # The suffix: writers of the same second would take the same file.
        writer = SummaryWriter(
            str(folder), purge_step=step + 1 if step else None, filename_suffix=f".{step}"
        )
        try:
            yield Board(writer, step)
        finally:
            writer.close()

    def summary(self, summary: Mapping[str, Any], workdir: Path) -> None:
        """The last lines: accuracies, time, where everything is."""
        facts = {
            name: f"{summary[name]:.4f}"
            for name in (
                "test_accuracy",
                "test_top5_accuracy",
                "val_accuracy",
                "test_accuracy_of_best_val",
            )
            if summary.get(name) is not None
        }
        facts["steps"] = str(summary["steps"])
        if summary.get("extended"):
            facts["extended"] = "; ".join(
                f"at step {one['at_step']} from {one['from_epochs']} to {one['to_epochs']} epochs"
                for one in summary["extended"]
            )
        facts["time"] = (
            f"{duration(summary['wall_seconds'])}, {summary['images_per_second']:.0f} images/s"
        )
        facts["workdir"] = str(workdir)
        self._facts(facts)

    def _facts(self, facts: Mapping[str, str]) -> None:
        """Names, and what they are: beside them, or below where a word of it is too long for that."""
        width, beside = _width(self.console), max(map(len, facts)) + 2
        for name, value in facts.items():
            fits = max(map(cell_len, value.split()), default=0) <= width - beside
            indent = beside if fits else 2
            text = ("\n" + " " * indent).join(wrapped(value, width - indent))
            title = name.ljust(beside) if fits else f"{name}\n{' ' * indent}"
            self.console.print(Text.assemble((title, "bold"), text), soft_wrap=True)

    def _block_table(self, experiment: "Experiment") -> None:
        """The blocks of the network."""
        shape = "x".join(map(str, experiment.data.image_shape))
        self.table(
            f"network {experiment.config['network']}, input {shape}",
            {
                "block": "left",
                "operations": "left",
                "output": "left",
                "forward": "right",
                "feedback": "right",
            },
            _block_rows(experiment),
            drop=("operations", "output", "feedback"),
            totals=True,
        )

    def _live(self, shown: Any) -> Live:
        """A part of the terminal that is drawn anew ten times a second, and vanishes in the end."""
        return Live(
            shown,
            console=self.console,
            refresh_per_second=10,
            transient=True,
            redirect_stderr=self.errors.is_terminal,  # a file of errors stays one
        )


class BriefScreen(Screen):
    """For many runs in a row: bars move on a terminal, but of a run nothing stays but its warnings.

    Whoever starts the runs says in a line what came out. On a pipe a run with a head has lines of
    progress, from its start on: one that is found finished has none.
    """

    def __init__(self, console: Console | None = None, head: str = ""):
        """`head` says which of the runs this is."""
        super().__init__(console)
        self.head, self._started = head, False

    def note(self, text: str) -> None:
        """Nothing."""

    def progress(self, text: str) -> None:
        """The line, with its head, once the run has started."""
        if self.head and self._started:
            super().progress(text)

    def start(self, *args: Any, **kwargs: Any) -> None:
        """On a pipe: that it does."""
        self._started = True
        if self.head and not self.console.is_terminal:
            _print(self.console, f"{self.head}: starting")

    def summary(self, summary: Mapping[str, Any], workdir: Path) -> None:
        """Nothing."""


class SilentScreen(BriefScreen):
    """For all processes but the first: nothing but warnings and errors, and no files."""

    def __init__(self):
        super().__init__(Console(quiet=True, force_terminal=False))

    @contextlib.contextmanager
    def tensorboard(self, folder: Path, step: int) -> Iterator["Board"]:
        """A board that writes nothing."""
        yield NoBoard()


class NoBoard:
    """TensorBoard of the processes that write no files."""

    def config(self, config: Mapping[str, Any]) -> None:
        """Nothing."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


class Board:
    """TensorBoard, fed with the rows of metrics.jsonl."""

    def __init__(self, writer: Any, step: int = 0):
        self._writer, self._step = writer, step

    def config(self, config: Mapping[str, Any]) -> None:
        """The config as a table among the texts, at the step from which on it holds."""
        lines = ["| field | value |", "| --- | --- |"]
        for name, value in config.items():
            text = json.dumps(value).replace("|", "\\|")
            lines.append(f"| {name} | `{text}` |")
        self._writer.add_text("config", "\n".join(lines), self._step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Every number of the row, under SPLIT/KEY, at its step."""
        for key, value in row.items():
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if is_number and key not in ("step", "epoch"):
                self._writer.add_scalar(f"{row['split']}/{key}", value, row["step"])

    def flush(self) -> None:
        """Puts into the file what has come out of the writer's queue: a killed run lacks little then."""
        self._writer.flush()


class _Line:
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
        before = f"{_shortened(self.head, width // 2)}  {self.what}" if self.head else self.what
        after = self.after()
        room = width - cell_len(before) - cell_len("  ".join(after)) - 2
        cells: list[Any] = [self.spinner] if self.spinner else []
        if self.total and room >= NARROWEST_BAR:
            bar = ProgressBar(self.total, self.done, width=min(room, WIDEST_BAR))
            cells += [Text(before), bar, Text("  ".join(after), "progress.download")]
        else:
            cells.append(Text(_parts_that_fit([before, *(f"  {one}" for one in after)], width)))
        line = Table.grid(padding=(0, 1, 0, 0))
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        yield line


class _TrainingLines:
    """The line of the epoch, and below it what does not fit beside it in 80 columns."""

    def __init__(self, head: str, what: str):
        self.line = _Line(head, what)
        self.below: list[list[str]] = []
        """Lines, in the parts that are shown or left out as a whole."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        yield self.line
        yield from (Text(_parts_that_fit(parts, options.max_width)) for parts in self.below)


class _Bar:
    """One bar per epoch, or a plain line now and then."""

    def __init__(
        self, screen: Screen, epochs: int, steps_per_epoch: int, lines: _TrainingLines | None
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
    ) -> None:
        """The line that stays of an epoch; its columns stand below those of the line before.

        Args:
          angle: a block, and the degrees between its feedback map and its forward weights.
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
        if angle is not None:
            columns["angle"] = f"{angle[0]} {angle[1]:2.0f}°"
        for name in ("angle", "training") if self.only else ("speed", "angle", "training"):
            if cell_len("  ".join(columns.values())) > _width(self.screen.console):
                columns.pop(name, None)
        self.last_line = time.monotonic()
        self.screen.note("  ".join(columns.values()).rstrip())


def _devices(experiment: "Experiment", mesh: "Mesh | None") -> str:
    """What there is, and what of it the run uses."""
    import jax

    from dtp_jax.parallel.mesh import speedup_bound
    from dtp_jax.run.build import build_learner

    devices = jax.devices()
    there = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if jax.process_count() > 1:
        there += f" in {jax.process_count()} processes"
    if mesh is None:
        rest = "; more with --config.data_parallel=N" if len(devices) > 1 else ""
        return f"{there}, mesh: one device{rest}"
    data, layers = mesh.devices.shape
    mesh_text = f"{there}, mesh: {data} data-parallel x {layers} layer-parallel"
    learner = build_learner(experiment, steps_per_epoch=1)
    costs = learner.feedback_flops
    if layers > max(1, len(costs)):
        mesh_text += f" ({len(costs) or 'no'} feedback maps to divide: further groups gain nothing)"
    if layers == 1 or not costs:
        return mesh_text
    dearest = learner.trained[costs.index(max(costs))].name
    return (
        f"{mesh_text}; {dearest} is {max(costs) / sum(costs):.0%} of the feedback training, so that "
        f"layers make it at most {speedup_bound(costs, layers):.1f} times faster"
    )


def _block_rows(experiment: "Experiment") -> list[tuple[str, ...]]:
    """Name, operations, output, forward and feedback parameters of every block, and the totals."""
    import jax

    from dtp_jax.blocks import count, init_forward

    network = experiment.network
    shapes = jax.eval_shape(
        lambda key: (init_forward(network, key), experiment.rule.init_feedback(network, key)),
        jax.random.key(0),
    )
    rows, totals = [], [0, 0]
    for block in network:
        counts = [count(side.get(block.name, {})) for side in shapes]
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        output = "x".join(map(str, block.output_shape))
        rows.append((block.name, block.description, output, *_counts(*counts)))
    return [*rows, ("parameters", "", "", *_counts(*totals))]


def _counts(forward: int, feedback: int) -> tuple[str, str]:
    return f"{forward:,}", f"{feedback:,}" if feedback else "-"


def _length(config: Mapping[str, Any]) -> str:
    """How long a run of this config is; epochs of feedback training alone stand before a plus."""
    at_most = f", at most {config['max_steps']} steps" if config["max_steps"] else ""
    before = f"{config['pretrain_epochs']} + " if config["pretrain_epochs"] else ""
    return f"{before}{config['epochs']} epochs{at_most}"


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short_rate(rate: float) -> str:
    """At most five digits, right-aligned."""
    return f"{rate:5.0f}" if rate < 99_999.5 else f"{rate / 1000:4.0f}k"


def _five(number: float) -> str:
    """Five characters, with up to three decimals; more where the number has more digits."""
    texts = [f"{number:5.{decimals}f}" for decimals in (3, 2, 1, 0)]
    return next((text for text in texts if len(text) == 5), texts[-1])


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


def _shortened(text: str, width: int) -> str:
    """The text with an ellipsis for what is too much, before its last eight characters: a seed's number."""
    if cell_len(text) <= width:
        return text
    return chop_cells(text, max(1, width - 9))[0] + "…" + text[-8:]


def _parts_that_fit(parts: Sequence[str], width: int) -> str:
    """The first parts of a line, with an ellipsis for those that do not fit."""
    for kept in range(len(parts), 0, -1):
        line = "".join(parts[:kept]) + (" …" if kept < len(parts) else "")
        if cell_len(line) <= width:
            return line
    return chop_cells(parts[0], max(1, width - 1))[0] + "…" if parts else ""


def _width(console: Console) -> float:
    """Columns of a terminal; without bound on a pipe."""
    return console.width if console.is_terminal else math.inf


def _print(console: Console, text: str, style: str = "") -> None:
    """Prints as it is: no markup, for names may hold brackets."""
    lines = wrapped(text, _width(console)) if console.is_terminal else [text]
    console.print(Text("\n".join(lines), style), soft_wrap=True)
