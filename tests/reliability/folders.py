"""Names and states of the folder of a run."""

import json
import shutil
import tarfile

from tests.reliability import REPOSITORY
from tests.reliability.fault import ANYTHING, FINISHED, NOTHING, SAVED, fault
from tests.reliability.place import LONG, STEPS, Ended, Place

TRAIN = "dtp train --config=tiny.py --workdir=run"


@fault(code=0, words="workdir +run", left=FINISHED)
def no_fault(place: Place) -> Ended:
    """None"""
    return place.run(TRAIN)


@fault(code=0, words=r"workdir +runs/lr=\[0.1\]", left=FINISHED, workdir="runs/lr=[0.1]")
def glob_characters(place: Place) -> Ended:
    """The workdir has the glob characters [ ] in its name; trained halfway, then gone on with"""
    first = place.run("dtp train --config=tiny.py --config.max_steps=39 --workdir='runs/lr=[0.1]'")
    assert first.code == 0, first
    ended = place.run("dtp train --config.max_steps=0 --workdir='runs/lr=[0.1]'")
    assert "going on from step 39" in ended.screen, ended
    return ended


@fault(code=0, words="workdir +run ", left=FINISHED, workdir="run 1 %s 'a' {b}")
def shell_characters(place: Place) -> Ended:
    """The workdir has spaces, quotes and braces in its name"""
    return place.run('''dtp train --config=tiny.py --workdir="run 1 %s 'a' {b}"''')


@fault(code=0, words="workdir +runs/tiny/", left=ANYTHING, workdir="runs/tiny")
def two_in_a_second(place: Place) -> Ended:
    """Two starts without --workdir in the same second: each has a folder of its own"""
    both = [place.start("dtp train --config=tiny.py --config.max_steps=5") for _ in range(2)]
    first, second = (running.end() for running in both)
    assert first.code == 0, first
    runs = list(place.path("runs/tiny").iterdir())
    assert len(runs) == 2 and all((run / "summary.json").exists() for run in runs), runs
    return second


@fault(code=0, words="workdir +run", left=FINISHED)
def finished_and_read_only(place: Place) -> Ended:
    """The workdir of a finished run cannot be written to"""
    disk = place.mount("run", "50m")
    assert place.run(TRAIN).code == 0
    place.read_only(disk)
    return place.run("dtp train --workdir=run")


@fault(code=2, words="--workdir is 'run': .*; allowed: a writable folder", left=SAVED)
def unfinished_and_read_only(place: Place) -> Ended:
    """The workdir of a run that is not finished cannot be written to"""
    disk = place.mount("run", "50m")
    assert place.run(f"{TRAIN} --config.max_steps=39").code == 0
    (disk / "summary.json").unlink()
    place.read_only(disk)
    return place.run("dtp train --workdir=run --config.max_steps=0")


@fault(code=6, words="run", left=NOTHING)
def removed_while_training(place: Place) -> Ended:
    """The workdir is removed while the run trains"""
    running = place.start(f"dtp train {LONG}")
    running.wait_for_checkpoint()
    for _ in range(5):  # it is written to meanwhile
        shutil.rmtree(place.path("run"), ignore_errors=True)
    return running.end()


@fault(code=6, words="run", left=ANYTHING)
def moved_while_training(place: Place) -> Ended:
    """The workdir is moved away while the run trains"""
    running = place.start(f"dtp train {LONG}")
    running.wait_for_checkpoint()
    place.path("run").rename(place.path("elsewhere"))
    return running.end()


@fault(code=2, words="a writable folder; 'run' is a file", left=ANYTHING)
def a_file(place: Place) -> Ended:
    """The workdir is a file"""
    place.path("run").write_text("mine")
    ended = place.run(TRAIN)
    assert place.path("run").read_text() == "mine"
    return ended


@fault(code=2, words="'run' is a link that leads nowhere", left=ANYTHING)
def a_dead_link(place: Place) -> Ended:
    """The workdir is a link that leads nowhere"""
    place.path("run").symlink_to("nowhere")
    return place.run(TRAIN)


@fault(code=2, words="checkpoints", left=ANYTHING)
def checkpoints_a_file(place: Place) -> Ended:
    """checkpoints is a file"""
    assert place.run(f"{TRAIN} --config.max_steps=5").code == 0
    shutil.rmtree(place.path("run/checkpoints"))
    place.path("run/checkpoints").write_text("")
    return place.run("dtp train --workdir=run --config.max_steps=0")


@fault(code=2, words="checkpoints", left=ANYTHING)
def checkpoints_a_dead_link(place: Place) -> Ended:
    """checkpoints is a link that leads nowhere"""
    assert place.run(f"{TRAIN} --config.max_steps=5").code == 0
    shutil.rmtree(place.path("run/checkpoints"))
    place.path("run/checkpoints").symlink_to("nowhere")
    return place.run("dtp train --workdir=run --config.max_steps=0")


@fault(code=2, words="metrics.jsonl", left=ANYTHING)
def metrics_a_folder(place: Place) -> Ended:
    """metrics.jsonl is a folder"""
    place.path("run/metrics.jsonl").mkdir(parents=True)
    return place.run(TRAIN)


@fault(code=2, words="config.json", left=ANYTHING)
def checkpoints_without_config(place: Place) -> Ended:
    """config.json has been removed from a run"""
    assert place.run(f"{TRAIN} --config.max_steps=5").code == 0
    place.path("run/config.json").unlink()
    return place.run(TRAIN)


@fault(code=2, words="config.json", left=ANYTHING)
def config_nested_deep(place: Place) -> Ended:
    """config.json is nested 100,000 deep"""
    assert place.run(f"{TRAIN} --config.max_steps=5").code == 0
    place.path("run/config.json").write_text("[" * 100_000)
    return place.run("dtp train --workdir=run")


@fault(code=2, words="config.json", left=ANYTHING)
def config_empty_object(place: Place) -> Ended:
    """config.json is {}"""
    assert place.run(f"{TRAIN} --config.max_steps=5").code == 0
    place.path("run/config.json").write_text("{}")
    return place.run("dtp train --workdir=run")


@fault(code=2, words="format", left=ANYTHING)
def config_of_a_newer_format(place: Place) -> Ended:
    """config.json is of a newer format than this program knows"""
    assert place.run(f"{TRAIN} --config.max_steps=5").code == 0
    file = place.path("run/config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 999}))
    return place.run("dtp train --workdir=run")


@fault(code=0, words="workdir +run", left=FINISHED)
def of_the_first_format(place: Place) -> Ended:
    """The workdir is one of the first version, and not finished: the run goes on"""
    with tarfile.open(REPOSITORY / "tests/old_runs/format_1/ldrl-unfinished.tar.gz") as tar:
        tar.extractall(place.folder, filter="data")
    place.path("ldrl-unfinished").rename(place.path("run"))
    ended = place.run("dtp train --workdir=run")
    assert "going on from step" in ended.screen, ended
    return ended


@fault(code=2, words="is 4, here it is 5", left=ANYTHING)
def another_config(place: Place) -> Ended:
    """The workdir is that of a run of another config"""
    assert place.run(f"{TRAIN} --config.max_steps=5 --config.seed=4").code == 0
    return place.run(f"{TRAIN} --config.seed=5")


@fault(code=0, words="workdir +run", left=FINISHED)
def summary_steps_a_text(place: Place) -> Ended:
    """summary.json of a finished run has text for its steps"""
    return _summary(place, "steps", "many")


@fault(code=0, words="workdir +run", left=FINISHED)
def summary_accuracy_null(place: Place) -> Ended:
    """summary.json of a finished run has null for its test accuracy and its time"""
    _summary(place, "test_accuracy", None)
    return _summary(place, "wall_seconds", None)


def _summary(place: Place, name: str, value: object) -> Ended:
    if not place.path("run").exists():
        assert place.run(TRAIN).code == 0
    file = place.path("run/summary.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    return place.run("dtp train --workdir=run")


@fault(code=0, words="workdir +run", left=FINISHED)
def summary_not_json(place: Place) -> Ended:
    """summary.json of a finished run is cut off in its middle"""
    assert place.run(TRAIN).code == 0
    file = place.path("run/summary.json")
    file.write_text(file.read_text()[:100])
    return place.run("dtp train --workdir=run")


@fault(code=0, words="workdir +run", left=FINISHED)
def metrics_damaged(place: Place) -> Ended:
    """metrics.jsonl of a run that goes on has lines of random bytes, and a last one that is cut off"""
    assert place.run(f"{TRAIN} --config.max_steps=39").code == 0
    file = place.path("run/metrics.jsonl")
    file.write_bytes(file.read_bytes() + b"\xff\x00\x80{\n[]\nnull\n" + b'{"step": 39, "epo')
    ended = place.run("dtp train --workdir=run --config.max_steps=0")
    lines = file.read_bytes().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    return ended


@fault(code=0, words=f"steps +{STEPS}|workdir +run", left=FINISHED)
def home_unset(place: Place) -> Ended:
    """HOME is not set"""
    return place.run("env -u HOME -u DTP_JAX_CACHE dtp train --config=tiny.py --workdir=run")


@fault(code=0, words="workdir +run", left=FINISHED)
def cache_not_writable(place: Place) -> Ended:
    """The folder of the cache is a file"""
    place.path("cache").write_text("")
    return place.run("env -u JAX_COMPILATION_CACHE_DIR dtp train --config=tiny.py --workdir=run")


@fault(code=2, words="nosuchuser.*; allowed: a path without ~", left=NOTHING)
def nobodys_home(place: Place) -> Ended:
    """The workdir is in the home folder of nobody"""
    ended = place.run("dtp train --config=tiny.py --workdir='~nosuchuser/run'")
    assert not place.path("~nosuchuser").exists()
    return ended


@fault(code=2, words="allowed: a local path; mount remote storage", left=NOTHING, workdir="gs:")
def remote_workdir(place: Place) -> Ended:
    """The workdir is an address of remote storage"""
    return place.run("dtp train --config=tiny.py --workdir=gs://bucket/run")


@fault(code=2, words="allowed: a local path; mount remote storage", left=NOTHING, workdir="file:")
def file_address(place: Place) -> Ended:
    """The workdir is an address that begins with file://"""
    return place.run("dtp train --config=tiny.py --workdir=file:///tmp/run")


@fault(code=2, words="allowed: a path of characters that can be shown", left=NOTHING)
def newline_in_a_name(place: Place) -> Ended:
    """The workdir has the end of a line in its name"""
    return place.run(r"dtp train --config=tiny.py --workdir=$'run\n1'")


@fault(code=2, words="allowed: a writable folder", left=NOTHING)
def a_name_too_long(place: Place) -> Ended:
    """The workdir has a name of 300 letters"""
    return place.run("dtp train --config=tiny.py --workdir=$(printf 'r%.0s' {1..300})")


@fault(code=0, words="workdir +run", left=FINISHED)
def no_git(place: Place) -> Ended:
    """There is no git: the run has no commit in its provenance"""
    ended = place.run(f"PATH=$PWD/bin {TRAIN}")
    provenance = json.loads(place.path("run/config.json").read_text())["provenance"]
    assert provenance.get("commit") is None, provenance
    return ended
