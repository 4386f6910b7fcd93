"""Every block of code of the documentation: Python is run, commands are read by the program's own parsers.

A comment in front of a block says what is special about it:

    <!-- before: STATEMENTS -->  run first, in the same names
    <!-- file: NAME -->          it is this file, which commands and blocks of the page may use
"""

import contextlib
import runpy
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from docs_blocks import PAGES, blocks, check, commands, write_files
from helpers import REPOSITORY

from dtp_jax.data import DATASETS
from dtp_jax.networks import NETWORKS
from dtp_jax.rules import RULES
from dtp_jax.run.results import load_run
from dtp_jax.run.trackers import TRACKERS

pytest_plugins = ["run_fixtures"]
pytestmark = pytest.mark.usefixtures("single_precision")

ELSEWHERE = {"docs/library.md": ("test_library.py", 2), "README.md": ("test_notebook.py", 1)}
"""Page -> the test that runs its first blocks of Python, with data at hand, and how many."""
LANGUAGES = {"python", "bash", "text", "json", "toml"}


@pytest.fixture
def registries():
    """What pages register is gone afterwards."""
    tables = (RULES, NETWORKS, DATASETS, TRACKERS)
    before = [dict(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        for name in set(table) - set(old):
            del table[name]


@pytest.fixture
def pictures():
    """No windows."""
    matplotlib.use("agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def python_of(page):
    """The blocks of Python that this file runs, or compiles."""
    found = [block for block in blocks(page, "python") if block.mark != "file"]
    return found[ELSEWHERE.get(page, ("", 0))[1] :]


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)])
def test_python_runs(page, place, registries, pictures, monkeypatch):
    """The blocks of a page one after the other, in an empty folder, as a reader would paste them."""
    monkeypatch.syspath_prepend(str(place))
    write_files(page, place)
    names = {"__name__": "docs"}
    for block in python_of(page):
        where = f"{page}:{block.line}"
        code = compile(block.code, where, "exec")
        with contextlib.redirect_stdout(None):
            if block.mark == "before":
                exec(compile(block.said, where, "exec"), names)
            exec(code, names)


def test_blocks_that_others_run_are_run_there():
    for page, (test, count) in ELSEWHERE.items():
        assert page.split("/")[-1] in (REPOSITORY / "tests" / test).read_text()
        assert len(blocks(page, "python")) >= count


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")])
def test_commands_are_understood(page, place, registries, monkeypatch):
    """By bash, and each of ours by its own parser: flags, configs, fields and their values."""
    (place / "configs").symlink_to(REPOSITORY / "configs")
    (place / "data").mkdir()
    write_files(page, place)
    for block in blocks(page, "bash"):
        parsed = subprocess.run(["bash", "-n"], input=block.code, text=True, capture_output=True)
        assert parsed.returncode == 0, f"{page}:{block.line}: {parsed.stderr}"
        for command in commands(block.code):
            try:
                check(command, monkeypatch)
            except (SystemExit, ValueError, ImportError, AssertionError) as problem:
                pytest.fail(f"{page}:{block.line}: {' '.join(command)}: {problem}")


def test_the_space_that_the_page_of_sweeps_shows_can_be_searched(place):
    """The commands of the page are parsed here, which does not read the file."""
    from dtp_jax.sweep import plan

    assert write_files("docs/sweeps.md", place) == ["mine.py"]
    made = plan.make("mine.py", [], place / "sweep", "none", "dtp sweep")
    searched = {one.field for one in made.dimensions}
    assert searched == set(runpy.run_path("mine.py")["space"])


def test_the_state_dict_that_the_page_of_weights_saves_can_be_imported(place):
    """With the names that PyTorch gives to what the page calls the whole module."""
    from dtp_jax.export.__main__ import main

    saving = blocks("docs/weights.md", "python")[-1]
    names = {}
    for code in (saving.said, saving.code):
        exec(compile(code, f"{saving.page}:{saving.line}", "exec"), names)
    mlp = ("--config.network=mlp", "--config.channels=()", "--config.hidden=5")
    maps = ("--config.noise=0.1", "--config.feedback_lr=0.1")
    args = ("--to-workdir", "imported", "state_dict.safetensors", "--config=digits_dtp")
    assert main([*args, *mlp, *maps]) == 0
    forward = load_run("imported").state.forward
    expected = names["model"].forward_net["fc1"].weight.detach().numpy().T
    np.testing.assert_array_equal(forward["fc1"]["kernel"], expected)


FEW = ("--config.channels=2,4", "--config.epochs=1", "--config.max_steps=3")
SMALLER = {
    "train --config=": FEW,
    "train --workdir=": ("--config.max_steps=40",),
    "train --plugin=bars.py --config=": FEW[1:],
    "train --plugin=bars.py --workdir=": ("--config.max_steps=5",),
    "compare ": FEW,
    "sweep ": (*FEW, "--trials=1"),
}
"""Beginning of a command -> what makes it short: of a flag that is given twice, the last one holds."""


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/data.md"])
def test_commands_run(page, place, monkeypatch):
    """Those of the first pages that a reader sees, one after the other, in one folder; figures want CIFAR-10."""
    (place / "tests").symlink_to(REPOSITORY / "tests")
    write_files(page, place)
    if page == "docs/data.md":  # its arrays, which it stores
        names = {"__name__": "docs"}
        for block in python_of(page):
            exec(compile(block.code, page, "exec"), names)
    ours = [c for b in blocks(page, "bash") for c in commands(b.code) if c[0] == "dtp"]
    done = 0
    for command in ours:
        words = " ".join(command[1:])
        if command[1] == "figures" or page == "docs/data.md" and "bars" not in words:
            continue  # wants data that is not here
        more = next((more for head, more in SMALLER.items() if words.startswith(head)), ())
        found = subprocess.run(
            [sys.executable, "-m", "dtp_jax", *command[1:], *more], capture_output=True, text=True
        )
        assert found.returncode == 0, f"{page}: {words}: {found.stderr}"
        done += 1
    assert done >= 2, page


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "dtp train --config=a # why\nmake test",
            [["dtp", "train", "--config=a"], ["make", "test"]],
        ),
        (
            "for i in 0 1; do\n  A=1 srun dtp b \\\n  --n=$i &\ndone; wait",
            [["for", "i", "in", "0", "1"], ["dtp", "b", "--n=1"]],
        ),
        ("x -a > b.log 2>&1 &", [["x", "-a"]]),
        ("x --configs='a[b=1|2]' && y", [["x", "--configs=a[b=1|2]"], ["y"]]),
        (
            "z --wrap='python launch.py -x'",
            [["z", "--wrap=python launch.py -x"], ["python", "launch.py", "-x"]],
        ),
    ],
)
def test_how_a_script_is_read(script, expected):
    assert commands(script) == expected


@pytest.mark.parametrize(
    "command",
    [
        "dtp train --config=digits_dtp --config.epoch=3",
        "dtp train --config=no_such_config",
        "dtp train --config.epochs=0",
        "dtp compare --config=digits_dtp",
        "dtp compare --configs=digits_dtp --config.epoch=3",
        "dtp figures 4.2 --fast",
        "dtp no_such_tool",
        "dpt train --config=digits_dtp",
        "python -m benchmarks.step --no-such-flag",
        "make no_such_target",
    ],
)
def test_a_wrong_command_is_found(command, place, monkeypatch):
    with pytest.raises((SystemExit, ValueError, ImportError, AssertionError)):
        check(command.split(), monkeypatch)


def test_every_block_has_a_language():
    """Else nobody knows what to do with it, neither the site nor this file."""
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{page}:{block.line}"
            assert block.mark in ("", "before", "file"), f"{page}:{block.line}"
