"""From finished jobs to pictures and tables. Computes nothing."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dtp_jax.figures.jobs import jobs_of, measured
from dtp_jax.figures.protocol import (
    NAMES,
    PUBLISHED,
    PUBLISHED_ENDS,
    Protocol,
    Series,
)
from dtp_jax.figures.store import Store
from dtp_jax.plots import bars, panels
from dtp_jax.plots.labels import plus_minus
from dtp_jax.plots.style import save
from dtp_jax.run.files import replace_text

FORMATS = ("png", "pdf")
WHATS = ("angle", "distance", "angle_original")
"""What is measured of each update; see `updates.measure`."""
BAND = 3
"""Standard deviations, in figure 4.2."""


class Drawn(NamedTuple):
    """What has become of the finished jobs."""

    files: list[Path]
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    """For people."""


class Spread(NamedTuple):
    """Of the seeds that have finished."""

    seeds: int
    mean: np.ndarray
    std: np.ndarray
    """Of a sample (n - 1); nan of one seed."""


def draw(protocol: Protocol, store: Store) -> Drawn:
    """Writes figure_<figure>.csv, .png and .pdf from the jobs that have finished."""
    return _curves(protocol, store) if protocol.figure == "4.2" else _bars(protocol, store)


def _over_seeds(store: Store, names: list[str], what: str) -> Spread | None:
    """An array of several jobs, over those that have finished."""
    found = [arrays for name in names if (arrays := store.load(name)) is not None]
    values = [arrays[what] for arrays in found if what in arrays]
    if not values:
        return None
    stacked = np.stack(values).astype(float)
    many = len(values) > 1
    return Spread(
        len(values),
        stacked.mean(axis=0),
        stacked.std(axis=0, ddof=1) if many else np.full(stacked.shape[1:], np.nan),
    )


def _curves(protocol: Protocol, store: Store) -> Drawn:
    """Figure 4.2: angle and distance of the output layer's feedback weights over the iterations."""
    names: dict[str, list[str]] = {}
    for job in jobs_of(protocol):
        names.setdefault(job.rule, []).append(job.name)
    found = {
        (what, rule): spread
        for what in ("angle", "distance")
        for rule in protocol.rules
        if (spread := _over_seeds(store, names[rule], what)) is not None
    }
    columns, rows = {}, []
    for (what, rule), one in found.items():
        columns[f"{what}_{rule}_mean"], columns[f"{what}_{rule}_std"] = one.mean, one.std
    for rule in protocol.rules:
        ends = [found[what, rule] for what in ("angle", "distance") if (what, rule) in found]
        if ends:
            is_known = _is_published(protocol, protocol.networks[0], rule)
            published = PUBLISHED_ENDS.get(rule, ()) if is_known else ()
            published = published or ("-", "-")
            cells = [plus_minus(end.mean[-1], end.std[-1], ".3g", ".2g") for end in ends]
            rows.append((NAMES[rule], str(ends[0].seeds), *_paired(cells, published)))
    file = store.folder / "figure_4.2"
    iterations = range(max((len(c) for c in columns.values()), default=0))
    _write_csv(
        file.with_name("figure_4.2.csv"),
        ["iteration", *columns],
        zip(iterations, *columns.values()),
    )
    if not found:
        return Drawn([], (), [])
    drawn = [
        panels.Panel(
            y,
            [
                panels.Line(NAMES[rule], iterations, found[what, rule].mean, found[what, rule].std)
                for rule in protocol.rules
                if (what, rule) in found
            ],
            limits=(0, None),
        )
        for what, y in (("angle", "angle, degrees"), ("distance", "relative distance"))
    ]
    figure = panels.draw_panels(
        drawn,
        "feedback iteration",
        band=BAND,
        title=_title(protocol, spreads=found.values(), band=BAND),
    )
    files = _save(figure, file)
    header = ("rule", "seeds", "angle", "published angle", "distance", "published distance")
    return Drawn(files, header, rows)


def _paired(cells: list[str], published: tuple) -> list[str]:
    return [text for pair in zip(cells, map(str, published)) for text in pair]


def _bars(protocol: Protocol, store: Store) -> Drawn:
    """Figure 4.3: angles, and distances, of updates to backprop's gradient; one picture a network."""
    lines, rows, files = [], [], []
    for network in protocol.networks:
        blocks = [b.name for b in protocol.experiments[network, protocol.rules[0]].network]
        spreads = {}
        for series in protocol.series:
            names = [measured(network, series, seed) for seed in protocol.seeds]
            for what in WHATS:
                if (one := _over_seeds(store, names, what)) is not None:
                    spreads[what, series] = one
        lines += _lines(network, protocol, blocks, spreads)
        for series in protocol.series:
            if ("angle", series) in spreads:
                rows.append(_row(network, protocol, series, blocks, spreads["angle", series]))
        several = f"_{network}" if len(protocol.networks) > 1 else ""
        for what, ending in (("angle", ""), ("distance", "_distance")):
            drawn = {s: one for (w, s), one in spreads.items() if w == what}
            if drawn:
                figure = _bar_figure(protocol, network, what, blocks, drawn)
                files += _save(figure, store.folder / f"figure_{protocol.figure}{several}{ending}")
    header = ["network", "series", "block", "seeds"]
    header += [f"{what}_{part}" for what in WHATS for part in ("mean", "std")]
    header += ["published_angle", "published_std"]
    _write_csv(store.folder / f"figure_{protocol.figure}.csv", header, lines)
    most = max((len(row) - 2 for row in rows), default=0)
    names = blocks if len(protocol.networks) == 1 else [f"block {n + 1}" for n in range(most)]
    return Drawn(files, ("series", "seeds", *names), rows)


def _bar_figure(protocol: Protocol, network: str, what: str, blocks: list[str], drawn: dict):
    is_angle = what == "angle"
    y = "angle to backprop's gradient, degrees" if is_angle else "distance to backprop's gradient"
    return bars.draw_bars(
        blocks,
        [
            bars.Series(
                series.label,
                one.mean,
                one.std if one.seeds > 1 else (),
                *(_published(protocol, network, series, blocks) if is_angle else ()),
            )
            for series, one in drawn.items()
        ],
        y,
        title=_title(protocol, network, spreads=drawn.values()),
        top=95 if is_angle else 0,
        log=not is_angle,
        reference="published",
    )


def _published(protocol: Protocol, network: str, series: Series, blocks: list[str]):
    """(angles, standard deviations) of the published figure, where this is its network and data; else ()."""
    known = PUBLISHED.get(series)
    if known is None or not _is_published(protocol, network, series.rule):
        return ()
    return tuple(zip(*known, strict=True))


def _is_published(protocol: Protocol, network: str, rule: str) -> bool:
    """Whether the figure is of the network and the images of the publication."""
    dataset = protocol.experiments[network, rule].config["dataset"]
    return (network, dataset) == ("lenet", "cifar10") and not protocol.is_quick


def _row(network, protocol: Protocol, series: Series, blocks: list[str], one: Spread):
    """For people: angle of every block, and the published one in brackets."""
    published = _published(protocol, network, series, blocks)
    cells = [plus_minus(*pair, ".1f") for pair in zip(one.mean, one.std, strict=True)]
    if published:
        cells = [f"{c} ({p:g} ± {s:g})" for c, p, s in zip(cells, *published, strict=True)]
    label = series.label if len(protocol.networks) == 1 else f"{network}: {series.label}"
    return (label, str(one.seeds), *cells)


def _lines(network: str, protocol: Protocol, blocks: list[str], spreads: dict):
    """Of the CSV: one for every series and block."""
    for what, series in list(spreads):
        if what != "angle":
            continue
        published = _published(protocol, network, series, blocks) or ([""] * len(blocks),) * 2
        for k, block in enumerate(blocks):
            ofs = [spreads[one, series] for one in WHATS]
            numbers = [value[k] for one in ofs for value in (one.mean, one.std)]
            texts = [f"{x:.6g}" if np.isfinite(x) else "" for x in numbers]
            yield [
                network,
                series.label,
                block,
                spreads[what, series].seeds,
                *texts,
                *(p[k] for p in published),
            ]


def _title(
    protocol: Protocol, network: str = "", *, spreads: Iterable[Spread], band: int = 1
) -> str:
    counts = sorted({one.seeds for one in spreads})
    network = network or protocol.networks[0]
    config = next(one.config for (name, _), one in protocol.experiments.items() if name == network)
    what = f"{network}, {config['dataset']}, batches of {config['batch_size']}, "
    what += f"{config['feedback_iterations'][0]} feedback iterations"
    if counts == [1]:
        return f"{what}; one seed"
    many = "one standard deviation" if band == 1 else f"{band} standard deviations"
    return f"{what}; mean of {' or '.join(map(str, counts))} seeds ± {many}"


def _save(figure, file: Path) -> list[Path]:
    files = [file.with_name(f"{file.name}.{ending}") for ending in FORMATS]
    save(figure, *files)
    return files


def _write_csv(file: Path, header, rows) -> None:
    """At once: several processes that share the jobs may end at the same time."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    replace_text(file, text.getvalue())
