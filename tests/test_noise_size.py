"""benchmarks.noise: what it prints is what training by the written-out loss comes to."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import REPOSITORY

from benchmarks import noise
from dtp_jax.blocks import forward_all
from dtp_jax.data import iterate, load_splits, locate
from dtp_jax.learning import metrics
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config

BATCHES = 3


def experiment(**fields):
    small = {"channels": (4, 6)}
    return validate(load_config("digits_dtp").config.to_dict() | small | fields)


def of_dense_layers(fields):
    """The config with an MLP, which compiles sooner."""
    return validate(fields | {"network": "mlp", "channels": (), "hidden": (6, 5)})


@pytest.fixture(scope="module")
def made():
    learner = build_learner(experiment(), 1)
    return learner, noise.prepared(experiment(), learner, BATCHES)


def test_the_distance_is_that_of_a_map_trained_by_the_written_loss(made):
    learner, setting = made
    network, state = learner.network, setting.state
    block, training, optimizer = (
        network[1],
        learner.rule.feedback_training,
        learner.feedback_optimizers[0],
    )
    theta, omega = state.forward[block.name], state.feedback[block.name]

    @jax.jit
    def once(omega, opt_state, activations, key):
        draws = training.draw_noise(key, block, len(setting.labels), jnp.float32)
        gradient = jax.grad(training.loss, argnums=2)(
            network, state.forward, omega, 1, activations, draws
        )
        changes, opt_state = optimizer.update(gradient, opt_state, omega)
        return optax.apply_updates(omega, changes), opt_state

    opt_state = optimizer.init(omega)
    for k, images in enumerate(setting.batches):
        activations = forward_all(network, state.forward, images)
        of_map = jax.random.fold_in(jax.random.fold_in(state.key, k), 1)
        for iteration in range(learner.feedback_iterations[0]):
            key = jax.random.fold_in(jax.random.fold_in(of_map, iteration), 0)
            omega, opt_state = once(omega, opt_state, activations, key)
    x = forward_all(network, state.forward, setting.images).h[1]
    expected, untrained = (
        float(metrics.jacobian_distance(block, theta, parameters, x, jax.random.key(1)))
        for parameters in (omega, state.feedback[block.name])
    )
    got = noise.distances(learner, setting)[block.name]
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    assert abs(got - untrained) > 0.01


def test_the_batches_are_the_first_ones_of_the_run_and_one_more_is_measured_on():
    mine = experiment(train_images=4 * 32, batch_size=32, val_per_class=20, seed=3)
    found = noise.prepared(mine, build_learner(mine, 1), BATCHES)
    splits = load_splits(locate("digits"), 0.1, 3, val_per_class=20)
    split = type(splits.train)(*(a[splits.train_indices[: 4 * 32]] for a in splits.train))
    run = [images for images, _ in iterate(split, mine.data, batch_size=32, seed=3)]
    for images, expected in zip([*found.batches, found.images], run, strict=True):
        np.testing.assert_array_equal(images, expected)


def test_each_noise_is_a_column_and_a_linear_map_has_the_same_in_all(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(noise, "validate", of_dense_layers)
    file = tmp_path / "found.json"
    given = ["--config=digits_dtp", "--noises=0.1,0.001,0.1", "--batches=2", f"--json={file}"]
    assert noise.main(given) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [list(row) for row in rows] == 2 * [["map", "activations", "0.1", "0.001"]]
    hidden, readout = rows
    assert [row["map"] for row in rows] == ["fc2", "fc3"]
    assert hidden["0.1"] != hidden["0.001"]
    # A readout is linear: its loss is the square of the noise times one that has none, and so is 1 / its rate.
    np.testing.assert_allclose(readout["0.1"], readout["0.001"], rtol=1e-3)
    printed = capsys.readouterr().out
    for row in rows:
        cells = [line for line in printed.splitlines() if row["map"] in line][0].split()
        assert {f"{value:.3g}" for name, value in row.items() if name != "map"} < set(cells)


@pytest.mark.parametrize("name", ["resnet18", "digits"])
def test_the_page_has_the_numbers_of_the_file(name):
    file = REPOSITORY / f"benchmarks/results/2026-11-28_noise_{name}_cpu.json"
    page = (REPOSITORY / "docs/add_a_network.md").read_text()
    assert f"(../{file.relative_to(REPOSITORY)})" in page
    for row in json.loads(file.read_text())["rows"]:
        block, activations, *distances = row.values()
        cells = [block, f"{activations:.3f}", *(f"{one:.2f}" for one in distances)]
        assert f"| {' | '.join(cells)} |" in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config=digits_backprop"], "--config is 'digits_backprop'; allowed: one of L-DRL"),
        (["--config=mnist_mlp:dtp"], "allowed: one of L-DRL: maps of dtp have another goal"),
        (["--noises=-1"], "--noises: is '-1'; allowed: a finite number above 0"),
        (["--noises=0"], "--noises: is '0'"),
        (["--noises=0.1,"], "--noises: is ''"),
        (["--batches=0"], "--batches: is '0'; allowed: a whole number, 1 or more"),
        (
            ["--config=digits_dtp", "--batches=1000"],
            "--batches is 1000; allowed: 1 to 38, with one",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(flags, said, capsys, monkeypatch):
    monkeypatch.setattr(noise, "forward_all", None)  # nothing is computed before
    with pytest.raises(SystemExit):
        noise.main(flags)
    assert said in capsys.readouterr().err


def test_one_batch_alone_asks_for_smaller_ones():
    whole = experiment(batch_size=1200)
    with pytest.raises(noise.DataError, match="--batches is 1; allowed: a smaller batch_size"):
        noise.prepared(whole, build_learner(whole, 1), 1)


def test_a_rate_of_sgd_fits_the_noise_that_is_tried_and_one_of_adam_stays():
    fields = load_config("digits_dtp").config.to_dict()
    own = validate(fields).config
    tried = noise.with_noise(fields, 0.01).config
    assert set(tried["noise"]) == {0.01}
    expected = [r * (s / 0.01) ** 2 for r, s in zip(own["feedback_lr"], own["noise"], strict=True)]
    np.testing.assert_allclose(tried["feedback_lr"], expected)
    by_adam = noise.with_noise(fields | {"feedback_optimizer": "adam"}, 0.01).config
    assert by_adam["feedback_lr"] == own["feedback_lr"]
