"""docs/results.md: written from the committed results alone, the same text from the same files."""

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.rows import Group, Published, Row
from benchmarks.paper.store import BETWEEN, FINISHED, Places
from dtp_jax.run.files import replace_text
from dtp_jax.run.layout import counted

Result = Mapping[str, Any] | None
NOT_RUN = "not run"
TIED = "\u00a0"
"""Between a number and its unit, until lines are parted."""
SIGNIFICANT = 0.5
"""Percent; a published value that is nearer, or within two standard deviations, is agreed with."""
HEAD = """# Results

What this program reaches, beside what is published. `make results` runs every missing row that this
machine can run, and goes on after a stop. `python -m benchmarks.paper --list` says how far it is.

- **Accuracies** are those on the test images after the last epoch: the mean, the standard deviation
  (of a sample) and each seed.
- **In a table with a search, every rule has the same budget**, which stands above it. Its trials
  choose rates, beta and noise by the validation images; bad ones end early. They look around the
  values of the config file, which are the first trial
  ([search.py](../benchmarks/paper/search.py)).
- **What that leaves unequal**: the same trials cover one value of backprop, up to eight of L-DRL,
  and twelve of L-DRL on the resnet18. The values of the config files were found by hand, with more
  trials for L-DRL than for others. Feedback iterations are not searched.
- **Published values** name the paper in which we read them. Where something is different there, it
  is said.
- **Rows without a number** are not run yet. A diverged seed is a result, and is listed as one.
  Means and deviations are of the seeds that finished, which n counts.
- **The command, commit and machine of one row** are in its JSON, behind its name.
- **Figures 4.2 and 4.3** have a page of their own: [figures](figures.md), with what is open there.
- **Older comparisons**, with the values of the config files:
  [Fashion-MNIST](../benchmarks/results/2026-11-26_fashion_mnist_small_cpu.md),
  [CIFAR-10](../benchmarks/results/2026-11-26_cifar10_small_cpu.md).

Every number is in [benchmarks/results/paper](../benchmarks/results/paper): a JSON and the curves of
each row.
"""
FILES = "../benchmarks/results/paper"
"""From the page: where its rows come from."""
EXCERPT = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
"""Where another page has a short table of a group."""


def text(groups: Sequence[Group], places: Places, explained: Mapping[str, str]) -> str:
    """The page.

    Args:
      explained: row -> why it is not what is published.
    """
    parts = [HEAD]
    for group in groups:
        parts.append(_group(group, places))
    parts.append(_disagreements(groups, places, explained))
    return "\n".join(parts)


def _budget(group: Group) -> str:
    """How the values of each of its rules are found, and how often each is run."""
    seeds = counted(group.seeds, "seed")
    if not group.trials:
        values = "" if any(row.values_of for row in group.rows) else "Values of the config files; "
        return f"{values}{seeds}."
    trials, epochs = counted(group.trials, "trial"), counted(group.trial_epochs, "epoch")
    return f"Budget of each rule: {trials} of up to {epochs}, then {seeds}."


def _group(group: Group, places: Places) -> str:
    results = {row.name: places.result(row) for row in group.rows}
    lines = [f"## {group.title}", "", *wrapped(f"{group.about} {_budget(group)}"), ""]
    lines += _table(group, results)
    lines += ["", *_origin(group, results), ""]
    if _has_picture(group, results):
        lines += [f"![{group.title}]({picture_name(group)})", ""]
    notes = [note for row in group.rows for note in _failures(row, results[row.name])]
    return "\n".join(lines + ([*notes, ""] if notes else []))


def with_excerpts(other: str, groups: Sequence[Group], places: Places) -> str:
    """Another page, with a short table of a group between each of its pairs of marks (see EXCERPT)."""
    known = {group.name: group for group in groups}
    return EXCERPT.sub(lambda m: m[1] + excerpt(known[m[2]], places) + m[3], other)


def excerpt(group: Group, places: Places) -> str:
    """A short table of a group: its rows that have been run; where some are published, those alone."""
    results = results_of(group, places)
    is_compared = any(row.published for row in group.rows)
    shown = [r for r in group.rows if r.name in results and bool(r.published) == is_compared]
    if not shown:
        return f"{group.title}: {NOT_RUN} yet.\n"
    epochs = "/".join(sorted({str(results[row.name]["epochs"]) for row in shown}))
    differs = dict.fromkeys(r.published.differs for r in group.rows if r.published)
    there = "; ".join(filter(None, differs))
    headings = ["rule", "test accuracy, %"]
    if is_compared:
        headings.append(f"published, {there}" if there else "published")
    table = [headings, ["--"] * len(headings)]
    for row in shown:
        accuracy = _accuracy(results[row.name]).replace(f" (n = {group.seeds})", "")
        published = [f"{row.published.accuracy:.2f}"] if row.published else []
        table.append([row.label, accuracy, *published])
    length = f"{epochs} epoch{'' if epochs == '1' else 's'}"
    head = f"{group.title}, {length}, {counted(group.seeds, 'seed')}:"
    return "\n".join([head, "", *(f"| {' | '.join(cells)} |" for cells in table)]) + "\n"


def picture_name(group: Group) -> str:
    """The file of a group's picture."""
    return f"results_{group.name}.png"


def _table(group: Group, results: Mapping[str, Result]) -> list[str]:
    headings = [
        "rule",
        "test accuracy, %",
        "each seed",
        "epochs",
        "published, %",
        "values",
    ]
    if group.needs_gpu:
        headings[0] = "experiment"
    if group.picture == "depth":
        headings[4] = "angle of feedback maps, least to greatest, °"
    lines = [headings, ["--"] * len(headings)]
    for row in group.rows:
        lines.append(_line(group, row, results[row.name]))
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _line(group: Group, row: Row, found: Result) -> list[str]:
    published = _published(row.published)
    label = row.label if found is None else f"[{row.label}]({FILES}/{row.name}.json)"
    if group.needs_gpu:
        label += f" (`{' '.join([row.config, *row.overrides])}`)"
    if found is None:
        return [label, NOT_RUN, "", "", "" if group.picture == "depth" else published, ""]
    accuracy = _accuracy(found)
    each = ", ".join(
        f"{100 * one['test_accuracy']:.2f}" if one["outcome"] == FINISHED else one["outcome"]
        for one in found["seeds"]
    )
    column = _angles(found) if group.picture == "depth" else published
    return [label, accuracy, each, str(found["epochs"]), column, _search(found)]


def _accuracy(found: Mapping[str, Any]) -> str:
    """Mean and standard deviation in percent, of how many seeds, and what became of the others."""
    ends = Counter(one["outcome"] for one in found["seeds"])
    values = [one["test_accuracy"] for one in found["seeds"] if one["test_accuracy"] is not None]
    bad = ", ".join(f"{count} {end}" for end, count in ends.items() if end != FINISHED)
    return " ".join(filter(None, [mean(values), f"({bad})" if bad else ""]))


def mean(values: Sequence[float]) -> str:
    """Mean and standard deviation of accuracies in percent, and of how many."""
    if not values:
        return "none"
    spread = f" ± {100 * statistics.stdev(values):.2f}" if values[1:] else ""
    return f"{100 * statistics.fmean(values):.2f}{spread} (n = {len(values)})"


def _published(one: Published | None) -> str:
    if one is None:
        return ""
    spread = "" if one.spread is None else f" ± {one.spread:.2f}"
    notes = "; ".join(filter(None, [one.source, one.differs]))
    return f"{one.accuracy:.2f}{spread} ({notes})"


def angles_of(found: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Kernel -> (mean, standard deviation) over the seeds of its angle at the end, in degrees."""
    seeds = [one.get("angles", {}) for one in found["seeds"] if one["outcome"] == FINISHED]
    names = [name for name in (seeds[0] if seeds else {}) if all(name in one for one in seeds)]
    values = {name: [one[name] for one in seeds] for name in names}
    return {
        name: (statistics.fmean(each), statistics.stdev(each) if each[1:] else 0.0)
        for name, each in values.items()
    }


def _angles(found: Mapping[str, Any]) -> str:
    angles = [angle for angle, _ in angles_of(found).values()]
    return f"{min(angles):.0f} to {max(angles):.0f}" if angles else ""


def _search(found: Mapping[str, Any]) -> str:
    search = found["search"]
    if search is None:
        return _values(found) or "the config's own"
    bad, best = _bad_trials(search), search["val_accuracy"]
    if best is None:
        return f"{search['trials']} trials, none good ({bad}): the config's own"
    own = ", the config's own" if search["best_trial"] == 0 else ""
    trials = f"{search['trials']} trials{f' ({bad})' if bad else ''}{own}"
    after = counted(search["epochs"], "epoch")
    return f"{_values(found)}; {trials}, {100 * best:.2f} on validation after {after}"


def _bad_trials(search: Mapping[str, Any]) -> str:
    """How many of a search came to nothing, in words."""
    states = search.get("states", {})
    return ", ".join(f"{states[s]} {s}" for s in ("diverged", "failed") if states.get(s))


def _values(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in found.get("chosen", {}).items())


def _value(value: Any) -> str:
    return " ".join(map(_value, value)) if isinstance(value, list) else f"{value:.3g}"


def _origin(group: Group, results: Mapping[str, Result]) -> list[str]:
    """Command, commits, machines and dates of a table."""
    known = [one for one in results.values() if one is not None]
    command = f"`python -m benchmarks.paper --only={group.name}`"
    if not known:
        return [command + (", on a machine with a GPU." if group.needs_gpu else ".")]
    commits = sorted({c for one in known for c in (one["commit"] or "no commit").split(", ")})
    machines = sorted({m for one in known for m in one["hardware"].split(BETWEEN)})
    notes = sorted({one["note"] for one in known if one["note"]})
    dates = sorted({one["date"] for one in known})
    seconds = [one["seconds"] for row in known for one in row["seeds"]]
    minutes, searches = sum(filter(None, seconds)) / 60, [row["search"] or {} for row in known]
    searched = sum(one.get("seconds", 0) for one in searches) / 60
    # Nothing says how long one took that came to no end.
    finished = ", of the seeds that finished" if None in seconds else ""
    is_whole = not any(_bad_trials(one) for one in searches)
    lost = "" if is_whole else ", not counting trials that diverged or failed"
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    parts = [
        command,
        f"commit{'s' if commits[1:] else ''} {', '.join(commits)}",
        "; ".join([*machines, *notes]),
        days,
        *([f"{counted(round(searched), 'minute')} of search{lost}"] if searched else []),
        f"{counted(round(minutes), 'minute')} of training{finished}",
    ]
    return wrapped("; ".join(parts) + ".")


def _failures(row: Row, found: Result) -> list[str]:
    """Why seeds came to nothing, a line for each reason."""
    if found is None:
        return []
    reasons: dict[str, list[str]] = {}
    for one in found["seeds"]:
        if one["outcome"] != FINISHED:
            reasons.setdefault(f"{one['outcome']}: {one.get('why', '')}", []).append(
                str(one["seed"])
            )
    return [
        f"- {row.label}, seed {', '.join(seeds)} {why.rstrip(': ')}."
        for why, seeds in reasons.items()
    ]


def disagreement(published: Published, found: Mapping[str, Any]) -> str:
    """How far a row is from what is published, in words, where that is more than chance or a seed failed.

    Without a standard deviation, as of one seed, chance is taken for less than it is: that is said.
    """
    epochs, count = f"after {counted(found['epochs'], 'epoch')}", len(found["seeds"])
    bad = sum(one["outcome"] != FINISHED for one in found["seeds"])
    lost = f"{bad} of {counted(count, 'seed')} diverged" if bad else ""
    if found["test_accuracy"] is None:
        return lost
    more = 100 * found["test_accuracy"] - published.accuracy
    spread = 100 * (found["test_accuracy_std"] or 0.0)
    noise = (spread**2 + (published.spread or 0.0) ** 2) ** 0.5
    if abs(more) > max(SIGNIFICANT, 2 * noise):
        side = "more" if more > 0 else "less"
        far = f"{abs(more):.2f} points {side} than published, {epochs}"
        alone = "" if found["test_accuracy_std"] is not None else "one seed has no deviation"
        return "; ".join(filter(None, [far, lost, alone]))
    return lost


def _disagreements(groups: Sequence[Group], places: Places, explained: Mapping[str, str]) -> str:
    lines = [
        "## Where this disagrees with publications",
        "",
        *wrapped(
            f"Listed: differences above {SIGNIFICANT} points, and above two standard deviations where they are known. "
            "What was not measured is called open."
        ),
        "",
    ]
    compared, there = 0, False
    for group in groups:
        for row in group.rows:
            found = places.result(row)
            if row.published is None or found is None:
                continue
            compared += 1
            said = disagreement(row.published, found)
            if not said:
                continue
            there = True
            why = explained.get(row.name, "Open.")
            lines += wrapped(f"- **{group.title}, {row.label}**: {said}. {why}", "  ")
    nowhere = f"Nowhere so far; of rows with a published value, {compared} {'was' if compared == 1 else 'were'} run."
    return "\n".join([*lines, *([] if there else [nowhere])]) + "\n"


def wrapped(words: str, indent: str = "") -> list[str]:
    """Lines of at most 100 characters; an address, or code, is not parted."""
    lines: list[str] = []
    for word in words.replace(" %", f"{TIED}%").split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= 100:
            lines[-1] += f" {word}"
        else:
            lines.append(word if not lines else indent + word)
    return [line.replace(TIED, " ") for line in lines]


def results_of(group: Group, places: Places) -> dict[str, dict[str, Any]]:
    """Row -> what it came to, of those that have come to something."""
    found = {row.name: places.result(row) for row in group.rows}
    return {name: one for name, one in found.items() if one is not None}


def pictures(groups: Sequence[Group], places: Places) -> list[str]:
    """Names of those that the page shows."""
    return [
        picture_name(group) for group in groups if _has_picture(group, results_of(group, places))
    ]


def _has_picture(group: Group, results: Mapping[str, Result]) -> bool:
    """Whether a seed has finished; where the picture is of angles, one that has them."""
    known = [found for found in results.values() if found]
    if group.picture == "depth":
        return any(map(angles_of, known))
    return any(found["test_accuracy"] is not None for found in known)


def write(
    groups: Sequence[Group], places: Places, explained: Mapping[str, str], file: Path
) -> list[Path]:
    """Writes the page, and the pictures beside it. Returns the files."""
    from benchmarks.paper.pictures import draw

    words, drawn = text(groups, places, explained), []  # before anything is written: it may raise
    for group in groups:
        if _has_picture(group, results_of(group, places)):
            drawn.append(file.parent / picture_name(group))
            draw(group, places, drawn[-1])
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, words)
    return [file, *drawn]
