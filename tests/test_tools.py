"""What the tools of `dtp` have in common: their help, and files that several may write at once."""

import contextlib
import importlib
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtp_jax import __main__ as command
from dtp_jax.run.files import read_object, replacing, write_json
from dtp_jax.tools import parser_of


@pytest.mark.parametrize("tool", command.TOOLS)
def test_help_is_meant_for_readers(tool, capsys):
    """It can be copied: braces are those of Python, and the program is the one that was typed."""
    with contextlib.suppress(SystemExit):
        command.main([tool, "--help"])
    said = capsys.readouterr().out
    assert f"dtp {tool}" in said
    assert not re.search(r"\{\{|\}\}|\{program\}", said)


@pytest.mark.parametrize("tool", [one for one in command.TOOLS if one != "train"])
def test_what_is_not_valid_is_one_line(tool, capsys):
    """That of train is its own: tests/test_cli.py."""
    needed = {"compare": ["--configs=x", "--seeds=x"], "sweep": ["--trials=x"]}.get(tool, [])
    module = importlib.import_module(f"dtp_jax.{tool}.__main__")
    with pytest.raises(SystemExit) as ended:
        module.main(["--nix=1", *needed], f"dtp {tool}")
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith(f"dtp {tool}: error: ") and said.err.count("\n") == 1
    assert said.err.endswith(f"; dtp {tool} --help has all flags\n")


def test_whatever_is_said_of_an_argument_is_one_line(capsys):
    parser = parser_of("dtp x", "What it is.")
    with pytest.raises(SystemExit):
        parser.parse_args(["--a\nb"])
    said = "dtp x: error: unrecognized arguments: --a b; dtp x --help has all flags\n"
    assert capsys.readouterr().err == said


def test_whoever_writes_a_file_at_the_same_time_writes_all_of_it(tmp_path):
    """Two kinds of files with the same stem, too."""
    contents = [{"of": n, "numbers": [n] * 2000} for n in range(4)]

    def write(n):
        for _ in range(25):
            write_json(tmp_path / "sweep.json", contents[n])
            with replacing(tmp_path / "sweep.csv") as file:
                file.write(json.dumps(contents[n]).encode())
            assert read_object(tmp_path / "sweep.json") in contents
            assert read_object(tmp_path / "sweep.csv") in contents

    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(write, range(4)):
            assert done is None
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "sweep.csv"}


def test_a_file_that_was_not_written_to_its_end_is_as_before(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(KeyError), replacing(tmp_path / "a.json") as file:
        file.write(b"half")
        raise KeyError
    assert read_object(tmp_path / "a.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
