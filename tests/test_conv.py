"""Convolutions: every implementation is XLA's one, in values and in derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dtp_jax import ops

OWN = sorted(set(ops.IMPLEMENTATIONS) - {"lax"})
# (height, width), window, stride, padding
GEOMETRIES = [
    ((5, 7), 3, 1, 1),
    ((4, 6), 3, 1, 0),
    ((2, 2), 3, 1, 1),
    ((1, 1), 3, 1, 1),
    ((1, 3), 3, 1, 2),
    ((6, 5), 3, 2, 1),
    ((7, 7), 3, 3, 0),
    ((9, 6), 5, 1, 2),
    ((2, 3), 5, 2, 2),
    ((4, 5), 1, 1, 0),
    ((5, 4), 1, 2, 0),
    ((1, 1), 1, 2, 1),  # every window sees nothing but padding
]
FITS = {"winograd": [(3, 1), (5, 1)], "winograd_4": [(3, 1)]}
ALSO = [one for n, one in enumerate(GEOMETRIES) if n % 3]
"""Those that `make test` leaves out."""
CASES = [
    pytest.param(
        name,
        *geometry,
        id=f"{name}-{geometry}",
        marks=[pytest.mark.slow] if geometry in ALSO else [],
    )
    for name in OWN
    for geometry in GEOMETRIES
    if geometry[1:3] in FITS.get(name, (geometry[1:3],))
]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name, size, window, stride, padding", CASES)
def test_values_derivatives_and_adjoint(name, size, window, stride, padding):
    rows, columns = ((n + 2 * padding - window) // stride + 1 for n in size)
    x, kernel, y = (
        normal(0, (2, *size, 3)),
        normal(1, (window, window, 3, 4)),
        normal(2, (2, rows, columns, 4)),
    )

    def everything(implementation):
        options = dict(stride=stride, padding=padding, implementation=implementation)

        def run(x, kernel, y):
            conv = partial(ops.conv, **options)
            transpose = partial(ops.conv_transpose, input_shape=x.shape[1:], **options)
            out, pull = jax.vjp(conv, x, kernel)
            back, pull_back = jax.vjp(transpose, y, kernel)
            return out, back, pull(y), pull_back(x)

        return jax.jit(run)(x, kernel, y)

    out, back, *derivatives = everything(name)
    assert back.shape == x.shape
    close(jnp.vdot(out, y), jnp.vdot(x, back))
    jax.tree.map(close, (out, back, *derivatives), everything("lax"))


def test_lax_is_the_sum_over_the_window():
    """The reference itself, against numpy."""
    x, kernel = normal(0, (2, 5, 6, 3)), normal(1, (3, 3, 3, 4))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.stack(
        [
            np.stack(
                [
                    np.einsum(
                        "bijc,ijco->bo", padded[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3], kernel
                    )
                    for c in range(3)
                ],
                axis=1,
            )
            for r in range(3)
        ],
        axis=1,
    )
    close(ops.conv(x, kernel, stride=2, padding=1, implementation="lax"), expected)


@pytest.mark.parametrize("name", sorted(ops.IMPLEMENTATIONS))
def test_vmap_is_a_loop(name):
    xs, kernels = normal(0, (3, 2, 4, 4, 3)), normal(1, (3, 3, 3, 3, 4))

    conv = jax.jit(partial(ops.conv, padding=1, implementation=name))
    close(
        jax.vmap(conv)(xs, kernels),
        jnp.stack([conv(*pair) for pair in zip(xs, kernels, strict=True)]),
    )
    close(jax.vmap(conv, (0, None))(xs, kernels[0]), jnp.stack([conv(x, kernels[0]) for x in xs]))


@pytest.mark.parametrize(
    "size, window, stride, channels",
    [(16, 3, 1, 64), (2, 3, 1, 64), (8, 3, 2, 64), (8, 3, 1, 3), (14, 5, 1, 32), (4, 1, 1, 64)],
)
def test_default_agrees_with_lax(size, window, stride, channels):
    """Whichever implementation the shapes choose."""
    x, kernel = normal(0, (2, size, size, channels)), normal(1, (window, window, channels, 8))
    options = dict(stride=stride, padding=window // 2)
    default = jax.jit(partial(ops.conv, **options))(x, kernel)
    close(default, ops.conv(x, kernel, implementation="lax", **options))


@pytest.mark.parametrize("window, stride", [(4, 1), (3, 2), (5, 2), (1, 1)])
def test_winograd_refuses_other_windows(window, stride):
    with pytest.raises(ValueError, match=r"winograd.*allowed: \(3, 3\) or \(5, 5\) with stride 1"):
        ops.conv(
            normal(0, (1, 8, 8, 3)),
            normal(1, (window, window, 3, 4)),
            stride=stride,
            implementation="winograd",
        )


def test_unknown_implementation():
    with pytest.raises(ValueError, match="implementation.*fourier.*winograd"):
        ops.conv(normal(0, (1, 8, 8, 3)), normal(1, (3, 3, 3, 4)), implementation="fourier")
