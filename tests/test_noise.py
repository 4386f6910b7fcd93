"""The noise generator: standard normal, independent, and a function of key and index alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dtp_jax.ops import noise, standard_normal

pytestmark = pytest.mark.usefixtures("optimised")

KEYS, DRAWS = 64, 2**14


@pytest.fixture(scope="module")
def draws():
    """(keys, draws): rows as training keys them, iterations of samples of blocks of steps."""
    step = jax.random.fold_in(jax.random.key(3), 17)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step, jnp.arange(KEYS))
    return np.asarray(jax.vmap(lambda key: standard_normal(key, (DRAWS,)))(keys), np.float64)


def test_the_distribution_is_standard_normal(draws):
    assert scipy.stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    # In the tails, where Kolmogorov and Smirnov see little: counts of |z| above 2, 3 and 4.
    for z in (2, 3, 4):
        expected = draws.size * 2 * scipy.stats.norm.sf(z)
        assert abs((abs(draws) > z).sum() - expected) < 5 * np.sqrt(expected)


def test_keys_are_uncorrelated(draws):
    """All pairs of rows, also of squares; a correlation of N draws has a deviation of 1/sqrt(N)."""
    for values in (draws, draws**2):
        correlations = np.corrcoef(values)[np.triu_indices(KEYS, 1)] * np.sqrt(DRAWS)
        assert scipy.stats.kstest(correlations, "norm").pvalue > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 128, 4096])
def test_indices_are_uncorrelated(draws, lag):
    for values in (draws, draws**2 - 1):
        pairs = values[:, lag:] * values[:, :-lag]
        assert abs(pairs.mean() / pairs.std() * np.sqrt(pairs.size)) < 4


def test_neighbours_fill_the_plane_evenly(draws):
    """Chi-square of successive pairs in a 64 x 64 grid of equal probability."""
    cells = np.floor(scipy.stats.norm.cdf(draws) * 64).astype(int)
    counts = np.bincount(cells[:, ::2].ravel() * 64 + cells[:, 1::2].ravel(), minlength=64**2)
    assert 1e-3 < scipy.stats.chisquare(counts).pvalue < 1 - 1e-3


@pytest.mark.parametrize("word", ["index", "key 0", "key 1"])
def test_every_bit_moves_every_bit(word):
    """Avalanche: one bit of the index or of the key turns each bit of the hash half of the time."""
    n = 2**14
    index = jnp.arange(n, dtype=jnp.uint32)
    key = jax.random.bits(jax.random.key(0), (2, n), jnp.uint32)
    turned = []
    for bit in range(32):
        one = jnp.uint32(1 << bit)
        other = index ^ one if word == "index" else index
        flip = jnp.array([word == "key 0", word == "key 1"])[:, None] * one
        difference = np.asarray(
            noise._hash(index, key) ^ noise._hash(other, key ^ flip.astype(jnp.uint32))
        )
        turned.append([(difference >> b & 1).mean() for b in range(32)])
    np.testing.assert_allclose(turned, 0.5, atol=6 * 0.5 / np.sqrt(n))


def test_the_hash_has_no_collisions():
    """It is a bijection for every key: draws of one key repeat no bits."""
    index = jnp.arange(2**20, dtype=jnp.uint32)
    key = jnp.array([0xFFFFFFF0, 7], jnp.uint32)
    assert np.unique(np.asarray(noise._hash(index, key))).size == index.size


@pytest.mark.parametrize(("dtype", "extreme"), [(jnp.float32, 2**-25), (jnp.float64, 2.0**-33)])
def test_extremes_are_finite_and_symmetric(monkeypatch, dtype, extreme):
    """The lowest and the highest bits, and the two in the middle."""
    bits = jnp.array([0x80000000, 0x7FFFFFFF, 0xFFFFFFFF, 0], jnp.uint32)
    monkeypatch.setattr(noise, "_hash", lambda index, key: bits)
    z = jax.jit(lambda: standard_normal(jax.random.key(0), (4,), dtype))()
    np.testing.assert_allclose(z[1], scipy.stats.norm.isf(extreme), rtol=1e-3)
    np.testing.assert_array_equal(z[::2], -z[1::2])
    assert 0 < z[3] < 1e-6


@pytest.mark.slow
def test_every_float32_draw_is_the_quantile(monkeypatch):
    """All 2**24 values that there are, as one compiled program: XLA moves constants between operations."""
    kept = np.arange(-(2**23), 2**23, dtype=np.int32)
    bits = jnp.asarray((kept << 8).view(np.uint32))
    monkeypatch.setattr(noise, "_hash", lambda index, key: bits)
    z = np.asarray(jax.jit(lambda: standard_normal(jax.random.key(0), bits.shape))(), np.float64)
    expected = scipy.stats.norm.ppf((kept + 2**23 + 0.5) / 2**24)
    np.testing.assert_allclose(z, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_types(dtype):
    key = jax.random.key(5)
    z = standard_normal(key, (3, 50, 7), dtype)
    chex.assert_shape(z, (3, 50, 7))
    assert z.dtype == dtype
    tolerance = {jnp.float32: 0, jnp.float64: 1e-4, jnp.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(
        np.asarray(z, np.float64), standard_normal(key, (3, 50, 7)), rtol=tolerance, atol=tolerance
    )


def test_a_draw_depends_on_key_and_index_alone():
    key = jax.random.key(1)
    whole = standard_normal(key, (6, 4, 5))
    np.testing.assert_array_equal(whole.ravel(), standard_normal(key, (120,)))
    np.testing.assert_array_equal(whole[:2], standard_normal(key, (2, 4, 5)))
    stacked = jax.vmap(lambda key: standard_normal(key, (4, 5)))(jax.random.split(key, 3))
    np.testing.assert_array_equal(stacked[1], standard_normal(jax.random.split(key, 3)[1], (4, 5)))
