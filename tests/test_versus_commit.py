"""Two checkouts side by side: steps in turn, each with its own package, and nothing left behind."""

import json
import tempfile

import pytest
from helpers import REPOSITORY

from benchmarks import timing, versus_commit
from benchmarks.step import Side

TINY = {
    "network": "lenet",
    "rule": "ldrl",
    "input_shape": (8, 8, 2),
    "classes": 3,
    "batch": 2,
    "noise": (0.1, 0.1, 0.1),
    "iterations": (1, 1, 1),
    "feedback_lr": (0.01, 0.01, 0.01),
    "beta": 0.7,
    "forward_lr": 0.05,
}
FAKE = """
import os, sys
print(os.environ["PYTHONPATH"] + "/dtp_jax", flush=True)
for number, _ in enumerate(sys.stdin):
    print(f"{number} {os.environ['PYTHONPATH']}", file=open({log!r}, "a"))
    print("done", flush=True)
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Skips where there is none, as in an unpacked archive; checks that no worktree is left."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path / "worktrees"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []
    assert str(folder) not in versus_commit.git("worktree", "list")


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A function that puts other code in the worker's place; it may write to the file {log}."""
    log = tmp_path / "log"

    def replace(code):
        file = tmp_path / "worker.py"
        file.write_text(code.replace("{log!r}", repr(str(log))))
        monkeypatch.setattr(versus_commit, "WORKER", file)
        return log

    return replace


def test_calls_alternate_after_two_of_each():
    taken = []
    calls = {name: lambda name=name: taken.append(name) for name in "ab"}
    times = timing.alternating(calls, 3)
    assert "".join(taken) == "abab" + "ababab"
    assert [(name, len(t)) for name, t in times.items()] == [("a", 3), ("b", 3)]


def test_spread():
    assert timing.spread((5.0, 1.0, 2.0)) == {"seconds": 2.0, "fastest": 1.0, "slowest": 5.0}


class Tiny(versus_commit.Step):
    """A step of the tiny network, whatever it is called."""

    def setting(self):
        return TINY | {"rule": self.rule}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["ldrl", "backprop"])
def test_head_against_this_checkout(rule, repository, tmp_path, monkeypatch, capsys):
    """Both for real, on a tiny network."""
    monkeypatch.setattr(versus_commit, "Step", Tiny)
    monkeypatch.setattr(versus_commit, "matmul_peak", lambda: 2e9)
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    file = tmp_path / "out.json"
    flags = [f"--steps=lenet:{rule}:2", "--repeats=1", f"--json={file}"]
    assert versus_commit.main(flags) == 0
    result = json.loads(file.read_text())
    assert {"date", "hardware"} < set(result) and isinstance(result["commit"], str)
    assert "versus_commit" in result["command"] and len(result["against"]) == 40
    [row] = result["rows"]
    assert row["step"] == f"lenet:{rule}:2" and row["peak_flops_per_second"] == 2e9
    now, before = row["now"], row["before"]
    for side in (now, before):
        assert 0 < side["fastest"] == side["seconds"] == side["slowest"]
        assert side["quartiles"] == [side["seconds"]] * 2
    ratio = before["seconds"] / now["seconds"]
    assert [before["ratio"], *before["ratios_middle_half"]] == pytest.approx([ratio] * 3)
    assert "ratio" not in now and f"{ratio:.3f}" in capsys.readouterr().out


def test_steps_alternate(repository, worker, monkeypatch):
    log = worker(FAKE)
    taken = []
    side = Side(lambda: taken.append(len(log.read_text().splitlines())), 0)
    monkeypatch.setattr(versus_commit, "torch_side", lambda *_: side)
    with versus_commit.checkout_of("HEAD") as there:
        found = versus_commit.measure(there, TINY, 2, pytorch=True)
    assert set(found) == {"before", "now", "pytorch"}
    assert taken == [2, 4, 6, 8]  # after one of each
    numbers, places = zip(*(line.split() for line in log.read_text().splitlines()))
    assert numbers == tuple("00112233")  # two to warm up
    assert places == (places[0], str(REPOSITORY)) * 4 and places[0] != places[1]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        (FAKE.replace("for number", "raise SystemExit(3)\nfor number"), "ended with 3"),
        (FAKE.replace('os.environ["PYTHONPATH"] + ', ""), "has modules of /dtp_jax"),
    ],
)
def test_a_worker_that_ends_or_has_another_package(code, message, repository, worker):
    worker(code)
    with (
        versus_commit.checkout_of("HEAD") as there,
        pytest.raises(RuntimeError, match=f"the process of .*checkout {message}"),
    ):
        versus_commit.measure(there, TINY, 2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--commit", "no-such-commit"),
        ("--repeats", "0"),
        ("--steps", "lenet:ldrl"),
        ("--steps", "lenet:ldrl:0"),
        ("--steps", "lenet:ldrl:2,mlp:ldrl:2"),
    ],
)
def test_options_that_mean_nothing(option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        versus_commit.main([option, value])
    said = capsys.readouterr().err.replace(f"{option}: is", f"{option} is").replace("'", "")
    assert f"{option} is {value}; allowed: " in said


def test_without_git_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as left:
        versus_commit.main([])
    assert left.value.code == 2 and "git is needed here" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["gs://b/x.json", "~nosuchuser/x.json", "none/x.json", ".", ""])
def test_a_result_that_could_not_be_written_is_said_before_anything_is_measured(file, capsys):
    with pytest.raises(SystemExit) as left:
        versus_commit.main([f"--json={file}"])
    assert left.value.code == 2 and f"--json is {file!r}; allowed: " in capsys.readouterr().err
