"""Pooling, unpooling, averages, activations and initialisers against plain numpy loops."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    max_pool_in_numpy,
    max_unpool_in_numpy,
    normal,
)

from dtp_jax import ops

# (height, width), window, stride, padding
POOLS = [
    ((6, 4), 2, 2, 0),
    ((7, 5), 2, 2, 0),  # a row and a column that no window covers
    ((8, 6), 3, 2, 1),
    ((7, 9), 3, 2, 1),
    ((7, 6), 3, 2, 0),
    ((5, 6), 3, 1, 1),  # a position in up to nine windows
    ((8, 7), 2, 3, 0),  # gaps between the windows
    ((4, 6), 2, 2, 1),  # disjoint, but padded
    ((1, 1), 3, 2, 1),
]


class Pooled(NamedTuple):
    """What one compiled program computed, and the pooling by loops."""

    x: np.ndarray
    """(2, height, width, 3): random, or few values, all negative so that padding shows."""
    y: jax.Array
    flat: np.ndarray
    """Positions of the maxima, row * width + column."""
    g_y: np.ndarray
    g_x: jax.Array
    """Gradient of <g_y, y> with respect to x."""
    v: np.ndarray
    unpooled: jax.Array
    """Of the values v."""
    g_unpooled: np.ndarray
    g_v: jax.Array
    """Gradient of <g_unpooled, unpooled> with respect to v."""
    where: np.ndarray
    """By loops: (row, column) of each maximum."""


@pytest.fixture(
    scope="module", params=[(*pool, ties) for pool in POOLS for ties in (False, True)], ids=str
)
def pooled(request):
    size, window, stride, padding, ties = request.param
    options = dict(window=window, stride=stride, padding=padding)
    x = normal(0, (2, *size, 3))
    x = np.floor(x) - 9.0 if ties else x
    _, where = max_pool_in_numpy(x, window, stride, padding)
    g_y, v, g_unpooled = (
        normal(1, where.shape[:-1]),
        normal(2, where.shape[:-1]),
        normal(3, x.shape),
    )

    @jax.jit
    def run(x, g_y, v, g_unpooled):
        y, pullback, index = jax.vjp(lambda x: ops.max_pool(x, **options), x, has_aux=True)
        unpooled, pullback_v = jax.vjp(
            lambda v: ops.max_unpool(v, index, input_shape=x.shape[1:], **options), v
        )
        return y, index, pullback(g_y)[0], unpooled, pullback_v(g_unpooled)[0]

    y, index, g_x, unpooled, g_v = run(x, g_y, v, g_unpooled)
    row, column = np.divmod(np.asarray(index, int), window)
    row += (np.arange(row.shape[1]) * stride - padding)[:, None, None]
    column += (np.arange(row.shape[2]) * stride - padding)[:, None]
    return Pooled(x, y, row * size[1] + column, g_y, g_x, v, unpooled, g_unpooled, g_v, where)


def test_max_pool_takes_the_first_maximum_of_each_window(pooled):
    rows, columns = pooled.where[..., 0], pooled.where[..., 1]
    np.testing.assert_array_equal(pooled.flat, rows * pooled.x.shape[2] + columns)
    batch, channel = np.indices(rows.shape)[[0, 3]]
    np.testing.assert_array_equal(pooled.y, pooled.x[batch, rows, columns, channel])


def test_max_pool_sends_the_gradient_to_the_first_maximum_alone(pooled):
    expected = np.zeros_like(pooled.x)
    for b, r, c, channel in np.ndindex(pooled.y.shape):
        expected[b, *pooled.where[b, r, c, channel], channel] += pooled.g_y[b, r, c, channel]
    assert_close(pooled.g_x, expected)


def test_max_unpool_puts_values_back_and_the_last_window_wins(pooled):
    expected = max_unpool_in_numpy(pooled.v, pooled.where, pooled.x.shape[1:3])
    np.testing.assert_array_equal(pooled.unpooled, expected)


def test_max_unpool_gives_overwritten_values_no_gradient(pooled):
    expected, owner = np.zeros(pooled.v.shape), {}
    for place in np.ndindex(pooled.v.shape):
        owner[(place[0], *pooled.where[place], place[3])] = place  # the last one stays
    for position, place in owner.items():
        expected[place] = pooled.g_unpooled[position]
    np.testing.assert_array_equal(pooled.g_v, expected)


@pytest.mark.slow
def test_the_widest_window_is_unpooled():
    """256 positions are all that an index of eight bits tells apart: none is left to mean "nowhere"."""
    x = jax.random.permutation(jax.random.key(0), jnp.arange(1.0, 24 * 24 + 1)).reshape(
        1, 24, 24, 1
    )
    y, index = ops.max_pool(x, window=16, stride=8)
    back = ops.max_unpool(y, index, input_shape=(24, 24, 1), window=16, stride=8)
    kept = back != 0
    assert set(back[kept].tolist()) == set(y.ravel().tolist())
    np.testing.assert_array_equal(back[kept], x[kept])


def test_max_unpool_of_overlapping_windows_spelled_out():
    """One maximum in the middle of a 3x3 image, seen by all four 3/2/1 windows."""
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    pool = dict(window=3, stride=2, padding=1)
    y, index = ops.max_pool(x, **pool)
    np.testing.assert_array_equal(y, np.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(index[0, :, :, 0], [[8, 6], [2, 0]])
    values = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    back = ops.max_unpool(values, index, input_shape=(3, 3, 1), **pool)
    np.testing.assert_array_equal(back[0, :, :, 0], [[0, 0, 0], [0, 4, 0], [0, 0, 0]])
    # The values that were overwritten have no influence, hence no derivative.
    gradient = jax.grad(
        lambda v: ops.max_unpool(v, index, input_shape=(3, 3, 1), **pool)[0, 1, 1, 0]
    )(values)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 0], [0, 1]])


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)]
)
def test_pooled_size_counts_the_windows_that_fit(size, window, stride, padding):
    fitting = sum(
        start + window <= size + 2 * padding for start in range(0, size + 2 * padding, stride)
    )
    if size + 2 * padding >= window:
        assert ops.pooled_size(size, window=window, stride=stride, padding=padding) == fitting
    else:
        assert ops.pooled_size(size, window=window, stride=stride, padding=padding) < 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, 1), (4, 3)),
        ((2, 3), (4, 7)),
        ((4, 6), (2, 3)),
        ((5, 7), (3, 2)),
        ((4, 4), (4, 4)),
        ((3, 2), (1, 1)),
    ],
)
def test_adaptive_average_pool_against_loops(before, after):
    x = normal(4, (2, *before, 3))
    expected = np.zeros((2, *after, 3))
    for r, c in np.ndindex(*after):
        rows, columns = (
            slice(i * a // b, -(-(i + 1) * a // b))
            for i, a, b in zip((r, c), before, after, strict=True)
        )
        expected[:, r, c] = x[:, rows, columns].mean(axis=(1, 2))
    average = jax.jit(ops.adaptive_average_pool, static_argnums=1)
    assert_close(average(jnp.asarray(x), after), expected)


FORMULAS = {
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x < 0, np.exp(x), 1.0)),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "linear": (lambda x: x, np.ones_like),
}


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations_and_slopes(name):
    """ELU with alpha = 1, whose slope at 0 is 1; ReLU's slope at 0 is 0, as in torch."""
    value, slope = FORMULAS[name]
    x = np.concatenate([np.linspace(-30, 30, 121), [-1e-12, 1e-12, -0.0]])
    function = ops.ACTIVATIONS[name]
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(function)))(jnp.asarray(x))
    np.testing.assert_allclose(values, value(x), rtol=1e-13)
    np.testing.assert_allclose(slopes, slope(x), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations_map_zero_to_zero(name):
    """Feedback maps swap activation and unpooling, which is right only if zeros stay zeros."""
    assert float(ops.ACTIVATIONS[name](jnp.float32(0))) == 0


@pytest.mark.parametrize("fan_in", [1, 9, 100])
def test_uniform_fan_in_fills_its_interval_evenly(fan_in):
    bound = 1 / np.sqrt(fan_in)
    draws = np.asarray(ops.uniform_fan_in(jax.random.key(fan_in), (200, 100), fan_in))
    counts, _ = np.histogram(draws, bins=10, range=(-bound, bound))
    assert counts.sum() == draws.size  # none outside
    np.testing.assert_allclose(counts, 2000, atol=5 * np.sqrt(2000))
