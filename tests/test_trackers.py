"""Trackers: which there are, that a failing one changes nothing, W&B and MLflow without a network."""

import importlib.util
import json
import os
import signal
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import (
    TINY,
    assert_same_run,
    finish,
    launch,
    start,
    summary,
    wait_for_lines,
)

import dtp_jax as dtp
from dtp_jax.parallel import processes
from dtp_jax.run import trackers
from dtp_jax.run.trackers import TRACKERS, TrackedRun
from dtp_jax.run.trackers.tracking import Tracking
from dtp_jax.run.trackers.wandb_files import BLOCK, HEAD, TAIL, last_step

pytest_plugins = ["run_fixtures"]

METHODS = ("start", "write", "picture", "flush", "end")
SHORT = (*TINY, "--config.max_steps=12", "--config.checkpoint_every=6")
LOOKS = ("--config.diagnostics_iterations=on", "--config.diagnostics_every=10")

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"without {name}")
    for name in ("wandb", "mlflow")
}


@pytest.fixture(autouse=True)
def nothing_registered():
    yield
    for name in list(TRACKERS.origins):
        del TRACKERS[name]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


# Which there are.


@pytest.mark.parametrize(
    "flag, words",
    [
        (
            "tensorbord",
            "config.trackers is ('tensorbord',); allowed: () or some of tensorboard, wandb",
        ),
        ("tensorboard,aim", "config.trackers is ('tensorboard', 'aim'); allowed: () or some of"),
        ("1", "config.trackers is (1,); allowed: () or names of trackers"),
    ],
)
def test_unknown_names_are_refused(place, flag, words):
    found = launch("--workdir=w", f"--config.trackers={flag}")
    assert found.code == 2 and words in found.err and len(found.err.splitlines()) == 1
    assert not (place / "w").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_refused_with_the_command(place, monkeypatch, name):
    found_spec = importlib.util.find_spec
    hidden = lambda wanted, *more: None if wanted == name else found_spec(wanted, *more)
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    found = launch("--workdir=w", f"--config.trackers=tensorboard,{name}")
    assert found.code == 2 and f"pip install 'dtp-jax[{name}]'" in found.err
    assert not (place / "w").exists()


def test_a_folder_of_its_name_is_no_package(place, monkeypatch):
    """W&B leaves folders called wandb behind."""
    (place / "wandb_").mkdir()
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "wandb_")
    monkeypatch.syspath_prepend(place)
    with pytest.raises(ValueError, match="is not installed"):
        trackers.require(("wandb",))


@pytest.mark.parametrize(
    "given, names",
    [
        ("a, b", ("a", "b")),
        (("a,b", "c", "a"), ("a", "b", "c")),
        ((), ()),
        (("",), ()),
        ((1,), (1,)),
    ],
)
def test_names_of_a_flag(given, names):
    assert trackers.split(given) == names


# A user's own.

PLUGIN = """
import json
from dtp_jax import Tracker, trackers

@trackers.register(name="lines")
class Lines(Tracker):
    def start(self, run):
        self.file = (run.workdir / "lines.jsonl").open("a")
        self.say("start", run.step, run.group, run.name, run.tags, run.config["seed"])

    def say(self, *what):
        self.file.write(json.dumps(what) + "\\n")

    def write(self, row):
        self.say("write", row)

    def picture(self, file, step):
        self.say("picture", file.name, file.is_file(), step)

    def flush(self):
        self.say("flush")

    def end(self, summary):
        self.say("end", summary)
        self.file.close()
"""


@pytest.fixture(scope="module")
def untracked(tmp_path_factory):
    """A run that nothing tracks, with looks into its feedback training."""
    workdir = tmp_path_factory.mktemp("untracked") / "run"
    assert launch(f"--workdir={workdir}", *SHORT, *LOOKS, "--config.trackers=()").code == 0
    assert not (workdir / "tensorboard").exists() and list((workdir / "figures").glob("*.png"))
    return workdir


class Spoilt:
    """A tracker that raises in these methods, and empties what it is given in the others."""

    def __init__(self, raising, error):
        self.raising, self.error, self.calls = raising, error, []

    def __getattr__(self, method):
        def call(*given):
            self.calls.append(method)
            if method in self.raising:
                raise self.error
            for what in given:
                what = what.config if isinstance(what, TrackedRun) else what
                if isinstance(what, dict):
                    what.clear()

        return call


def test_no_tracker_changes_a_run(place, untracked):
    """One that works, one that raises in each method, in all, with anything; one that spoils its arguments.

    The same bits; one warning for each, which names it; it is called no more; the others have everything.
    """
    (place / "mine.py").write_text(PLUGIN)
    spoilt = {
        f"in_{method}": Spoilt((method,), ValueError(f"{method}\nmore")) for method in METHODS
    }
    spoilt |= {"in_all": Spoilt(METHODS, RuntimeError()), "exits": Spoilt("write", SystemExit(3))}
    spoilt["exits"].raising = ("write",)
    sound = Spoilt((), None)
    for name, tracker in {**spoilt, "sound": sound}.items():
        trackers.trackers.register(lambda tracker=tracker: tracker, name=name)
    trackers.trackers.register(lambda: 1 / 0, name="unmade")
    names = ",".join(["unmade", *spoilt, "sound", "lines", "tensorboard"])
    args = ("--plugin=mine.py", f"--config.trackers={names}")
    found = launch("--workdir=a/w", *SHORT, *LOOKS, *args)
    assert found.code == 0
    assert_same_run(place / "a/w", untracked)
    reasons = {name: f"ValueError: {name.removeprefix('in_')}" for name in spoilt}
    reasons |= {"in_all": "RuntimeError: RuntimeError", "exits": "SystemExit: 3"}
    reasons |= {"unmade": "ZeroDivisionError: division by zero"}
    assert sorted(found.err.splitlines()) == sorted(
        f"warning: the tracker {name} fails, and the run goes on without it: {reason}"
        for name, reason in reasons.items()
    )
    for tracker in spoilt.values():
        assert [call in tracker.raising for call in tracker.calls].index(True) == (
            len(tracker.calls) - 1
        )
    assert set(sound.calls) == set(METHODS) and list((place / "a/w/tensorboard").iterdir())
    said = [json.loads(line) for line in (place / "a/w/lines.jsonl").read_text().splitlines()]
    assert said[0] == ["start", 0, "a", "a/w", ["ldrl", "simple_vgg", "digits"], 0]
    assert [what[1] for what in said if what[0] == "write"] == lines(place / "a/w")
    assert [what for what in said if what[0] == "picture"] == [
        ["picture", "feedback_0000000.png", True, 0],
        ["picture", "feedback_0000010.png", True, 10],
    ]
    assert [what[0] for what in said].count("flush") == 2
    assert said[-1] == ["end", summary(place / "a/w")]
    # Who goes on without the plugin is told which it was; who only reads needs none.
    for name in list(TRACKERS.origins):
        del TRACKERS[name]
    again = ("--workdir=a/w", "--config.max_steps=13", "--config.trackers=lines")
    found = launch(*again)
    assert found.code == 2 and f"'lines' with --plugin={place / 'mine.py'}" in found.err
    assert dtp.load_run("a/w").summary["steps"] == 12


def test_a_run_that_diverges_or_is_stopped_has_no_summary():
    ends = []
    tracker = Spoilt((), None)
    tracker.end = ends.append
    run = TrackedRun(Path("nowhere"), {}, 0, print, pytest.fail)
    with pytest.raises(KeyboardInterrupt), Tracking({"x": lambda: tracker}, run):
        raise KeyboardInterrupt
    assert ends == [None]


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="'wandb', which is built in"):
        dtp.trackers.register(dtp.Tracker, name="wandb")
    dtp.trackers.register(dtp.Tracker, name="own")
    assert TRACKERS.origins == {"own": "dtp_jax.run.trackers.tracker"}
    with pytest.raises(TypeError):
        dtp.trackers.register(dtp.Tracker, fields={"gain": 1.0})


def test_only_the_first_process_tracks(monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    run = TrackedRun(Path("nowhere"), {}, 0, print, pytest.fail)
    with Tracking({"x": lambda: pytest.fail("started")}, run) as tracking:
        tracking.write({"step": 1})
        tracking.flush()


# Services, without a network. A reader for each gives {(step, SPLIT/KEY): value}, and fails where it has two.


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """MLflow's, which takes seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def offline(monkeypatch, place, database):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    return place


@pytest.fixture
def fresh_wandb():
    """It reads the environment once in a process, whose children share what it has started."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def wandb_records(workdir):
    """Of each start of a run, in order: the records of its .wandb file (LevelDB's log format)."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted((workdir / "wandb").glob("offline-run-*/*.wandb"), key=os.path.getmtime):
        data, at, part, found = file.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            if left < 7 or kind == 0:
                at += left
                continue
            part, at = part + data[at + 7 : at + 7 + length], at + 7 + length
            if kind in (1, 4):  # whole, or the last part
                found.append(Record.FromString(part))
                part = b""
        yield found


def values(items):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_numbers(workdir):
    pairs = [
        ((record.history.step.num, name), value)
        for records in wandb_records(workdir)
        for record in records
        if record.WhichOneof("record_type") == "history"
        for name, value in values(record.history.item).items()
        if "/" in name and not name.startswith("figures/")
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def mlflow_run(workdir):
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    return client, client.get_run(json.loads((workdir / "trackers/mlflow.json").read_text())["id"])


def mlflow_numbers(workdir):
    client, run = mlflow_run(workdir)
    pairs = [
        ((metric.step, name), metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


READERS = {"wandb": wandb_numbers, "mlflow": mlflow_numbers}
each_service = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs[name]) for name in READERS]
)
SERVICES = ("--config.trackers=wandb,mlflow", "--config.project=mine")


def expected(workdir):
    """The numbers of metrics.jsonl."""
    return {
        (row["step"], f"{row['split']}/{key}"): value
        for row in lines(workdir)
        for key, value in row.items()
        if key not in ("step", "epoch", "split", "config") and value is not None
    }


@needs["wandb"]
@needs["mlflow"]
@pytest.mark.slow
def test_services_have_the_whole_run(offline, untracked):
    assert launch("--workdir=group/w", *SHORT, *LOOKS, *SERVICES).err == ""
    workdir = offline / "group/w"
    assert_same_run(workdir, untracked)
    saved = json.loads((workdir / "config.json").read_text())
    saved = {name: saved[name] for name in saved if name not in ("format", "provenance")}
    for read in READERS.values():
        assert read(workdir) == pytest.approx(expected(workdir), abs=0, rel=1e-15)

    (records,) = wandb_records(workdir)
    kinds = {}
    for record in records:
        kind = record.WhichOneof("record_type")
        kinds.setdefault(kind, []).append(getattr(record, kind))
    run = kinds["run"][-1]
    assert (run.project, run.display_name, run.run_group) == ("mine", "group/w", "group")
    assert sorted(run.tags) == ["digits", "ldrl", "simple_vgg"]
    assert values(run.config.update).items() >= saved.items()
    pictures = [
        history.step.num
        for history in kinds["history"]
        if any(name.startswith("figures/feedback") for name in values(history.item))
    ]
    assert pictures == [0, 10] and len(list((workdir / "wandb").rglob("*.png"))) == 2
    told = {n: v for update in kinds["summary"] for n, v in values(update.update).items()}
    assert told["test_accuracy"] == summary(workdir)["test_accuracy"]
    assert [one.exit_code for one in kinds["exit"]] == [0]

    client, run = mlflow_run(workdir)
    assert (run.info.run_name, run.info.status) == ("group/w", "FINISHED")
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    assert run.data.tags.items() >= {"group": "group", "rule": "ldrl", "dataset": "digits"}.items()
    assert {name: json.loads(value) for name, value in run.data.params.items()} == saved
    there = [file.path for file in client.list_artifacts(run.info.run_id, "figures")]
    assert there == [f"figures/feedback_{step:07}.png" for step in (0, 10)]
    there = client.download_artifacts(run.info.run_id, "summary.json", str(offline))
    assert json.loads(Path(there).read_text()) == summary(workdir)


@pytest.mark.slow
@needs["wandb"]
@needs["mlflow"]
def test_services_after_a_kill(offline, fresh_wandb):
    """One run there, no step twice; what was measured before they were asked for comes with it."""
    args = ("--workdir=w", *TINY, "--config.epochs=2", "--config.checkpoint_every=5")
    assert launch(*args, "--config.max_steps=5", "--config.trackers=()").code == 0
    args = (*args, "--config.max_steps=0", *SERVICES)
    process = start(*args)
    wait_for_lines(process, offline / "w", 20)
    process.send_signal(signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    assert launch(*args).err == ""
    wanted = expected(offline / "w")
    assert mlflow_numbers(offline / "w") == pytest.approx(wanted, abs=0, rel=1e-15)
    ids = {r.run.run_id for records in wandb_records(offline / "w") for r in records}
    assert len(ids - {""}) == 1
    found = wandb_numbers(offline / "w")
    assert found.keys() == wanted.keys()
    speeds = {pair for pair in wanted if pair[1] == "epoch/images_per_second"}
    assert all(found[pair] == wanted[pair] for pair in wanted.keys() - speeds)


def tracked(workdir, step, said=None):
    """A run from this step on, as it starts."""
    config = {"rule": "ldrl", "network": "mlp", "dataset": "digits", "project": "mine"}
    (said if said is not None else []).clear()
    warn = pytest.fail if said is None else said.append
    return TrackedRun(workdir, config, step, lambda text: None, warn)


def entry(step, split="train", **numbers):
    return {"step": step, "epoch": 1, "split": split, **(numbers or {"loss": float(step)})}


@each_service
def test_what_comes_again_is_sent_once(offline, name):
    """Ended, begun again from before, ended without its last step, extended: every number is there once."""
    workdir = offline / "group" / "run"
    workdir.mkdir(parents=True)
    (workdir / "metrics.jsonl").touch()

    def part(first, *rows, end=None):
        time.sleep(1.0 if name == "wandb" else 0.0)  # its folders are named by the second
        tracker = TRACKERS[name]()
        tracker.start(tracked(workdir, first))
        for one in rows:
            tracker.write(one)
            if one["split"] == "val":
                tracker.flush()
        if end != "killed" or name == "wandb":  # another process of its has to be killed
            tracker.end(None if end == "killed" else end)

    part(0, entry(1), entry(2), entry(2, "val"), entry(3))  # stopped
    part(2, entry(3), entry(4), entry(4, "val"), end="killed")
    written = [entry(1), entry(2), entry(2, "val"), entry(3), entry(4), entry(4, "val")]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in written))
    part(4, entry(5), entry(6), entry(6, "val"), entry(6, "test"), end={"test_accuracy": 0.5})
    part(6, entry(7), entry(8), end={"test_accuracy": 0.75})
    wanted = [*written, entry(5), entry(6), entry(6, "val"), entry(6, "test"), entry(7), entry(8)]
    assert READERS[name](workdir) == {
        (one["step"], f"{one['split']}/loss"): one["loss"] for one in wanted
    }
    if name == "mlflow":
        assert mlflow_run(workdir)[1].info.status == "FINISHED"


@each_service
def test_another_run_in_the_folder_is_another_run_there(offline, name):
    ids = []
    for date in ("2026-01-01", "2026-01-01", "2026-01-02"):
        (offline / "config.json").write_text(json.dumps({"provenance": {"date": date}}))
        tracker = TRACKERS[name]()
        tracker.start(tracked(offline, 0))
        tracker.end(None)
        ids.append(json.loads((offline / f"trackers/{name}.json").read_text())["id"])
    assert ids[0] == ids[1] != ids[2]


@needs["mlflow"]
def test_an_experiment_that_two_runs_make_at_once():
    """The one that comes second takes that of the first."""
    from mlflow.exceptions import MlflowException

    from dtp_jax.run.trackers.mlflow import MLflow

    class Client:
        there = SimpleNamespace(experiment_id="7")

        def create_experiment(self, project):
            raise MlflowException("it exists")

        def get_experiment_by_name(self, project):
            return self.there

    tracker = MLflow.__new__(MLflow)
    tracker._client = Client()
    assert tracker._new("mine") == "7"
    tracker._client.there = None
    with pytest.raises(MlflowException, match="it exists"):
        tracker._new("mine")


@needs["mlflow"]
def test_an_mlflow_server_that_does_not_answer(monkeypatch, place):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = []
    begin = time.monotonic()
    with Tracking({"mlflow": TRACKERS["mlflow"]}, tracked(place, 0, said)) as tracking:
        tracking.write(entry(1))
    assert time.monotonic() - begin < 30
    assert len(said) == 1 and "the tracker mlflow fails" in said[0]


@needs["wandb"]
def test_the_last_step_of_long_wandb_files(tmp_path):
    """Of the tail that is read, whatever piece of a record it begins with; half a record does not count."""
    import zlib

    from wandb.proto.wandb_internal_pb2 import HistoryRecord, HistoryStep, Record

    rest = Record(output={"line": "x" * 700}).SerializeToString()
    data, ends = bytearray(b":W&B\0\0\0"), {}
    for step in range(5000):
        history = HistoryRecord(step=HistoryStep(num=step))
        for record in (Record(history=history).SerializeToString(), rest):
            first = True
            while first or record:
                left = BLOCK - len(data) % BLOCK
                if left < 7:
                    data += bytes(left)
                    continue
                piece, record = record[: left - 7], record[left - 7 :]
                kind = (1 if first else 4) if not record else (2 if first else 3)
                data += HEAD.pack(zlib.crc32(piece), len(piece), kind) + piece
                first = False
            ends.setdefault(step, len(data))
    folder = tmp_path / "offline-run-1-abc"
    folder.mkdir()
    assert len(data) > TAIL + BLOCK and last_step(tmp_path, "other") is None
    for step in (0, 1, 40, 41, 4000, 4999):
        for short in (0, 1):
            (folder / "run-abc.wandb").write_bytes(data[: ends[step] - short])
            assert last_step(tmp_path, "abc") == step - short


@needs["wandb"]
@pytest.mark.parametrize("key, reason", [("", "nobody is logged in"), ("0" * 40, "W&B cannot")])
def test_wandb_without_login_or_answer_stays_offline(place, monkeypatch, fresh_wandb, key, reason):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("dtp_jax.run.trackers.weights_and_biases.START_SECONDS", 2.0)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    said, tracker = [], TRACKERS["wandb"]()
    tracker.start(tracked(place, 0, said))
    assert len(said) == 1 and reason in said[0] and "`wandb sync`" in said[0]
    tracker.write(entry(1))
    tracker.end(None)
    assert wandb_numbers(place) == {(1, "train/loss"): 1.0}
