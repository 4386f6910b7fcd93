"""benchmarks.residual: its net is the library's resnet18, and its columns have their closed forms."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import noise, residual
from dtp_jax import networks
from dtp_jax.blocks import forward_all, init_forward
from dtp_jax.learning.symmetric import symmetric
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config

CHANNELS = (2, 2, 3)


def experiment():
    """The config's, on digits, with two stages."""
    fields = load_config(residual.CONFIG).config.to_dict()
    return validate(
        fields
        | {
            "dataset": "digits",
            "channels": CHANNELS,
            "train_images": 0,
            "feedback_lr": (0.1,),
            "feedback_iterations": (2,),
        }
    )


def test_the_net_with_relu_is_the_resnet18_of_the_library():
    own = residual.network_with("relu", (8, 8, 1), 10, CHANNELS)
    library = networks.resnet18((8, 8, 1), 10, channels=CHANNELS, split_stages=True)
    assert [block.name for block in own] == [block.name for block in library]
    forward = init_forward(library, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    found, expected = (forward_all(net, forward, x) for net in (own, library))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_shared_is_one_for_equal_steps_and_zero_for_opposite_ones():
    step = jax.random.normal(jax.random.key(0), (1, 4, 3))
    np.testing.assert_allclose(residual.shared(jnp.repeat(step, 5, axis=0)), 1, rtol=1e-6)
    assert residual.shared(jnp.concatenate([step, -step])) == 0
    # Orthogonal steps of one length: their mean is shorter by the root of their number.
    np.testing.assert_allclose(residual.shared(jnp.eye(4)), 0.5, rtol=1e-6)


def test_without_a_nonlinearity_transposed_maps_are_at_zero_degrees():
    made = experiment()
    learner = build_learner(made, 1).replace(
        network=residual.network_with("linear", (8, 8, 1), 10, CHANNELS)
    )
    found = noise.given(made, learner, 1)
    forward, feedback = symmetric(found.state.forward, found.state.feedback)
    activations = forward_all(learner.network, forward, found.held.h[0])
    found = found._replace(state=found.state.replace(forward=forward), held=activations)
    for row in residual.going_down(learner, feedback, found):
        assert row["angle"] < 0.1
        np.testing.assert_allclose(row["shared"], row["shared_of_backprop"], rtol=1e-3)


def test_every_block_and_activation_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(residual, "validate", lambda fields: experiment())
    file = tmp_path / "found.json"
    assert residual.main(["--activations=relu,tanh", "--batches=1", f"--json={file}"]) == 0
    rows, out = json.loads(file.read_text())["rows"], capsys.readouterr().out
    assert list(rows) == ["relu", "tanh"]
    assert all(f"{row['angle']:.0f}" in out and row["block"] in out for row in rows["tanh"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--batches=0"], "--batches is 0"), (["--activations=step"], "step")],
)
def test_what_cannot_be_measured_is_refused_in_one_line(flags, said, capsys):
    with pytest.raises(SystemExit):
        residual.main(flags)
    assert said in capsys.readouterr().err
