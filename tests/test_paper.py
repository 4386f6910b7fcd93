"""docs/results.md: the list of its rows is valid, rows are run once and go on, the page is what the results say."""

import datetime
import json
import math
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import REPOSITORY
from launching import finish, launch, wait_for

from benchmarks.paper import __main__ as paper
from benchmarks.paper import commands, jobs, kept, page, rows, search, store
from benchmarks.paper.rows import Group, Published, Row
from benchmarks.paper.store import Places
from dtp_jax.configs import fashion_mnist_small
from dtp_jax.plots.results import Result, draw_results
from dtp_jax.rules import RULES
from dtp_jax.run.arguments import parse
from dtp_jax.run.config import validate
from dtp_jax.run.locks import alone
from dtp_jax.sweep import plan
from dtp_jax.sweep.dimensions import own_values
from dtp_jax.sweep.space import LogUniform, PerMap

pytest_plugins = ["run_fixtures"]

EVERY = [(group, row) for group in rows.GROUPS for row in group.rows]
COMMITTED = Places(REPOSITORY / paper.RESULTS, Path("nowhere"))
TINY = ("--config.network=mlp", "--config.channels=()", "--config.hidden=8", "--config.epochs=1")
LIST = f"""from benchmarks.paper.rows import Group, Published, Row

TINY = {TINY!r}
TOO_FAST = (*TINY, "--config.forward_lr=1e9")
GROUPS = (
    Group("tiny", "Tiny", "On digits.", (
        Row("tiny-backprop", "backprop", "digits_backprop", TINY, Published(99.0, "a paper", 0.1)),
    ), seeds=2, trials=2, trial_epochs=1),
    Group("bad", "Bad", "Too fast.", (
        Row("tiny-bad", "too fast", "digits_backprop", TOO_FAST),
        Row("tiny-later", "later", "digits_backprop"),
    ), seeds=2, trials=0),
)
"""


# The list.


@pytest.mark.parametrize("group, row", EVERY, ids=[row.name for _, row in EVERY])
def test_every_row_can_be_run(group, row):
    places = Places(Path("results"), Path("work"))
    found = parse(["dtp", *commands.train_words(group, row, places, {})[1:]])
    experiment = validate(found.config, found.overridden)
    assert experiment.config["seeds"] == group.seeds >= 3
    assert experiment.config["val_split"] or not group.trials
    if group.trials:
        assert group.trials <= 12 and group.trial_epochs <= 3
        given = f"{search.__file__}:{row.config}"
        made = plan.make(given, row.overrides, Path("work"), "halving", "")
        assert own_values(made.dimensions, made.experiment).keys() == {
            one.name for one in made.dimensions
        }


def test_the_list_has_every_rule_and_no_name_twice():
    names = [row.name for _, row in EVERY] + [group.name for group in rows.GROUPS]
    repeated = {name for name in names if names.count(name) > 1}
    assert not repeated
    of = {group.name: group for group in rows.GROUPS}
    for name in ("mnist_mlp", "fashion_mnist_mlp"):
        rules = {row.config.partition(":")[2] for row in of[name].rows}
        assert rules == {rule for rule in RULES}
    assert of["fashion_mnist_small"].seeds == 5
    rules = {row.config.partition(":")[2] for row in of["fashion_mnist_small"].rows}
    assert rules == (set(RULES) | set(fashion_mnist_small.VARIANTS)) - {"drl"}


def test_every_published_value_has_a_source():
    published = [row.published for _, row in EVERY if row.published]
    assert len(published) == 17
    for one in published:
        assert one.source in (rows.TABLE_1, rows.TABLE_4) and 50 < one.accuracy < 100
    assert not rows.EXPLAINED.keys() - {row.name for _, row in EVERY if row.published}


def test_the_space_is_around_the_values_of_the_config():
    found = search.space("fashion_mnist_small:ldrl")
    assert found["forward_lr"] == LogUniform(0.0253, 0.253)  # 0.08
    assert found["noise"] == PerMap(
        LogUniform(0.7, 2.8), LogUniform(0.15, 0.6), LogUniform(0.05, 0.2)
    )
    assert search.space("mnist_mlp:ldrl")["beta"] == LogUniform(0.221, 1.0)  # 0.7
    assert search.space("mnist_mlp:ldrl")["noise"] == LogUniform(0.05, 0.2)  # one for all maps
    assert search.space("mnist_mlp:backprop").keys() == {"forward_lr"}


# Running.


@pytest.fixture
def here(place):
    """A list of three rows, and the flags that stand for it."""
    (place / "rows.py").write_text(LIST)
    return place, ["--rows=rows.py", "--workdir=work", "--results=results", "--write=page.md"]


def started(flags, *more):
    """A process that runs the list, as `make results` does."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.paper", *flags, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )


def tools_of(log):
    return [line.split()[2] for line in log.read_text().splitlines() if line.startswith("$ ")]


@pytest.mark.slow
def test_rows_go_on_after_a_stop_and_are_run_once_by_two_processes(here):
    place, flags = here
    only = ["--only=tiny", "--only=tiny-bad"]
    first = started(flags, *only)
    trial = place / "work" / "tiny-backprop" / "sweep" / "trial_0"
    wait_for(trial.exists, [first], "trial")
    first.send_signal(signal.SIGTERM)
    stopped = finish(first)
    assert stopped.code == 128 + signal.SIGTERM and "goes on from here" in stopped.out
    assert "| backprop | not run |" in (place / "page.md").read_text()
    both = [started(flags, *only) for _ in range(2)]
    for ended in map(finish, both):
        assert ended.code == 0 and "all are done" in ended.out, ended
    work = place / "work"
    assert tools_of(work / "tiny-backprop" / "log.txt") == ["sweep", "sweep", "train"]
    assert tools_of(work / "tiny-bad" / "log.txt") == ["train"]
    found = json.loads((place / "results" / "tiny-backprop.json").read_text())
    assert found["search"]["trials"] == 2 and found["search"]["states"]["complete"] >= 1
    assert list(found["chosen"]) == ["forward_lr"]
    assert f"--config.forward_lr={found['chosen']['forward_lr']!r}" in found["command"]
    for one in found["seeds"]:
        summary = json.loads(
            (work / "tiny-backprop" / f"seeds/seed_{one['seed']}/summary.json").read_text()
        )
        assert one["outcome"] == "finished" and one["test_accuracy"] == summary["test_accuracy"]
    curves = (place / "results" / "tiny-backprop.csv").read_text().splitlines()
    assert curves[0] == "seed,epoch,train_accuracy,val_accuracy" and len(curves) == 3
    bad = json.loads((place / "results" / "tiny-bad.json").read_text())
    assert [one["outcome"] for one in bad["seeds"]] == ["diverged", "diverged"]
    assert bad["seeds"][0]["why"].startswith("step ") and bad["test_accuracy"] is None
    text = (place / "page.md").read_text()
    assert "/tiny-bad.json) | none (2 diverged) | diverged, diverged | 1 |" in text
    assert "| later | not run |" in text and "99.00 ± 0.10 (a paper)" in text
    assert "less than published, after 1 epoch. Open." in text
    assert (place / "results_tiny.png").stat().st_size > 5_000


def test_a_job_that_outlives_its_program_keeps_its_row(place):
    places, row = Places(place, place), Row("a", "a", "digits_dtp")
    with places.claim(row) as lock:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fileno(),))
    try:
        with places.claim(row) as again:
            assert again is None
    finally:
        orphan.kill()
        orphan.wait()
    with places.claim(row) as again:
        assert again is not None


def test_what_is_no_result_is_said_and_left_open(here, capsys):
    place, flags = here
    (place / "rows.py").write_text(LIST.replace('"digits_backprop", TOO_FAST', '"mnist_mlp"'))
    assert paper.main([*flags, "--only=tiny-bad"]) == 1
    out = capsys.readouterr().out
    assert "tiny-bad: exit code 3: " in out and "mnist" in out and "1 row is left" in out
    assert not (place / "results" / "tiny-bad.json").exists()


def test_hours_that_are_over_begin_nothing(here, capsys):
    place, flags = here
    assert paper.main([*flags, "--hours=1e-9"]) == 0
    assert "3 rows are left" in capsys.readouterr().out
    assert not list((place / "work").glob("*")) and (place / "page.md").is_file()


@pytest.mark.parametrize(
    "flag, said",
    [
        (
            "--only=mnist",
            "--only is 'mnist'; allowed: tiny, tiny-backprop, bad, tiny-bad, tiny-later",
        ),
        ("--hours=0", "--hours is 0.0; allowed: a number above 0"),
        ("--rows=none.py", "--rows is 'none.py'; allowed: a Python file with GROUPS"),
        ("--results=benchmarks/results/paper", "allowed: with a --write and --results of your own"),
        ("--write=docs/results.md", "allowed: with a --write and --results of your own"),
    ],
)
def test_flags_are_checked(here, capsys, flag, said):
    with pytest.raises(SystemExit) as ended:
        paper.main([*here[1], flag])
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, said",
    [
        ("GROUPS = (Group(),)", "NameError: name 'Group' is not defined"),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("GROUPS = (", "SyntaxError: '(' was never closed"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise ValueError('One.\\nTwo.')", "ValueError: One."),
        ("ROWS = ()", "KeyError: 'GROUPS'"),
        ("GROUPS = ('a',)", "AttributeError: 'str' object has no attribute 'rows'"),
        ("GROUPS = ()", "ValueError: one or more groups, with one or more rows each"),
        (LIST + "GROUPS = (GROUPS[0]._replace(rows=()),)", "ValueError: one or more groups"),
    ],
)
@pytest.mark.parametrize("more", ["--list", "--page"])
def test_a_list_that_is_none_is_a_line(here, capsys, text, said, more):
    place, flags = here
    (place / "rows.py").write_text(text)
    with pytest.raises(SystemExit) as ended:
        paper.main([*flags, more])
    said_last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert f"error: --rows is 'rows.py'; allowed: a Python file with GROUPS; {said}" in said_last


@pytest.mark.parametrize("more", [(), ("--list",), ("--page",), ("--only=tiny",)])
def test_a_result_that_cannot_be_read_is_not_run_again(here, capsys, more):
    """As with the marks of a merge, where two machines have shared results."""
    place, flags = here
    file = place / "results" / "tiny-later.json"
    file.parent.mkdir()
    file.write_text("<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> theirs\n")
    assert paper.main([*flags, *more]) == 2
    out, err = capsys.readouterr()
    assert not out and err == (
        "error: results/tiny-later.json cannot be read; allowed: the JSON of a result, or no such file: its row is "
        "then run\n"
    )
    assert sorted(file.name for file in place.rglob("*")) == ["results", "rows.py", file.name]
    assert file.read_text().startswith("<<<<<<<")


def test_nor_is_one_whose_values_are_to_be_taken(place):
    row = Row("long", "L", "digits_dtp", values_of="short")
    (place / "short.json").write_text("[]")
    with pytest.raises(store.Unreadable, match="short.json cannot be read"):
        jobs._values_of(row, Places(place, place))


def test_pages_are_written_one_after_the_other(here):
    """A process that has not seen the newest result would write last."""
    place, flags = here
    writer = threading.Thread(target=paper.main, args=([*flags, "--page"],))
    with alone(Path(paper.__file__)):
        writer.start()
        writer.join(0.3)
        (place / "results").mkdir()
        content = result(0.9, 0.9, test_accuracy=0.9, test_accuracy_std=0.0)
        (place / "results" / "tiny-later.json").write_text(json.dumps(content))
        assert not (place / "page.md").exists()
    writer.join()
    assert "/tiny-later.json) | 90.00 ± 0.00 (n = 2) |" in (place / "page.md").read_text()


@pytest.fixture
def in_process(monkeypatch):
    """`dtp train` runs in this process: quickly."""

    def run(words, *, row, places, meanwhile, **_):
        ended = launch(*words[1:])
        meanwhile()
        command = shlex.join(["dtp", *words])
        commands.log_of(row, places).write_text(f"$ {command}\n{ended.out}{ended.err}")
        return ended.code

    monkeypatch.setattr(commands, "run", run)


def computed(row, places, seeds):
    """(how a row ended, its result, what was said in the end)."""
    task, said = (Group("g", "G", "Words.", (row,), seeds=seeds, trials=0), row), []
    ended = jobs.compute([task], places, is_over=lambda: False, note="", say=said.append)
    return ended, places.result(row), said[-1]


@pytest.mark.parametrize("seeds, first", [(1, 0), (1, 5), (2, 5)])
def test_seeds_are_as_many_as_are_asked_for_from_any_on(place, in_process, seeds, first):
    row, places = (
        Row("a", "A", "digits_backprop", (*TINY, f"--config.seed={first}")),
        Places(place / "results", place / "work"),
    )
    ended, found, _ = computed(row, places, seeds)
    assert ended == jobs.Ended(0, 0)
    assert [one["seed"] for one in found["seeds"]] == list(range(first, first + seeds))
    assert all(one["test_accuracy"] > 0.2 for one in found["seeds"])
    curves = places.file(row).with_suffix(".csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in curves[1:]] == [
        [str(one["seed"]), "1"] for one in found["seeds"]
    ]
    task = (Group("g", "G", "Words.", (row,), seeds=seeds, trials=0), row)
    places.file(row).unlink()
    counted = "1 of 1 seed" if seeds == 1 else "2 of 2 seeds"
    assert jobs.state_of(task, places) == f"stopped: {counted}"


def test_runs_of_a_config_that_was_changed_are_no_result(place, in_process):
    """Somebody takes a result away, for the row to be run again; what was run before is still there."""
    row, places = Row("a", "A", "digits_backprop", TINY), Places(place / "results", place / "work")
    ended, found, _ = computed(row, places, seeds=1)
    assert ended == jobs.Ended(0, 0)
    places.file(row).unlink()
    other = row._replace(overrides=(*TINY, "--config.forward_lr=0.5"))
    ended, nothing, said = computed(other, places, seeds=1)
    assert ended == jobs.Ended(1, 1) and nothing is None
    assert said.startswith("a: exit code 2: ") and "it belongs to another config" in said
    assert computed(row, places, seeds=1) == (jobs.Ended(0, 0), found, f"a: {jobs.in_words(found)}")


@pytest.mark.parametrize("code, left", [(0, 0), (4, 0), (1, 1), (2, 1), (6, 1), (7, 1)])
def test_a_command_that_failed_leaves_its_row(place, monkeypatch, code, left):
    """Also where all of its seeds have come to something before; 4: a seed diverged."""
    row, places = Row("a", "A", "digits_backprop"), Places(place / "results", place / "work")
    (place / "work" / "a" / "seeds").mkdir(parents=True)
    (place / "work" / "a" / "seeds" / "summary.json").write_text("{}")
    (place / "work" / "a" / "log.txt").write_text("$ dtp train\nerror: no luck\n")
    monkeypatch.setattr(commands, "run", lambda *_, **__: code)
    ended, found, said = computed(row, places, seeds=1)
    assert ended == jobs.Ended(int(bool(left)), left) and (found is None) == bool(left)
    assert not left or said.startswith(f"a: exit code {code}: no luck (")


def test_a_search_that_is_done_is_checked(here, monkeypatch):
    """`dtp sweep` knows of which space it is."""
    place, _ = here
    group = runpy.run_path("rows.py")["GROUPS"][0]
    row, places, said = group.rows[0], Places(place / "results", place / "work"), []
    sweep = places.folder(row) / "sweep"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"order": [0, 1], "epochs": 1}))
    asked = []

    def refused(words, **_):
        asked.append(words[0])
        commands.log_of(row, places).write_text("$ dtp sweep\nerror: its sweep has another space\n")
        return 2

    monkeypatch.setattr(commands, "run", refused)
    tasks = [(group, row)]
    ended = jobs.compute(tasks, places, is_over=lambda: False, note="", say=said.append)
    assert ended == jobs.Ended(1, 1) and asked == ["sweep"]
    assert said == [
        f"tiny-backprop: exit code 2: its sweep has another space ({commands.log_of(row, places)})"
    ]


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_search_of_another_budget_is_no_result(here, monkeypatch, epochs):
    place, _ = here
    monkeypatch.setattr(commands, "run", lambda *_, **__: 0)
    group = runpy.run_path("rows.py")["GROUPS"][0]
    places, said = Places(place / "results", place / "work"), []
    sweep = places.folder(group.rows[0]) / "sweep"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"order": [0, 1, 2], "epochs": epochs}))
    tasks = [(group, group.rows[0])]
    ended = jobs.compute(tasks, places, is_over=lambda: False, note="", say=said.append)
    assert ended == jobs.Ended(1, 1)
    assert said == [f"tiny-backprop: {sweep} has 3 trials of {epochs} epochs; the list says 2 of 1"]


def test_a_search_all_of_whose_trials_diverged_is_done(here, monkeypatch):
    """`dtp sweep` ends as its first trial did. The seeds then have the values of the config."""
    place, _ = here
    group = runpy.run_path("rows.py")["GROUPS"][0]
    places = Places(place / "results", place / "work")
    sweep = places.folder(group.rows[0]) / "sweep"
    nothing = {"pruner": "none", "states": {"diverged": 2}, "importances": {}, "best": None}

    def all_diverge(*_, **__):
        sweep.mkdir(parents=True)
        (sweep / "sweep.json").write_text(json.dumps({"order": [0, 1], "epochs": 1, **nothing}))
        (sweep / "sweep.csv").write_text("seconds\n2\n3\n")
        return 4

    monkeypatch.setattr(commands, "run", all_diverge)
    over, tasks = iter([False, True]), [(group, group.rows[0])]
    ended = jobs.compute(tasks, places, is_over=lambda: next(over), note="", say=lambda _: None)
    assert ended == jobs.Ended(0, 1)
    found = json.loads((places.unfinished(group.rows[0]) / "search.json").read_text())
    assert (found["chosen"], found["val_accuracy"], found["seconds"]) == ({}, None, 5.0)


def test_a_row_has_the_values_that_were_found_for_another(here):
    place, _ = here
    row = Row("long", "L", "digits_dtp", ("--config.epochs=2",), values_of="short")
    group, places, said = Group("g", "G", "Words.", (row,), trials=0), Places(place, place), []
    ended = jobs.compute([(group, row)], places, is_over=lambda: False, note="", say=said.append)
    assert ended == jobs.Ended(1, 1)
    assert said == ["long: has the values of short, which is not run yet"]
    chosen = {"beta": 0.25, "noise": [0.1, 0.2]}
    (place / "short.json").write_text(json.dumps({"chosen": chosen}))
    found = commands.train_words(group, row, places, jobs._values_of(row, places))
    assert {"--config.epochs=2", "--config.beta=0.25", "--config.noise=0.1,0.2"} <= set(found)
    content = result(0.9, chosen=chosen, test_accuracy=0.9, test_accuracy_std=None)
    places.file(row).write_text(json.dumps(content))
    text = page.text([group], places, {})
    assert "| beta 0.25, noise 0.1 0.2 |" in text and "Words. 3 seeds." in text


def test_a_row_waits_for_the_values_that_another_process_finds(here, monkeypatch):
    place, _ = here
    short, long = Row("short", "S", "digits_dtp"), Row("long", "L", "digits_dtp", values_of="short")
    group, places, order = (
        Group("g", "G", "Words.", (short, long), trials=0),
        Places(place, place),
        [],
    )

    def tried(task, *_):
        order.append(task[1].name)
        places.file(task[1]).write_text("{}")
        return order.count("short") > 1  # at first, another process has it

    monkeypatch.setattr(jobs, "_try", tried)
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 0.1)
    tasks = [(group, short), (group, long)]
    ended = jobs.compute(tasks, places, is_over=lambda: False, note="", say=print)
    assert ended == jobs.Ended(0, 0) and order == ["short", "short", "long"]


def test_rows_that_take_values_come_after_those_that_find_them():
    names = [row.name for _, row in EVERY]
    for _, row in EVERY:
        assert not row.values_of or names.index(row.values_of) < names.index(row.name)


def test_a_signal_while_others_have_the_rows_ends_the_wait(here):
    place, _ = here
    group = runpy.run_path("rows.py")["GROUPS"][0]
    places, task = Places(place / "results", place / "work"), (group, group.rows[0])
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with places.claim(task[1]):
        ended = jobs.compute([task], places, is_over=lambda: False, note="", say=print)
    assert ended == jobs.Ended(128 + signal.SIGTERM, 1)


def test_a_seed_whose_run_only_stopped_is_no_result(place):
    (place / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 2.3}\n')
    assert (
        store.outcome_of(place) is None
    )  # memory that is used up, a full disk: another machine can
    (place / "summary.json").write_text("{}")
    assert store.outcome_of(place) == ("finished", "")


def test_hardware_is_that_of_the_machine_that_trained(place):
    here = {"host": socket.gethostname(), "device": "1 x cpu"}
    for origin, said in (
        (here, store.processor()),
        ({**here, "device": "1 x NVIDIA H100"}, "1 x NVIDIA H100"),
        ({"host": "far", "device": "1 x cpu"}, "1 x cpu of far"),
    ):
        (place / "config.json").write_text(json.dumps({"provenance": origin}))
        assert [one["hardware"] for one in store._origins(place)] == [said]
    assert not store._origins(place / "none")


def test_a_row_that_was_only_searched_is_left(here, monkeypatch):
    place, _ = here
    groups = runpy.run_path("rows.py")["GROUPS"]
    tasks = [(groups[0], groups[0].rows[0])]
    asked = iter([False, True])  # the hours are over when the search has ended
    monkeypatch.setattr(jobs, "_search", lambda *_: {"chosen": {}})
    places = Places(place / "results", place / "work")
    ended = jobs.compute(
        tasks, places, is_over=lambda: next(asked, True), note="", say=lambda _: None
    )
    assert ended == jobs.Ended(0, 1)


def test_a_seed_that_went_on_elsewhere_is_of_both(place):
    """config.json has its first start, summary.json its last; one that diverged is taken up by the last of all."""

    def write(file, commit, device, jax, **more):
        origin = {"commit": commit, "host": "far", "device": device, "versions": {"jax": jax}}
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"provenance": {**origin, **more}, "seeds": []}))

    def commits(name):
        return [one["commit"] for one in store._origins(place / name)]

    write(place / "a/config.json", "c0ffee", "1 x old", "0.9")
    write(place / "a/summary.json", "decaf", "1 x new", "0.10", date="2026-11-20T23:59:00+00:00")
    write(place / "b/config.json", "c0ffee", "1 x old", "0.9")
    assert commits("a") == ["c0ffee", "decaf"] and commits("b") == ["c0ffee"]
    write(place / "summary.json", "bean", "1 x last", "0.10")
    assert commits("a") == ["c0ffee", "decaf"] and commits("b") == ["c0ffee", "bean"]
    seeds = [store.of_seed(0, place / "a", "busy")]
    (place / "b/summary.json").write_text('{"test_accuracy": 0.5}')
    seeds.append(store.of_seed(1, place / "b", ""))
    assert [one["date"] for one in seeds] == ["2026-11-20", str(datetime.date.today())]
    row, places = Row("r", "R", "digits_dtp"), Places(place, place)
    found = store.write(places, row, command="dtp", search=None, chosen={}, seeds=seeds)
    assert found == places.result(row) and found["commit"] == "c0ffee, decaf"
    assert found["hardware"] == "1 x old of far; 1 x new of far"
    assert found["versions"] == {"jax": "0.9, 0.10"}
    assert found["note"] == "busy" and found["date"] == seeds[1]["date"]


# What is done of a row that is not.


def three(place, name="results", more=()):
    """(task, places) of a row of seeds 5, 6 and 7."""
    row = Row("a", "A", "digits_backprop", (*TINY, "--config.seed=5", *more))
    group = Group("g", "G", "Words.", (row,), seeds=3, trials=0)
    return (group, row), Places(place / name, place / f"work of {name}")


def in_order(task, places, say=lambda _: None):
    return jobs.compute([task], places, is_over=lambda: False, note="", say=say)


@pytest.fixture
def stopped(monkeypatch, in_process):
    """A function that stops the next command when a seed of it has ended; it lists the other commands."""
    through, asked = commands.run, []

    def at_the_end_of(seed):
        def run(words, *, meanwhile, **_):
            monkeypatch.setattr(commands, "run", listed)
            folder = Path(words[-1].partition("=")[2])
            folder = folder if folder.name == f"seed_{seed}" else folder / f"seed_{seed}"
            alone = (f"--config.seed={seed}", "--config.seeds=1", f"--workdir={folder}")
            assert launch(*words[1:-1], *alone).code == 0
            meanwhile()
            raise commands.Interrupted(signal.SIGTERM)

        monkeypatch.setattr(commands, "run", run)

    def listed(words, **rest):
        asked.append(words[-3:])
        return through(words, **rest)

    at_the_end_of.asked = asked
    return at_the_end_of


def test_another_machine_goes_on_with_the_seeds_that_are_left(place, stopped):
    task, places = three(place, "alone")
    assert in_order(task, places) == jobs.Ended(0, 0)
    wanted, curves = places.result(task[1]), places.file(task[1]).with_suffix(".csv").read_text()
    task, first = three(place, "shared")
    stopped(5)
    assert in_order(task, first) == jobs.Ended(128 + signal.SIGTERM, 1)
    assert jobs.state_of(task, first) == "stopped: 1 of 3 seeds"
    other = first._replace(work=place / "other")
    assert jobs.state_of(task, other) == "begun elsewhere: 1 of 3 seeds"
    stopped.asked.clear()
    assert in_order(task, other) == jobs.Ended(0, 0)
    assert stopped.asked == [
        [
            f"--config.seed={n}",
            "--config.seeds=1",
            f"--workdir={other.folder(task[1])}/seeds/seed_{n}",
        ]
        for n in (6, 7)
    ]
    found = other.result(task[1])
    assert [one["seed"] for one in found["seeds"]] == [5, 6, 7]
    for mine, theirs in zip(found["seeds"], wanted["seeds"], strict=True):
        assert mine["test_accuracy"] == theirs["test_accuracy"]
    assert other.file(task[1]).with_suffix(".csv").read_text() == curves
    assert "--config.seeds=3" in found["command"] and not other.unfinished(task[1]).exists()


def test_what_another_machine_has_is_not_trained_again(place, stopped):
    """Not in the middle of the seeds that are left, nor where this machine has begun all of them."""
    task, places = three(place)
    here = places.folder(task[1]) / "seeds"
    stopped(5)
    in_order(task, places)
    other = places._replace(work=place / "other")
    stopped(6)
    in_order(task, other)
    places.unfinished(task[1]).joinpath("seed_5.json").rename(place / "seed_5.json")
    shutil.rmtree(here)
    stopped.asked.clear()
    assert in_order(task, places) == jobs.Ended(0, 0)  # 6 is there
    assert [words[-1] for words in stopped.asked] == [f"--workdir={here}/seed_{n}" for n in (5, 7)]
    assert {one.name for one in here.iterdir()} == {"seed_5", "seed_7"}


def test_seeds_that_this_machine_has_are_one_command(place, stopped):
    task, places = three(place)
    stopped(5)
    in_order(task, places)
    stopped.asked.clear()
    assert in_order(task, places) == jobs.Ended(0, 0)
    (words,) = stopped.asked
    assert words[-2:] == ["--config.seeds=3", f"--workdir={places.folder(task[1])}/seeds"]


def test_runs_of_other_epochs_are_not_made_longer(place, in_process):
    """They would have other rates than runs that had so many epochs from the start."""
    task, places = three(place)
    assert in_order(task, places) == jobs.Ended(0, 0)
    places.file(task[1]).unlink()
    longer, said = (
        (task[0], task[1]._replace(overrides=(*task[1].overrides, "--config.epochs=2"))),
        [],
    )
    before = {file: file.read_bytes() for file in places.work.rglob("*.json*")}
    assert in_order(longer, places, said.append) == jobs.Ended(1, 1)
    seeds = places.folder(task[1]) / "seeds"
    assert said[0].startswith(
        f"a: config.epochs is 2, and {seeds} has a run of 1; allowed: no such"
    )
    assert before == {file: file.read_bytes() for file in places.work.rglob("*.json*")}


def test_a_run_that_diverged_after_its_summary_is_no_finished_one(place):
    (place / "summary.json").write_text("{}")
    (place / "metrics.jsonl").write_text('{"split": "diverged", "message": "step 9: so it is"}\n')
    assert store.outcome_of(place) == ("diverged", "step 9: so it is")


def test_more_seeds_take_those_that_are_kept(place, stopped):
    task, places = three(place)
    stopped(5)
    in_order(task, places)
    stopped.asked.clear()
    one = (task[0]._replace(seeds=1), task[1])
    assert in_order(one, places) == jobs.Ended(0, 0) and not stopped.asked
    assert [seed["seed"] for seed in places.result(task[1])["seeds"]] == [5]


@pytest.mark.parametrize(
    "content, said",
    [
        ("<<<<<<< HEAD", "cannot be read"),
        ("{}", "cannot be read"),
        (None, "is of another config: its forward_lr is 0.1, here it is 0.5"),
    ],
)
def test_what_is_kept_of_another_config_is_refused(place, stopped, content, said):
    task, places = three(place, more=("--config.forward_lr=0.1",))
    stopped(5)
    in_order(task, places)
    stopped.asked.clear()
    file, spoken = places.unfinished(task[1]) / "seed_5.json", []
    if content is None:
        task, _ = three(place, more=("--config.forward_lr=0.5",))
    else:
        file.write_text(content)
    before = file.read_text()
    assert in_order(task, places, spoken.append) == jobs.Ended(1, 1) and not stopped.asked
    assert spoken == [f"a: {file} {said}; allowed: no such file: the job is then run again"]
    assert file.read_text() == before


def test_the_hours_may_be_over_between_two_seeds(place, monkeypatch):
    task, places = three(place)
    seed = places.folder(task[1]) / "seeds" / "seed_5"
    train = place / "train"
    saves = "trap 'exit 143' TERM\nwhile true; do sleep 0.1; done"
    train.write_text(
        f"#!/bin/sh\nmkdir -p '{seed}'\necho '{{}}' > '{seed}/summary.json'\n{saves}\n"
    )
    train.chmod(0o755)
    monkeypatch.setattr(commands.sys, "executable", str(train))
    monkeypatch.setattr(commands, "KEEP_SECONDS", 0.1)
    said, asked = [], iter([False, False, True])
    ended = jobs.compute([task], places, is_over=lambda: next(asked), note="", say=said.append)
    assert ended == jobs.Ended(0, 1)
    assert said == ["a: 3 seeds", "a: the time is over; the same command goes on from here"]
    assert [one.name for one in places.unfinished(task[1]).iterdir()] == ["seed_5.json"]


def test_the_hours_may_be_over_between_two_commands(place, stopped):
    """Seeds that another machine began are a command each."""
    task, places = three(place)
    stopped(5)
    in_order(task, places)
    stopped.asked.clear()
    other, over = places._replace(work=place / "other"), iter([False, False, True])
    ended = jobs.compute([task], other, is_over=lambda: next(over), note="", say=lambda _: None)
    assert ended == jobs.Ended(0, 1) and [words[0] for words in stopped.asked] == [
        "--config.seed=6"
    ]
    kept_ = {file.name for file in other.unfinished(task[1]).iterdir()}
    assert kept_ == {"seed_5.json", "seed_6.json"}


def test_a_run_of_another_config_is_not_kept_with_those_of_this_one(place, stopped):
    """It lies in the folder of a seed whose turn has not come: `dtp train` has not been asked about it."""
    task, places = three(place)
    stopped(5)
    in_order(task, places)
    other = places._replace(work=place / "other")
    old = other.folder(task[1]) / "seeds/seed_7"
    flags = ("--config.seed=7", "--config.seeds=1", "--config.forward_lr=0.001")
    assert launch("--config=digits_backprop", *TINY, *flags, f"--workdir={old}").code == 0
    said = []
    assert in_order(task, other, said.append) == jobs.Ended(1, 1)
    assert "its forward_lr is 0.001" in said[-1]
    assert not (other.unfinished(task[1]) / "seed_7.json").exists()


def test_a_disk_that_takes_nothing_ends_the_list_in_a_line(place, in_process):
    (group, row), places = three(place)
    places.results.mkdir()
    (places.results / "unfinished").write_text("")
    said, rows_ = [], [row, row._replace(name="b")]
    tasks = [(group, one) for one in rows_]
    ended = jobs.compute(tasks, places, is_over=lambda: False, note="", say=said.append)
    assert ended == jobs.Ended(1, 2)
    assert said[-1].startswith("a: [Errno ") and "unfinished" in said[-1]


def test_what_was_kept_before_the_config_got_a_field_holds(place, stopped):
    """As for runs: it had the value that stands in run/formats.py."""
    task, places = three(place)
    stopped(5)
    in_order(task, places)
    file = places.unfinished(task[1]) / "seed_5.json"
    content = json.loads(file.read_text())
    assert content["of"].pop("guard") == "stop"
    file.write_text(json.dumps(content))
    _, of = kept.what_is_trained(commands.train_words(*task, places, {}))
    assert list(kept.seeds_of(places, task[1], of)) == [5]
    content["of"]["max_steps"] = 7
    file.write_text(json.dumps(content))
    with pytest.raises(kept.Refused, match="its max_steps is 7, here it is 0"):
        kept.seeds_of(places, task[1], of)


@pytest.mark.parametrize("trials", [0, 2])
def test_a_row_that_is_not_valid_is_a_line(place, trials):
    (group, row), places = three(place)
    for other, problem in (
        (row._replace(overrides=("--config.seed=-1",)), "config.seed is -1; allowed: 0 or more"),
        (row._replace(config="nowhere"), "--config is 'nowhere', which does not exist"),
        (row._replace(overrides=("--config.nothing=1",)), "config.nothing: no such field"),
    ):
        said = []
        task = (group._replace(trials=trials), other)
        assert in_order(task, places, said.append) == jobs.Ended(1, 1)
        assert len(said) == 1 and said[0].startswith(f"a: {problem}"), said


def test_a_search_that_is_kept_is_not_run_again(here, monkeypatch):
    place, _ = here
    group = runpy.run_path("rows.py")["GROUPS"][0]
    row, places = group.rows[0], Places(place / "results", place / "work")
    content = {
        "order": [0, 1],
        "epochs": 1,
        "pruner": "halving",
        "states": {"complete": 2},
        "importances": {},
        "best": {"trial": 1, "val_accuracy": 0.75, "fields": {"forward_lr": 0.25}},
    }
    asked = []

    def searched(words, **_):
        asked.append(words[0])
        folder = places.folder(row) / "sweep"
        if words[0] == "train":
            raise commands.Interrupted(signal.SIGTERM)
        folder.mkdir(parents=True)
        (folder / "sweep.json").write_text(json.dumps(content))
        (folder / "sweep.csv").write_text("seconds\n1.5\n2\n")
        return 0

    monkeypatch.setattr(commands, "run", searched)
    assert in_order((group, row), places).code == 128 + signal.SIGTERM
    assert asked == ["sweep", "train"]
    elsewhere = places._replace(work=place / "other")
    assert jobs.state_of((group, row), elsewhere) == "begun elsewhere: 0 of 2 seeds"
    assert in_order((group, row), elsewhere).code == 128 + signal.SIGTERM
    assert asked == ["sweep", "train", "train"]
    found = jobs._search(group, row, elsewhere, None)
    assert found["seconds"] == 3.5 and found["chosen"] == {"forward_lr": 0.25}
    for other, is_other in (
        (group._replace(trials=3), "trials is 2, here it is 3"),
        (group._replace(trial_epochs=2), "epochs is 1, here it is 2"),
    ):
        said = []
        assert in_order((other, row), elsewhere, said.append) == jobs.Ended(1, 1)
        assert len(said) == 1 and f"search.json is of another config: its {is_other}" in said[0]
    monkeypatch.setitem(search.REACH, "forward_lr", 2.0)
    with pytest.raises(kept.Refused, match="its space is"):
        jobs._search(group, row, elsewhere, None)
    assert asked == ["sweep", "train", "train"]


def test_a_seed_is_kept_while_others_train(place, monkeypatch):
    """And one that was there before is not: it may be of another config."""
    task, places = three(place)
    runs = places.folder(task[1]) / "seeds"
    (runs / "seed_5").mkdir(parents=True)
    (runs / "seed_5" / "summary.json").write_text("{}")
    os.utime(runs / "seed_5" / "summary.json", (0, 0))
    train = place / "train"
    train.write_text(
        f"#!/bin/sh\nmkdir '{runs}/seed_6'\necho '{{}}' > '{runs}/seed_6/summary.json'\nexec sleep 60\n"
    )
    train.chmod(0o755)
    monkeypatch.setattr(commands.sys, "executable", str(train))
    monkeypatch.setattr(commands, "KEEP_SECONDS", 0.1)
    file = places.unfinished(task[1]) / "seed_6.json"

    def stop():
        wait_for(file.exists, [], "file")
        os.kill(os.getpid(), signal.SIGTERM)

    watching = threading.Thread(target=stop)
    watching.start()
    assert in_order(task, places) == jobs.Ended(128 + signal.SIGTERM, 1)
    watching.join()
    assert [one.name for one in file.parent.iterdir()] == ["seed_6.json"]


def test_what_is_committed_of_a_row_is_of_one_that_has_no_result():
    for folder in (COMMITTED.results / "unfinished").glob("*"):
        group, row = next(task for task in EVERY if task[1].name == folder.name)
        assert COMMITTED.result(row) is None, f"{folder} is left over"
        of = kept.what_is_searched(group, row)
        found = kept.load(COMMITTED, row, "search", of) or {
            "chosen": jobs._values_of(row, COMMITTED)
        }
        words = commands.train_words(group, row, COMMITTED, found["chosen"])
        kept.seeds_of(COMMITTED, row, kept.what_is_trained(words)[1])


# The page.


def test_committed_results_are_of_the_budget_that_the_page_says():
    found = [(group, row, COMMITTED.result(row)) for group, row in EVERY]
    for group, row, one in found:
        if one is None:
            continue
        assert (one["config"], tuple(one["overrides"])) == (row.config, row.overrides)
        assert len(one["seeds"]) == group.seeds
        search = one["search"]
        budget = (search["trials"], search["epochs"]) if search else (0, group.trial_epochs)
        assert budget == (group.trials, group.trial_epochs), row.name
    names = {row.name for _, row in EVERY}
    assert names >= {file.stem for file in COMMITTED.results.glob("*.json")}


def test_the_committed_page_is_what_the_results_say():
    text = page.text(rows.GROUPS, COMMITTED, rows.EXPLAINED)
    assert (REPOSITORY / paper.PAGE).read_text() == text, "python -m benchmarks.paper --page"
    for name in page.pictures(rows.GROUPS, COMMITTED):
        assert (REPOSITORY / "docs" / name).is_file()


def test_the_readme_has_a_part_of_it():
    text = (REPOSITORY / paper.README).read_text()
    assert len(page.EXCERPT.findall(text)) == text.count("<!-- results: ") >= 1
    assert page.with_excerpts(text, rows.GROUPS, COMMITTED) == text, "python -m benchmarks.paper"
    assert len(text.split()) <= 900  # a front door


def test_an_excerpt_has_the_rows_that_were_run(place):
    published = Published(90.0, "a paper", differs="100 epochs")
    found = (Row("a", "A", "x", (), published), Row("b", "B", "x"), Row("c", "C", "x"))
    group, places = Group("g", "G", "Words.", found, seeds=2), Places(place, place)
    for row, values in ((found[0], (0.9, 0.8)), (found[2], (0.7, None))):
        content = result(*values, test_accuracy=0.7)
        places.file(row).write_text(json.dumps(content))
    alone = Group("h", "H", "Words.", (found[2]._replace(name="c"),), seeds=2)
    none = Group("i", "I", "Words.", (Row("d", "D", "x"),))
    before = "One.\n<!-- results: g -->\nold\n<!-- end of results -->\nTwo."
    assert page.excerpt(none, places) == "I: not run yet.\n"
    assert page.excerpt(alone, places).splitlines() == [
        "H, 10 epochs, 2 seeds:",
        "",
        "| rule | test accuracy, % |",
        "| -- | -- |",
        "| C | 70.00 (n = 1) (1 diverged) |",
    ]
    assert page.with_excerpts(before, [group], places).splitlines() == [
        "One.",
        "<!-- results: g -->",
        "G, 10 epochs, 2 seeds:",
        "",
        "| rule | test accuracy, % | published, 100 epochs |",
        "| -- | -- | -- |",
        "| A | 85.00 ± 7.07 | 90.00 |",
        "<!-- end of results -->",
        "Two.",
    ]
    places.file(found[0]).unlink()  # what is left is not compared
    assert page.excerpt(group, places) == "G: not run yet.\n"


def test_an_excerpt_has_the_epochs_of_its_rows(place):
    published = Published(90.0, "a paper")
    found, places = (Row("a", "A", "x", (), published), Row("b", "B", "x")), Places(place, place)
    for row, epochs in zip(found, (1, 7), strict=True):
        content = result(0.9, test_accuracy=0.9, epochs=epochs)
        places.file(row).write_text(json.dumps(content))
    text = page.excerpt(Group("g", "G", "Words.", found, seeds=1), places)
    assert text.startswith("G, 1 epoch, 1 seed:\n")


def result(*accuracies, **more):
    seeds = [
        {
            "seed": n,
            "outcome": "finished" if a else "diverged",
            "test_accuracy": a,
            "seconds": 60 if a else None,
        }
        for n, a in enumerate(accuracies)
    ]
    origin = {"commit": "c0ffee", "hardware": "a CPU", "note": "", "date": "2026-11-27"}
    return {"seeds": seeds, "epochs": 10, "search": None, "rule": "ldrl", **origin, **more}


def test_a_machine_is_named_once_whatever_rows_ran_on(place):
    group = Group("g", "G", "Words.", (Row("a", "A", "x"), Row("b", "B", "x")))
    places = Places(place, place)
    for row, hardware in zip(group.rows, ("X, 1 core; Y, 2 cores", "Y, 2 cores"), strict=True):
        content = result(0.9, test_accuracy=0.9, test_accuracy_std=None, hardware=hardware)
        places.file(row).write_text(json.dumps(content))
    assert "; X, 1 core; Y, 2 cores; 2026-11-27;" in page.text([group], places, {})


def test_a_disagreement_is_explained_or_open(place):
    group = Group("g", "G", "Words.", (Row("a", "A", "x", (), Published(90.0, "a paper")),))
    places = Places(place, place)
    for accuracy, spread, said in (
        (0.93, 0.001, "**G, A**: 3.00 points more than published, after 10 epochs. Open."),
        (0.88, 0.001, "**G, A**: 2.00 points less than published, after 10 epochs. Open."),
        (0.88, 0.02, "Nowhere so far; of rows with a published value, 1 was run."),
        (0.896, 0.0, "Nowhere so far; of rows with a published value, 1 was run."),
    ):
        content = result(accuracy, test_accuracy=accuracy, test_accuracy_std=spread)
        places.file(group.rows[0]).write_text(json.dumps(content))
        assert said in page.text([group], places, {})
    for accuracies, said in (
        ((None, None), "**G, A**: 2 of 2 seeds diverged. Open."),
        ((0.9, None), "**G, A**: 1 of 2 seeds diverged. Open."),
        ((0.5, None), "**G, A**: 40.00 points less than published, after 10 epochs; 1 of 2 seeds"),
    ):
        content = result(*accuracies, test_accuracy=accuracies[0], test_accuracy_std=None)
        places.file(group.rows[0]).write_text(json.dumps(content))
        assert said in page.text([group], places, {}).replace("\n  ", " ")
    places.file(group.rows[0]).write_text(
        json.dumps(result(0.5, test_accuracy=0.5, test_accuracy_std=None))
    )
    text = page.text([group], places, {"a": "Fewer images."}).replace("\n  ", " ")
    assert "10 epochs; one seed has no deviation. Fewer images." in text
    assert "above two standard deviations where they are known" in (text.replace("\n", " "))


def test_means_are_of_the_seeds_that_finished(place):
    group = Group("g", "G", "Words.", (Row("a", "A", "x"),))
    content = result(0.9, None, 0.8, test_accuracy=0.85, test_accuracy_std=0.0707)
    places = Places(place, place)
    places.file(group.rows[0]).write_text(json.dumps(content))
    cells = "85.00 ± 7.07 (n = 2) (1 diverged) | 90.00, diverged, 80.00 | 10 |"
    text = page.text([group], places, {})
    assert f"/a.json) | {cells}" in text
    said = "Means and deviations are of the seeds that finished, which n counts."
    assert said in text.replace("\n  ", " ")


def test_minutes_say_of_what_they_are(place):
    """Nothing says how long a seed took that diverged, or such a trial."""
    group, places = Group("g", "G", "Words.", (Row("a", "A", "x"),)), Places(place, place)
    search = {"trials": 3, "epochs": 1, "seconds": 180, "best_trial": 1, "val_accuracy": 0.9}
    for accuracies, states, said in (
        ((0.9, 0.9), {"complete": 3}, "3 minutes of search; 2 minutes of training."),
        (
            (0.9, None),
            {"complete": 2, "diverged": 1},
            "3 minutes of search, not counting trials that diverged or failed; 1 minute of training, of the seeds that "
            "finished.",
        ),
        ((None, None), {"complete": 3}, "0 minutes of training, of the seeds that finished."),
    ):
        content = result(
            *accuracies,
            test_accuracy=accuracies[0],
            test_accuracy_std=None,
            search={**search, "states": states},
        )
        places.file(group.rows[0]).write_text(json.dumps(content))
        assert said in page.text([group], places, {}).replace("\n", " ")


def test_the_origin_names_each_commit_once_and_no_search_that_was_not(place):
    rows_ = (Row("a", "A", "x"), Row("b", "B", "x"))
    places = Places(place, place)
    for row, commit in zip(rows_, ("c0ffee, decaf", "decaf"), strict=True):
        content = result(0.9, commit=commit, test_accuracy=0.9, test_accuracy_std=None)
        places.file(row).write_text(json.dumps(content))
    text = page.text([Group("g", "G", "Words.", rows_)], places, {}).replace("\n", " ")
    assert "; commits c0ffee, decaf; a CPU; 2026-11-27; 2 minutes of training." in text


def test_angles_are_means_over_seeds(place):
    seeds = [{"outcome": "finished", "angles": {"fc1": a, "fc2": 10.0}} for a in (20.0, 30.0)]
    found = page.angles_of({"seeds": [*seeds, {"outcome": "diverged"}]})
    assert found == {"fc1": (25.0, math.sqrt(50)), "fc2": (10.0, 0.0)}


def test_the_picture_of_a_group_of_depth_has_a_line_for_every_network(place):
    group = next(group for group in rows.GROUPS if group.picture == "depth")
    places = Places(place, place)
    angles = {"angles": {"fc2": 10.0, "fc3": 20.0}, "update_angles": {"fc1/kernel": 30.0}}
    content = result(0.9, 0.9, test_accuracy=0.9, test_accuracy_std=0.0)
    content["seeds"] = [{**one, **angles} for one in content["seeds"]]
    row = next(row for row in group.rows if row.name == "depth-ldrl_8")
    places.file(row).write_text(json.dumps(content))
    page.write([group], places, {}, place / "p.md")
    picture = place / "results_depth.png"
    assert picture.stat().st_size > 5_000
    label = "[L-DRL, 8 layers](../benchmarks/results/paper/depth-ldrl_8.json)"
    assert (
        f"| {label} | 90.00 ± 0.00 (n = 2) | 90.00, 90.00 | 10 | 10 to 20 |"
        in (place / "p.md").read_text()
    )
    content["seeds"] = [{**one, "angles": {}} for one in content["seeds"]]  # as of backprop alone
    places.file(row).write_text(json.dumps(content))
    assert page.pictures([group], places) == [] and "![" not in page.text([group], places, {})


def test_one_rule_at_chance_does_not_press_the_others_together():
    close = [Result(f"r{n}", [90 + n, 91 + n], 95.0, 0.2) for n in range(4)]
    figure = draw_results([*close, Result("tp", [10.0, 10.2])], "accuracy, %")
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    assert 85 < low < 90 and 95 < high < 96
    assert "10.1" in [text.get_text() for text in axis.texts]
    for bad in ([], [Result("none", [])]):
        with pytest.raises(ValueError, match="allowed: 1 or more"):
            draw_results(bad, "x")
