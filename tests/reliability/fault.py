"""What a fault is: what is done, how it is to end, and what is to be left on disk."""

import dataclasses
import importlib
import inspect
import json
import re
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.reliability.place import Ended, Missing, Place, a_place, checkpoints_of, steps_of

NOTHING = "nothing"
"""No workdir."""
SAVED = "a run that goes on"
"""A complete checkpoint at the last line of metrics.jsonl, every step once, no summary."""
FINISHED = "a finished run"
"""The same, with the summary of it."""
ANYTHING = "whatever the fault itself checks"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    kind: str
    what: str
    """In words."""
    code: int
    """The exit code that is expected."""
    words: str
    """A regular expression that the last line is expected to match."""
    left: str
    """What is expected in `workdir` afterwards."""
    workdir: str
    do: Callable[[Place], Ended]
    """Does it, and returns how the command ended; AssertionError where more than that is wrong."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What came out."""

    fault: Fault
    command: str
    last_line: str
    code: int | None
    left: str
    wrong: str
    """Where it is not as expected; empty where all is well."""
    missing: str = ""
    """Why it could not be tried here; empty where it was."""


KINDS = (
    "folders",
    "owners",
    "signals",
    "screens",
    "disks",
    "data",
    "checkpoints",
    "configs",
    "training",
    "weights",
    "processes",
)
"""The modules with the faults, in the order of the page."""
FAULTS: list[Fault] = []
"""Those of the modules imported so far; see `all_faults`."""


def all_faults() -> list[Fault]:
    """In the order of the page."""
    for kind in KINDS:
        importlib.import_module(f"tests.reliability.{kind}")
    return sorted(FAULTS, key=lambda fault: KINDS.index(fault.kind))


def fault(
    *, code: int, words: str, left: str = ANYTHING, workdir: str = "run"
) -> Callable[[Callable[[Place], Ended]], Callable[[Place], Ended]]:
    """Adds a function to the table; its module is the kind, its docstring says what is done."""

    def add(do: Callable[[Place], Ended]) -> Callable[[Place], Ended]:
        kind = do.__module__.rpartition(".")[2]
        what = " ".join(inspect.getdoc(do).split())
        FAULTS.append(Fault(do.__name__, kind, what, code, words, left, workdir, do))
        return do

    return add


def tried(fault: Fault) -> Row:
    """Does it in a place of its own, and compares."""
    with a_place() as place:
        try:
            ended = fault.do(place)
        except Missing as reason:
            return Row(fault, "", "", None, "", "", str(reason))
        except AssertionError as error:
            problem = str(error) or traceback.format_exc()
            return Row(fault, "", "", None, "", readable(problem, place)[-3000:])
        wrong, left = [], "nothing"
        try:
            left = found(place.path(fault.workdir), fault.left)
        except AssertionError as error:
            wrong.append(f"left on disk: {error}")
        last_line = readable(ended.last_line, place)
        if ended.code != fault.code:
            wrong.append(f"exit code {ended.code}, expected {fault.code}:\n{shown(ended, place)}")
        elif not re.search(fault.words, last_line):
            wrong.append(
                f"last line {last_line!r}, expected {fault.words!r}:\n{shown(ended, place)}"
            )
        if "Traceback (most recent call last)" in ended.screen:
            wrong.append(f"a traceback:\n{shown(ended, place)}")
        return Row(
            fault, readable(ended.command, place), last_line, ended.code, left, "\n".join(wrong)
        )


def found(workdir: Path, expected: str) -> str:
    """What is in a workdir, in words; AssertionError where it is not what is expected."""
    if not workdir.exists() and not workdir.is_symlink():
        assert expected in (NOTHING, ANYTHING), f"nothing, expected {expected}"
        return "nothing"
    assert expected != NOTHING, f"{sorted(p.name for p in workdir.iterdir())}, expected nothing"
    if not workdir.is_dir():
        return "what there was"
    steps, checkpoints = steps_of(workdir), checkpoints_of(workdir)
    summary = _summary(workdir)
    if expected in (SAVED, FINISHED):
        last = checkpoints[-1] if checkpoints else 0
        assert steps[:last] == list(range(1, last + 1)), (
            f"steps {steps} and checkpoints {checkpoints}"
        )
        assert len(set(steps)) == len(steps), f"lines of metrics twice: {steps}"
    if expected == SAVED:
        assert checkpoints and summary is None, f"checkpoints {checkpoints}, summary {summary}"
    if expected == FINISHED:
        assert checkpoints and summary == len(steps) == checkpoints[-1], (
            f"{len(steps)} steps, checkpoints {checkpoints}, summary of {summary} steps"
        )
    words = [f"metrics of {len(steps)} step{'s' * (len(steps) != 1)}"] if steps else []
    words += [f"checkpoint {checkpoints[-1]}"] if checkpoints else []
    words += ["summary"] if summary is not None else []
    aside = sorted(p.name for p in workdir.glob("checkpoints/damaged-*"))
    return (
        ", ".join(words + aside)
        or ", ".join(sorted(p.name for p in workdir.iterdir()))
        or "an empty folder"
    )


def _summary(workdir: Path) -> int | None:
    try:
        return json.loads((workdir / "summary.json").read_text())["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def readable(text: str, place: Place) -> str:
    """Without what is another one every time: folders, host, numbers of processes."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", text)
    text = text.replace(f"{place.folder}/", "").replace(str(place.folder), ".")
    text = text.replace(socket.gethostname(), "HOST") if len(socket.gethostname()) > 1 else text
    return re.sub(r"\b(process|pid) \d{3,}", r"\1 PID", text).strip()


def shown(ended: Ended, place: Place) -> str:
    """The last lines of the screen."""
    return "\n".join(readable(ended.screen, place).splitlines()[-15:])


def timed(fault: Fault) -> tuple[Row, float]:
    """`tried`, and the seconds that it took."""
    begin = time.monotonic()
    return tried(fault), time.monotonic() - begin
