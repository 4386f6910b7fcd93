"""What a run shows: the start-up screen, progress bars or plain lines, and TensorBoard."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from dtp_jax.blocks import count, init_forward
from dtp_jax.parallel.mesh import Mesh, speedup_bound
from dtp_jax.run.build import Experiment, build_learner

PLAIN_LINE_SECONDS = 10.0
"""Without a terminal: at most one line of progress in this time."""


class Screen:
    """Everything printed. On a terminal bars move; on a pipe there are plain lines."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.errors = Console(stderr=True, highlight=False)
        for output in (self.console, self.errors):
            output.soft_wrap = not output.is_terminal  # whoever reads a log wants whole lines

    def note(self, text: str) -> None:
        """A line of information."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A line on stderr."""
        self.errors.print(f"warning: {text}", markup=False)

    def abandon(self) -> None:
        """Leaves the terminal usable when the process ends at once."""
        self.console.show_cursor(True)

    def start(
        self,
        experiment: Experiment,
        config_file: str,
        overrides: list[str],
        source: str,
        workdir: Path,
        mesh: Mesh | None = None,
    ) -> None:
        """The start-up screen: what will run, on what."""
        config = experiment.config
        facts = Table.grid(padding=(0, 2))
        for name, value in (
            ("config", config_file + (f"  {' '.join(overrides)}" if overrides else "")),
            (
                "rule",
                f"{config['rule']}, seed {config['seed']}, {_length(config)}, "
                f"batches of {config['batch_size']}",
            ),
            ("data", f"{config['dataset']}: {source}"),
            ("devices", _devices(experiment, mesh)),
            ("workdir", str(workdir)),
        ):
            facts.add_row(f"[bold]{name}", Text(value))  # no markup: a path may hold brackets
        self.console.print(facts)
        self.console.print(_block_table(experiment))

    @contextlib.contextmanager
    def task(self, what: str) -> Iterator[Any]:
        """A line (on a terminal: a spinner) while something takes its time.

        Yields:
          A callback (what, done, total), for tasks that can count.
        """
        if not self.console.is_terminal:
            self.note(what)
            yield None
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=None)
            yield lambda what, done, total: progress.update(
                task, description=what, completed=done, total=total
            )

    @contextlib.contextmanager
    def training(self, epochs: int, steps_per_epoch: int) -> Iterator["_Bar"]:
        """Progress of the epochs."""
        if not self.console.is_terminal:
            yield _Bar(self, epochs, steps_per_epoch, None)
            return
        with _TrainingProgress(self.console) as progress:
            yield _Bar(self, epochs, steps_per_epoch, progress)

    @contextlib.contextmanager
    def tensorboard(self, folder: Path, step: int) -> Iterator["Board"]:
        """Event files in `folder`; anything already there after `step` is purged."""
        from tensorboardX import SummaryWriter  # lazily: it is slow to import

        # The suffix: writers of the same second would take the same file.
        writer = SummaryWriter(
            str(folder), purge_step=step + 1 if step else None, filename_suffix=f".{step}"
        )
        try:
            yield Board(writer)
        finally:
            writer.close()

    def summary(self, summary: Mapping[str, Any], workdir: Path) -> None:
        """The last lines: accuracies, time, where everything is."""
        table = Table.grid(padding=(0, 2))
        for name in (
            "test_accuracy",
            "test_top5_accuracy",
            "val_accuracy",
            "test_accuracy_of_best_val",
        ):
            if summary.get(name) is not None:
                table.add_row(f"[bold]{name}", f"{summary[name]:.4f}")
        table.add_row("[bold]steps", str(summary["steps"]))
        table.add_row(
            "[bold]time",
            f"{duration(summary['wall_seconds'])}, {summary['images_per_second']:.0f} images/s",
        )
        table.add_row("[bold]workdir", Text(str(workdir)))
        self.console.print(table)


class BriefScreen(Screen):
    """For many runs in a row: bars move on a terminal, but of a run nothing stays but its warnings.

    Whoever starts the runs says in a line what came out.
    """

    def note(self, text: str) -> None:
        """Nothing."""

    def start(self, *args: Any) -> None:
        """Nothing."""

    def summary(self, summary: Mapping[str, Any], workdir: Path) -> None:
        """Nothing."""


class SilentScreen(BriefScreen):
    """For all processes but the first: nothing but warnings, and no files."""

    def __init__(self):
        super().__init__(Console(quiet=True))

    @contextlib.contextmanager
    def tensorboard(self, folder: Path, step: int) -> Iterator["Board"]:
        """A board that writes nothing."""
        yield NoBoard()


class NoBoard:
    """TensorBoard of the processes that write no files."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""


class Board:
    """TensorBoard, fed with the rows of metrics.jsonl."""

    def __init__(self, writer: Any):
        self._writer = writer

    def write(self, row: Mapping[str, Any]) -> None:
        """`loss` becomes train/loss, `feedback_loss/conv_1` feedback/loss/conv_1, `angle/conv_1`
        angle/weight/conv_1."""
        for key, value in row.items():
            if key in ("step", "epoch", "split"):
                continue
            kind, _, block = key.partition("/")
            tag = {
                "feedback_loss": "feedback/loss",
                "forward_loss": "forward/loss",
                "angle": "angle/weight",
                "distance": "distance/weight",
            }.get(kind)
            self._writer.add_scalar(
                f"{tag}/{block}" if tag else f"{row['split']}/{key}", value, row["step"]
            )

    def flush(self) -> None:
        """Puts into the file what has come out of the writer's queue: a killed run lacks little then."""
        self._writer.flush()


class _TrainingProgress(Progress):
    """A bar, and a line below it for what does not fit beside it in 80 columns."""

    losses = ""

    def __init__(self, console: Console):
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            console=console,
            transient=True,
        )

    def get_renderables(self) -> Iterator[Any]:
        yield from super().get_renderables()
        if self.tasks:
            yield Text(self.losses, no_wrap=True, overflow="ellipsis")


class _Bar:
    """One bar per epoch, or a plain line now and then."""

    def __init__(
        self, screen: Screen, epochs: int, steps_per_epoch: int, progress: Progress | None
    ):
        self.screen, self.epochs, self.steps_per_epoch, self.progress = (
            screen,
            epochs,
            steps_per_epoch,
            progress,
        )
        self.task, self.last_line = None, time.monotonic()
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
        name, speed = (
            self._name(epoch, only),
            f"{rate:.0f} images/s  {duration(left)} left",
        )
        losses = f"loss {loss:.3f}  accuracy {accuracy:.3f}"
        if feedback_loss:
            losses += "  feedback loss " + " ".join(f"{v:.2g}" for v in feedback_loss.values())
        if self.progress is not None:
            if self.task is None:
                self.task = self.progress.add_task(name, total=self.steps_per_epoch, speed="")
            self.progress.losses = losses
            self.progress.update(self.task, description=name, completed=steps, speed=speed)
        elif time.monotonic() - self.last_line >= PLAIN_LINE_SECONDS:
            self.last_line = time.monotonic()
            self.screen.note(f"{name}  step {steps}/{self.steps_per_epoch}  {speed}  {losses}")

    def _name(self, epoch: int, only: str) -> str:
        return f"epoch {epoch}/{self.epochs}" + (f" {only} only" if only else "")

    def end_epoch(self, epoch: int, validation: Any | None) -> None:
        """The line that stays of an epoch."""
        if self.progress is not None and self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None
        line = (
            f"{self._name(epoch, self.only)}  {self.rate:.0f} images/s  loss {self.loss:.3f} "
            f"acc {self.accuracy:.3f}"
        )
        if validation is not None:
            line += f"  val loss {validation.loss:.3f} acc {validation.accuracy:.3f}"
        self.last_line = time.monotonic()
        self.screen.note(line)


def _devices(experiment: Experiment, mesh: Mesh | None) -> str:
    """What there is, and what of it the run uses."""
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


def _block_table(experiment: Experiment) -> Table:
    network = experiment.network
    shapes = jax.eval_shape(
        lambda key: (init_forward(network, key), experiment.rule.init_feedback(network, key)),
        jax.random.key(0),
    )
    shape = "x".join(map(str, experiment.data.image_shape))
    table = Table(
        title=f"network {experiment.config['network']}, input {shape}", title_justify="left"
    )
    for column in ("block", "operations", "output", "forward", "feedback"):
        table.add_column(column, justify="right" if column in ("forward", "feedback") else "left")
    totals = [0, 0]
    for block in network:
        counts = [count(side.get(block.name, {})) for side in shapes]
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        table.add_row(
            block.name,
            block.description,
            "x".join(map(str, block.output_shape)),
            f"{counts[0]:,}",
            f"{counts[1]:,}" if counts[1] else "-",
        )
    table.add_section()
    table.add_row("parameters", "", "", f"{totals[0]:,}", f"{totals[1]:,}" if totals[1] else "-")
    return table


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
