"""The folder of a run: whose it is, and what its checkpoints survive."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dtp_jax.run.workdir import (
    FINISHED,
    NEW,
    UNFINISHED,
    Checkpoints,
    Workdir,
    WorkdirError,
    write_json,
)

CONFIG = {"rule": "ldrl", "noise": (0.2, 0.1), "max_steps": 0}


def state(number):
    return {
        "weights": jnp.arange(6.0) + number,
        "key": jax.random.key(number),
        "step": jnp.int32(number),
    }


def assert_state(found, number):
    np.testing.assert_array_equal(found["weights"], np.arange(6.0) + number, strict=True)
    np.testing.assert_array_equal(
        jax.random.key_data(found["key"]), jax.random.key_data(jax.random.key(number))
    )
    assert found["step"] == number and found["step"].dtype == np.int32


def like():
    return jax.eval_shape(lambda: state(0))


def ignore(warning):
    raise AssertionError(f"unexpected: {warning}")


@pytest.fixture
def run(tmp_path):
    """A workdir with CONFIG."""
    found = Workdir(tmp_path / "run")
    found.create(CONFIG)
    return found


def summary_of(steps):
    """What a finished run says, as far as somebody counts on it."""
    numbers = {"steps": steps, "test_accuracy": 0.9, "wall_seconds": 1.5, "images_per_second": 10}
    texts = {"rule": "ldrl", "network": "mlp", "dataset": "digits", "device": "1 x cpu"}
    return {**numbers, **texts, "val_accuracy": None}


def test_states_of_a_run(run):
    assert Workdir(run.path.parent / "other" / "run").status(CONFIG, 10) == NEW
    assert run.status(CONFIG, 10) == UNFINISHED
    write_json(run.summary_file, summary_of(10))
    assert run.status(CONFIG, 10) == FINISHED
    assert run.status({**CONFIG, "max_steps": 11}, 11) == UNFINISHED


def test_asking_leaves_nothing_behind(tmp_path):
    assert Workdir(tmp_path / "a" / "b").status(CONFIG, 10) == NEW
    assert list(tmp_path.iterdir()) == []


def test_a_workdir_belongs_to_its_config(run):
    with pytest.raises(
        WorkdirError, match=r"noise is \[0.2, 0.1\], here it is \[0.2, 0.3\]; allowed: "
    ):
        run.status({**CONFIG, "noise": (0.2, 0.3)}, 10)
    with pytest.raises(WorkdirError, match="its rule is 'ldrl', here it is 'dtp'; allowed: "):
        run.status({"noise": (0.2, 0.3), "max_steps": 0, "rule": "dtp"}, 10)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\xff", '{"rule": "ldrl"'])
def test_a_broken_config_file(run, content):
    run.config_file.write_text(content, encoding="latin-1")
    with pytest.raises(WorkdirError, match=r"config.json cannot be read; allowed: a new folder"):
        run.status(CONFIG, 10)


def test_checkpoints_of_nobody(run):
    (run.path / "checkpoints").mkdir()
    run.config_file.unlink()
    with pytest.raises(WorkdirError, match=r"checkpoints, but no config.json"):
        run.status(CONFIG, 10)


@pytest.mark.parametrize("content", ["", "[]", "{}", '"steps"', "[" * 10**5])
def test_a_broken_summary_is_none(run, content):
    run.summary_file.write_text(content)
    assert run.status(CONFIG, 10) == UNFINISHED


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", "10"),
        ("steps", None),
        ("steps", True),
        ("test_accuracy", "0.9"),
        ("val_accuracy", [0.9]),
        ("test_top5_accuracy", {}),
        ("wall_seconds", None),
        ("images_per_second", "fast"),
        ("wall_seconds", float("inf")),
        ("device", None),
        ("versions", []),
        ("extended", 3),
        ("extended", [{"at_step": 3}]),
    ],
)
def test_a_summary_that_cannot_be_shown_is_none(run, name, value):
    run.summary_file.write_text(json.dumps(summary_of(10) | {name: value}))
    assert run.read_summary() is None
    assert run.status(CONFIG, 10) == UNFINISHED


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json", "checkpoints"])
@pytest.mark.parametrize("kind", ["another kind", "a dead link"])
def test_something_else_in_the_place_of_a_file(run, name, kind):
    path, expected = run.path / name, "folder" if name == "checkpoints" else "file"
    path.unlink(missing_ok=True)
    if kind == "a dead link":
        path.symlink_to(run.path / "nothing")
    elif expected == "file":
        path.mkdir()
    else:
        path.write_text("")
    with pytest.raises(WorkdirError, match=f"its {name} is no {expected}; allowed: a new folder"):
        run.status(CONFIG, 10)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json"])
def test_files_of_nobody(run, name):
    """A run would drop what is in them."""
    run.config_file.rename(run.path / name)
    with pytest.raises(WorkdirError, match=f"it holds {name}, but no config.json"):
        run.status(CONFIG, 10)


def test_a_finished_run_need_not_be_writable(run, monkeypatch):
    write_json(run.summary_file, summary_of(10))
    monkeypatch.setattr("dtp_jax.run.workdir.os.access", lambda *_: False)
    assert run.status(CONFIG, 10) == FINISHED


@pytest.mark.parametrize("path", ["file", "file/below", "x" * 300, "new/" + "x" * 300])
def test_a_folder_that_cannot_be(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="allowed: a writable folder"):
        Workdir(tmp_path / path).status(CONFIG, 10)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_the_file_system_refuses(run, monkeypatch):
    """What a read-only or full disk does, also to those who may do everything."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("dtp_jax.run.workdir.tempfile.mkdtemp", refuse)
    monkeypatch.setattr("dtp_jax.run.workdir.os.access", lambda *_: False)
    with pytest.raises(WorkdirError, match="Read-only file system; allowed: a writable folder"):
        Workdir(run.path.parent / "other").status(CONFIG, 10)
    with pytest.raises(WorkdirError, match="cannot be written to; allowed: a writable folder"):
        run.status(CONFIG, 10)
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(WorkdirError, match="Read-only file system"):
        Workdir(run.path.parent / "other").create(CONFIG)


def test_numbers_that_json_lacks_become_null(run):
    run.append_metrics([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("-inf")}])
    run.append_metrics([{"step": 3, "loss": 0.1}])
    lines = [
        json.loads(line, parse_constant=ignore)
        for line in run.metrics_file.read_text().splitlines()
    ]
    assert lines == [{"step": 1, "loss": None}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.1}]


def test_rewound_metrics(run):
    run.rewind_metrics(3)
    assert not run.metrics_file.exists()
    rows = [{"step": n, "split": split} for n in range(1, 6) for split in ("train", "test")]
    run.append_metrics(rows)
    with run.metrics_file.open("ab") as file:
        file.write(b'nonsense\n[]\n{"step": 1, "sp\xff')
    whole = run.metrics_file.read_bytes()
    run.rewind_metrics(3)  # the test line of step 3 comes again
    assert [json.loads(line) for line in run.metrics_file.read_text().splitlines()] == rows[:5]
    run.metrics_file.write_bytes(whole)
    write_json(run.summary_file, summary_of(3))
    run.rewind_metrics(3)  # the run ended there, and now goes on: its test line stays
    assert [json.loads(line) for line in run.metrics_file.read_text().splitlines()] == rows[:6]


def test_a_checkpoint_comes_back(tmp_path):
    Checkpoints(tmp_path / "c", keep=2).save(7, state(7), {"step": 7, "loss": 0.1, "best": None})
    found, progress = Checkpoints(tmp_path / "c", keep=2).restore_newest(like(), ignore)
    assert_state(found, 7)
    assert progress == {"step": 7, "loss": 0.1, "best": None}


def test_which_checkpoints_are_kept(tmp_path):
    one = Checkpoints(tmp_path / "c", keep=2)
    assert one.restore_newest(like(), ignore) is None
    for step in range(1, 5):
        one.save(step, state(step), {}, best_step=min(step, 2))
    assert one.steps() == [4, 3, 2]
    other = Checkpoints(tmp_path / "c", keep=2)  # a new process
    other.save(5, state(5), {}, best_step=2)
    assert other.steps() == [5, 4, 2]
    assert_state(other.restore(2, like())[0], 2)
    other.save(6, state(6), {}, best_step=6)
    assert other.steps() == [6, 5]


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [cut, flip, remove])
def test_every_damage_of_every_file_is_noticed(tmp_path, damage, capfd):
    """The checkpoint before is taken, with one line of warning, and nothing is lost."""
    pristine = tmp_path / "pristine"
    with_two = Checkpoints(pristine, keep=2)
    for step in (1, 2):
        with_two.save(step, state(step), {"step": step})
    files = [
        str(file.relative_to(pristine)) for file in (pristine / "2").rglob("*") if file.is_file()
    ]
    assert len(files) > 8
    for number, file in enumerate(files):
        place = shutil.copytree(pristine, tmp_path / str(number))
        if (place / file).stat().st_size == 0 and damage is not remove:
            continue
        damage(place / file)
        warnings = []
        damaged = Checkpoints(place, keep=2)
        found, progress = damaged.restore_newest(like(), warnings.append)
        assert_state(found, 1)
        assert progress == {"step": 1}
        assert (
            len(warnings) == 1
            and "checkpoint 2 cannot be used" in warnings[0]
            and "\n" not in warnings[0]
        )
        assert damaged.steps() == [1] and (place / "damaged-2").is_dir()
        damaged.save(2, state(2), {"step": 2})
        assert_state(Checkpoints(place, keep=2).restore_newest(like(), ignore)[0], 2)
    assert capfd.readouterr().err == ""


def test_all_checkpoints_damaged(tmp_path):
    one = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2):
        one.save(step, state(step), {})
        shutil.rmtree(tmp_path / "c" / str(step) / "state")
    warnings = []
    assert Checkpoints(tmp_path / "c", keep=2).restore_newest(like(), warnings.append) is None
    assert len(warnings) == 2


def test_a_good_checkpoint_of_another_state_stays_where_it_is(tmp_path):
    Checkpoints(tmp_path / "c", keep=2).save(1, {"weights": jnp.zeros(4)}, {})
    warnings = []
    with pytest.raises(WorkdirError, match="c/1 is as it was saved, but this program cannot read"):
        Checkpoints(tmp_path / "c", keep=2).restore_newest(like(), warnings.append)
    assert not warnings and (tmp_path / "c" / "1" / "state").is_dir()


def test_rests_of_a_killed_save_are_cleared(tmp_path):
    Checkpoints(tmp_path / "c", keep=2).save(1, state(1), {})
    rest = tmp_path / "c" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "c" / "1", rest)
    found = Checkpoints(tmp_path / "c", keep=2)
    assert found.steps() == [1]
    found.save(2, state(2), {})
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2"]


def test_another_network_is_refused_under_its_own_name(tmp_path):
    """One value stands for all feedback maps or blocks, not for all hidden layers."""
    made = {"hidden": (8,), "noise": (0.1,), "forward_eps": (1e-8,)}
    run = Workdir(tmp_path / "run")
    run.create({**CONFIG, **made})
    assert run.status({**CONFIG, **made, "noise": (0.1, 0.1), "forward_eps": (1e-8, 1e-8)}, 10)
    with pytest.raises(WorkdirError, match=r"its hidden is \[8\], here it is \[8, 8\]"):
        run.status({**CONFIG, **made, "hidden": (8, 8)}, 10)
