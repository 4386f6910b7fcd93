"""dtp_jax in a notebook: the scripts of docs/library.md, batches, evaluation, whole runs."""

import re

import data_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY
from launching import TINY, launch, rows

import dtp_jax as dtp
from dtp_jax.blocks import logits
from dtp_jax.data.pipeline import augment, prepare_images
from dtp_jax.run.results import Table

pytest_plugins = ["run_fixtures"]

SCRIPTS = re.findall(
    r"```python\n(.*?)```", (REPOSITORY / "docs" / "library.md").read_text(), re.DOTALL
)
TINY_FIELDS = dict(channels=(4, 8), feedback_iterations=(2,), batch_size=32, t_max=2)


@pytest.fixture(autouse=True)
def as_it_comes(single_precision):
    """JAX as a user has it."""


def fake_split(name, count, seed=0):
    random, spec = np.random.default_rng(seed), dtp.data.DATASETS[name]
    images = random.integers(0, 256, (count, *spec.image_shape), np.uint8)
    return dtp.data.Split(images, random.integers(0, spec.classes, count).astype(np.int32))


# The scripts of the docs.


def test_the_loop_of_ones_own(place, monkeypatch, capsys):
    """25 lines at most; it trains on the MNIST that it finds, better than by chance."""
    assert len([line for line in SCRIPTS[0].splitlines() if line.strip()]) <= 25
    train, test = data_files.fake("mnist", train=700, test=50)
    bright = [split._replace(images=np.zeros_like(split.images)) for split in (train, test)]
    for split in bright:  # the label is where the light is
        for image, label in zip(split.images, split.labels, strict=True):
            image[2 * label : 2 * label + 6] = 255
    data_files.write_npz(place / "data", "mnist", *bright)
    monkeypatch.setenv("DTP_JAX_DATA", str(place / "data"))
    space = {}
    exec(compile(SCRIPTS[0], "docs/library.md", "exec"), space)
    shown = capsys.readouterr().out
    assert "conv_0" in shown and "fc2" in shown and "accuracy=" in shown
    found = dtp.evaluate(
        space["learner"], space["state"], space["images"].val, space["source"].spec
    )
    assert found.accuracy > 0.3
    assert space["state"].step == 2 * 6


def test_whole_runs(place, capsys):
    space = {}
    exec(compile(SCRIPTS[1], "docs/library.md", "exec"), space)
    shown = capsys.readouterr().out.splitlines()
    run, again = space["run"], space["again"]
    assert float(shown[-1]) == pytest.approx(run.metrics.of("train")["angle/fc"][-1], rel=1e-5)
    assert str(run.summary["test_accuracy"]) in shown[-2]
    for one, other in zip(jax.tree.leaves(run.state.forward), jax.tree.leaves(again.state.forward)):
        np.testing.assert_array_equal(one, other)
    assert run.learner.feedback_iterations == (10, 10)


# Batches.


def test_iterate_gives_the_batches_of_launch():
    spec, split = dtp.data.DATASETS["digits"], fake_split("digits", 10)
    batches = list(dtp.data.iterate(split, spec, batch_size=4, seed=3, epoch=2))
    order = dtp.data.epoch_permutation(3, 2, 10)
    assert len(batches) == 2  # the last two examples are no batch
    for k, (x, y) in enumerate(batches):
        rows_ = order[4 * k : 4 * k + 4]
        np.testing.assert_array_equal(x, prepare_images(split.images[rows_], spec, jnp.float32))
        np.testing.assert_array_equal(y, split.labels[rows_])
        assert x.dtype == jnp.float32 and y.dtype == jnp.int32


def test_iterate_augments_only_when_asked():
    spec, split = dtp.data.DATASETS["cifar10"], fake_split("cifar10", 6)
    plain, moved = (
        next(dtp.data.iterate(split, spec, batch_size=6, augmented=wanted))[0]
        for wanted in (False, True)
    )
    order = dtp.data.epoch_permutation(0, 0, 6)
    unmoved = prepare_images(split.images[order], spec, jnp.float32)
    np.testing.assert_allclose(plain, unmoved, rtol=1e-4, atol=1e-6)
    assert np.abs(moved - unmoved).max() > 1
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
    wanted = augment(key, split.images[order], flip=True, crop_padding=4)
    np.testing.assert_allclose(
        moved, prepare_images(wanted, spec, jnp.float32), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("size", [0, 11, -1, 4.0, True, None])
def test_iterate_refuses_a_batch_that_is_none(size):
    split = fake_split("digits", 10)
    allowed = "a whole number from 1 to 10, the examples$"
    with pytest.raises(ValueError, match=rf"^batch_size is {size}; allowed: {allowed}"):
        dtp.data.iterate(split, dtp.data.DATASETS["digits"], batch_size=size)


@pytest.mark.parametrize("change", [{"seed": -1}, {"epoch": 1.5}, {"spec": None}, {"split": None}])
def test_iterate_refuses_what_is_none_of_its_arguments(change):
    given = {
        "split": fake_split("digits", 10),
        "spec": dtp.data.DATASETS["digits"],
        "batch_size": 5,
    }
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"^{name} is {value}; allowed: a "):
        dtp.data.iterate(**{**given, **change})


@pytest.mark.parametrize("size", ["batch_size", "eval_batch_size"])
def test_a_feed_of_empty_batches_is_refused(size):
    spec, split = dtp.data.DATASETS["digits"], fake_split("digits", 10)
    sizes = {"batch_size": 5, "eval_batch_size": 5, size: 0}
    splits = dtp.data.Splits(split, None, split, np.arange(10))
    with pytest.raises(ValueError, match=f"^{size} is 0; allowed: a whole number, 1 or more$"):
        dtp.data.feed(spec, splits, place="device", most_steps=1, seed=0, **sizes)


WRONG_SPLITS = {
    "floats": (
        lambda x, y: (x / np.float32(255), y),
        r"images float32 \[10, 8, 8, 1\]; allowed: uint8",
    ),
    "channels first": (lambda x, y: (x.transpose(0, 3, 1, 2), y), r"images uint8 \[10, 1, 8, 8\]"),
    "more labels": (
        lambda x, y: (x, np.tile(y, 2)),
        r"labels int32 \[20\]; allowed: integers \[10\]",
    ),
    "fewer labels": (lambda x, y: (x, y[:5]), r"labels int32 \[5\]"),
    "one-hot labels": (lambda x, y: (x, np.eye(10)[y]), r"labels float64 \[10, 10\]"),
    "strange labels": (lambda x, y: (x, y + 5), r"labels from \d to 1\d; allowed: 0 to 9"),
}


@pytest.mark.parametrize("change, said", WRONG_SPLITS.values(), ids=WRONG_SPLITS)
def test_examples_that_are_none_of_the_data_set_are_refused(change, said):
    """They would be scaled twice, scrambled, or met again and again."""
    spec, split = dtp.data.DATASETS["digits"], fake_split("digits", 10)
    split = dtp.data.Split(*change(split.images, np.arange(10, dtype=np.int32)))
    with pytest.raises(ValueError, match=f"^split has {said}"):
        dtp.data.iterate(split, spec, batch_size=5)
    network = dtp.mlp(spec.image_shape, spec.classes, hidden=(6,))
    learner = dtp.Learner(network, dtp.backprop(), dtp.optim.sgd(0.1, momentum=0.0))
    state = dtp.init(learner, jax.random.key(1))
    with pytest.raises(ValueError, match=f"^split has {said}"):
        dtp.evaluate(learner, state, split, spec)


def test_images_of_any_size_leave_those_for_validation_out(monkeypatch):
    """Large ones are trained on where they lie; whoever loads them has the training images alone."""
    monkeypatch.setattr("dtp_jax.data.splits.COPIED_BYTES", 0)
    source = dtp.data.locate("digits")
    found = dtp.data.load_splits(source, val_split=0.125, seed=0)
    assert len(found.train.labels) + len(found.val.labels) == source.train_examples
    as_it_lies = dtp.data.load_splits(source, val_split=0.125, seed=0, copied=None)
    assert len(as_it_lies.train.labels) == source.train_examples
    np.testing.assert_array_equal(
        found.train.images, as_it_lies.train.images[as_it_lies.train_indices]
    )


# Evaluation.


def test_evaluate_from_the_definition():
    """Of 11 images in batches of 4, whose last is no full one; a second call compiles nothing."""
    spec, split = dtp.data.DATASETS["digits"], fake_split("digits", 11)
    network = dtp.mlp(spec.image_shape, spec.classes, hidden=(6,))
    learner = dtp.Learner(network, dtp.backprop(), dtp.optim.sgd(0.1, momentum=0.0))
    state = dtp.init(learner, jax.random.key(1))
    found = dtp.evaluate(learner, state, split, spec, batch_size=4)
    outputs = np.asarray(
        logits(network, state.forward, prepare_images(split.images, spec, jnp.float32))
    )
    wanted = outputs[np.arange(11), split.labels]
    assert found.accuracy == pytest.approx(np.mean(outputs.argmax(1) == split.labels))
    assert found.top5_accuracy == pytest.approx(np.mean((outputs > wanted[:, None]).sum(1) < 5))
    log_sum = np.log(np.exp(outputs).sum(1))
    assert found.loss == pytest.approx(np.mean(log_sum - wanted), rel=1e-5)
    from dtp_jax.run import notebook

    before = notebook.EVALUATORS.cache_info().misses
    dtp.evaluate(learner, state, split, spec, batch_size=4)
    assert notebook.EVALUATORS.cache_info().misses == before


def test_evaluate_refuses_what_is_none_of_its_arguments():
    spec = dtp.data.DATASETS["digits"]
    learner = dtp.Learner(
        dtp.mlp(spec.image_shape, 10, hidden=(6,)), dtp.backprop(), dtp.optim.sgd(0.1, momentum=0.0)
    )
    state = dtp.init(learner, jax.random.key(1))
    given = {"learner": learner, "state": state, "split": fake_split("digits", 5), "spec": spec}
    for name, value, allowed in (
        ("split", None, "a dtp_jax.data.Split of images and labels; Splits.val is None where val"),
        ("spec", "digits", "a data set, such as "),
        ("state", None, "a TrainState, "),
        ("learner", None, "a dtp_jax.Learner"),
        *(("batch_size", value, "a whole number, 1 or more") for value in (0, -3, 2.0, None)),
    ):
        with pytest.raises(ValueError, match=f"^{name} is {value!r}; allowed: {allowed}"):
            dtp.evaluate(**{**given, name: value})


# Whole runs.


def test_train_is_launch(place):
    """The same bits and lines, from a name, a file, and a dict; the fields are its arguments."""
    assert launch("--workdir=w", *TINY, "--config.max_steps=3").code == 0
    fields = dict(TINY_FIELDS, max_steps=3)
    by_name = dtp.train("digits_dtp", "n", quiet=True, **fields)
    by_dict = dtp.train(by_name.experiment.config, "d", quiet=True)
    wanted = [row["loss"] for row in rows(place / "w", "train")]
    for run in (by_name, by_dict):
        assert run.metrics.of("train")["loss"].tolist() == wanted
        assert run.summary["steps"] == 3 and int(run.state.step) == 3
    told = by_name.summary["provenance"]
    assert told["command"].startswith("dtp_jax.train('digits_dtp', workdir='n', channels=(4, 8)")
    assert told["overrides"][0] == "channels=(4, 8)"


def test_train_goes_on_and_is_silent_if_asked(place, capsys):
    fields = dict(TINY_FIELDS, max_steps=2)
    dtp.train("digits_dtp", "w", quiet=True, **fields)
    run = dtp.train("digits_dtp", "w", quiet=True, **fields | {"max_steps": 4})
    assert run.metrics.of("train")["step"].tolist() == [1, 2, 3, 4]
    assert capsys.readouterr().out == ""
    dtp.train("digits_dtp", "w", **fields | {"max_steps": 4})  # finished: nothing to do


def test_train_refuses_in_the_words_of_the_command_line(place):
    with pytest.raises(ValueError, match=r"^config.channels is \(8,\), which makes 1 feedback map"):
        dtp.train("digits_dtp", "w", channels=(8,))
    with pytest.raises(ValueError, match=r"^config.leraning_rate: no such field; did you mean"):
        dtp.train("digits_dtp", "w", leraning_rate=1)
    assert not list(place.iterdir())


def test_seeds_that_do_not_begin_say_why(place, capsys):
    data_files.write_npz(place / "data", "mnist", *data_files.fake("mnist"))
    file = place / "data/mnist.npz"
    file.write_bytes(file.read_bytes()[:200])
    options = {"seeds": 2, "data_dir": "data", "batch_size": 2}
    with pytest.raises(dtp.data.DataError, match="mnist"):
        dtp.train_seeds("mnist_mlp:backprop", "w", **options)
    labels = np.full(60, 11)
    train, test = data_files.fake("mnist")
    data_files.write_npz(place / "data", "mnist", train, test, y_train=labels[: len(train.labels)])
    with pytest.raises(dtp.data.DataError, match=r"seed 0 did not begin: failed \(exit code 3\)"):
        dtp.train_seeds("mnist_mlp:backprop", "w", **options)
    assert "labels" in capsys.readouterr().err


def test_load_run_changes_nothing(reference):
    from launching import tree

    folder, _ = reference
    before = tree(folder)  # two epochs, with a row each
    run = dtp.load_run(folder)
    assert tree(folder) == before
    assert run.summary["steps"] == int(run.state.step) == 78
    assert repr(run.metrics).startswith(
        f"Table of {len(rows(folder)) + 2} rows: step, epoch, split, loss"
    )
    best = dtp.load_run(folder, best=True)
    assert int(best.state.step) == run.summary["best_val_step"]


def test_a_table_of_a_run_that_is_being_written(place):
    (place / "m.jsonl").write_text(
        '{"step": 1, "split": "train", "loss": 2.0}\n{"step": 1, "split": "val", "loss": null, '
        '"accuracy": 0.5}\n{"step": 2, "spl'
    )
    from dtp_jax.run.results import read_metrics

    table = read_metrics(place / "m.jsonl")
    assert table["step"].tolist() == [1, 1] and np.isnan(table["loss"][1])
    assert table.of("train").keys() == {"step", "split", "loss"}
    assert table.of("val")["accuracy"].tolist() == [0.5]
    assert read_metrics(place / "none").of("train") == {}


def test_load_run_of_a_folder_without_a_run(place):
    for path, lacks in ((place, "its config.json is missing"), (place / "no", "it does not exist")):
        with pytest.raises(ValueError, match=f"{lacks}; allowed: the folder of a run"):
            dtp.load_run(path)


# Names.


def test_public_names_stay_where_they_are():
    names = """Activations Block Learner Metrics Network Record Rule TrainState analytic backprop blocks
    chain conv_block dense_block drl dtp feedback forward_all fw_dtp init ldrl lenet metrics meulemans mlp
    networks ops optim resnet18 resnet34 rules simple_vgg step tp train_step __version__"""
    assert set(names.split()) <= set(dtp.__all__)
    added = {"Alignment", "data", "direct_feedback_alignment", "evaluate", "feedback_alignment"}
    assert added | {"load_run", "prepare", "train"} <= set(dtp.__all__)
    for name in dtp.__all__:
        assert getattr(dtp, name) is not None
    import dtp_jax.feedback
    import dtp_jax.metrics
    import dtp_jax.optim

    assert dtp_jax.metrics.angle is dtp.metrics.angle
    assert dtp_jax.optim.sgd is dtp.optim.sgd
    assert dtp_jax.feedback.train_feedback_map is dtp.feedback.train_feedback_map


def test_iterate_augments_every_batch_and_epoch_anew():
    """Of one image, repeated: as its own variants where its batches, epochs and seeds differ."""
    spec, split = dtp.data.DATASETS["cifar10"], fake_split("cifar10", 1)
    split = dtp.data.Split(np.repeat(split.images, 16, 0), np.repeat(split.labels, 16))
    seen = [
        np.asarray(images).tobytes()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
        for images, _ in dtp.data.iterate(
            split, spec, batch_size=8, seed=seed, epoch=epoch, augmented=True
        )
    ]
    assert len(seen) == 6 == len(set(seen))


def test_minutes_of_training_at_a_changing_speed():
    """Two epochs of 600 steps of 10 images, at 100 and at 50 images/s: one minute and two more."""
    rows = [
        {"step": 600, "epoch": 1, "split": "epoch", "images_per_second": 100.0},
        {"step": 600, "epoch": 1, "split": "val", "accuracy": 0.5},
        {"step": 1200, "epoch": 2, "split": "epoch", "images_per_second": 50.0},
    ]
    assert Table.of_rows(rows).minutes(10) == pytest.approx({1: 1.0, 2: 3.0})


def of_a_pass(epoch, split="train", local=False, **numbers):
    """Two steps of a pass, the second of which ends it: (loss, accuracy) of each, what is measured after it."""
    rows = []
    for loss, accuracy in numbers.pop("steps"):
        row = {"step": 1, "epoch": epoch, "split": split, "loss": loss, "accuracy": accuracy}
        rows.append(row | ({"forward_loss/fc": 0.5} if local else {}))
    rows[-1] |= {f"{kind}/fc": number for kind, number in numbers.items()}
    return rows


STILL = {"steps": [(9.0, 0.0), (9.0, 0.0)], "feedback_loss": 4.0}
"""Of a pass that trains feedback maps alone."""


@pytest.mark.parametrize("before", [False, True])
def test_numbers_by_epoch_are_those_of_the_pass_that_moves_the_weights(before):
    """Whether the pass that trains feedback maps alone comes before it (s-DDTP) or after it (DRL)."""
    moves = {"local": True, "steps": [(2.0, 0.25), (1.0, 0.75)], "feedback_loss": 2.0}
    rows = of_a_pass(0, **STILL)
    for epoch in (1, 2):
        passes = [(STILL, 60.0 / epoch), (moves, 40.0 / epoch)]
        for one, angle in passes if before else reversed(passes):
            rows += of_a_pass(epoch, **one, angle=angle)
        rows.append({"step": 1, "epoch": epoch, "split": "val", "loss": 7.0, "accuracy": 0.5})
    rows += of_a_pass(3, **STILL)  # the weights have yet to move
    table = Table.of_rows(rows)
    for one in (table, table.of("train")):
        assert one.by_epoch("accuracy") == {1: 0.5, 2: 0.5}
        assert one.by_epoch("loss") == {1: 1.5, 2: 1.5}
        assert one.by_epoch("feedback_loss/fc") == {1: 3.0, 2: 3.0, 3: 4.0}
        assert one.by_epoch("angle/fc") == ({1: 40.0, 2: 20.0} if before else {1: 60.0, 2: 30.0})
    assert table.of("train").by_epoch("accuracy", first=0).keys() == {1, 2}
    assert table.of("train").by_epoch("feedback_loss/fc", first=0)[0] == 4.0


def test_without_local_losses_all_steps_of_an_epoch_count():
    """Backprop, and pre-training of a rule that has not come to its first epoch."""
    rows = of_a_pass(1, steps=[(2.0, 0.25), (1.0, 0.75)], angle=3.0)
    rows += of_a_pass(1, steps=[(None, None), (6.0, 0.5)])
    table = Table.of_rows(rows)
    assert table.by_epoch("loss") == {1: 3.0} and table.by_epoch("accuracy") == {1: 0.5}
    assert table.by_epoch("angle/fc") == {1: 3.0} and table.by_epoch("nix") == {}


def test_what_is_measured_after_an_epoch_is_what_was_measured_last():
    """Of an epoch that ended early and was gone on with, too."""
    rows = of_a_pass(1, "val", steps=[(2.0, 0.25), (1.0, 0.75)])
    assert Table.of_rows(rows).by_epoch("accuracy") == {1: 0.75}
    measured = [("diagnostics", "update_angle/fc", v) for v in (9.0, 5.0, None)]
    measured += [("feedback", "loss_first/fc", v) for v in (3.0, 2.0)]  # no loss of training
    rows += [{"epoch": 1, "split": split, name: v} for split, name, v in measured]
    table = Table.of_rows([*rows, *of_a_pass(1, steps=[(4.0, 0.0), (2.0, 1.0)])])
    assert table.by_epoch("update_angle/fc") == {1: 5.0}
    assert table.by_epoch("loss_first/fc") == {1: 2.0}
    assert table.by_epoch("accuracy") == {1: 0.5}
    assert table.of("val").by_epoch("accuracy") == {1: 0.75}
