"""Runs outlive an upgrade: recorded ones of every format go on; what cannot be read is one line."""

import contextlib
import io
import json
import tarfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY
from launching import TINY, arrays, checkpoint_steps, launch, rows, summary, tree
from record_old_runs import KINDS, machine
from safetensors.numpy import load_file, save_file

import dtp_jax as dtp
from dtp_jax.compare.plan import parse_configs
from dtp_jax.export import __main__ as export
from dtp_jax.rules import RULES
from dtp_jax.run import formats, loading
from dtp_jax.run.checkpoints import CHECKSUMS, FORMAT_FILE, Checkpoints, checksums
from dtp_jax.run.config import FIELDS
from dtp_jax.run.files import WorkdirError, write_json
from dtp_jax.run.results import NoCheckpoint
from dtp_jax.run.workdir import Workdir
from dtp_jax.version import __version__

pytest_plugins = ["run_fixtures"]

RECORDED = sorted((REPOSITORY / "tests" / "old_runs").iterdir())
every_format = pytest.mark.parametrize("recorded", RECORDED, ids=lambda folder: folder.name)
every_kind = pytest.mark.parametrize("kind", KINDS)

# What the versions before a field computed with. A value never changes here; new fields join.
BEFORE = {
    "batch_norm": False,
    "split_stages": False,
    "val_per_class": 0,
    "train_images": 0,
    "overfit_batches": 0,
    "seeds": 1,
    "seeds_as": "auto",
    "flip": False,
    "feedback_optimizer": "sgd",
    "feedback_weight_decay": 0.0,
    "feedback_eps": 1e-8,
    "feedback_activation": "linear",
    "stale_gradients": "none",
    "pretrain_epochs": 0,
    "feedback_pass": False,
    "alternate": False,
    "forward_optimizer": "sgd",
    "block_forward_lr": (),
    "normalize_lr": False,
    "forward_eps": (1e-8,),
    "images_on": "auto",
    "data_parallel": 1,
    "layer_parallel": 1,
    "precision": "tf32",
    "checkpoint_minutes": 0.0,
    "trackers": ("tensorboard",),
    "project": "dtp_jax",
    "ahead_mb": 1024,
    "patience": 0,
    "max_minutes": 0.0,
    "step_epochs": 30,
    "gamma": 0.1,
    "guard": "stop",
    "init_symmetric": False,
    "diagnostics_every": 1000,
    "diagnostics_iterations": "off",
    "diagnostics_updates": "off",
    "diagnostics_jacobians": "off",
    "diagnostics_gauss_newton": "off",
    "diagnostics_eigenvalues": "off",
}


def unpack(recorded, name, place):
    """A recorded run or file, to be written to."""
    with tarfile.open(recorded / f"{name}.tar.gz") as tar:
        tar.extractall(place, filter="data")
    return place / name


@cache
def same_machine(recorded):
    """Whether this compiler and processor give the recorded bits."""
    return json.loads((recorded / "machine.json").read_text()) == machine()


def assert_same_arrays(found, expected, recorded):
    """Bit for bit where these are the compiler and processor that recorded; else up to rounding."""
    assert {name: a[:2] for name, a in found.items()} == {n: a[:2] for n, a in expected.items()}
    for name, (dtype, _, there) in expected.items():
        here = found[name][2]
        if same_machine(recorded) or not np.issubdtype(dtype, np.floating):
            assert here == there, name
        else:
            values = (np.frombuffer(one, dtype) for one in (here, there))
            np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5, err_msg=name)


def assert_same_number(found, expected, recorded):
    if isinstance(expected, float) and not same_machine(recorded):
        expected = pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found == expected


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def write_config(folder, content):
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)


def exported(*args):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return export.main([str(arg) for arg in args]), err.getvalue()


def one_line(text):
    assert len(text.splitlines()) == 1 and "Traceback" not in text, text
    return text


def refused_everywhere(folder):
    """The line with which every way to a run refuses it; nothing is touched."""
    before, lines = tree(folder.parent), []
    for args in (
        (f"--workdir={folder}",),
        ("--config=digits_dtp", f"--workdir={folder}", *TINY),
        (f"--config={folder}/config.json", f"--workdir={folder}-again"),
    ):
        found = launch(*args)
        assert found.code == 2, found
        lines.append(one_line(found.err))
    code, line = exported(folder, folder.parent / "w.safetensors")
    assert code == 2
    lines.append(one_line(line))
    with pytest.raises(ValueError) as error:
        dtp.load_run(folder)
    lines.append(one_line(str(error.value)))
    with pytest.raises(ValueError) as error, jax.enable_x64(False):
        dtp.train(folder / "config.json", f"{folder}-again", quiet=True)
    lines.append(one_line(str(error.value)))
    with pytest.raises(ValueError) as error:
        parse_configs(str(folder / "config.json"), [])
    lines.append(one_line(str(error.value)))
    assert tree(folder.parent) == before
    return lines


# Recorded runs.


@every_format
@every_kind
def test_an_unfinished_run_ends_as_it_would_have_then(place, recorded, kind):
    folder, whole = (unpack(recorded, f"{kind}-{end}", place) for end in ("unfinished", "finished"))
    before, (step,) = config_of(folder), checkpoint_steps(folder)
    found = launch(f"--workdir={folder}", "--config.checkpoint_every=0")
    assert (found.code, found.err) == (0, "") and f"going on from step {step} of" in found.out
    assert_same_arrays(arrays(folder), arrays(whole), recorded)
    for row, then in zip(rows(folder), rows(whole), strict=True):
        for name in then:  # newer versions may say more
            assert_same_number(row[name], then[name], recorded)
    for name in ("steps", "test_accuracy", "test_top5_accuracy", "val_accuracy", "best_val_step"):
        assert_same_number(summary(folder)[name], summary(whole)[name], recorded)
    now = config_of(folder)
    assert now.pop("format") == formats.FORMAT
    same = before.keys() - {"format", "checkpoint_every"}
    assert {name: now[name] for name in same} == {name: before[name] for name in same}
    last = folder / "checkpoints" / str(checkpoint_steps(folder)[-1])
    assert json.loads((last / FORMAT_FILE).read_text())["format"] == formats.FORMAT


@every_format
@every_kind
def test_a_finished_run_is_shown_and_exported(place, recorded, kind):
    folder = unpack(recorded, f"{kind}-finished", place)
    before = tree(folder)
    found = launch(f"--workdir={folder}")
    assert (found.code, found.err) == (0, "") and "this run is finished" in found.out
    run = dtp.load_run(folder)
    assert run.summary == summary(folder)
    steps = [row["step"] for row in rows(folder, "train")]
    np.testing.assert_array_equal(run.metrics.of("train")["step"], steps)
    assert exported(folder, place / "w.safetensors") == (0, "")
    there = {name.replace("']['", "/"): a for name, a in arrays(folder).items()}
    for name, array in load_file(place / "w.safetensors").items():
        side, _, rest = name.partition("/")
        dtype, shape, content = there[f"['{side}/{rest}']"]
        assert (array.dtype, array.shape, array.tobytes()) == (dtype, shape, content)
    assert tree(folder) == before
    (entry,) = parse_configs(f"{folder}/config.json", [])
    assert entry.config == run.experiment.config == dtp.load_run(folder).experiment.config


@every_format
def test_exported_weights_start_the_same_run(place, recorded):
    file, then = (
        unpack(recorded, "ldrl.safetensors", place),
        unpack(recorded, "ldrl-imported", place),
    )
    finished = unpack(recorded, "ldrl-finished", place)
    assert exported(finished, place / "now.safetensors") == (0, "")
    old, new = load_file(file), load_file(place / "now.safetensors")
    assert old.keys() == new.keys() and all((old[name] == new[name]).all() for name in old)
    assert exported("--to-workdir", place / "now", file) == (0, "")
    assert_same_arrays(arrays(place / "now"), arrays(then), recorded)
    for folder in (then, place / "now"):
        assert launch(f"--workdir={folder}", "--config.max_steps=2").code == 0
    assert arrays(then) == arrays(place / "now")


@every_format
def test_a_finished_run_is_extended(place, recorded):
    folder = unpack(recorded, "ldrl-finished", place)
    epochs, steps = config_of(folder)["epochs"], summary(folder)["steps"]
    more = ("--config.checkpoint_every=0", f"--config.max_steps={steps + 1}")
    assert launch(f"--workdir={folder}", f"--config.epochs={epochs + 1}", *more).code == 0
    (extended,) = config_of(folder)["extended"]
    assert (extended["at_step"], extended["from_epochs"]) == (steps, epochs)


# Fields that were not there yet.


def test_whoever_adds_a_field_says_what_older_runs_computed_with():
    """In `formats.BEFORE`, and in BEFORE above, where the value stays for ever."""
    assert FIELDS.keys() == {*formats.ALWAYS, *formats.BEFORE}
    assert not formats.BEFORE.keys() & set(formats.ALWAYS)
    assert formats.BEFORE == BEFORE


@pytest.fixture
def old_config(place):
    """The content of a config.json of the first version."""
    config = config_of(unpack(RECORDED[0], "ldrl-unfinished", place))
    return {name: value for name, value in config.items() if name not in BEFORE}


def test_an_old_config_means_what_it_meant_whatever_the_defaults_are_today(
    place, old_config, monkeypatch
):
    (place / "configs").mkdir()
    (place / "configs" / "default.py").write_text(
        "from dtp_jax.configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        f"    for name in {[*BEFORE]}:\n"
        "        with config.ignore_type():\n"
        "            config[name] = 'changed'\n"
        "    return config\n"
    )
    monkeypatch.setattr(loading, "CONFIGS", place / "configs")
    write_config(place / "w", old_config)
    found = loading.load_config("w/config.json").config.to_dict()
    assert {name: found[name] for name in BEFORE} == BEFORE
    run = dtp.load_run(unpack(RECORDED[0], "ldrl-unfinished", place)).experiment.config
    assert run["precision"] == "tf32"


@pytest.mark.parametrize(
    "override, said",
    [
        ("precision=bfloat16", "its precision is 'tf32', here it is 'bfloat16'"),
        ("train_images=64", "its train_images is 0, here it is 64"),
        ("forward_eps=0.1", "its forward_eps is [1e-08, 1e-08, 1e-08], here it is [0.1, 0.1, 0.1]"),
    ],
)
def test_a_missing_field_does_not_equal_whatever_is_asked_for(place, old_config, override, said):
    write_config(place / "w", old_config)
    assert said in one_line(launch("--workdir=w", f"--config.{override}").err)


def test_a_field_that_a_rule_has_brought_since(place, old_config):
    """It had the default that the rule gives it, not what is asked for now."""

    @dtp.rules.register(name="newer", fields={"gain": 1.5})
    def newer(*, noise, beta, gain):
        return dtp.ldrl(noise=noise, beta=beta * gain)

    try:
        write_config(place / "w", {**old_config, "rule": "newer"})
        found = launch("--workdir=w", "--config.gain=2")
        assert found.code == 2 and "its gain is 1.5, here it is 2.0" in one_line(found.err)
    finally:
        del RULES["newer"]


# Newer formats.

NEWER = {"provenance": {"versions": {"dtp_jax": "7.5"}, "commit": "abc123"}}


def test_a_config_of_a_newer_format(place, old_config):
    number = formats.FORMAT + 1
    write_config(place / "w", {**old_config, "format": number, **NEWER})
    for line in refused_everywhere(place / "w"):
        assert f"format {number}, which dtp_jax 7.5 at commit abc123 wrote" in line
        assert f"this is dtp_jax {__version__}, which reads formats up to {formats.FORMAT}" in line
        assert "allowed: dtp_jax 7.5 at commit abc123, or a newer one" in line
    with pytest.raises(ValueError, match="the config is of format"), jax.enable_x64(False):
        dtp.train(config_of(place / "w"), place / "v")
    write_config(place / "w", {**old_config, "format": number})  # by whom it does not say
    assert f"allowed: a dtp_jax of format {number}, or a" in refused_everywhere(place / "w")[0]


def renumber(checkpoint, written):
    write_json(checkpoint / FORMAT_FILE, written)
    write_json(checkpoint / CHECKSUMS, checksums(checkpoint))


def test_a_checkpoint_of_a_newer_format(place):
    folder = unpack(RECORDED[0], "ldrl-unfinished", place)
    (step,) = checkpoint_steps(folder)
    checkpoint = folder / "checkpoints" / str(step)
    number = formats.FORMAT + 1
    renumber(checkpoint, {"format": number, **NEWER["provenance"]})
    before = tree(folder)
    said = f"its checkpoint {step} is of format {number}, which dtp_jax 7.5 at commit abc123 wrote"
    found = launch("--workdir=ldrl-unfinished")
    assert found.code == 2 and said in one_line(found.err)
    code, line = exported(folder, "w.safetensors")
    assert code == 2 and said in one_line(line)
    with pytest.raises(ValueError, match=said):
        dtp.load_run(folder)
    assert tree(folder) == before
    (checkpoint / CHECKSUMS).write_text("{}")  # damaged, it says nothing
    with pytest.raises(NoCheckpoint) as error:
        dtp.load_run(folder)
    assert "7.5" not in str(error.value)


def test_a_state_of_another_structure_stays_as_it_was(place):
    """So that the version that can go on with it still can."""
    folder = unpack(RECORDED[0], "ldrl-unfinished", place)
    (step,) = checkpoint_steps(folder)
    other = Checkpoints(folder / "checkpoints", keep=1)
    other.save(step + 1, {"weights": jnp.zeros(4)}, {})
    checkpoint = folder / "checkpoints" / str(step + 1)
    for written, writer in (
        ({"format": 2, "versions": {"dtp_jax": "0.0.7"}}, "dtp_jax 0.0.7"),
        ({}, "a dtp_jax of format 1"),
    ):
        renumber(checkpoint, written)
        before = tree(folder)
        found = launch("--workdir=ldrl-unfinished")
        line = one_line(found.err)
        assert found.code == 2 and "is as it was saved, but this program cannot read it" in line
        assert f"; allowed: {writer}, which wrote it, or another --workdir" in line
        assert tree(folder) == before
        code, line = exported(folder, "w.safetensors")
        assert code == 3 and f"; allowed: {writer}, which wrote it" in one_line(line)


def test_every_checkpoint_says_its_format(tmp_path):
    one = Checkpoints(tmp_path / "c", keep=1)
    one.save(1, {"weights": jnp.zeros(4)}, {"step": 1})
    written = json.loads((tmp_path / "c" / "1" / FORMAT_FILE).read_text())
    assert written["format"] == formats.FORMAT
    assert written["versions"] == {"dtp_jax": __version__}
    (tmp_path / "c" / "1" / FORMAT_FILE).write_text('{"format": 1}')
    assert one.damage(1) == f"{FORMAT_FILE} is not what was saved"


# Damage.

DAMAGED = {
    "empty": ("", "cannot be read"),
    "a list": ([1], "cannot be read"),
    "a text": ('"rule"', "cannot be read"),
    "null": ("null", "cannot be read"),
    "a number": ("3", "cannot be read"),
    "half": ('{"rule": "ldrl", "netw', "cannot be read"),
    "nested": ("[" * 100_000, "cannot be read"),
    "nested inside": ('{"channels": ' + "[" * 900 + "]" * 900 + "}", ""),
    "nothing in it": ("{}", "lacks "),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_config_file_that_is_none(place, name):
    content, said = DAMAGED[name]
    write_config(place / "w", content)
    for line in refused_everywhere(place / "w"):
        assert "config.json" in line and said in line and "allowed: " in line


@pytest.mark.parametrize("name", formats.ALWAYS)
def test_a_config_without_what_every_version_had(place, old_config, name):
    write_config(place / "w", {k: v for k, v in old_config.items() if k != name})
    with pytest.raises(ValueError, match=f"'w/config.json', which lacks {name}; allowed"):
        loading.load_config("w/config.json")
    with pytest.raises(ValueError, match=f"lacks {name}"):
        dtp.load_run("w")
    with pytest.raises(WorkdirError, match=f"its config.json lacks {name}; allowed: a new folder"):
        Workdir("w").status({**BEFORE, **old_config}, 10)


EXTENSION = {"at_step": 78, "from_epochs": 2, "to_epochs": 4, "t_max": 2}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"epochs": "two"}, "epochs is 'two'; allowed: a whole number, 1 or more"),
        ({"epochs": None}, "epochs is None"),
        ({"epochs": [2]}, "epochs is [2]"),
        ({"epochs": True}, "epochs is True"),
        ({"max_steps": {}}, "max_steps is {}"),
        ({"t_max": -1}, "t_max is -1"),
        ({"seed": 10**400}, "seed is 1000"),
        ({"beta": 10**400}, "beta is 1000"),
        ({"noise": [0.1, "b"]}, "noise is [0.1, 'b']"),
        ({"noise": {"a": 1}}, "noise is {'a': 1}"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"rule": ["ldrl"]}, "rule ['ldrl']"),
        ({"network": 3}, "network 3"),
        ({"format": "2"}, "format '2'; allowed: a whole number from 1 to"),
        ({"format": True}, "format True"),
        ({"format": 0}, "format 0"),
        ({"format": None}, "format None"),
        ({"extended": 3}, "extended is 3; allowed: objects of at_step, from_epochs, to_epochs, t_max"),
        ({"extended": [3]}, "extended is [3]"),
        ({"extended": {}}, "extended is {}"),
        ({"extended": [{}]}, "extended is "),
        ({"extended": [EXTENSION | {"more": 1}]}, "extended is "),
        ({"extended": [EXTENSION | {"t_max": "2"}]}, "extended is "),
        ({"extended": [EXTENSION | {"to_epochs": 1}]}, "extended is "),
        ({"provenance": [1]}, "malformed provenance"),
        ({"provenance": "x"}, "malformed provenance"),
        ({"provenance": {"registered_by": [1]}}, "malformed provenance"),
        ({"provenance": {"registered_by": {"rule": "a\nb"}}, "rule": "mine"}, "malformed provenance"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_config_of_wrong_values(place, old_config, change, said):
    write_config(place / "w", old_config | change)
    for line in refused_everywhere(place / "w"):
        assert said in line


@pytest.mark.parametrize("name", ["gian", "items", "a.b", "", "1", "get"])
def test_a_config_with_a_field_that_there_never_was(place, old_config, name):
    write_config(place / "w", old_config | {name: 1})
    with pytest.raises(ValueError, match=f"^config.{name}: no such field"):
        loading.load_config("w/config.json")


@pytest.mark.parametrize(
    "config, said",
    [
        ("[1]", "its config cannot be read: it holds no object"),
        ("{}", "its config lacks rule, network, channels and"),
        ("[" * 100_000, "its config cannot be read: it is nested too deep"),
        ('{"format": 99}', "its config is of format 99"),
    ],
)
def test_weights_whose_config_is_none(place, config, said):
    save_file({"a": np.zeros(1)}, place / "w.safetensors", {"config": config})
    code, line = exported("--to-workdir", "w", "w.safetensors")
    assert code == 2 and f"w.safetensors: {said}" in " ".join(one_line(line).split())
    assert not Path("w").exists()
