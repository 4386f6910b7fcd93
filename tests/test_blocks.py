"""Blocks and chains: forward and feedback maps against numpy, shapes, initialisation, bad sizes."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    Recorded,
    assert_close,
    conv_in_numpy,
    conv_transpose_in_numpy,
    make_batch,
    make_parameters,
    max_pool_in_numpy,
    max_unpool_in_numpy,
    normal,
)

from dtp_jax import blocks, ops
from dtp_jax.blocks import AdaptiveAveragePool, MaxPool, chain, conv_block, dense_block

ACTIVATIONS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "linear": lambda x: x,
}
# input size, window, stride, padding, pool, activation: vgg's, lenet's, and freer ones
CONVS = [
    ((6, 8), 3, 1, 1, MaxPool(2, 2), "elu"),
    ((7, 5), 5, 1, 2, MaxPool(3, 2, 1), "elu"),
    ((7, 9), 3, 1, 1, MaxPool(2, 2), "relu"),
    ((6, 8), 3, 2, 1, None, "tanh"),
    ((5, 6), 3, 1, 0, None, "linear"),
]
each_conv = pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "pool", "activation"), CONVS
)


def make_conv(size, window, stride, padding, pool, activation):
    """A block from 2 to 3 channels; its kernel and bias, and those of its feedback map."""
    block = conv_block(
        "conv",
        channels=3,
        window=window,
        stride=stride,
        padding=padding,
        activation=activation,
        pool=pool,
    )((*size, 2))
    kernel = (window, window, 2, 3)
    theta = {"kernel": normal(1, kernel), "bias": normal(2, 3)}
    omega = {"kernel": normal(3, kernel), "bias": normal(4, 2)}
    return block, theta, omega


@each_conv
def test_conv_block_against_numpy(size, window, stride, padding, pool, activation):
    """F = pool(act(conv + bias)); G = transposed conv(act(unpool)) + bias, given the indices."""
    block, theta, omega = make_conv(size, window, stride, padding, pool, activation)
    act = ACTIVATIONS[activation]
    x = normal(5, (2, *size, 2))
    expected = act(conv_in_numpy(x, theta["kernel"], stride, padding) + theta["bias"])
    plane = expected.shape[1:3]
    if pool is not None:
        expected, where = max_pool_in_numpy(expected, *pool)
    y, residual = jax.jit(block.forward)(theta, x)
    assert_close(y, expected)
    assert block.output_shape == expected.shape[1:] and block.input_shape == x.shape[1:]

    t = normal(6, expected.shape)
    unpooled = t if pool is None else max_unpool_in_numpy(t, where, plane)
    expected = conv_transpose_in_numpy(act(unpooled), omega["kernel"], size, stride, padding)
    assert_close(jax.jit(block.feedback)(omega, t, residual), expected + omega["bias"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(4,), (2, 3, 2)])
def test_dense_block_against_numpy(shape, activation):
    """F = act(flatten(x) W + b), G = reshape(act(y) V^T + c); flattened as (H, W, C)."""
    block = dense_block("fc", features=5, activation=activation)(shape)
    size, act = math.prod(shape), ACTIVATIONS[activation]
    theta = {"kernel": normal(1, (size, 5)), "bias": normal(2, 5)}
    omega = {"kernel": normal(3, (size, 5)), "bias": normal(4, size)}
    x, t = normal(5, (3, *shape)), normal(6, (3, 5))
    y, residual = block.forward(theta, x)
    assert_close(y, act(x.reshape(3, size) @ theta["kernel"] + theta["bias"]))
    expected = (act(t) @ omega["kernel"].T + omega["bias"]).reshape(3, *shape)
    assert_close(block.feedback(omega, t, residual), expected)


@pytest.mark.parametrize("size", [1, 2])
def test_pooled_dense_block_against_numpy(size):
    """Averages over cells, then linear; the feedback map copies what it puts out to every position."""
    block = dense_block("fc", features=5, activation="tanh", pool=AdaptiveAveragePool(size))(
        (4, 6, 3)
    )
    width, cell = size * size * 3, (4 // size, 6 // size)
    theta = {"kernel": normal(1, (width, 5)), "bias": normal(2, 5)}
    omega = {"kernel": normal(3, (width, 5)), "bias": normal(4, width)}
    other = {"kernel": normal(7, (width, 5)), "bias": normal(8, width)}
    x, t = normal(5, (2, 4, 6, 3)), normal(6, (2, 5))
    means = x.reshape(2, size, cell[0], size, cell[1], 3).mean(axis=(2, 4)).reshape(2, width)
    y, residual = block.forward(theta, x)
    assert_close(y, np.tanh(means @ theta["kernel"] + theta["bias"]))

    def copied(a):
        return a.reshape(-1, size, size, 3).repeat(cell[0], axis=1).repeat(cell[1], axis=2)

    expected = np.tanh(t) @ omega["kernel"].T + omega["bias"]
    assert_close(block.feedback(omega, t, residual), copied(expected))
    a, b = block.features(t, residual), block.features(normal(9, (2, 5)), residual)
    assert_close(block.decode(omega, a) + copied(omega["bias"]), copied(expected))
    check_linear(block.decode, omega, other, a, b)
    for init, bias in ((block.init, 5), (block.init_feedback, width)):
        shapes = jax.eval_shape(init, jax.random.key(0))
        assert shapes["kernel"].shape == (width, 5) and shapes["bias"].shape == (bias,)
    assert block.forward_flops == 2 * width * 5


def test_symmetric_pooled_linear_block_is_adjoint_up_to_the_number_of_positions():
    """The mean over n positions has the adjoint 1/n times the copy: G of the same kernel is n F^T."""
    block = dense_block("fc", features=5, bias=False, pool=AdaptiveAveragePool())((3, 4, 2))
    theta = {"kernel": normal(1, (2, 5))}
    x, y = normal(2, (2, 3, 4, 2)), normal(3, (2, 5))
    forward, feedback = block.forward(theta, x)[0], block.feedback(theta, y, ())
    np.testing.assert_allclose(np.vdot(x, feedback), 12 * np.vdot(forward, y), rtol=1e-12)


def check_linear(function, omega, other, a, b):
    """In its parameters and in its input."""
    mixed = jax.tree.map(lambda p, q: p + 2 * q, omega, other)
    whole = function(omega, a)
    assert_close(function(omega, a - 3 * b), whole - 3 * function(omega, b))
    assert_close(function(mixed, a), whole + 2 * function(other, a))


@pytest.mark.parametrize("name", NETWORKS)
def test_feedback_is_decoded_features_plus_bias(name):
    """The split that fast L-DRL lives on, with `decode` linear in parameters and in features."""
    network = NETWORKS[name]()
    forward, feedback = make_parameters(network)
    images, _ = make_batch(network, 2)
    activations = jax.jit(lambda f, x: blocks.forward_all(network, f, x))(forward, images)
    for i, block in enumerate(network[1:], start=1):
        omega, y, residual = feedback[block.name], activations.h[i + 1], activations.residuals[i]
        decode, features = jax.jit(block.decode), jax.jit(block.features)
        a, b = features(y, residual), features(normal(7, y.shape), residual)
        check_linear(decode, omega, jax.tree.map(lambda w: w[::-1] + 1, omega), a, b)
        dense = len(block.output_shape) == 1
        bias = omega["bias"].reshape(block.input_shape) if dense else omega["bias"]
        assert_close(jax.jit(block.feedback)(omega, y, residual), decode(omega, a) + bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_of_forward_and_feedback(name, bias):
    """Kernels of one layout, to be compared entry by entry; a map's bias has its output's size."""
    network = NETWORKS[name](bias=bias)
    forward, feedback = jax.jit(
        lambda k, other: (blocks.init_forward(network, k), blocks.mirror_feedback(network, other))
    )(*jax.random.split(jax.random.key(0)))
    assert list(forward) == [block.name for block in network]
    assert list(feedback) == [block.name for block in network[1:]]  # nothing lies below the first
    for block in network:
        assert ("bias" in forward[block.name]) == bias
        if bias:
            chex.assert_shape(forward[block.name]["bias"], block.output_shape[-1:])
    for block in network[1:]:
        dense = len(block.output_shape) == 1
        theta, omega = forward[block.name], feedback[block.name]
        assert omega.keys() == theta.keys()
        chex.assert_equal_shape([omega["kernel"], theta["kernel"]])
        assert np.mean(omega["kernel"] == theta["kernel"]) < 0.01
        if bias:
            size = math.prod(block.input_shape) if dense else block.input_shape[-1]
            chex.assert_shape(omega["bias"], (size,))


def test_every_array_is_drawn_with_its_own_randomness():
    """Blocks of one shape, forward and feedback, weights and biases: all different numbers."""
    layers = [dense_block(f"fc{i}", features=4) for i in range(3)]
    network = chain((4,), layers)
    init = jax.jit(lambda key: blocks.init_forward(network, key))
    forward = init(jax.random.key(0))
    feedback = jax.jit(lambda key: blocks.mirror_feedback(network, key))(jax.random.key(1))
    chex.assert_trees_all_equal(forward, init(jax.random.key(0)))
    firsts = [
        float(leaf.ravel()[k]) for leaf in jax.tree.leaves((forward, feedback)) for k in range(4)
    ]
    assert len(set(firsts)) == len(firsts)


def check_uniform(draws, bound, size):
    """Many draws of an array: inside +-bound, reaching it, with the uniform's deviation."""
    draws = np.asarray(draws)
    assert draws.size > size
    assert 0.999 * bound < draws.max() <= bound * (1 + 1e-6)
    assert 0.999 * bound < -draws.min() <= bound * (1 + 1e-6)
    # The sample deviation of n uniforms scatters by sqrt(1 / 5 n); five sigma.
    np.testing.assert_allclose(
        draws.std(), bound / math.sqrt(3), rtol=5 * math.sqrt(0.2 / draws.size)
    )
    assert abs(draws.mean()) < 5 * bound / math.sqrt(3 * draws.size)


def init_of(kind, shape):
    """The initialiser of the layer that has this recorded torch weight shape, and its fan-in."""
    if kind == "conv2d":  # [out, in, k, k]
        block = conv_block("b", channels=shape[0], window=shape[2], padding=1)((4, 4, shape[1]))
        return block.init, shape[1] * shape[2] * shape[3]
    if kind == "conv_transpose2d":  # [in, out, k, k], so the forward convolution is from out to in
        block = conv_block("b", channels=shape[0], window=shape[2], padding=1)((4, 4, shape[1]))
        return block.init_feedback, shape[1] * shape[2] * shape[3]
    if kind == "linear":  # [out, in]
        return dense_block("b", features=shape[0])((shape[1],)).init, shape[1]
    # a linear feedback map [out, in] belongs to a forward block from out to in
    return dense_block("b", features=shape[1])((shape[0],)).init_feedback, shape[1]


@pytest.mark.parametrize("kind", ["conv2d", "conv_transpose2d", "linear", "linear feedback"])
def test_initialisation_is_torchs(kind):
    """Uniform in +-1/sqrt(fan_in) for weight and bias; the recorded layers are of that law."""
    recorded = Recorded("init_facts", kind.split()[0] + "/")
    shape = tuple(int(n) for n in recorded["weight_shape"])
    init, fan_in = init_of(kind, shape)
    bound = float(recorded["bound"])
    assert fan_in == recorded["fan_in"] and math.isclose(bound, 1 / math.sqrt(fan_in))
    assert math.isclose(recorded["uniform_std"], bound / math.sqrt(3))
    draws = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), 200))
    check_uniform(draws["kernel"], bound, 100 * math.prod(shape))
    check_uniform(draws["bias"], bound, 100)
    # One recorded draw of torch agrees with ours, as far as one draw can.
    np.testing.assert_allclose(recorded["std_weight"], np.std(draws["kernel"]), rtol=0.02)
    assert 0.99 * bound < recorded["max_abs_weight"] <= bound * (1 + 1e-6)
    assert 0.8 * bound < recorded["max_abs_bias"] <= bound * (1 + 1e-6)
    assert not recorded.unread


@pytest.mark.parametrize("kind", ["xavier_normal_conv", "xavier_normal_feedback"])
def test_xavier_normal_is_torchs(kind):
    recorded = Recorded("init_facts", kind + "/")
    shape = tuple(int(n) for n in recorded["shape"])
    # Ours: [out, in, k, k] -> (k, k, in, out), [out, in] -> (in, out).
    layout = shape[:1:-1] + shape[1::-1]
    assert sorted(layout) == sorted(shape)
    keys = jax.random.split(jax.random.key(1), 50)
    draws = np.asarray(jax.jit(jax.vmap(lambda k: ops.xavier_normal(k, layout)))(keys))
    expected, n = float(recorded["std_expected"]), draws.size
    assert math.isclose(expected, math.sqrt(2 / ((shape[0] + shape[1]) * math.prod(shape[2:]))))
    np.testing.assert_allclose(draws.std(), expected, rtol=5 / math.sqrt(2 * n))
    np.testing.assert_allclose(np.mean(draws**4) / expected**4, 3, rtol=0.05)  # of a normal
    np.testing.assert_allclose(recorded["std_drawn"], draws.std(), rtol=0.02)
    assert not recorded.unread


def test_init_facts_has_no_other_records():
    tested = {
        "conv2d",
        "conv_transpose2d",
        "linear",
        "xavier_normal_conv",
        "xavier_normal_feedback",
    }
    assert {key.split("/")[0] for key in Recorded("init_facts").unread} == tested


def test_forward_all_keeps_every_activation_and_residual():
    network = NETWORKS["lenet"]()
    forward, _ = make_parameters(network)
    images, _ = make_batch(network, 2)

    @jax.jit
    def run(forward, x):
        activations = blocks.forward_all(network, forward, x)
        one_by_one = {
            block.name: block.forward(forward[block.name], h)
            for block, h in zip(network, activations.h, strict=False)
        }
        return activations, one_by_one, blocks.logits(network, forward, x)

    activations, one_by_one, logits = run(forward, images)
    np.testing.assert_array_equal(activations.h[0], images)
    assert len(activations.h) == len(network) + 1 and len(activations.residuals) == len(network)
    for block, y, residual in zip(network, activations.h[1:], activations.residuals, strict=True):
        chex.assert_shape(y, (2, *block.output_shape))
        expected, index = one_by_one[block.name]
        assert_close(y, expected)
        chex.assert_trees_all_equal(residual, index)
    assert_close(logits, activations.h[-1])


@each_conv
def test_forward_flops_of_a_convolution(size, window, stride, padding, pool, activation):
    """Two per multiplication: every output before pooling sums window^2 x in channels products."""
    block, theta, _ = make_conv(size, window, stride, padding, pool, activation)
    outputs = conv_in_numpy(np.zeros((1, *size, 2)), theta["kernel"], stride, padding).size
    assert block.forward_flops == 2 * outputs * window**2 * 2


def test_forward_flops_of_a_dense_block():
    assert dense_block("fc", features=5)((2, 3, 2)).forward_flops == 2 * 12 * 5


def test_count():
    assert blocks.count({"a": jnp.zeros((2, 3)), "b": [jnp.zeros(()), jnp.zeros(4)]}) == 11


@pytest.mark.parametrize(
    ("shape", "factories", "says"),
    [
        (
            (2, 4, 1),
            [
                conv_block("conv_0", channels=2, window=3, padding=1, pool=MaxPool(2, 2)),
                conv_block("conv_1", channels=2, window=3, padding=1, pool=MaxPool(2, 2)),
            ],
            ("conv_1", "1x2", "0x1"),
        ),
        ((3, 3, 1), [conv_block("conv_0", channels=2, window=5)], ("conv_0", "3x3")),
        (
            (6,),
            [dense_block("fc1", features=4), conv_block("conv_1", channels=2, window=3)],
            ("conv_1", "(4,)"),
        ),
        (
            (6,),
            [dense_block("fc", features=4, pool=AdaptiveAveragePool())],
            ("fc", "images", "(6,)"),
        ),
    ],
)
def test_blocks_that_do_not_fit_are_named(shape, factories, says):
    with pytest.raises(ValueError) as error:
        chain(shape, factories)
    assert "\n" not in str(error.value)
    for words in says:
        assert words in str(error.value)
