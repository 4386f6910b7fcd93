"""What a run shows: the start-up screen, what moves, the summary.

JAX is imported by the functions that need it: a screen can speak before JAX is there.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from dtp_jax.output import steady, writable
from dtp_jax.run.layout import columns_of, counted, duration, fitted_table, show, wrapped
from dtp_jax.run.live import Bar, Line, TrainingLines

if TYPE_CHECKING:
    from dtp_jax.parallel.mesh import Mesh
    from dtp_jax.run.build import Experiment


class Screen:
    """Everything printed. On a terminal bars move; on a pipe there are plain lines.

    On a terminal nothing is broken inside a word that fits in a line; on a pipe lines are whole, for
    whoever reads a log. A terminal, pipe or disk that fails is no reason to stop: what cannot be shown is
    left out.
    """

    head = ""
    """Before every line of progress, where there are several runs."""
    _moves = False
    """Whether a part of the terminal is drawn anew again and again."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)
        self.errors = Console(stderr=True, highlight=False)
        for one in (self.console, self.errors):
            one.file = steady(one.file)

    def note(self, text: str) -> None:
        """A line of information."""
        show(self.console, text)

    def warn(self, text: str) -> None:
        """A line on stderr; above what moves, where both are on the terminal."""
        is_above = self._moves and self.errors.is_terminal
        show(self.console if is_above else self.errors, f"warning: {text}")

    def error(self, text: str) -> None:
        """A line on stderr: why the run ends."""
        show(self.errors, f"error: {text}")

    def progress(self, text: str) -> None:
        """What goes on at the moment, on a pipe."""
        show(self.console, f"{self.head}  {text}" if self.head else text)

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
        seeds: str = "",
    ) -> None:
        """The start-up screen: what will run, on what.

        Args:
          extended: how a run that goes on has become longer than it was.
          seeds: which, and how they are trained, where there are several.
        """
        config = experiment.config
        seed = "" if seeds else f"seed {config['seed']}, "
        facts = {
            "config": config_file + (f"  {' '.join(overrides)}" if overrides else ""),
            "rule": f"{config['rule']}, {seed}{_length(config)}, batches of {config['batch_size']}",
            **({"seeds": seeds} if seeds else {}),
            "data": f"{config['dataset']}: {source}",
            "devices": _devices(experiment, mesh),
            "workdir": str(workdir),
        }
        if extended:
            facts["extended"] = extended
        self.facts(facts)
        self._block_table(experiment)

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        """A context in which what this package logs as a warning is shown as one."""
        logger, handler = logging.getLogger("dtp_jax"), logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.warn(record.getMessage())
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

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
        line, start = Line(self.head, what, spinner=self._spinner()), time.monotonic()
        line.after = lambda: [duration(time.monotonic() - start)]
        with self._live(line):
            yield line.show

    @contextlib.contextmanager
    def training(self, epochs: int, steps_per_epoch: int) -> Iterator["Bar"]:
        """Progress of the epochs."""
        if not self.console.is_terminal:
            yield Bar(self, epochs, steps_per_epoch, None)
            return
        lines = TrainingLines(self.head, "the first step")
        with self._live(lines):
            yield Bar(self, epochs, steps_per_epoch, lines)

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
        show(self.console, title, "italic")
        encoding, width = self.console.encoding, columns_of(self.console)
        cells = [[writable(cell, encoding) for cell in row] for row in rows]
        table = fitted_table(columns, cells, drop=drop, width=width, totals=totals)
        self.console.print(table, soft_wrap=True)

    def summary(self, summary: Mapping[str, Any], workdir: Path) -> None:
        """The last lines: accuracies, time, where everything is."""
        facts = {
            name: f"{summary[name]:.4f}" + _spread(summary, name)
            for name in (
                "test_accuracy",
                "test_top5_accuracy",
                "val_accuracy",
                "test_accuracy_of_best_val",
            )
            if summary.get(name) is not None
        }
        if "seeds" in summary:
            facts |= _seeds(summary)
        facts["steps"] = f"{summary['steps']:g}"
        if summary.get("ended_by"):
            facts["steps"] += f", ended by {summary['ended_by']}"
        if summary.get("extended"):
            facts["extended"] = "; ".join(
                f"at step {one['at_step']} from {one['from_epochs']} to {one['to_epochs']} epochs"
                for one in summary["extended"]
            )
        facts["time"] = (
            f"{duration(summary['wall_seconds'])}, {summary['images_per_second']:.0f} images/s"
        )
        facts["workdir"] = str(workdir)
        self.facts(facts)

    def facts(self, facts: Mapping[str, str]) -> None:
        """Names, and what they are: beside them, or below where a word of it is too long for that."""
        width, beside = columns_of(self.console), max(map(len, facts)) + 2
        for name, value in facts.items():
            value = writable(value, self.console.encoding)
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

    def _spinner(self) -> Spinner:
        """Of dots, or of what every encoding has."""
        dots = Spinner("dots")
        can = all(writable(one, self.console.encoding) == one for one in dots.frames)
        return dots if can else Spinner("line")

    @contextlib.contextmanager
    def _live(self, shown: Any) -> Iterator[None]:
        """A part of the terminal that is drawn anew ten times a second, and vanishes in the end."""
        live = Live(
            shown,
            console=self.console,
            refresh_per_second=10,
            transient=True,
            redirect_stderr=self.errors.is_terminal,  # a file of errors stays one
        )
        self._moves = True
        try:
            with live:
                yield
        finally:
            self._moves = False


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
            show(self.console, f"{self.head}: starting")

    def summary(self, summary: Mapping[str, Any], workdir: Path) -> None:
        """Nothing."""


class SilentScreen(BriefScreen):
    """For all processes but the first: nothing but warnings and errors."""

    def __init__(self):
        super().__init__(Console(quiet=True, force_terminal=False))


def _spread(summary: Mapping[str, Any], name: str) -> str:
    """The standard deviation of a mean over seeds."""
    std = summary.get(f"{name}_std")
    return "" if std is None else f" ± {std:.4f}"


def _seeds(summary: Mapping[str, Any]) -> dict[str, str]:
    """Of which seeds a summary has the means, and what became of the others."""
    facts = {"mean over": "seeds " + ", ".join(str(one["seed"]) for one in summary["seeds"])}
    if summary["failed"]:
        told = (f"seed {one['seed']} {one['outcome']}" for one in summary["failed"])
        facts["not among them"] = ", ".join(told)
    return facts


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
    bound = f"layers make it at most {speedup_bound(costs, layers):.1f} times faster"
    if not sum(costs):
        return (
            f"{mesh_text}; its blocks do not say what they cost; where all cost the same, {bound}"
        )
    dearest = learner.trained[costs.index(max(costs))].name
    share = f"{max(costs) / sum(costs):.0%}"
    return f"{mesh_text}; {dearest} is {share} of the feedback training, so that {bound}"


def _block_rows(experiment: "Experiment") -> list[tuple[str, ...]]:
    """Name, operations, output, forward and feedback parameters of every block, and the totals."""
    from dtp_jax.blocks.table import rows

    found, totals = rows(experiment.network, experiment.rule.init_feedback)
    return [row.cells for row in (*found, totals)]


def _length(config: Mapping[str, Any]) -> str:
    """How long a run of this config is; epochs of feedback training alone stand before a plus."""
    at_most = f", at most {counted(config['max_steps'], 'step')}" if config["max_steps"] else ""
    at_most += f", at most {config['max_minutes']:g} minutes" if config["max_minutes"] else ""
    at_most += f", patience {config['patience']}" if config["patience"] else ""
    before = f"{config['pretrain_epochs']} + " if config["pretrain_epochs"] else ""
    return f"{before}{counted(config['epochs'], 'epoch')}{at_most}"
