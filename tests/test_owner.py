"""A folder has one owner at a time."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from launching import tree

from dtp_jax.run import locks, owner
from dtp_jax.run.files import DiskError, WorkdirError
from dtp_jax.run.owner import LAPSE_SECONDS, OWNER, Owner, Ownership, lives
from dtp_jax.run.workdir import Workdir, default_workdir

HOLD = """
import sys, time
from pathlib import Path
from dtp_jax.run.owner import Ownership
held = Ownership(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    """An empty folder."""
    place = tmp_path / "run"
    place.mkdir()
    return place


@pytest.fixture
def holder(folder):
    """Another process that owns the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def left(folder):
    """Names of everything that lies in it."""
    return sorted(path.name for path in folder.iterdir())


def written(folder, seconds_ago=0.0, **changes):
    """The file of an owner that is not a process of this test."""
    other = Owner.here({})._replace(**{"token": "0" * 32, "process": 4711, **changes})
    (folder / OWNER).write_text(json.dumps(other._asdict()))
    then = time.time() - seconds_ago
    os.utime(folder / OWNER, (then, then))


def test_nothing_is_left_of_an_owner(folder):
    mine = Ownership(folder)
    assert left(folder) == [OWNER]
    mine.require()
    mine.release()
    assert left(folder) == []


def test_a_second_process_is_refused_while_the_first_one_lives(folder, holder):
    link = folder.with_name("link")
    link.symlink_to(folder)
    for place in (folder, link):
        for take_over in (False, True):
            with pytest.raises(WorkdirError) as refused:
                Ownership(place, take_over=take_over)
            assert f"process {holder.pid} on {os.uname().nodename} trains in it" in str(
                refused.value
            )
            assert "once that process has ended" in str(refused.value)
    assert left(folder) == [OWNER]
    holder.kill()
    holder.wait()
    Ownership(folder).release()
    assert left(folder) == []


def test_a_run_that_is_stopped_by_its_terminal_still_owns(folder, holder):
    """It is not dead, however old its last sign of life is."""
    old = time.time() - 10 * owner.LAPSE_SECONDS
    os.utime(folder / OWNER, (old, old))
    with pytest.raises(WorkdirError, match="trains in it"):
        Ownership(folder, take_over=True)


def test_an_owner_on_another_host_lapses(folder):
    written(folder, seconds_ago=12, host="elsewhere", job="77")
    with pytest.raises(WorkdirError) as refused:
        Ownership(folder)
    text = str(refused.value)
    assert "process 4711 on elsewhere (Slurm job 77) trains in it, or was lost" in text
    assert "its last sign of life is 12 s old" in text
    assert "this one in 49 s if there is no other by then, or at once with --take-over" in text
    written(folder, seconds_ago=61, host="elsewhere")
    Ownership(folder).release()
    assert left(folder) == []


def test_a_host_that_was_started_again_is_another_one(folder):
    written(folder, boot="another")
    with pytest.raises(WorkdirError, match="last sign of life"):
        Ownership(folder)


@pytest.mark.parametrize(
    "theirs, mine, is_let_in",
    [
        ({"job": "77"}, {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"}, True),
        ({"job": "77", "restarts": 1}, {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "2"}, True),
        ({"job": "77"}, {"SLURM_JOB_ID": "77"}, False),  # another task of the job
        ({"job": "77"}, {"SLURM_JOB_ID": "78", "SLURM_RESTART_COUNT": "1"}, False),
        ({}, {"SLURM_RESTART_COUNT": "1"}, False),
    ],
)
def test_a_job_that_slurm_has_requeued(folder, monkeypatch, theirs, mine, is_let_in):
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    written(folder, host="lost node", **theirs)
    if is_let_in:
        Ownership(folder).release()
    else:
        with pytest.raises(WorkdirError):
            Ownership(folder)


def test_taking_over(folder):
    written(folder, host="elsewhere")
    mine = Ownership(folder, take_over=True)
    mine.require()
    mine.release()


def test_whoever_was_taken_over_writes_nothing_more(folder):
    mine = Ownership(folder)
    written(folder, host="elsewhere")
    with pytest.raises(WorkdirError, match=r"process 4711 on elsewhere has taken .*run over"):
        mine.require()
    mine.release()
    assert left(folder) == [OWNER]  # of the other one


@pytest.mark.parametrize("content", ["", "[]", "{", '{"token": "../../x"}', "[" * 10**5])
def test_a_file_that_names_nobody_lapses(folder, content):
    (folder / OWNER).write_text(content)
    with pytest.raises(WorkdirError, match="an unknown host"):
        Ownership(folder)
    old = time.time() - 61
    os.utime(folder / OWNER, (old, old))
    Ownership(folder).release()
    assert left(folder) == []


def test_the_owner_renews_it(folder, monkeypatch):
    monkeypatch.setattr(owner, "RENEWAL_SECONDS", 0.01)
    mine = Ownership(folder)
    os.utime(folder / OWNER, (0, 0))
    give_up = time.monotonic() + 10
    while (folder / OWNER).stat().st_mtime == 0 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert time.time() - (folder / OWNER).stat().st_mtime < 10
    written(folder, seconds_ago=30, host="elsewhere")
    time.sleep(0.1)
    assert time.time() - (folder / OWNER).stat().st_mtime > 20  # not that of another one
    mine.release()


def test_without_locks_age_decides(folder, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    first = Ownership(folder)
    with pytest.raises(WorkdirError, match="last sign of life"):
        Ownership(folder)
    old = time.time() - 61
    os.utime(folder / OWNER, (old, old))
    second = Ownership(folder)
    with pytest.raises(WorkdirError, match="has taken"):
        first.require()
    first.release()
    second.require()
    second.release()


def test_of_many_that_come_at_once_one_gets_it(folder):
    written(folder, seconds_ago=100, host="elsewhere")
    start = threading.Barrier(8)

    def try_it(_):
        start.wait()
        try:
            return Ownership(folder)
        except WorkdirError:
            return None

    with ThreadPoolExecutor(8) as pool:
        owners = [found for found in pool.map(try_it, range(8)) if found]
    assert len(owners) == 1
    owners[0].require()
    owners[0].release()
    assert left(folder) == []


def test_a_claim_of_a_killed_one_is_passed_over(folder, monkeypatch):
    claim = folder / f".{OWNER}-after-"
    claim.write_text("")
    monkeypatch.setattr(owner, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(WorkdirError, match="about to take it over"):
        Ownership(folder)
    os.utime(claim, (0, 0))
    Ownership(folder).release()
    assert left(folder) == []


def test_a_file_that_is_tidied_up_comes_again(folder):
    mine = Ownership(folder)
    (folder / OWNER).unlink()
    mine.require()
    assert left(folder) == [OWNER]
    with pytest.raises(WorkdirError, match="trains in it"):
        Ownership(folder)
    mine.release()


def test_a_file_that_cannot_be_read_for_a_moment_is_nobodys(folder, monkeypatch):
    """The disk's fault, and not a take-over."""
    mine = Ownership(folder)
    real = Path.read_bytes

    def refuses(path):
        if path.name == OWNER:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuses)
        with pytest.raises(DiskError, match="cannot be written to: Input/output error"):
            mine.require()
    mine.require()
    mine.release()


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_gone(folder, again):
    mine = Ownership(folder)
    folder.rename(folder.with_name("elsewhere"))
    if again:
        folder.mkdir()  # what unmounting leaves
    with pytest.raises(DiskError, match="run is gone: it was removed, moved or unmounted"):
        mine.require()
    mine.release()


def test_default_folders_never_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [default_workdir("digits_dtp") for _ in range(3)]
    named = {folder.path for folder in folders}
    owned = [folder.owned() for folder in folders]
    for one in owned:
        one.__enter__()
    assert len({folder.path for folder in folders}) == 3
    for one in reversed(owned):
        one.__exit__(None, None, None)
    assert len(named) <= 2  # of one second, or of two


def test_where_nothing_comes_of_a_run_nothing_is_left(tmp_path):
    with pytest.raises(ZeroDivisionError), Workdir(tmp_path / "a" / "b").owned():
        assert (tmp_path / "a" / "b" / OWNER).exists()
        raise ZeroDivisionError
    assert left(tmp_path) == []


def test_a_run_that_was_started_in_between(tmp_path):
    """It was new when it was looked at, and belongs to another run now."""
    folder = Workdir(tmp_path / "run")
    assert folder.status({"rule": "ldrl"}, 10) == "new"
    Workdir(tmp_path / "run").create({"rule": "dtp"})
    with (
        pytest.raises(WorkdirError, match="just been started in it; allowed: the same command"),
        folder.owned(),
    ):
        pass
    assert left(tmp_path / "run") == ["config.json"]


def test_a_metrics_file_that_is_gone_is_not_begun_anew(tmp_path):
    folder = Workdir(tmp_path / "run")
    folder.create({})
    folder.append_metrics([{"step": 1}])
    folder.metrics_file.unlink()
    with pytest.raises(DiskError, match="metrics.jsonl cannot be written to: No such file"):
        folder.append_metrics([{"step": 2}])


def test_whether_somebody_lives_is_seen_without_a_trace(tmp_path):
    """On this host by the lock; on another one by the time of the last sign of life."""
    assert not lives(tmp_path)
    mine = Ownership(tmp_path)
    before = tree(tmp_path)
    assert lives(tmp_path)
    assert tree(tmp_path).keys() == before.keys()
    mine.release()
    assert not lives(tmp_path)
    there = Owner.here()._replace(host="elsewhere", token="0" * 32)
    (tmp_path / OWNER).write_text(json.dumps(there._asdict()))
    assert lives(tmp_path)
    os.utime(tmp_path / OWNER, (0, time.time() - LAPSE_SECONDS - 1))
    assert not lives(tmp_path)
    dead = Owner.here()._replace(token="1" * 32)  # of this host, and nobody holds its lock
    (tmp_path / OWNER).write_text(json.dumps(dead._asdict()))
    assert not lives(tmp_path)
