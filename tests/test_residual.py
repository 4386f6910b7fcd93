"""Residual blocks without batch norm: numpy, adjoints, stages against their parts, initialisation."""

import math

import chex
import jax
import numpy as np
import pytest
from helpers import (
    assert_close,
    conv_in_numpy,
    conv_transpose_in_numpy,
    degrees_between,
    make_parameters,
    normal,
)

from dtp_jax import blocks
from dtp_jax.blocks import basic_block, chain, count, residual_stage
from dtp_jax.learning import metrics
from dtp_jax.networks import resnet18

# input shape, channels, stride: identity shortcut; new channels; stride 2 on even and on odd sizes; a
# stride with as many channels as before; a single pixel.
BLOCKS = [
    ((4, 5, 3), 3, 1),
    ((4, 5, 2), 3, 1),
    ((6, 8, 2), 3, 2),
    ((5, 7, 2), 3, 2),
    ((4, 4, 3), 3, 2),
    ((1, 1, 2), 3, 2),
]
each_block = pytest.mark.parametrize(("shape", "channels", "stride"), BLOCKS)


def kernels(seed, shape, channels, stride):
    """Parameters of a basic block; those of its feedback map have the same shapes."""
    found = {
        "conv1": normal(seed, (3, 3, shape[2], channels)),
        "conv2": normal(seed + 1, (3, 3, channels, channels)),
    }
    if stride > 1 or shape[2] != channels:
        found["shortcut"] = normal(seed + 2, (1, 1, shape[2], channels))
    return {name: {"kernel": kernel} for name, kernel in found.items()}


def relu(x):
    return np.maximum(x, 0)


def forward_in_numpy(theta, x, stride):
    """relu(conv2(relu(conv1 x)) + shortcut(x))."""
    y = conv_in_numpy(x, theta["conv1"]["kernel"], stride, 1)
    y = conv_in_numpy(relu(y), theta["conv2"]["kernel"], 1, 1)
    if "shortcut" in theta:
        x = conv_in_numpy(x, theta["shortcut"]["kernel"], stride, 0)
    return relu(y + x)


def feedback_in_numpy(omega, y, size, stride):
    """convT1(relu(convT2(z))) + shortcut'(z) with z = relu(y)."""
    z = relu(y)
    x = conv_transpose_in_numpy(z, omega["conv2"]["kernel"], y.shape[1:3], 1, 1)
    x = conv_transpose_in_numpy(relu(x), omega["conv1"]["kernel"], size, stride, 1)
    if "shortcut" in omega:
        z = conv_transpose_in_numpy(z, omega["shortcut"]["kernel"], size, stride, 0)
    return x + z


@each_block
def test_basic_block_against_numpy(shape, channels, stride):
    block = basic_block("b", channels=channels, stride=stride)(shape)
    theta, omega = kernels(0, shape, channels, stride), kernels(10, shape, channels, stride)
    x = normal(20, (2, *shape))
    expected = forward_in_numpy(theta, x, stride)
    y, residual = jax.jit(block.forward)(theta, x)
    assert_close(y, expected)
    assert block.input_shape == shape and block.output_shape == expected.shape[1:]

    t = normal(21, expected.shape)
    expected = feedback_in_numpy(omega, t, shape[:2], stride)
    assert_close(jax.jit(block.feedback)(omega, t, residual), expected)


def test_stage_against_numpy():
    """One block of the chain: basic blocks in order, their inverses in reversed order."""
    shape, strides = (5, 6, 2), (2, 1, 2)
    block = residual_stage("layer_2", channels=3, strides=strides)(shape)
    inputs = [(5, 6, 2), (3, 3, 3), (3, 3, 3)]
    theta, omega = (
        {f"block_{i}": kernels(seed + 10 * i, s, 3, strides[i]) for i, s in enumerate(inputs)}
        for seed in (0, 100)
    )
    x = y = normal(1, (2, *shape))
    for i, stride in enumerate(strides):
        y = forward_in_numpy(theta[f"block_{i}"], y, stride)
    found, residual = jax.jit(block.forward)(theta, x)
    assert_close(found, y)
    assert block.output_shape == y.shape[1:] == (2, 2, 3)

    t = x_hat = normal(2, y.shape)
    for i in reversed(range(3)):
        x_hat = feedback_in_numpy(omega[f"block_{i}"], x_hat, inputs[i][:2], strides[i])
    assert_close(jax.jit(block.feedback)(omega, t, residual), x_hat)


@each_block
def test_symmetric_linear_block_is_its_own_adjoint(shape, channels, stride):
    """Without activation F is linear, and G with the same kernels its transpose: <F x, y> = <x, G y>."""
    block = residual_stage("s", channels=channels, strides=(stride, 1), activation="linear")(shape)
    theta = make_parameters((block,))[0]["s"]
    x, y = normal(1, (2, *shape)), normal(2, (2, *block.output_shape))

    @jax.jit
    def run(theta):
        return block.forward(theta, x)[0], block.feedback(theta, y, ())

    fx, gy = run(theta)
    np.testing.assert_allclose(np.vdot(fx, y), np.vdot(x, gy), rtol=1e-10)
    assert abs(np.vdot(fx, y)) > 1e-3


def test_split_stages_compute_the_same():
    """Every basic block as a block of the chain: the same maps, in more links."""
    whole, split = (
        resnet18((8, 6, 2), 5, channels=(3, 3, 4), split_stages=split) for split in (False, True)
    )
    assert [block.name for block in whole] == ["layer_0", "layer_1", "layer_2", "fc"]
    assert [block.name for block in split] == [
        "layer_0",
        *("layer_1_0", "layer_1_1", "layer_2_0", "layer_2_1"),
        "fc",
    ]
    theta, omega = make_parameters(whole)
    x, t = normal(1, (2, 8, 6, 2)), normal(2, (2, 4, 3, 4))
    parts = {f"layer_{i}_{k}": theta[f"layer_{i}"][f"block_{k}"] for i in (1, 2) for k in (0, 1)}

    @jax.jit
    def run(theta, parts):
        h, split_h = (
            blocks.forward_all(network, {**theta, **parts}, x).h for network in (whole, split)
        )
        below = t
        for k in (1, 0):
            below = split[3 + k].feedback(omega["layer_2"][f"block_{k}"], below, ())
        return h, split_h, below, whole[2].feedback(omega["layer_2"], t, ())

    h, split_h, below, expected = run(theta, parts)
    for found, wanted in zip((split_h[i] for i in (0, 1, 3, 5, 6)), h, strict=True):
        assert_close(found, wanted)
    assert_close(below, expected)
    assert sum(b.forward_flops for b in split) == sum(b.forward_flops for b in whole)


def test_parameters_of_forward_and_feedback():
    """Trees of one structure and one layout, every array drawn with its own randomness."""
    block = residual_stage("layer_2", channels=4, strides=(2, 1))((8, 8, 3))
    theta, omega = jax.jit(lambda k: (block.init(k), block.init_feedback(k)))(jax.random.key(0))
    shapes = jax.tree.map(lambda a: a.shape, theta)
    assert shapes == {
        "block_0": {
            "conv1": {"kernel": (3, 3, 3, 4)},
            "conv2": {"kernel": (3, 3, 4, 4)},
            "shortcut": {"kernel": (1, 1, 3, 4)},
        },
        "block_1": {"conv1": {"kernel": (3, 3, 4, 4)}, "conv2": {"kernel": (3, 3, 4, 4)}},
    }
    chex.assert_trees_all_equal_shapes_and_dtypes(theta, omega)
    assert block.features is None and block.decode is None  # not linear in its parameters
    assert block.statistics is None and block.infer is None  # without batch norm
    other = jax.jit(block.init)(jax.random.key(1))
    firsts = [float(leaf.ravel()[0]) for leaf in jax.tree.leaves((theta, other))]
    assert len(set(firsts)) == len(firsts)


def test_initialisation_is_torchs():
    """Uniform in +-1/sqrt(fan_in): 9 or 1 times the input channels, of the transposed ones too."""
    block = basic_block("b", channels=4, stride=2)((4, 4, 3))
    draw = jax.jit(lambda key: (block.init(key), block.init_feedback(key)))
    for draws in jax.vmap(draw)(jax.random.split(jax.random.key(0), 300)):
        for name, fan_in in (("conv1", 27), ("conv2", 36), ("shortcut", 3)):
            a, bound = np.asarray(draws[name]["kernel"]), 1 / math.sqrt(fan_in)
            assert 0.995 * bound < a.max() <= bound * (1 + 1e-6)
            assert 0.995 * bound < -a.min() <= bound * (1 + 1e-6)
            deviation = 5 * math.sqrt(0.2 / a.size)  # five sigma
            np.testing.assert_allclose(a.std(), bound / math.sqrt(3), rtol=deviation)


@each_block
def test_forward_flops(shape, channels, stride):
    """Two per multiplication: each output of a convolution sums window^2 x in channels products."""
    block = basic_block("b", channels=channels, stride=stride)(shape)
    theta = kernels(0, shape, channels, stride)
    outputs = math.prod(forward_in_numpy(theta, np.zeros((1, *shape)), stride).shape)
    expected = sum(2 * outputs * count(p) // channels for p in theta.values())
    assert block.forward_flops == expected
    stage = residual_stage("s", channels=channels, strides=(stride, 1))(shape)
    assert stage.forward_flops == expected + 2 * 2 * outputs * 9 * channels


def test_weight_alignment_has_an_entry_per_kernel():
    network = resnet18((4, 4, 2), 3, channels=(2, 2, 3), batch_norm=True)
    forward, feedback = make_parameters(network)
    found = metrics.weight_alignment(forward, feedback)
    names = {
        *(f"layer_{i}/block_{k}/conv{n}" for i in (1, 2) for k in (0, 1) for n in (1, 2)),
        "layer_2/block_0/shortcut",
        "fc",
    }
    assert set(found) == names  # neither biases nor batch norms
    for name, (distance, angle) in found.items():
        f, g = forward, feedback
        for key in (*name.split("/"), "kernel"):
            f, g = f[key], g[key]
        expected = np.linalg.norm(np.ravel(f - g)) / np.linalg.norm(np.ravel(f))
        np.testing.assert_allclose(distance, expected, rtol=1e-12)
        np.testing.assert_allclose(angle, degrees_between(f, g), atol=1e-6)


def test_weight_alignment_leaves_out_direct_feedback():
    """Matrices from the logits to a block's output mirror no kernel."""
    network = resnet18((4, 4, 2), 3, channels=(2, 2))
    forward, _ = make_parameters(network)
    direct = {name: {"kernel": normal(0, (3, 32))} for name in ("layer_0", "layer_1")}
    assert metrics.weight_alignment(forward, direct) == {}


@pytest.mark.parametrize("factory", [basic_block, residual_stage])
def test_blocks_that_do_not_fit_are_named(factory):
    options = {"strides": (1,)} if factory is residual_stage else {}
    with pytest.raises(ValueError, match=r"layer_1 needs images.*\(6,\)"):
        chain((6,), [factory("layer_1", channels=2, **options)])
    with pytest.raises(ValueError, match=r"layer_1 has strides \(\)"):
        residual_stage("layer_1", channels=2, strides=())
