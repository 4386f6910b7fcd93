"""The scripts of docs/cluster.md: the one that is printed is the one that is sent; those by hand do what they say."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import slurm_stand_in
from helpers import REPOSITORY
from submitting import dtp, exit_code

from dtp_jax.submit import options

pytest_plugins = ["run_fixtures"]
PAGE = (REPOSITORY / "docs/cluster.md").read_text()
HOME = "/home/you/dtp-jax"

FAKE = """#!/bin/bash
# Instead of Python: notes its arguments, and ends with the next of the exit codes.
echo "$@ task $SLURM_ARRAY_TASK_ID" >> "$FAKE/calls"
code=$(head -n 1 "$FAKE/codes"); sed -i 1d "$FAKE/codes"
exit ${code:-0}
"""


def blocks(heading, language="bash"):
    """The blocks of code below a heading."""
    part = re.split(rf"^##+ {heading}$", PAGE, flags=re.MULTILINE)[1]
    part = re.split(r"^##+ \w", part, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)


@pytest.fixture
def fake(place, monkeypatch):
    """Puts a stand-in for Python first on PATH. Returns (to set the exit codes, to read the calls)."""
    folder = place.parent / "fake"
    folder.mkdir()
    (folder / "python").write_text(FAKE)
    (folder / "sleep").write_text("#!/bin/sh\n")
    for name in ("python", "sleep"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))

    def will_end(*codes):
        (folder / "calls").unlink(missing_ok=True)
        (folder / "codes").write_text("".join(f"{code}\n" for code in codes))

    return will_end, lambda: (folder / "calls").read_text().splitlines()


def test_every_block_is_shell():
    found = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) > 8
    for block in found:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, ""), block


def test_the_script_of_two_nodes_is_what_is_printed(place, monkeypatch):
    """test_submit_jobs.py runs such a script."""
    monkeypatch.setattr("dtp_jax.data.download.why_unreachable", lambda remote: "no network")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command, script = blocks("Two nodes")
    words = command.replace("\\\n", " ").split()
    code, out, _ = dtp(*words[1:], "--submit.print")
    assert words[0] == "dtp" and code == 0
    # Python first: its folder may be one of the checkout.
    for here, there in ((sys.executable, "python"), (str(place), HOME), (str(REPOSITORY), HOME)):
        out = out.replace(here, there)
    assert out == script


def test_the_file_of_options(place):
    (text,) = blocks("Slurm", "toml")
    (place / "cluster.toml").write_text(text)
    found = options.read([("submit", "slurm"), ("submit-file", "cluster.toml")])
    assert (found.time, found.cpus, found.extra) == (1440, 8, {"mail-type": "FAIL"})
    keys = ("partition", "account", "time", "gpus", "cpus", "memory", "setup", "extra")
    assert set(tomllib.loads(text)) == set(keys)


def test_the_page_knows_every_key():
    for key in options.READ:
        assert f"submit.{key}" in PAGE or f"`.{key}`" in PAGE, key


def test_an_array_of_ones_own(fake, place, monkeypatch):
    """The first task is out of time once, the third one fails."""
    will_end, calls = fake
    folder = slurm_stand_in.install(place.parent / "slurm", monkeypatch)
    script, _ = blocks("A Slurm array of your own")
    (place / "array.sh").write_text(script)
    will_end(143, 0, 0, 2, 0, 0)
    subprocess.run(["sbatch", "array.sh"], check=True)
    assert exit_code(folder, "100_4") == 0
    slurm_stand_in.clear(folder)
    assert [exit_code(folder, f"100_{task}") for task in range(5)] == [0, 0, 2, 0, 0]
    assert [call.partition(" task ")[2] for call in calls()] == list("001234")
    for call in calls():
        assert call.startswith("launch.py --config=configs/cifar10_dtp.py --workdir=runs/compare/")
    asked = slurm_stand_in.parameters(script)
    assert asked["signal"] == "TERM@60" and asked["array"] == "0-4"


@pytest.mark.parametrize(
    "codes, last", [((143, 137, 5, 0), 0), ((143, 2), 2), ((4,), 4), ((129, 3), 3), ((1, 7), 7)]
)
def test_a_machine_that_is_taken_away(fake, place, codes, last):
    will_end, calls = fake
    (script,) = blocks("A preemptible machine")
    (place / "loop.sh").write_text(script.replace(HOME, str(place)))
    will_end(*codes, 99)
    assert subprocess.run(["bash", "loop.sh"]).returncode == last
    assert len(calls()) == len(codes)
