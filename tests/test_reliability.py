"""docs/reliability.md tells of all faults, and of as many kills, starts and fuzzed values as it is to."""

import re

import pytest

from tests.reliability import __main__ as program
from tests.reliability import fuzz, report
from tests.reliability.fault import ANYTHING, FINISHED, NOTHING, SAVED, Row, all_faults, found
from tests.reliability.place import STEPS

FAULTS = all_faults()


def cells(name, page=report.PAGE):
    """The cells of the rows of a section, without those of heads."""
    lines = [line for line in report.section(name, page).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [
        row
        for i, row in enumerate(rows)
        if row[0] != "--" and rows[i + 1 : i + 2] != [["--"] * len(row)]
    ]


def test_the_page_has_a_row_for_every_fault():
    rows = cells("faults")
    assert [row[0] for row in rows] == [fault.what for fault in FAULTS] and len(rows) >= 45
    for row, fault in zip(rows, FAULTS, strict=True):
        assert row[3] == str(fault.code) or row[1].startswith("not tried"), row


def test_names_of_faults_are_not_used_twice():
    """`--only` finds one by its name."""
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert len({fault.what for fault in FAULTS if fault.what != "None"}) >= len(FAULTS) - 2


def test_the_page_has_the_kills_the_starts_and_the_numbers_of_the_fuzzing():
    kills = cells("kills")
    for processes, least in (("1", 20), ("2", 10)):
        runs = [row for row in kills if row[1] == processes]
        assert sum(len(row[2].split(";")) for row in runs) >= least
    assert all(row[3] == "yes" for row in kills)
    assert len(cells("starts")) >= 10
    tried = {what: int(count.replace(",", "")) for what, count in cells("fuzz")}
    assert all(tried[what] >= least for what, least in fuzz.LEAST.items())


@pytest.mark.parametrize(
    "pattern, said",
    [("nothing_like_it", "a pattern of these names: "), ("[", "a pattern of names")],
)
def test_only_what_there_is(monkeypatch, capsys, pattern, said):
    """No page is said to have changed where nothing was tried."""
    before = report.PAGE.read_text()
    monkeypatch.setattr("sys.argv", ["reliability", "--only=no_data", f"--only={pattern}"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2 and report.PAGE.read_text() == before
    assert f"error: --only is {pattern!r}; allowed: {said}" in capsys.readouterr().err


def test_a_section_is_written_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin of x -->\nold\n<!-- end of x -->\nb\n<!-- begin of y -->\n")
    report.write("x", "new", page)
    text = page.read_text()
    assert text.startswith("a\n<!-- begin of x -->\nLast changed on ") and "old" not in text
    assert text.endswith("\n\nnew\n<!-- end of x -->\nb\n<!-- begin of y -->\n")


def test_rows_that_are_as_expected_take_their_places(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin of faults -->\n<!-- end of faults -->\n")
    first, *_, last = FAULTS

    def row(fault, last_line, wrong=""):
        return Row(fault, "a | b", last_line, fault.code, "nothing", wrong)

    report.write_rows([row(last, "one")], FAULTS, page)
    report.write_rows([row(first, "two"), row(last, "three", wrong="all")], FAULTS, page)
    rows = cells("faults", page)
    assert [r[0] for r in rows] == [first.what, last.what]
    assert rows[1][1:] == [r"`a \| b`", "`one`", str(last.code), "nothing"]


@pytest.mark.parametrize(
    "steps, checkpoints, summary, expected, problem",
    [
        (range(1, STEPS + 1), (39, STEPS), STEPS, FINISHED, None),
        (range(1, 21), (20,), None, SAVED, None),
        (range(1, 26), (20,), None, SAVED, None),  # killed after it
        ((*range(1, 21), 20), (20,), None, SAVED, "twice"),
        ((*range(1, 10), *range(11, 21)), (20,), None, SAVED, "steps"),
        (range(1, 21), (), None, SAVED, "checkpoints"),
        (range(1, 21), (20,), 20, SAVED, "summary"),
        (range(1, 21), (20,), None, FINISHED, "summary"),
        (range(1, 21), (20,), 21, FINISHED, "summary"),
        (range(1, 21), (20,), 20, NOTHING, "expected nothing"),
        ((1, 1), (), None, ANYTHING, None),
    ],
)
def test_what_is_left_is_compared(tmp_path, steps, checkpoints, summary, expected, problem):
    for step in checkpoints:
        folder = tmp_path / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        (folder / "checksums.json").write_text("{}")
    lines = "".join(f'{{"step": {step}, "split": "train"}}\n' for step in steps)
    (tmp_path / "metrics.jsonl").write_text(lines)
    if summary is not None:
        (tmp_path / "summary.json").write_text(f'{{"steps": {summary}}}')
    if problem is None:
        assert f"{len(steps)} steps" in found(tmp_path, expected)
    else:
        with pytest.raises(AssertionError, match=problem):
            found(tmp_path, expected)


def test_what_was_tried_is_added_up(tmp_path):
    file = tmp_path / "tally.jsonl"
    assert not fuzz.read(file)
    file.write_text('{"what": "files", "tried": 2}\n{"what": "configs", "tried": 5}\n' * 2)
    assert fuzz.read(file) == {"files": 4, "configs": 10}
