"""L-DRL's feedback training: closed forms, its formulas written out, plain Python loops."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    assert_close,
    everything,
    make_batch,
    make_parameters,
    normal,
    sgd_in_numpy,
)

from dtp_jax.blocks import MaxPool, chain, conv_block, dense_block, forward_all
from dtp_jax.learning import feedback as feedback_training
from dtp_jax.learning import optim
from dtp_jax.learning.feedback import Iteration, train_feedback_map
from dtp_jax.rules import ldrl
from dtp_jax.rules.ldrl import Noise

ITERATIONS = 3
RATE, MOMENTUM = 0.02, 0.9


class Trained(NamedTuple):
    """One feedback map after ITERATIONS iterations on recorded noise."""

    omega: dict
    velocity: dict
    seen: Iteration


class Setting(NamedTuple):
    """A network with parameters, activations of a batch, and noise for every trained block."""

    network: tuple
    forward: dict
    feedback: dict
    activations: tuple
    noise: dict
    rule: object

    def train(self, training, i):
        """Runs the project's scan on block i."""
        block = self.network[i]
        optimizer = optim.sgd(RATE, momentum=MOMENTUM)

        def run(omega, source):
            return train_feedback_map(
                training,
                self.network,
                i,
                self.forward,
                omega,
                optimizer.init(omega),
                optimizer,
                self.activations,
                source,
                draw=lambda recorded: recorded,
                observe=everything,
            )

        omega, opt_state, seen = jax.jit(run)(self.feedback[block.name], self.noise[block.name])
        traces = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.ndim]
        velocity = jax.tree.unflatten(jax.tree.structure(omega), traces)
        return Trained(omega, velocity, seen)


def make_setting(network, samples, batch=3, dtype=jnp.float64):
    sigma = tuple(0.2 + 0.1 * i for i in range(1, len(network)))  # another one for each block
    forward, feedback = make_parameters(network)
    images, _ = make_batch(network, batch)
    noise = {}
    for i, block in enumerate(network[1:], start=1):
        shape = (ITERATIONS, samples, batch)
        noise[block.name] = Noise(
            jnp.asarray(normal(i, (*shape, *block.input_shape)), dtype),
            jnp.asarray(normal(-i % 99, (*shape, *block.output_shape)), dtype),
        )
    forward, feedback = jax.tree.map(lambda leaf: leaf.astype(dtype), (forward, feedback))
    activations = jax.jit(lambda f, x: forward_all(network, f, x))(forward, images.astype(dtype))
    return Setting(network, forward, feedback, activations, noise, ldrl(noise=sigma, beta=0.7))


def written_out(setting, i, omega, e, u):
    """The loss of one noise sample as the paper has it."""
    block, theta = setting.network[i], setting.forward[setting.network[i].name]
    sigma, x, h = 0.2 + 0.1 * i, setting.activations.h[i], setting.activations.h[i + 1]
    clean = setting.activations.residuals[i]
    dx, dy = sigma * e, sigma * u
    r = block.feedback(omega, h, clean)
    noisy, noisy_residual = block.forward(theta, x + dx)
    dr = block.feedback(omega, noisy, noisy_residual) - r
    dr_y = block.feedback(omega, h + dy, clean) - r
    features = tuple(range(1, dx.ndim))
    return jnp.mean(-2 * jnp.sum(dx * dr, axis=features) + jnp.sum(dr_y**2, axis=features))


def python_loop(setting, i):
    """Iterations one after the other: the mean over samples, its gradient, SGD in numpy."""
    block = setting.network[i]
    e, u = setting.noise[block.name]
    value_and_grad = jax.jit(jax.value_and_grad(lambda *args: written_out(setting, i, *args)))
    omega, velocity, seen = setting.feedback[block.name], None, []
    for k in range(ITERATIONS):
        samples = [value_and_grad(omega, e[k, s], u[k, s]) for s in range(e.shape[1])]
        value, gradient = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *samples)
        seen.append(Iteration(value, gradient, omega))
        omega, velocity = sgd_in_numpy(gradient, omega, RATE, MOMENTUM, buffers=velocity)
    return Trained(omega, velocity, jax.tree.map(lambda *leaves: np.stack(leaves), *seen))


def small_network(name):
    """The small network of this name; vgg with one more block, whose images are tiny."""
    return NETWORKS[name](**{"channels": (3, 4, 6)} if name == "vgg" else {})


@pytest.mark.parametrize(
    ("name", "i", "samples"),
    [("vgg", 1, 3), ("vgg", 2, 2), ("vgg", 3, 1), ("lenet", 1, 2), ("lenet", 2, 1), ("mlp", 1, 3)],
)
def test_scanned_difference_form_is_a_loop_over_the_formulas(name, i, samples):
    """Losses, gradients and parameters of every iteration, and the momentum that is left, for
    kernels that are larger and smaller than a batch's activations."""
    setting = make_setting(small_network(name), samples)
    expected = python_loop(setting, i)
    fast = setting.rule.feedback_training
    found = setting.train(fast, i)
    assert found.seen.loss.shape == (ITERATIONS,)
    assert_close(found, expected, atol=1e-11)
    assert_close(setting.train(feedback_training.literal(fast), i), expected, atol=1e-11)


@pytest.mark.slow
def test_a_batch_of_large_images_is_trained_like_a_small_one():
    """Which a CPU goes through in slices: a quarter of a megabyte per image in float32, 40 images."""
    network = chain(
        (64, 64, 1),
        [
            conv_block("conv_0", channels=16, window=1),
            conv_block("conv_1", channels=2, window=3, padding=1, pool=MaxPool(2, 2)),
        ],
    )
    batch = 40
    assert feedback_training.cache_slices(network[1], batch) == (
        4 if jax.default_backend() == "cpu" else 1
    )
    setting = make_setting(network, samples=2, batch=batch)
    found = setting.train(setting.rule.feedback_training, 1)
    assert_close(found, python_loop(setting, 1), atol=1e-10)


def test_blocks_without_a_split_are_trained_by_the_formulas():
    setting = make_setting(NETWORKS["mlp"](), samples=2)
    whole = tuple(block._replace(features=None, decode=None) for block in setting.network)
    found = setting._replace(network=whole).train(setting.rule.feedback_training, 1)
    assert_close(found, python_loop(setting, 1), atol=1e-11)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("name", "i"), [("vgg", 1), ("lenet", 2)])
def test_bias_gradient_is_exactly_zero(name, i, dtype):
    """It cancels in both differences; the fast form does not even leave rounding errors."""
    setting = make_setting(NETWORKS[name](), samples=2, dtype=dtype)
    found = setting.train(setting.rule.feedback_training, i)
    assert found.seen.gradient["kernel"].dtype == dtype
    assert not found.seen.gradient["bias"].any() and found.seen.gradient["kernel"].any()
    np.testing.assert_array_equal(
        found.omega["bias"], setting.feedback[setting.network[i].name]["bias"]
    )


def white(batch, size, seed):
    """(batch, size) with exactly the second moments of N(0, 1): mean_b z z^T = identity."""
    orthonormal, _ = np.linalg.qr(normal(seed, (batch, size)))
    return jnp.asarray(orthonormal * np.sqrt(batch))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_block_expected_gradient_and_minimiser(bias):
    """E grad = -2 sigma^2 F^T + 2 sigma^2 G, exactly, where the noise has identity second moments.

    One SGD step of length 1 / (2 sigma^2) then leads to the minimiser G = F^T, where the loss is
    -sigma^2 |F|^2.
    """
    network = chain(
        (4,), [dense_block("fc1", features=6, bias=bias), dense_block("fc2", features=5, bias=bias)]
    )
    forward, feedback = make_parameters(network)
    images, _ = make_batch(network, 8)
    sigma, optimizer = 0.3, optim.sgd(1 / (2 * 0.3**2), momentum=0.0)
    # Two iterations: the second one is at the minimum.
    noise = Noise(
        jnp.stack([white(8, 6, 1), white(8, 6, 2)])[:, None],
        jnp.stack([white(8, 5, 3), white(8, 5, 4)])[:, None],
    )
    omega, _, seen = train_feedback_map(
        ldrl(noise=(sigma,), beta=0.7).feedback_training,
        network,
        1,
        forward,
        feedback["fc2"],
        optimizer.init(feedback["fc2"]),
        optimizer,
        forward_all(network, forward, images),
        noise,
        draw=lambda recorded: recorded,
        observe=everything,
    )
    theta, start = forward["fc2"]["kernel"], feedback["fc2"]["kernel"]
    # In the forward layout both F's matrix and the transpose of G's are (in, out).
    assert_close(seen.gradient["kernel"][0], -2 * sigma**2 * theta + 2 * sigma**2 * start)
    assert_close(seen.loss[0], sigma**2 * (-2 * jnp.sum(theta * start) + jnp.sum(start**2)))
    assert_close(omega["kernel"], theta)
    assert_close(seen.gradient["kernel"][1], jnp.zeros_like(theta))
    assert_close(seen.loss[1], -(sigma**2) * jnp.sum(theta**2))
