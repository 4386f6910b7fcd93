"""The results of a comparison: Markdown, CSV, a table for the terminal, and pictures."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dtp_jax.compare.pictures import Picture, draw_pictures
from dtp_jax.compare.runs import Result
from dtp_jax.plots.labels import fitting_labels, plus_minus
from dtp_jax.run.files import replace_text
from dtp_jax.run.layout import NO_BREAK, duration
from dtp_jax.run.screen import Screen

COLUMNS = {
    "config": "config",
    "rule": "rule",
    "network": "network",
    "dataset": "data set",
    "train_images": "training images",
    "epochs": "epochs",
    "seeds": "seeds",
    "test_accuracy": "test accuracy, %",
    "val_accuracy": "validation accuracy, %",
    "wall_seconds": "time",
    "images_per_second": "images/s",
}
"""Field of a Row -> its heading for people."""
SHORT = ("config", "rule", "seeds", "test_accuracy", "wall_seconds", "images_per_second")
LEAST_FIRST = ("images_per_second", "wall_seconds", "seeds", "rule")
"""What a narrow terminal leaves out."""
TEXTS = ("config", "rule", "network", "dataset")


class Spread(NamedTuple):
    """Mean, and the standard deviation of a sample (n - 1; None of one value)."""

    mean: float
    std: float | None


class Row(NamedTuple):
    """A config. Spreads run over the finished seeds, and are None where there are none."""

    config: str
    rule: str
    network: str
    dataset: str
    train_images: int | None
    """None: all of them."""
    epochs: int
    seeds: int
    """That finished."""
    failures: str
    """In words, "" where there are none."""
    test_accuracy: Spread | None
    """In percent, as the next."""
    val_accuracy: Spread | None
    """None also where nothing was held out."""
    wall_seconds: Spread | None
    images_per_second: Spread | None


def row(result: Result) -> Row:
    """What the table says of a config."""
    config, summaries = result.entry.config, result.summaries

    def over_seeds(name: str, factor: float = 1) -> Spread | None:
        values = [factor * s[name] for s in summaries if s[name] is not None]
        if not values:
            return None
        return Spread(statistics.mean(values), statistics.stdev(values) if values[1:] else None)

    counts = Counter(result.failures)
    return Row(
        config=result.entry.label,
        rule=config["rule"],
        network=config["network"],
        dataset=config["dataset"],
        train_images=config.get("train_images") or None,
        epochs=config["epochs"],
        seeds=len(summaries),
        failures=", ".join(
            what if n == len(result.runs) else f"{n} {what}" for what, n in counts.items()
        ),
        test_accuracy=over_seeds("test_accuracy", 100),
        val_accuracy=over_seeds("val_accuracy", 100),
        wall_seconds=over_seeds("wall_seconds"),
        images_per_second=over_seeds("images_per_second"),
    )


def write_report(
    results: list[Result], command: str, folder: Path, *, training: bool = False
) -> tuple[list[Row], list[str]]:
    """Writes comparison.md, comparison.csv and the pictures. Returns the rows, and the names of the files.

    Args:
      training: see `draw_pictures`.
    """
    rows = [row(result) for result in results]
    folder.mkdir(parents=True, exist_ok=True)
    lines = io.StringIO()
    csv.writer(lines).writerows(_csv(rows))
    replace_text(folder / "comparison.csv", lines.getvalue())
    pictures = draw_pictures(results, folder, training=training)
    replace_text(folder / "comparison.md", _markdown(rows, results, command, pictures))
    drawn = [picture.file for picture in pictures if picture.file]
    return rows, ["comparison.md", "comparison.csv", *drawn]


def show(rows: list[Row], screen: Screen) -> None:
    """The table for a terminal: what fits. What all names have in common stands above it."""
    rows, common = _shortened(rows)
    screen.table(
        "mean ± standard deviation over seeds" + (f"; all configs: {common}" if common else ""),
        {COLUMNS[name]: "left" if name in TEXTS else "right" for name in SHORT},
        [
            [_cell(one, name).replace(" ± ", f"{NO_BREAK}±{NO_BREAK}") for name in SHORT]
            for one in rows
        ],
        drop=[COLUMNS[name] for name in LEAST_FIRST],
    )


def _shortened(rows: list[Row]) -> tuple[list[Row], str]:
    """The rows under names of what sets them apart, and what these have in common."""
    common, names = fitting_labels([one.config for one in rows])
    return [one._replace(config=name) for one, name in zip(rows, names, strict=True)], common


def _shown(rows: list[Row]) -> list[str]:
    """Columns that say anything: training images only where some config has fewer than all."""
    return [n for n in COLUMNS if n != "train_images" or any(r.train_images for r in rows)]


def _cell(one: Row, name: str) -> str:
    value = getattr(one, name)
    if name == "test_accuracy" and one.failures:
        return f"{_spread(value)} ({one.failures})" if value else one.failures
    if name == "wall_seconds" and value:
        return duration(value.mean)
    if name == "images_per_second" and value:
        return f"{value.mean:.0f}"
    if name == "train_images":
        return str(value or "all")
    return _spread(value) if isinstance(value, Spread | None) else str(value)


def _spread(value: Spread | None) -> str:
    return "-" if value is None else plus_minus(*value)


def _markdown(rows: list[Row], results: list[Result], command: str, pictures: list[Picture]) -> str:
    names = _shown(rows)
    rows, common = _shortened(rows)
    lines = [
        "# Comparison",
        "",
        f"`{command}`",
        "",
        *([f"All configs: `{common}`.", ""] if common else []),
        _markdown_line(COLUMNS[name] for name in names),
        _markdown_line("---" if name in TEXTS else "---:" for name in names),
        *(_markdown_line(_cell(one, name) for name in names) for one in rows),
        "",
        "Mean ± standard deviation over the seeds that finished; accuracies of the weights after the last "
        "epoch; times of a run and images/s are means.",
    ]
    machines = {_machine(summary) for result in results for summary in result.summaries}
    lines += ["", *(f"Measured on {machine}." for machine in sorted(machines))]
    for picture in pictures:
        lines += ["", f"![{picture.alt}]({picture.file})"] if picture.file else []
        lines += ["", picture.caption]
    return "\n".join(lines) + "\n"


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _machine(summary: dict) -> str:
    versions = summary.get("versions", {})
    software = ", ".join(
        f"{name} {versions[name]}" for name in ("dtp_jax", "jax") if name in versions
    )
    return f"{summary['device']}" + (f" ({software})" if software else "")


def _csv(rows: list[Row]) -> Iterable[list]:
    """One line per config: numbers in full, spreads as two columns, nothing where there is nothing."""
    spreads = [name for name in COLUMNS if Row.__annotations__[name] == Spread | None]
    plain = [name for name in Row._fields if name not in spreads]
    yield plain + [f"{name}_{part}" for name in spreads for part in Spread._fields]
    for one in rows:
        numbers = [part for name in spreads for part in (getattr(one, name) or Spread(None, None))]
        yield [getattr(one, name) for name in plain] + numbers
