"""Products in bfloat16 or float32: what is rounded, what is not, and that learning survives."""

import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dtp_jax import networks, ops, rules
from dtp_jax.learning import learner, metrics, optim

pytestmark = pytest.mark.usefixtures("single_precision")


def rounded(x):
    return np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))


def draws(*shapes):
    return [jnp.asarray(helpers.normal(n, shape), jnp.float32) for n, shape in enumerate(shapes)]


def test_bfloat16_rounds_operands_and_results():
    x, kernel = draws((7, 30), (30, 5))
    with ops.products_in("bfloat16"):
        found = ops.linear(x, kernel)
    exact = rounded(x).astype(np.float64) @ rounded(kernel).astype(np.float64)
    assert found.dtype == jnp.float32
    # Half a unit in the last of 8 bits, and sums in float32: nothing else is lost.
    np.testing.assert_allclose(found, exact, rtol=2**-8, atol=1e-6)
    np.testing.assert_array_equal(found, rounded(found))
    assert np.abs(found - x @ kernel).max() > 1e-3


@pytest.mark.parametrize("implementation", ["lax", "matmul", "taps", None])
def test_bfloat16_convolution_and_adjoint(implementation):
    x, kernel, y = draws((2, 6, 5, 16), (3, 3, 16, 4), (2, 6, 5, 4))
    options = {"padding": 1, "implementation": implementation}
    with ops.products_in("bfloat16"):
        found = ops.conv(x, kernel, **options)
        back = ops.conv_transpose(y, kernel, input_shape=(6, 5, 16), **options)
    exact = jax.enable_x64(True)
    with exact:
        operands = [np.asarray(rounded(a), np.float64) for a in (x, kernel, y)]
        forward = ops.conv(operands[0], operands[1], padding=1, implementation="lax")
        adjoint = ops.conv_transpose(
            operands[2], operands[1], input_shape=(6, 5, 16), padding=1, implementation="lax"
        )
    # "taps" adds its products one by one, each rounded.
    scale = 2**-6 if implementation == "taps" else 2**-8
    np.testing.assert_allclose(found, forward, rtol=scale, atol=scale * 4)
    np.testing.assert_allclose(back, adjoint, rtol=scale * 2, atol=scale * 16)


def test_only_products_and_only_inside_are_rounded():
    x, kernel = draws((3, 4), (4, 2))
    with ops.products_in("bfloat16"):
        pass
    np.testing.assert_allclose(ops.linear(x, kernel), np.asarray(x) @ np.asarray(kernel), rtol=1e-6)
    with jax.enable_x64(True), ops.products_in("bfloat16"):
        wide = jnp.asarray(helpers.normal(0, (3, 4)))
        assert ops.linear(wide, jnp.eye(4)).dtype == jnp.float64
        np.testing.assert_array_equal(ops.linear(wide, jnp.eye(4)), wide)


@pytest.mark.parametrize("precision, name", [("float32", "HIGHEST"), ("tf32", "HIGH")])
def test_precision_reaches_the_compiler(precision, name):
    def product(x, kernel):
        with ops.products_in(precision):
            return ops.linear(x, kernel)

    text = jax.jit(product).lower(*draws((3, 4), (4, 2))).as_text()
    assert re.search(r"precision\s*=\s*\[(\w+)", text)[1] == name


def train(precision, steps=60):
    network = networks.simple_vgg((8, 8, 1), 4, channels=(8, 8))
    made = learner.Learner(
        network,
        rules.ldrl(noise=(0.2, 0.1), beta=0.7),
        optim.sgd(0.02, momentum=0.9),
        (optim.sgd(5e-3, momentum=0.9), optim.sgd(0.2, momentum=0.9)),
        (5, 5),
        precision=precision,
    )
    state = learner.init(made, jax.random.key(0))
    step = jax.jit(lambda s, x, y: learner.train_step(made, s, x, y))
    random = np.random.default_rng(0)
    prototypes = random.normal(size=(4, 8, 8, 1))
    for _ in range(steps):
        labels = random.integers(0, 4, 32)
        images = prototypes[labels] + random.normal(size=(32, 8, 8, 1))
        state, found = step(state, jnp.asarray(images, jnp.float32), jnp.asarray(labels))
    angles = metrics.weight_alignment(state.forward, state.feedback)
    return state, float(found.loss), {name: float(value[1]) for name, value in angles.items()}


def test_learning_and_alignment_survive_bfloat16():
    state, loss, angles = train("bfloat16")
    _, loss32, angles32 = train("float32")
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves((state.forward, state.feedback)))
    assert loss < 0.6 and abs(loss - loss32) < 0.1
    for name, angle in angles.items():
        assert angle < 60 and abs(angle - angles32[name]) < 3, (angles, angles32)


def test_blocks_take_the_precision_of_the_learner():
    """Forward pass, decoding and gradients: every product of a step has operands in bfloat16."""
    network = networks.lenet((8, 8, 2), 3, channels=(3, 4), hidden=(5,))
    made = learner.Learner(
        network,
        rules.ldrl(noise=(0.1,) * 3, beta=0.5),
        optim.sgd(0.1, momentum=0.0),
        (optim.sgd(0.1, momentum=0.0),) * 3,
        (1,) * 3,
        precision="bfloat16",
    )
    state = learner.init(made, jax.random.key(0))
    x = jnp.zeros((2, 8, 8, 2), jnp.float32)
    program = jax.make_jaxpr(lambda s: learner.train_step(made, s, x, jnp.zeros(2, jnp.int32)))
    found = [e for e in equations(program(state).jaxpr) if e.primitive.name in PRODUCTS]
    assert len(found) > 10
    assert {v.aval.dtype for e in found for v in e.invars[:2]} == {jnp.dtype(jnp.bfloat16)}


PRODUCTS = ("dot_general", "conv_general_dilated")


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from equations(getattr(value, "jaxpr", value))


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
