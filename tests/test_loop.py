"""Runs from start to end: their files, and that nothing which stops them changes a number."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow
from launching import (
    STEPS_PER_EPOCH,
    TINY,
    arrays,
    assert_same_run,
    checkpoint_steps,
    launch,
    rows,
    summary,
    tree,
)

from dtp_jax.blocks import forward_all
from dtp_jax.data import epoch_permutation, load_splits, locate, prepare_images, stream
from dtp_jax.learning import learner
from dtp_jax.run import config, loop, workdir
from dtp_jax.run.build import build_learner

pytest_plugins = ["run_fixtures"]

DENSE = (
    "--config.network=mlp",
    "--config.channels=()",
    "--config.hidden=16,8",
    "--config.feedback_iterations=2",
)


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does: nothing in dtp_jax catches it."""


def killed(monkeypatch, owner, name, call, *args, before=None):
    """A run that dies in the call number `call` of owner.name, after `before(*its arguments)`."""
    real, calls = getattr(owner, name), []

    def dying(*given, **options):
        calls.append(given)
        if len(calls) == call:
            if before is not None:
                before(*given)
            raise Killed
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            launch(*args)


@pytest.fixture(scope="module")
def experiment(reference):
    return config.validate(json.loads((reference[0] / "config.json").read_text()))


@pytest.fixture(scope="module")
def splits(experiment):
    return load_splits(locate("digits"), experiment.config["val_split"], experiment.config["seed"])


def accuracy_of(experiment, split, forward, top=1):
    """Straight from the definition, the whole split at once."""
    x = prepare_images(split.images, experiment.data, jnp.float32)
    logits = np.asarray(forward_all(experiment.network, forward, x).h[-1])
    above = (logits > np.take_along_axis(logits, split.labels[:, None], 1)).sum(1)
    return np.mean(above < top)


def restored_forward(folder, experiment, step):
    like = jax.eval_shape(
        lambda k: learner.init(build_learner(experiment, 1), k), jax.random.key(0)
    )
    return workdir.Checkpoints(folder.absolute() / "checkpoints", 3).restore(step, like)[0].forward


def test_files_of_a_run(reference):
    folder, _ = reference
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "tensorboard",
    }
    steps = 2 * STEPS_PER_EPOCH
    train, val, test = (rows(folder, split) for split in ("train", "val", "test"))
    assert [row["step"] for row in train] == list(range(1, steps + 1))
    assert [row["epoch"] for row in train] == [1] * STEPS_PER_EPOCH + [2] * STEPS_PER_EPOCH
    assert [(row["step"], row["epoch"]) for row in val] == [(STEPS_PER_EPOCH, 1), (steps, 2)]
    assert [(row["step"], row["epoch"]) for row in test] == [(steps, 2)]
    assert len(rows(folder)) == len(train) + len(val) + len(test)
    for row in train:
        assert {"loss", "accuracy", "feedback_loss/conv_1", "feedback_loss/fc"} <= set(row)
        angles = {key for key in row if key.startswith("angle/")}
        assert angles == (
            {"angle/conv_1", "angle/fc"} if row["step"] in (STEPS_PER_EPOCH, steps) else set()
        )
        assert all(0 < row[key] < 180 for key in angles)
    for row in val + test:
        assert set(row) == {"step", "epoch", "split", "loss", "accuracy", "top5_accuracy"}
    assert all(0 <= row["accuracy"] <= 1 for row in rows(folder))


def test_summary(reference, experiment, splits):
    folder, _ = reference
    found, val, test = summary(folder), rows(folder, "val"), rows(folder, "test")
    assert [found[key] for key in ("rule", "network", "dataset", "seed", "epochs", "steps")] == [
        "ldrl",
        "simple_vgg",
        "digits",
        0,
        2,
        2 * STEPS_PER_EPOCH,
    ]
    assert found["val_accuracy"] == val[-1]["accuracy"]
    assert found["test_accuracy"] == test[0]["accuracy"]
    assert found["test_top5_accuracy"] == test[0]["top5_accuracy"]
    assert 0 < found["wall_seconds"] < 600 and found["images_per_second"] > 0
    assert jax.devices()[0].device_kind in found["device"]
    assert found["versions"]["jax"] == jax.__version__ and "dtp_jax" in found["versions"]
    forward = restored_forward(folder, experiment, found["steps"])
    assert found["test_accuracy"] == pytest.approx(accuracy_of(experiment, splits.test, forward))
    assert found["test_top5_accuracy"] == pytest.approx(
        accuracy_of(experiment, splits.test, forward, top=5)
    )
    assert found["val_accuracy"] == pytest.approx(accuracy_of(experiment, splits.val, forward))


def test_the_best_validation_checkpoint_is_kept_and_tested(place, monkeypatch, experiment, splits):
    """The second of four epochs is made the best, long after which newer checkpoints push it out."""
    evaluate, best = loop.Run.evaluate, 2 * STEPS_PER_EPOCH
    monkeypatch.setattr(
        loop.Run,
        "evaluate",
        lambda self, split, *rest: evaluate(self, split, *rest)._replace(
            **{"accuracy": 0.99} if split == "val" and self.progress.step == best else {}
        ),
    )
    args = (
        *TINY,
        "--workdir=w",
        "--config.epochs=4",
        "--config.checkpoint_every=9",
        "--config.keep_checkpoints=1",
    )
    killed(monkeypatch, loop.Run, "_save", 13, *args)  # and the process that knew it best is gone
    assert launch(*args).code == 0
    assert checkpoint_steps(place / "w") == [best, 4 * STEPS_PER_EPOCH]
    found = summary(place / "w")
    assert (found["best_val_step"], found["best_val_accuracy"]) == (best, 0.99)
    of_best = accuracy_of(experiment, splits.test, restored_forward(place / "w", experiment, best))
    assert found["test_accuracy_of_best_val"] == pytest.approx(of_best)
    assert found["test_accuracy"] == rows(place / "w", "test")[0]["accuracy"]
    assert found["val_accuracy"] == rows(place / "w", "val")[-1]["accuracy"]
    assert found["test_accuracy"] != found["test_accuracy_of_best_val"]


def test_the_loop_takes_the_steps_of_train_step(place, splits):
    """A plain loop over batches in the order of the epoch, without chunks and checkpoints."""
    assert launch("--workdir=w", *DENSE, "--config.max_steps=42", "--config.seed=3").code == 0
    experiment = config.validate(json.loads((place / "w" / "config.json").read_text()))
    fields, train = experiment.config, splits.train
    with jax.enable_x64(False):
        own = build_learner(experiment, STEPS_PER_EPOCH)
        state = learner.init(own, jax.random.key(fields["seed"]))
        step = jax.jit(lambda *given: learner.train_step(own, *given))
        wanted = rows(place / "w", "train")
        for k in range(42):
            epoch, position = divmod(k, STEPS_PER_EPOCH)
            batch = epoch_permutation(fields["seed"], epoch, len(train.labels))[32 * position :][
                :32
            ]
            images = prepare_images(jnp.asarray(train.images[batch]), experiment.data, jnp.float32)
            state, found = step(state, images, jnp.asarray(train.labels[batch]))
            assert wanted[k]["loss"] == pytest.approx(float(found.loss), rel=1e-3)
            for name, value in found.feedback_loss.items():
                assert wanted[k][f"feedback_loss/{name}"] == pytest.approx(
                    float(value), rel=1e-2, abs=1e-3
                )


def test_a_finished_run_is_left_alone(reference):
    folder, args = reference
    before = tree(folder)
    found = launch(f"--workdir={folder}", *args)
    assert found.code == 0 and "finished" in found.out and "test_accuracy" in found.out
    assert f"{summary(folder)['test_accuracy']:.4f}" in found.out
    assert tree(folder) == before


def test_streamed_images_change_no_number(place, monkeypatch, reference):
    """Nor does a run that goes on with them where one with resident images stopped."""
    folder, args = reference
    monkeypatch.setattr(stream, "CHUNK_BYTES", 5 * 32 * 64)  # 5 steps of the 7 of an interval
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e9)
    assert launch("--workdir=w", "--config.images_on=host", *args).code == 0
    assert_same_run(place / "w", folder)
    killed(monkeypatch, loop.Run, "_train_some", 3, "--workdir=v", *args)
    assert launch("--workdir=v", "--config.images_on=host", *args).code == 0
    assert_same_run(place / "v", folder)


@pytest.mark.parametrize("seconds", [slow(0.0), 1e9], ids=["one step", "as long as possible"])
def test_the_length_of_a_chunk_changes_no_number(place, monkeypatch, reference, seconds):
    folder, args = reference
    counts, steps_of_next_chunk = set(), loop.Run.steps_of_next_chunk

    def counted(run):
        counts.add(steps_of_next_chunk(run))
        return steps_of_next_chunk(run)

    monkeypatch.setattr(loop, "CHUNK_SECONDS", seconds)
    monkeypatch.setattr(loop.Run, "steps_of_next_chunk", counted)
    assert launch("--workdir=w", *args).code == 0
    assert counts == {1} if seconds == 0 else max(counts) == 7
    assert_same_run(place / "w", folder)


def write_half_a_line(workdir_, lines):
    workdir_.metrics_file.open("a").write(json.dumps({**lines[0], "step": 10**6})[:40])


@pytest.mark.parametrize(
    "owner, name, call, before",
    [
        slow(loop.Run, "_save", 2, None),  # its steps are in metrics.jsonl, but in no checkpoint
        slow(loop.Run, "_save", 12, None),  # in the middle of the second epoch
        slow(workdir.Checkpoints, "steps", 20, None),
        (loop.Run, "_compile", 1, None),  # before the first step
        (workdir.Workdir, "append_metrics", 9, write_half_a_line),
        slow(workdir, "write_json", 1, None),  # config.json: nothing is there yet
        (workdir.Workdir, "write_summary", 1, None),  # summary.json: everything else is there
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_killed_run_ends_with_the_same_bits(
    place, monkeypatch, reference, owner, name, call, before
):
    folder, args = reference
    killed(monkeypatch, owner, name, call, "--workdir=w", *args, before=before)
    assert not (place / "w" / "summary.json").exists()
    assert launch("--workdir=w", *args).code == 0
    assert_same_run(place / "w", folder)


@pytest.mark.slow
def test_killed_again_and_again(place, monkeypatch, reference):
    folder, args = reference
    for call in (2, 1, 2, 5):
        killed(monkeypatch, loop.Run, "_save", call, "--workdir=w", *args)
    found = launch("--workdir=w", *args)
    assert found.code == 0 and f"from step 39 of {2 * STEPS_PER_EPOCH}" in found.out
    assert_same_run(place / "w", folder)


def truncate(checkpoint):
    largest = max(checkpoint.glob("state/**/d/*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip(checkpoint):
    largest = max(checkpoint.glob("state/**/d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def remove(checkpoint):
    (checkpoint / "state" / "manifest.ocdbt").unlink()


@pytest.mark.parametrize("damage", [slow(truncate), flip, slow(remove)])
def test_a_damaged_checkpoint_is_passed_over(place, monkeypatch, reference, damage):
    folder, args = reference
    killed(monkeypatch, loop.Run, "_save", 5, "--workdir=w", *args)
    assert checkpoint_steps(place / "w") == [14, 21, 28]
    damage(place / "w" / "checkpoints" / "28")
    found = launch("--workdir=w", *args)
    assert found.code == 0 and "going on from step 21 of" in found.out
    assert "checkpoint 28 cannot be used" in found.err and len(found.err.splitlines()) == 1
    assert_same_run(place / "w", folder)


def test_a_finished_run_goes_on_with_more_steps(place, reference):
    """In both, step 50 ends a run; what comes after it does not know."""
    folder, args = reference
    assert launch("--workdir=w", *args, "--config.max_steps=50").code == 0
    assert summary(place / "w")["steps"] == rows(place / "w", "test")[-1]["step"] == 50
    assert (
        "angle/fc" in rows(place / "w", "train")[-1]
    )  # the last step of a run has them, whatever the epoch
    wall_seconds = summary(place / "w")["wall_seconds"]
    assert launch("--workdir=w", *args, "--config.max_steps=40").out.count("finished") == 1
    assert "max_steps is 50; --config.max_steps=0 goes on" in launch("--workdir=w", *args).out
    found = launch("--workdir=w", *args, "--config.max_steps=0")
    assert found.code == 0 and "going on from step 50 of 78" in found.out
    assert summary(place / "w")["steps"] == 78
    assert arrays(place / "w") == arrays(folder)
    assert summary(place / "w")["test_accuracy"] == summary(folder)["test_accuracy"]
    assert [row["step"] for row in rows(place / "w", "train")] == list(range(1, 79))
    assert [row["step"] for row in rows(place / "w", "test")] == [50, 78]
    assert summary(place / "w")["wall_seconds"] > wall_seconds  # of all processes together
    # The line of the epoch is about all of its steps, also those of the process before.
    epoch = [row for row in rows(place / "w", "train") if row["epoch"] == 2]
    loss, accuracy = (np.mean([row[key] for row in epoch]) for key in ("loss", "accuracy"))
    assert f"loss {loss:.3f} acc {accuracy:.3f}" in found.out


@pytest.mark.parametrize(
    "options, steps",
    [
        (("--config.checkpoint_every=0",), [39, 78]),
        (
            ("--config.checkpoint_every=30",),
            [39, 60, 78],
        ),  # 39 was the best so far; 30 is one too many
        (("--config.checkpoint_every=3", "--config.max_steps=5"), [3, 5]),
    ],
)
def test_when_checkpoints_are_written(place, options, steps):
    assert launch("--workdir=w", *TINY, "--config.epochs=2", *options).code == 0
    assert checkpoint_steps(place / "w") == steps


def test_without_validation(place):
    """All 1,437 digits are trained on: 44 batches."""
    found = launch("--workdir=w", *DENSE, "--config.epochs=1", "--config.val_split=0")
    assert found.code == 0 and "  val " not in found.out
    assert summary(place / "w")["val_accuracy"] is None
    assert checkpoint_steps(place / "w") == [44]
    assert not [key for key in summary(place / "w") if "best" in key]
    assert rows(place / "w", "val") == [] and len(rows(place / "w", "train")) == 44


def test_what_is_logged(place):
    assert (
        launch(
            "--workdir=w",
            *TINY,
            "--config.epochs=1",
            "--config.log_every=10",
            "--config.diagnostics=False",
        ).code
        == 0
    )
    assert [row["step"] for row in rows(place / "w", "train")] == [10, 20, 30]
    assert not [
        key for row in rows(place / "w") for key in row if "angle" in key or "distance" in key
    ]


def test_backprop_logs_no_feedback(place):
    assert launch("--workdir=w", "--config.rule=backprop", *DENSE, "--config.epochs=1").code == 0
    assert set(rows(place / "w", "train")[-1]) == {"step", "epoch", "split", "loss", "accuracy"}


@pytest.mark.parametrize(
    "option, block", [("forward_lr=1e30", "fc[123]"), ("feedback_lr=1e-2,1e30", "fc3")]
)
def test_divergence(place, option, block):
    name = option.split("=")[0]
    args = (
        "--workdir=w",
        *DENSE,
        f"--config.{option}",
        "--config.epochs=1",
        "--config.checkpoint_every=1",
    )
    found = launch(*args)
    assert found.code == 4 and not (place / "w" / "summary.json").exists()
    assert len(found.err.splitlines()) == 1
    said = rf"step (\d+): .* is not finite; suspect: block {block}, config\.{name} 1e\+30; (.*)"
    step, last_good = re.search(said, found.err).groups()
    good = checkpoint_steps(place / "w")
    if good:
        assert good[-1] < int(step) and last_good.endswith(f"checkpoints/{good[-1]}")
        for dtype, _, content in arrays(place / "w").values():
            assert np.isfinite(np.frombuffer(content, dtype)).all()
    else:
        assert last_good == "no checkpoint yet"
    assert launch(*args).code == 4
