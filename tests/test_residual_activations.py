"""benchmarks.residual: its nets are the library's resnet18 but for the activation, its columns have closed forms."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY

from benchmarks import noise, residual
from dtp_jax import networks
from dtp_jax.blocks import forward_all, init_forward
from dtp_jax.learning.symmetric import symmetric
from dtp_jax.networks.resnet import resnet
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config

CHANNELS = (2, 2)
IMAGES = (8, 8, 1)


def experiment():
    """The config's, on digits, with one stage."""
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


@pytest.mark.parametrize("split", [True, False])
def test_an_activation_is_that_of_the_stem_and_of_every_block(split):
    options = {"channels": CHANNELS, "split_stages": split}
    library = networks.resnet18(IMAGES, 10, **options)
    made = {a: resnet((2, 2, 2, 2), IMAGES, 10, activation=a, **options) for a in ("elu", "relu")}
    forward = init_forward(library, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (3, *IMAGES))
    found = {a: forward_all(net, forward, x).h for a, net in made.items()}
    jax.tree.map(np.testing.assert_array_equal, found["relu"], forward_all(library, forward, x).h)
    for block, with_elu, with_relu in zip(library, found["elu"][1:-1], found["relu"][1:-1]):
        assert with_elu.min() < 0 and with_relu.min() == 0, block.name
        assert "relu" in block.description
    assert all("relu" not in b.description and "elu" in b.description for b in made["elu"][:-1])


@pytest.mark.parametrize("rule", ["ldrl", "backprop"])
def test_the_config_with_elu_differs_in_nothing_else(rule):
    own, other = (
        validate(load_config(f"{name}{rule}{ending}").config.to_dict())
        for name, ending in (("benchmarks/elu_resnet18.py:", ""), ("depth:", "_resnet18"))
    )
    differing = {n for n, value in own.config.items() if value != other.config[n]}
    assert differing == {"network", "split_stages"}
    for one, another in zip(own.network, other.network, strict=True):
        assert one.description == re.sub(r"\brelu\b", "elu", another.description)


@pytest.mark.parametrize("depths", [(0, 2), (-1, 2), (2.5, 2), "ab"])
def test_depths_that_are_none_are_refused(depths):
    with pytest.raises(ValueError, match="^depths is .*; allowed: whole numbers, 1 or more"):
        resnet(depths, IMAGES, 10, channels=CHANNELS)


def test_shared_is_one_for_equal_steps_and_zero_for_unrelated_ones():
    step = jax.random.normal(jax.random.key(0), (1, 4, 3))
    np.testing.assert_allclose(residual.shared(jnp.repeat(step, 5, axis=0)), 1, rtol=1e-6)
    np.testing.assert_allclose(residual.shared(jnp.eye(4)), 0, atol=1e-6)
    np.testing.assert_allclose(residual.shared(jnp.concatenate([step, -step])), -1, rtol=1e-6)
    # Of half a step in common and half of each image's own, at right angles: half of the square.
    np.testing.assert_allclose(residual.shared(jnp.eye(5)[1:] + jnp.eye(5)[0]), 0.5, rtol=1e-6)
    many = jax.random.normal(jax.random.key(1), (50, 10_000))
    assert abs(residual.shared(many)) < 0.01  # whatever the size of the batch


def test_without_a_nonlinearity_transposed_maps_are_at_zero_degrees():
    made = experiment()
    learner = build_learner(made, 1).replace(
        network=residual.network_with("linear", IMAGES, 10, CHANNELS)
    )
    setting = noise.prepared(made, learner, 1)
    forward, feedback = symmetric(setting.state.forward, setting.state.feedback)
    setting = setting._replace(state=setting.state.replace(forward=forward))
    for row in residual.going_down(learner, feedback, setting):
        assert row["angle"] < 0.1
        np.testing.assert_allclose(row["shared"], row["shared_of_backprop"], rtol=1e-3)


def test_every_block_and_activation_is_printed_after_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(residual, "validate", lambda fields: experiment())
    file = tmp_path / "found.json"
    assert residual.main(["--activations=relu,tanh,relu", "--batches=1", f"--json={file}"]) == 0
    rows, out = json.loads(file.read_text())["rows"], capsys.readouterr().out
    assert list(rows) == ["relu", "tanh"]
    learner = build_learner(experiment(), 1)
    setting = noise.prepared(experiment(), learner, 1)
    expected = residual.going_down(learner, noise.trained(learner, setting), setting)
    before = residual.going_down(learner, setting.state.feedback, setting)
    for row, after, untrained in zip(rows["relu"], expected, before, strict=True):
        assert {"block", *after} == set(row)
        np.testing.assert_allclose([row[name] for name in after], list(after.values()), rtol=1e-4)
        if row["block"] != "fc":  # its own update needs no map
            assert row["angle"] != untrained["angle"]
    lines = [line for line in out.splitlines() if re.search(r"\b(layer_\d|fc)", line)]
    for line, relu, tanh in zip(reversed(lines), rows["relu"], rows["tanh"], strict=True):
        cells = [relu["block"]]
        for row in (relu, tanh):
            cells += [f"{row['angle']:.0f}", f"{row['shared']:.2f}"]
            cells.append(f"({row['shared_of_backprop']:.2f})")
        assert re.findall(r"[^\s│|]+", line) == cells
    head = next(line for line in out.splitlines() if "angle" in line)
    assert head.index("relu: angle") < head.index("tanh: angle")


def test_the_page_has_the_numbers_of_the_file():
    file = "benchmarks/results/2026-11-28_residual_activations_cpu.json"
    page = (REPOSITORY / "docs/add_a_network.md").read_text()
    assert f"(../{file})" in page
    rows = json.loads((REPOSITORY / file).read_text())["rows"]
    for pair in zip(rows["relu"], rows["elu"], strict=True):
        cells = [pair[0]["block"]]
        for row in pair:
            cells.append(f"{row['angle']:.0f}")
            cells.append(f"{row['shared']:.2f} ({row['shared_of_backprop']:.2f})")
        assert f"| {' | '.join(cells)} |" in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--batches=0"], "--batches: is '0'"), (["--activations=relu,step"], "step")],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(flags, said, capsys, monkeypatch):
    monkeypatch.setattr(residual, "measure", None)
    with pytest.raises(SystemExit):
        residual.main(flags)
    assert said in capsys.readouterr().err
