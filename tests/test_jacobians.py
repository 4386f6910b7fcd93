"""Jacobians of blocks and feedback maps, against the whole matrices in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NETWORKS, make_parameters, normal

from dtp_jax.blocks import basic_block, chain, dense_block
from dtp_jax.learning import metrics

BATCH = 3


def case(name, index=1):
    """(block, theta, omega, x) of one block of a small network."""
    if name == "batch norm":
        network, index = chain((2, 3, 2), [basic_block("b", channels=3, batch_norm=True)] * 1), 0
    else:
        network = NETWORKS[name]()
    block = network[index]
    forward, feedback = make_parameters(network)
    omega = feedback.get(block.name)
    if omega is None:
        omega = jax.tree.map(lambda p: jnp.asarray(normal(5, p.shape)), forward[block.name])
    return block, forward[block.name], omega, jnp.asarray(normal(7, (BATCH, *block.input_shape)))


def matrices(block, theta, omega, x):
    """J_F and J_G of the whole batch, (batch * out, batch * in) and the other way round."""

    @jax.jit
    def both(x):
        y, residual = block.forward(theta, x)
        j_f = jax.jacobian(lambda x: block.forward(theta, x)[0])(x)
        j_g = jax.jacobian(lambda y: block.feedback(omega, y, residual))(y)
        return j_f.reshape(y.size, x.size), j_g.reshape(x.size, y.size)

    return map(np.asarray, both(x))


CASES = [("vgg", 1), ("lenet", 1), ("lenet", 2), ("batch norm", 0)]


@pytest.mark.parametrize(("name", "index"), CASES)
def test_exact_and_probed_measures_against_the_matrices(name, index):
    """Overlapping windows of pooling (lenet) and batch norm, which couples examples, are among them."""
    block, theta, omega, x = case(name, index)
    j_f, j_g = matrices(block, theta, omega, x)
    distance = np.linalg.norm(j_g - j_f.T) / np.linalg.norm(j_f)
    trace = np.trace(j_f @ j_g) / BATCH
    spread = np.linalg.norm(j_f @ j_g) / BATCH

    @jax.jit
    def measured(x, key):
        of = (block, theta, omega, x)
        return (
            (metrics.jacobian_distance(*of), metrics.product_trace(*of)),
            (
                metrics.jacobian_distance(*of, key, probes=400),
                metrics.product_trace(*of, key, probes=400),
            ),
        )

    exact, probed = measured(x, jax.random.key(0))
    np.testing.assert_allclose(exact, (distance, trace), rtol=1e-10)
    # Four standard errors of what the docstrings promise; few units make few independent signs.
    assert abs(probed[0] - distance) < 4 * distance / 400**0.5
    assert abs(probed[1] - trace) < 4 * spread * (2 / 400) ** 0.5
    assert probed[0] != exact[0] and probed[1] != exact[1]


def linear_block(width=6, features=4):
    (block,) = chain((width,), [dense_block("fc", features=features)])
    return block, {"kernel": jnp.asarray(normal(0, (width, features))), "bias": jnp.ones(features)}


@pytest.mark.parametrize("gain", [1.0, 0.25, -2.0])
def test_distance_of_a_linear_block_to_a_multiple_of_its_transpose(gain):
    """|gain - 1|: 0 for symmetric weights, whatever the biases."""
    block, theta = linear_block()
    omega = {"kernel": gain * theta["kernel"], "bias": jnp.ones(6)}
    x = jnp.asarray(normal(1, (BATCH, 6)))
    for key in (None, jax.random.key(3)):
        found = jax.jit(lambda *of: metrics.jacobian_distance(block, *of))(theta, omega, x, key)
        np.testing.assert_allclose(found, abs(gain - 1), atol=1e-12)


@pytest.mark.parametrize(("width", "features"), [(6, 4), (4, 6)])
def test_eigenvalues_of_a_block_that_narrows_or_widens(width, features):
    """All but those that are zero by the shape of J_F J_G; a complex pair is among them."""
    block, theta = linear_block(width, features)
    omega = {"kernel": jnp.asarray(normal(2, (width, features)))}
    x = jnp.asarray(normal(1, (2, width)))
    found = np.sort_complex(np.asarray(metrics.product_eigenvalues(block, theta, omega, x)))
    product = np.asarray(theta["kernel"]).T @ np.asarray(omega["kernel"])  # J_F J_G
    wanted = np.linalg.eigvals(product)
    wanted = np.sort_complex(wanted[np.argsort(-abs(wanted))][: min(width, features)])
    assert abs(wanted.imag).max() > 0.1
    np.testing.assert_allclose(found, [wanted, wanted], rtol=1e-9)
    np.testing.assert_allclose(
        metrics.positive_share(jnp.asarray(found)), (wanted.real > 0).mean(), rtol=1e-12
    )
    np.testing.assert_allclose(
        metrics.product_trace(block, theta, omega, x), np.trace(product), rtol=1e-10
    )


@pytest.mark.parametrize(("name", "index"), CASES[:3])
def test_eigenvalues_of_nonlinear_blocks(name, index):
    """Example by example; their sum is the trace."""
    block, theta, omega, x = case(name, index)
    j_f, j_g = matrices(block, theta, omega, x)
    product = (j_f @ j_g).reshape(BATCH, -1, BATCH, len(j_f) // BATCH)
    wanted = np.array([np.linalg.eigvals(product[b, :, b]) for b in range(BATCH)])
    found = np.asarray(jax.jit(lambda x: metrics.product_eigenvalues(block, theta, omega, x))(x))
    count = found.shape[1]
    wanted = np.take_along_axis(wanted, np.argsort(-abs(wanted), axis=1)[:, :count], axis=1)
    np.testing.assert_allclose(
        np.sort_complex(found), np.sort_complex(wanted), atol=1e-8 * abs(wanted).max()
    )
    share = metrics.positive_share(jnp.asarray(found))
    large = 1e-12 * abs(wanted).max(axis=1, keepdims=True)
    np.testing.assert_allclose(share, (wanted.real > large).mean(), rtol=1e-12)


def test_share_of_positive_eigenvalues_in_closed_form():
    """The transpose: all; its negative: none; and what is zero but for rounding is not positive."""
    block, theta = linear_block()
    x = jnp.asarray(normal(1, (2, 6)))

    @jax.jit
    def share(omega):
        values = metrics.product_eigenvalues(block, theta, {"kernel": omega}, x)
        return metrics.positive_share(values)

    assert share(theta["kernel"]) == 1
    assert share(-theta["kernel"]) == 0
    assert share(theta["kernel"].at[:, 0].set(0)) == 0.75  # the first logit feeds nothing back
    assert metrics.positive_share(jnp.asarray([[1.0 + 2j, 1.0 - 2j, 1e-17, -1.0]])) == 0.5
    assert np.isnan(metrics.positive_share(jnp.asarray([[1.0 + 0j], [jnp.nan]])))  # diverged


def test_batch_norm_has_no_eigenvalues_of_one_example():
    with pytest.raises(ValueError, match=r"^network: block b has batch norm, .*; allowed: .*$"):
        metrics.product_eigenvalues(*case("batch norm"))
