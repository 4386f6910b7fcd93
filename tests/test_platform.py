"""One program in the forms of several platforms: the same numbers, but for rounding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NETWORKS, assert_close, make_batch, make_learner, make_parameters, normal, slow
from test_ldrl import make_setting, python_loop, small_network

from dtp_jax import ops
from dtp_jax.blocks import forward_all
from dtp_jax.learning import iterations, learner
from dtp_jax.rules import dtp, ldrl
from dtp_jax.rules.ldrl import read_by

ACCELERATORS = ("gpu", "tpu")


def test_the_form_is_that_of_the_backend_unless_said_otherwise():
    assert ops.form() == ops.FORMS[jax.default_backend()]
    with ops.compiled_for("tpu"):
        assert ops.form() == ops.FORMS["tpu"]
        with ops.compiled_for(None):
            assert ops.form() == ops.FORMS[jax.default_backend()]
    assert ops.form() == ops.FORMS[jax.default_backend()]
    with pytest.raises(ValueError, match="platform is 'npu'; allowed: cpu, gpu, tpu"):
        ops.compiled_for("npu").__enter__()


def test_a_backend_that_nobody_knows_has_the_form_of_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "rocm")
    assert ops.form() == ops.FORMS["gpu"]


@pytest.mark.parametrize("platform", ops.FORMS)
@pytest.mark.parametrize(
    ("name", "i", "samples"), [("vgg", 1, 1), ("vgg", 3, 2), ("lenet", 1, 2), ("lenet", 2, 1)]
)
def test_feedback_training_is_the_loop_over_the_formulas_in_every_form(platform, name, i, samples):
    setting = make_setting(small_network(name), samples)
    with ops.compiled_for(platform):
        activations = jax.jit(partial(forward_all, setting.network))(
            setting.forward, setting.activations.h[0]
        )
        found = setting._replace(activations=activations).train(setting.rule.feedback_training, i)
    assert_close(found, python_loop(setting, i), atol=1e-11)


@pytest.mark.parametrize("platform", ACCELERATORS)
@pytest.mark.parametrize("rule", [ldrl, slow(dtp)])
def test_a_training_step_in_every_form(platform, rule):
    network = NETWORKS["vgg"]()
    made = make_learner(network, rule(noise=0.3, beta=0.5), iterations=5)
    is_float = lambda a: jnp.issubdtype(a.dtype, jnp.floating)
    state = jax.tree.map(
        lambda a: a.astype(jnp.float64) if is_float(a) else a, learner.init(made, jax.random.key(3))
    )
    batch = make_batch(network, 4)

    def stepped():  # a function of its own for each form: else the first trace would serve for both
        return jax.jit(lambda *args: learner.train_step(made, *args))(state, *batch)

    with ops.compiled_for("cpu"):
        expected = stepped()
    with ops.compiled_for(platform):
        found = stepped()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        if is_float(a):
            np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("budget", [1, 40, 10**9])
@pytest.mark.parametrize("count", [1, 5, 7])
def test_preparing_ahead_is_a_loop(count, budget):
    """In chunks of one, of some with a rest, of all; 8 bytes are prepared of each."""
    source = normal(1, (count,))
    prepare, update = lambda s: 2 * s, lambda carry, p: (0.5 * carry + p, carry * p)
    found, seen = jax.jit(
        lambda: iterations.ahead(prepare, update, jnp.asarray(3.0), source, budget=budget)
    )()
    carry, expected = 3.0, []
    for s in np.asarray(source):
        expected.append(carry * 2 * s)
        carry = 0.5 * carry + 2 * s
    np.testing.assert_allclose(found, carry, rtol=1e-12)
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


@pytest.mark.parametrize("platform", ops.FORMS)
def test_packing_is_undone(platform):
    tree = {"kernel": normal(1, (3, 2, 4, 5)), "bias": normal(2, (5,)), "count": jnp.asarray(3)}
    with ops.compiled_for(platform):
        assert_close(iterations.unpacked(iterations.packed(tree)), tree, atol=0)


@pytest.mark.parametrize("platform", ops.FORMS)
def test_noise_is_the_same_everywhere(platform):
    noise, block = ldrl(noise=1.0, beta=1.0).feedback_training.draw_noise, NETWORKS["vgg"]()[1]
    key = jax.random.key(5)
    expected = noise(key, block, 3, jnp.float32)
    e, u = jax.random.split(key)
    assert_close(expected.e, ops.standard_normal(e, (3, *block.input_shape)), atol=0)
    assert_close(expected.u, ops.standard_normal(u, (3, *block.output_shape)), atol=0)
    with ops.compiled_for(platform):
        words, terms = noise.words(key, block), noise.index_terms(block, 3)
        assert_close(noise.drawn(words, block, 3, jnp.float32, terms), expected, atol=0)


def test_uses_are_computed_apart_on_a_tpu_alone():
    def both(x):
        return sum(ops.for_each_use(jnp.sin, x, uses=2))

    for platform, count in (("cpu", 0), ("gpu", 0), ("tpu", 1)):
        with ops.compiled_for(platform):
            text = str(jax.make_jaxpr(lambda x: both(x))(1.0))
            assert text.count("optimization_barrier") == count
            assert np.isclose(jax.jit(lambda x: both(x))(1.0), 2 * np.sin(1.0))


@pytest.mark.parametrize("dtype", [jnp.float32, slow(jnp.float64)])
@pytest.mark.parametrize("platform", ops.FORMS)
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_of_tiles(platform, window, dtype):
    """Values, derivatives forwards and backwards, beside a loop over the tiles; the size leaves a rest."""
    x = np.asarray(normal(4, (2, 7, 8, 3)), dtype)
    x[0, :4] = 1.0  # ties: the first in row-major order wins
    with ops.compiled_for(platform):
        pool = lambda x: ops.max_pool(x, window=window, stride=window)
        (y, index), pushed = jax.jvp(pool, (jnp.asarray(x),), (jnp.asarray(x[::-1]),))
        cotangent = np.asarray(normal(5, y.shape), dtype)
        pulled = jax.vjp(lambda x: pool(x)[0], jnp.asarray(x))[1](jnp.asarray(cotangent))[0]
    expected = np.zeros_like(x)
    for b, r, c, k in np.ndindex(*y.shape):
        rows, columns = slice(r * window, (r + 1) * window), slice(c * window, (c + 1) * window)
        tile = x[b, rows, columns, k].ravel()
        where = int(tile.argmax())
        assert (y[b, r, c, k], index[b, r, c, k]) == (tile[where], where)
        assert pushed[0][b, r, c, k] == x[::-1][b, rows, columns, k].ravel()[where]
        expected[b, r * window + where // window, c * window + where % window, k] = cotangent[
            b, r, c, k
        ]
    np.testing.assert_array_equal(pulled, expected)


def test_operands_are_rounded_in_bfloat16_alone():
    tree = {"a": jnp.ones(3, jnp.float32), "b": jnp.ones(3, jnp.float64)}
    assert ops.as_operands(tree)["a"].dtype == jnp.float32
    with ops.products_in("bfloat16"):
        assert ops.as_operands(tree)["a"].dtype == jnp.bfloat16
        assert ops.as_operands(tree)["b"].dtype == jnp.float64


def test_what_decoding_reads():
    network = NETWORKS["vgg"]()
    forward, feedback = make_parameters(network)
    for block in network[1:]:
        y, residual = block.forward(forward[block.name], jnp.zeros((2, *block.input_shape)))
        read = read_by(block.decode, feedback[block.name], block.features(y, residual))
        assert read == {"kernel": True, "bias": False}
