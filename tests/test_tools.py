"""What the tools of `dtp` have in common: their help, and files that several may write at once."""

import contextlib
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from dtp_jax import __main__ as command
from dtp_jax.run.files import read_object, replacing, write_json


@pytest.mark.parametrize("tool", command.TOOLS)
def test_help_is_meant_for_readers(tool, capsys):
    """It can be copied: braces are those of Python, and the program is the one that was typed."""
    with contextlib.suppress(SystemExit):
        command.main([tool, "--help"])
    said = capsys.readouterr().out
    assert f"dtp {tool}" in said
    assert not re.search(r"\{\{|\}\}|\{program\}", said)


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
