"""The list of planted defects fits the present code and tests, and the program that plants them is right."""

import ast
import re
import subprocess
import threading
from functools import cache
from pathlib import Path

import pytest

from dtp_jax.run.locks import alone
from tests.mutants import REPOSITORY, page
from tests.mutants.__main__ import DEFECTS, main
from tests.mutants.copies import FOUND, PASSED, Copy, Judged, Said, files_of
from tests.mutants.defect import Defect

PACKAGE, TESTS = REPOSITORY / "dtp_jax", REPOSITORY / "tests"


@cache
def names_in(file):
    """The names of the tests in a file."""
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_names_are_their_own():
    names = [one.name for one in DEFECTS]
    assert len(names) == len(set(names)) >= 30
    texts = [(one.file, one.old, one.new) for one in DEFECTS]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda one: one.name)
def test_a_defect_fits_the_code(defect):
    """Its text is there once, the code still compiles, and the tests that should see it are there."""
    code = (PACKAGE / defect.file).read_text()
    planted = defect.planted(code)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(code))
    assert defect.tests
    for test in defect.tests:
        file, _, name = test.partition("::")
        assert not name or name.partition("[")[0] in names_in(file), test


def test_the_page_has_every_defect_and_all_were_found():
    found = page.rows()
    assert list(found) == [one.name for one in DEFECTS]
    for defect in DEFECTS:
        row = found[defect.name]
        assert row.startswith(f"| `{defect.name}` | {defect.what} | `{defect.file}` | ")
        by = row.split(" | ")[3].strip("`")
        file, _, name = by.partition("::")
        assert name.partition("[")[0] in names_in(file), f"{defect.name}: {by}"


def test_the_page_does_not_say_that_all_rows_are_of_one_day():
    """--only leaves the others as they are."""
    dated = r"Last changed on \d{4}-\d\d-\d\d: dtp-jax \S+, .*; \d+ cores of .*\.\n"
    text = page.PAGE.read_text()
    for head in (
        page.head() + "\n",
        text.partition(f"{page.BEGIN}\n")[2].partition("\n\n")[0] + "\n",
    ):
        assert re.fullmatch(f"{dated}{re.escape(page.KEPT)}\n", head), head


# The program, on a project of one function and two tests.

CODE = "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n"
TEST = """from dtp_jax.code import double


def test_nothing():
    pass


def test_double():
    assert double(3) == 6
"""


DEFECT = Defect("found", "In words", "code.py", "2 * x", "3 * x", ("test_code.py::test_double",))
OTHER = DEFECT._replace(name="other", old="x / 2", new="x / 3")
LATER = "FAILED tests/test_code.py::test_later[a-1] - assert 1 == 2\n1 failed, 3 passed in 0.5s"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository, with a file that git does not know of and one that it ignores."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in (
        ("dtp_jax/code.py", CODE),
        ("tests/test_code.py", TEST),
        (".gitignore", "*.bin\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\npythonpath = ["."]\n'),
        ("data.bin", ""),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "configs").symlink_to("dtp_jax", target_is_directory=True)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def test_a_defect_is_found_in_a_copy(project, tmp_path):
    """And is gone again at once; the project has never had it."""
    assert Path("data.bin") not in files_of(project)
    copy = Copy.made(project, tmp_path / "copy")
    assert (copy.folder / "configs").readlink() == Path("dtp_jax")
    found = copy.judged(DEFECT)
    assert (found.found_by, found.is_named) == ("test_code.py::test_double", True)
    assert copy.tested(["test_code.py"]).code == PASSED
    for folder in (project, copy.folder):
        assert (folder / "dtp_jax/code.py").read_text() == CODE
    copy.stop()
    assert copy.tested(["test_code.py"]).code not in (PASSED, FOUND)


@pytest.mark.parametrize(
    "answers, found_by, is_named, problem",
    [
        ([Said(PASSED, ""), Said(FOUND, LATER)], "test_code.py::test_later[a-1]", False, ""),
        ([Said(PASSED, ""), Said(PASSED, "4 passed")], None, True, "no test sees it"),
        ([Said(2, "SyntaxError\n1 error in 0.1s\n")], None, True, "1 error in 0.1s"),
        ([Said(-1, "no end within 400 s")], None, True, "no end within 400 s"),
        ([Said(FOUND, "")], None, True, "pytest ended with 1"),
    ],
    ids=["by another test", "survives", "does not run", "does not end", "says nothing"],
)
def test_what_tests_say_of_a_defect(tmp_path, answers, found_by, is_named, problem):
    (tmp_path / "dtp_jax").mkdir()
    (tmp_path / "dtp_jax/code.py").write_text(CODE)
    asked = []

    class Answering(Copy):
        def tested(self, tests, *options, **more):
            asked.append(tuple(tests))
            assert "x / 3" in (tmp_path / "dtp_jax/code.py").read_text()
            return answers[len(asked) - 1]

    one = Answering(tmp_path).judged(OTHER)
    assert (one.found_by, one.is_named, one.problem) == (found_by, is_named, problem)
    assert asked == [OTHER.tests, ("test_code.py",)][: len(answers)]
    assert (tmp_path / "dtp_jax/code.py").read_text() == CODE


@pytest.mark.parametrize("code", ["", CODE + "2 * x"])
def test_a_text_that_is_not_there_once(tmp_path, code):
    (tmp_path / "dtp_jax").mkdir()
    (tmp_path / "dtp_jax/code.py").write_text(code)
    found = Copy(tmp_path).judged(DEFECT)
    assert found.found_by is None
    assert (
        found.problem == f"found: its text is {code.count('2 * x')} times in code.py; allowed: once"
    )


def test_rows_stay_where_their_defects_are_not_tried(tmp_path):
    file, defects = tmp_path / "page.md", [DEFECT, OTHER]
    file.write_text(f"Before\n\n{page.BEGIN}\n{page.END}\n\nAfter\n")
    page.write([Judged(DEFECT, "test_code.py::test[a|b]", 2.6)], defects, file)
    first = "| `found` | In words | `code.py` | `test_code.py::test[a\\|b]` | 3 |"
    assert first in file.read_text() and "| `other` | In words | `code.py` | not run |" in (
        file.read_text()
    )
    page.write([Judged(OTHER, None, 1.0, "no test sees it")], defects, file)
    text = file.read_text()
    assert page.rows(file).keys() == {"found", "other"} and first in text
    assert page.found(file) == {"found"}
    assert "| `other` | In words | `code.py` | **nothing** | 1 |" in text
    page.write([], [OTHER], file)
    assert page.rows(file).keys() == {"other"}
    assert text.startswith("Before\n") and text.endswith("\n\nAfter\n")


def test_two_processes_keep_each_others_rows(tmp_path):
    """What another one writes while this one waits for its turn is not lost."""
    file, defects = tmp_path / "page.md", [DEFECT, OTHER]
    file.write_text(f"{page.BEGIN}\n{page.END}\n")
    judged = [Judged(OTHER, "test_code.py::test", 1.0)]
    writer = threading.Thread(target=page.write, args=(judged, defects, file))
    with alone(Path(page.__file__)):
        writer.start()
        writer.join(0.2)
        assert not page.rows(file)
        line = page.row(Judged(DEFECT, "test_code.py::test", 1.0))
        file.write_text(f"{page.BEGIN}\n{line}\n{page.END}\n")
    writer.join()
    assert page.found(file) == {"found", "other"}


def test_a_pattern_that_is_none_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mutants", "--only=momentum", "--only=["])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "error: --only is '['; allowed: a pattern of names; unterminated" in (
        capsys.readouterr().err
    )
