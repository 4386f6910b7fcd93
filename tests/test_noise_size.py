"""benchmarks.noise: what it prints is what training by the written-out loss comes to."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import noise
from dtp_jax.learning import metrics
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config

BATCHES = 3


@pytest.fixture(scope="module")
def made():
    experiment = validate(load_config("digits_dtp").config.to_dict())
    learner = build_learner(experiment, 1)
    return learner, noise.given(experiment, learner, BATCHES)


def test_the_distance_is_that_of_a_map_trained_by_the_written_loss(made):
    learner, found = made
    block, training = learner.network[1], learner.rule.feedback_training
    forward, omega = found.state.forward, found.state.feedback[block.name]
    optimizer, network = learner.feedback_optimizers[0], learner.network

    @jax.jit
    def once(omega, opt_state, activations, key):
        draws = training.draw_noise(key, block, len(activations.h[0]), jnp.float32)
        gradient = jax.grad(training.loss, argnums=2)(
            network, forward, omega, 1, activations, draws
        )
        changes, opt_state = optimizer.update(gradient, opt_state, omega)
        return optax.apply_updates(omega, changes), opt_state

    opt_state = optimizer.init(omega)
    keys = jax.random.split(jax.random.key(0), BATCHES)
    for k in range(BATCHES):
        activations = jax.tree.map(lambda a, k=k: a[k], found.batches)
        for iteration in range(learner.feedback_iterations[0]):
            key = jax.random.fold_in(jax.random.fold_in(keys[k], iteration), 0)
            omega, opt_state = once(omega, opt_state, activations, key)
    x = found.held.h[1]
    expected = metrics.jacobian_distance(block, forward[block.name], omega, x, jax.random.key(1))
    untrained = metrics.jacobian_distance(
        block, forward[block.name], found.state.feedback[block.name], x, jax.random.key(1)
    )
    got = noise.distance(learner, 0, found)
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    assert abs(got - untrained) > 0.01


def test_the_batch_that_is_measured_on_is_not_trained_on(made):
    images = np.concatenate(
        [made[1].batches.h[0].reshape(-1, 64), made[1].held.h[0].reshape(-1, 64)]
    )
    assert len(np.unique(images, axis=0)) == len(images)


def test_each_noise_is_a_column_and_a_linear_map_has_the_same_in_all(tmp_path, capsys):
    file = tmp_path / "found.json"
    given = ["--config=digits_dtp", "--noises=0.1,0.001", "--batches=2", f"--json={file}"]
    assert noise.main(given) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["map"] for row in rows] == ["conv_1", "fc"]
    conv, fc = rows
    assert conv["0.1"] != conv["0.001"]
    # A readout is linear: its loss is the square of the noise times one that has none, and so is 1 / its rate.
    np.testing.assert_allclose(fc["0.1"], fc["0.001"], rtol=1e-3)
    assert f"{rows[0]['0.001']:.3g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config=digits_backprop"], "allowed: one whose rule trains feedback maps"),
        (["--config=digits_dtp", "--noises=-1"], "config.noise"),
        (["--config=digits_dtp", "--noises=0"], "config.noise"),
        (["--config=digits_dtp", "--noises=a"], "'a'"),
        (["--batches=0"], "--batches is 0"),
        (["--config=digits_dtp", "--batches=1000"], "--batches is 1000; allowed: 1 to"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(flags, said, capsys):
    with pytest.raises(SystemExit):
        noise.main(flags)
    assert said in capsys.readouterr().err


def test_a_rate_of_sgd_fits_the_noise_that_is_tried_and_one_of_adam_stays():
    fields = load_config("digits_dtp").config.to_dict()
    own = validate(fields).config
    tried = noise.with_noise(fields, 0.01).config
    assert set(tried["noise"]) == {0.01}
    expected = [r * (s / 0.01) ** 2 for r, s in zip(own["feedback_lr"], own["noise"], strict=True)]
    np.testing.assert_allclose(tried["feedback_lr"], expected)
    by_adam = noise.with_noise(fields | {"feedback_optimizer": "adam"}, 0.01).config
    assert by_adam["feedback_lr"] == own["feedback_lr"]
