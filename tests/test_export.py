"""Weights in and out of runs, against orbax's own reader and runs that were not interrupted by a file."""

import contextlib
import io
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors
from helpers import assert_close, config_fields, make_parameters
from launching import arrays, assert_same_run, checkpoint_steps, launch, tree
from safetensors.numpy import load_file, save_file

import dtp_jax as dtp
from dtp_jax.export import __main__, match, read, write
from dtp_jax.learning import learner
from dtp_jax.run import backend
from dtp_jax.run.build import build_learner
from dtp_jax.run.checkpoints import CHECKSUMS, Checkpoints, checksums
from dtp_jax.run.config import validate
from dtp_jax.run.files import DiskError, write_json
from dtp_jax.version import __version__

pytest_plugins = ["run_fixtures"]


def export(*args):
    """The command line in this process -> (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
        code = __main__.main([str(arg) for arg in args])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def exported(reference, tmp_path):
    """A file of the reference run."""
    file = tmp_path / "weights.safetensors"
    assert export(reference[0], file)[0] == 0
    return file


def test_export_holds_the_newest_checkpoint(reference, tmp_path):
    before, file = tree(reference[0]), tmp_path / "new" / "weights.safetensors"
    code, out, err = export(reference[0], file)
    step = checkpoint_steps(reference[0])[-1]
    assert (code, err) == (0, "") and f"step {step}" in out
    assert tree(reference[0]) == before
    found, written = arrays(reference[0]), load_file(file)
    for name, a in written.items():
        key = "".join(f"['{part}']" for part in name.split("/"))
        assert found[key] == (a.dtype, a.shape, a.tobytes())
    kept = [k for k in found if k.startswith(("['forward']", "['feedback']"))]
    assert len(kept) == len(written) == 10
    with safetensors.safe_open(file, framework="np") as opened:
        metadata = opened.metadata()
    assert metadata["version"] == __version__ and metadata["step"] == str(step)
    assert metadata["format"] == "dtp_jax"
    assert json.loads(metadata["config"]) == json.loads((reference[0] / "config.json").read_text())


def set_best_step(run, step):
    """Rewrites what the newest checkpoint says of the best one."""
    newest = run / "checkpoints" / str(checkpoint_steps(run)[-1])
    (file,) = (f for f in (newest / "progress").iterdir() if b"best_step" in f.read_bytes())
    file.write_text(json.dumps({**json.loads(file.read_text()), "best_step": step}))
    write_json(newest / CHECKSUMS, checksums(newest))


def test_export_of_the_best(reference, tmp_path):
    run, file = tmp_path / "run", tmp_path / "w.safetensors"
    shutil.copytree(reference[0], run)
    best, *_, newest = checkpoint_steps(run)
    set_best_step(run, best)
    code, out, _ = export(run, file, "--best")
    assert code == 0 and f"step {best}\n" in out and best < newest
    kernel = load_file(file)["forward/fc/kernel"].tobytes()
    assert kernel == arrays(run, best)["['forward']['fc']['kernel']"][2]
    assert kernel != arrays(run, newest)["['forward']['fc']['kernel']"][2]
    set_best_step(run, None)
    code, _, err = export(run, file, "--best")
    assert code == 2 and len(err.splitlines()) == 1 and "nothing was validated yet" in err


def test_damaged_checkpoints_are_passed_over(reference, tmp_path):
    run, file = tmp_path / "run", tmp_path / "w.safetensors"
    shutil.copytree(reference[0], run)
    oldest, *later = checkpoint_steps(run)
    for step in later:
        folder = run / "checkpoints" / str(step) / "state"
        victim = next(f for f in folder.rglob("*") if f.is_file())
        victim.write_bytes(b"damaged" + victim.read_bytes())
    code, out, err = export(run, file)
    assert code == 0 and f"step {oldest}\n" in out
    assert err.count("warning: checkpoint") == len(err.splitlines()) == len(later)
    shutil.rmtree(run / "checkpoints" / str(oldest))
    code, _, err = export(run, file)
    assert code == 3 and len(err.splitlines()) == 1 and "no good checkpoint" in err


def test_a_run_from_a_file_is_the_run_it_would_have_been(reference, place):
    """The weights that a run starts from, through a file: the same bits at the end."""
    fields = json.loads((reference[0] / "config.json").read_text())
    experiment = validate({**config_fields(), **fields})
    with jax.enable_x64(False):
        state = jax.jit(lambda k: learner.init(build_learner(experiment, 1), k))(jax.random.key(0))
        write(
            place / "start.safetensors",
            {"forward": state.forward, "feedback": state.feedback},
            {"config": json.dumps(fields)},
        )
    code, out, err = export("--to-workdir", place / "run", place / "start.safetensors")
    assert (code, err) == (0, "")
    assert checkpoint_steps(place / "run") == [0]
    command = out.splitlines()[-1].partition("dtp train ")[2].split()
    found = launch(*command)
    assert found.code == 0 and "going on from step 0" in found.out
    assert_same_run(place / "run", reference[0])


def test_a_parameter_called_weight_is_that_of_a_block_of_ones_own(tmp_path):
    """PyTorch calls every kernel so, but a file says by whom it was written."""
    (below, own) = dtp.chain((3,), [dtp.dense_block(n, features=3) for n in ("below", "own")])
    network = [below, own._replace(init=lambda key: {"weight": np.ones((3, 3), np.float32)})]
    forward, feedback = make_parameters(network)
    trees = jax.device_get({"forward": forward, "feedback": feedback})
    write(tmp_path / "w.safetensors", trees, {"format": "dtp_jax"})
    found = match(network, trees, read(tmp_path / "w.safetensors"))
    assert_close(found, trees, rtol=0, atol=0)


def test_overrides_and_configs(exported, place):
    assert export("--to-workdir", "a", exported, "--config.forward_lr=0.5")[0] == 0
    assert json.loads((place / "a/config.json").read_text())["forward_lr"] == 0.5
    digits = "digits_dtp"
    args = ("--config.channels=4,8", "--config.batch_size=9")
    assert export("--to-workdir", "b", exported, f"--config={digits}", *args)[0] == 0
    assert json.loads((place / "b/config.json").read_text())["batch_size"] == 9


def test_a_state_dict_of_the_original_becomes_a_run(place):
    """Kernels end in the first checkpoint with their axes moved; the first feedback map is left out."""
    draw = np.random.default_rng(0).normal
    both = {"conv_0.conv": (4, 1, 3, 3), "conv_1.conv": (8, 4, 3, 3)}
    state = {
        f"{side}.{name}.weight": draw(size=shape)
        for side in ("forward_net", "feedback_net")
        for name, shape in both.items()
    }
    state |= {"forward_net.fc.linear.weight": draw(size=(10, 32))}
    state |= {"feedback_net.fc.linear.weight": draw(size=(32, 10))}
    np.savez(place / "original.npz", **state)
    digits = "digits_dtp"
    args = (f"--config={digits}", "--config.channels=4,8", "--config.bias=False")
    assert export("--to-workdir", "run", "original.npz", *args)[0] == 0
    found = arrays(place / "run", 0)
    kernels = {key: value for key, value in found.items() if key.startswith(("['fo", "['fee"))}
    for side in ("forward", "feedback"):
        a = state[f"{side}_net.conv_1.conv.weight"].astype(np.float32).transpose(2, 3, 1, 0)
        assert found[f"['{side}']['conv_1']['kernel']"] == (a.dtype, a.shape, a.tobytes())
    assert "['forward']['conv_0']['kernel']" in kernels
    assert "['feedback']['conv_0']['kernel']" not in kernels


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda w: w.pop("forward/fc/bias"), ["missing: forward/fc/bias;"]),
        (
            lambda w: w.update({"feedback/fc/kernel": np.zeros((3, 2), np.float32)}),
            ["feedback/fc/kernel has shape (3, 2), expected (32, 10)"],
        ),
        (
            lambda w: w.update({"forward/x/bias": w["forward/fc/bias"]}),
            ["unknown: forward/x/bias;"],
        ),
        (
            lambda w: w.update({"forward/fc/bias": np.zeros(10, np.int32)}),
            ["forward/fc/bias is int32, expected floating-point"],
        ),
        (
            lambda w: w.update({"forward/fc/bias": np.full(10, np.nan, np.float32)}),
            ["forward/fc/bias holds numbers that are not finite"],
        ),
    ],
)
def test_wrong_weights(change, said, exported, place):
    weights = load_file(exported)
    change(weights)
    save_file(weights, place / "w.safetensors", read(exported).metadata)
    before = tree(place)
    code, out, err = export("--to-workdir", "run", "w.safetensors")
    assert (code, out) == (3, "") and len(err.splitlines()) == 1
    assert all(text in err for text in ["error: w.safetensors: ", *said]), err
    assert tree(place) == before


def save_and_name(folder, name, content):
    (folder / name).write_bytes(content)
    return name


@pytest.mark.parametrize(
    "file, code, said",
    [
        (lambda place: "none.npz", 3, "none.npz does not exist"),
        (lambda place: save_and_name(place, "w.npz", b"no archive"), 3, "w.npz cannot be read"),
        (lambda place: save_and_name(place, "w.safetensors", b"x" * 99), 3, "cannot be read"),
        (lambda place: save_and_name(place, "w.pt", b""), 3, "w.pt is no .safetensors or .npz"),
    ],
)
def test_files_that_cannot_be_read(file, code, said, place):
    found = export("--to-workdir", "run", file(place), "--config=unused.py")
    assert found[:2] == (code, "") and len(found[2].splitlines()) == 1 and said in found[2]


def test_pickles_are_not_opened(place):
    np.savez(place / "w.npz", a=np.array([{}], dtype=object))
    code, _, err = export("--to-workdir", "run", "w.npz")
    assert code == 3 and "w.npz cannot be read" in err and "allow_pickle" in err


def test_no_folder_has_a_config_and_no_weights(exported, monkeypatch, place):
    """Training would begin there with random ones."""

    def is_full(*args, **kwargs):
        raise DiskError("a test")

    monkeypatch.setattr(Checkpoints, "save", is_full)
    code, _, err = export("--to-workdir", "run", exported)
    assert code == 3 and "a test" in err and not (place / "run/config.json").exists()


def test_wrong_arguments(exported, reference, place):
    np.savez(place / "w.npz", a=np.zeros(1))
    for args, said in [
        ((reference[0], "w.npz"), "FILE is 'w.npz'; allowed: a file that ends in .safetensors"),
        (("nowhere", "w.safetensors"), "WORKDIR is 'nowhere': it does not exist; allowed: "),
        (("--to-workdir", reference[0], exported), "it holds a run; allowed: a new folder"),
        (("--to-workdir", "run", "w.npz"), "w.npz holds no config; allowed: --config=FILE"),
        (("--to-workdir", "run", exported, "--config.epochs=x"), "config.epochs is 'x'"),
        (("--to-workdir", "run", exported, "--config.seeds=3"), "config.seeds is 3; allowed: 1"),
    ]:
        code, out, err = export(*args)
        assert (code, out) == (2, "") and len(err.splitlines()) == 1 and said in err, err
    for args in (
        (reference[0], "w.safetensors", "--config.epochs=1"),
        ("--to-workdir", "run", exported, "--best"),
        ("--to-workdir", "run", exported, "--workdir=x"),
    ):
        with pytest.raises(SystemExit) as stop:
            export(*args)
        assert stop.value.code == 2
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    "args, said",
    [
        (["gs://b/run", "x.safetensors"], "WORKDIR is 'gs://b/run'; allowed: a local path"),
        (["run", "gs://b/x.safetensors"], "FILE is 'gs://b/x.safetensors'; allowed: a local path"),
        (
            ["~nosuchuser/run", "x.safetensors"],
            "WORKDIR is '~nosuchuser/run'; allowed: a path without ~",
        ),
        (["--to-workdir", "file:///w", "x.npz"], "WORKDIR is 'file:///w'; allowed: a local path"),
        (["run", ""], "FILE is ''; allowed: "),
    ],
)
def test_paths_that_are_none(place, args, said):
    code, out, err = export(*args)
    assert (code, out) == (2, "") and err.startswith(f"error: {said}") and err.count("\n") == 1
    assert not any(place.iterdir())


def test_a_drawn_seed_is_written_down(exported, place, monkeypatch):
    monkeypatch.setattr("secrets.randbelow", lambda most: 23)
    assert export("--config.seed=-1", "--to-workdir", "w", exported)[0] == 0
    assert json.loads((place / "w" / "config.json").read_text())["seed"] == 23


def test_an_override_in_two_words_is_no_workdir(exported, place):
    """Of an override that is given twice, the last one holds."""
    overrides = ("--config.forward_lr=0.5", "--config.forward_lr", "0.25", "--config.seed", "4")
    code, _, err = export(*overrides, "--to-workdir", "w", exported)
    assert code == 0, err
    saved = json.loads((place / "w" / "config.json").read_text())
    assert (saved["forward_lr"], saved["seed"]) == (0.25, 4)
    assert {path.name for path in place.iterdir()} == {"w"}


def test_in_a_step_of_several_tasks(exported, place, monkeypatch):
    """Each is on its own: this is no training."""
    for name, value in (("PROCID", "1"), ("NTASKS", "2"), ("JOB_ID", "7"), ("STEP_NUM_TASKS", "2")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_LOCALID", "1")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "here")
    code, _, err = export("--to-workdir", "run", exported)
    assert (code, err) == (0, "")


def test_without_a_device(reference, place, monkeypatch):
    def refuse():
        raise ValueError("$JAX_PLATFORMS is 'cuda': none here; allowed: cpu")

    monkeypatch.setattr(backend, "require_devices", refuse)
    code, _, err = export(reference[0], "w.safetensors")
    assert code == 2 and err == "error: $JAX_PLATFORMS is 'cuda': none here; allowed: cpu\n"
