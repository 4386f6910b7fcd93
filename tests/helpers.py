"""What the oracle tests share: small networks, plain numpy versions of layers, recorded arrays."""

import importlib.util
import math
from functools import cache
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dtp_jax import blocks
from dtp_jax.learning import learner, optim
from dtp_jax.networks import lenet, mlp, simple_vgg

REPOSITORY = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"

# Not square, and no two axes of one size: whoever mixes them up is found out. Overlapping pooling
# windows in lenet. The mlp flattens an image.
NETWORKS = {
    "vgg": lambda **options: simple_vgg((8, 12, 2), 5, **{"channels": (3, 4), **options}),
    "lenet": lambda **options: lenet((7, 10, 2), 5, channels=(3, 4), hidden=(6,), **options),
    "mlp": lambda **options: mlp((2, 3, 1), 5, hidden=(7, 4), **options),
}


def slow(*values):
    """A case that `make test` leaves out and `make slow` has."""
    return pytest.param(*values, marks=pytest.mark.slow)


def double(tree):
    """Its floating-point leaves in float64; keys and integers as they are."""

    def convert(leaf):
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)


def copied(tree):
    """Fresh buffers, for functions that donate their argument."""
    return jax.tree.map(jnp.copy, tree)


def normal(seed, shape):
    """float64 N(0, 1) of this shape."""
    return np.random.default_rng(seed).normal(size=shape)


def make_batch(network, size, seed=0):
    """Random float64 images and labels of the network's shapes."""
    classes = network[-1].output_shape[0]
    labels = np.random.default_rng(seed + 1000).integers(0, classes, size)
    return jnp.asarray(normal(seed, (size, *network[0].input_shape))), jnp.asarray(labels)


def make_parameters(network, seed=0):
    """(forward, feedback) parameters in float64, drawn by numpy: nothing is compiled."""
    random, key = np.random.default_rng(seed), jax.random.key(0)

    def draw(init):
        return jax.tree.map(
            lambda leaf: jnp.asarray(random.normal(size=leaf.shape) / fan_in(leaf) ** 0.5),
            jax.eval_shape(init, key),
        )

    def fan_in(leaf):
        return math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 9

    return (
        draw(lambda key: blocks.init_forward(network, key)),
        draw(lambda key: blocks.mirror_feedback(network, key)),
    )


def make_learner(
    network, rule, *, iterations=2, samples=1, forward_lr=0.05, weight_decay=1e-4, feedback_lr=0.01
):
    """SGD with momentum 0.9 everywhere, as the paper's experiments have it."""
    feedback = (optim.sgd(feedback_lr, momentum=0.9), iterations, samples)
    return learner.Learner(
        network,
        rule,
        optim.sgd(forward_lr, momentum=0.9, weight_decay=weight_decay),
        *(feedback if rule.feedback_training is not None else ()),
    )


def make_state(learner_, seed=0):
    """A state with `make_parameters`, before the first step."""
    forward, feedback = make_parameters(learner_.network, seed)
    feedback = feedback if learner_.feedback_optimizers else {}
    return learner.TrainState(
        jnp.zeros((), jnp.int32),
        jax.random.key(seed),
        forward,
        feedback,
        *learner.init_optimizers(learner_, forward, feedback),
    )


def everything(index, iteration):
    """An observer that keeps the whole iteration."""
    del index
    return iteration


def assert_close(actual, expected, rtol=1e-10, atol=1e-12):
    """Trees of arrays: equal within rtol of the largest entry of each array, plus atol."""
    chex.assert_trees_all_equal_structs(actual, expected)
    for (path, got), wanted in zip(
        jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        got, wanted = np.asarray(got), np.asarray(wanted)
        allowed = rtol * np.max(np.abs(wanted), initial=0) + atol
        np.testing.assert_allclose(
            got, wanted, rtol=0, atol=allowed, strict=True, err_msg=jax.tree_util.keystr(path)
        )


def sgd_in_numpy(gradients, parameters, rate, momentum, weight_decay=0.0, buffers=None):
    """One step of torch.optim.SGD, as its documentation writes it -> (parameters, buffers)."""
    gradients = jax.tree.map(
        lambda g, p: np.asarray(g) + weight_decay * np.asarray(p), gradients, parameters
    )
    buffers = (
        gradients
        if buffers is None
        else jax.tree.map(lambda b, g: momentum * b + g, buffers, gradients)
    )
    return jax.tree.map(lambda p, b: np.asarray(p) - rate * b, parameters, buffers), buffers


def softmax_in_numpy(logits):
    """Softmax over the last axis."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def cross_entropy_in_numpy(logits, labels):
    """Of each example."""
    return -np.log(softmax_in_numpy(np.asarray(logits)))[np.arange(len(labels)), np.asarray(labels)]


def degrees_between(a, b):
    """Angle of two flattened arrays by its definition, with the small number below."""
    a, b = np.ravel(a), np.ravel(b)
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-8)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def windows_in_numpy(x, window, stride, padding):
    """Yields (b, r, c, channel, [(row, column), ...]): the positions inside the image that each
    window sees, windows and positions in row-major order."""
    batch, height, width, channels = x.shape
    rows, columns = ((n + 2 * padding - window) // stride + 1 for n in (height, width))
    for b, r, c, channel in np.ndindex(batch, rows, columns, channels):
        seen = [
            (r * stride - padding + i, c * stride - padding + j)
            for i, j in np.ndindex(window, window)
        ]
        yield b, r, c, channel, [(i, j) for i, j in seen if 0 <= i < height and 0 <= j < width]


def max_pool_in_numpy(x, window, stride, padding):
    """-> (maxima, their positions as (row, column), shape (*maxima.shape, 2)); ties: the first."""
    rows, columns = ((n + 2 * padding - window) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    where = np.zeros((*y.shape, 2), int)
    for b, r, c, channel, seen in windows_in_numpy(x, window, stride, padding):
        best = max(seen, key=lambda p: x[b, *p, channel])  # max returns the first of equals
        y[b, r, c, channel], where[b, r, c, channel] = x[b, *best, channel], best
    return y, where


def max_unpool_in_numpy(y, where, size):
    """Writes in row-major order of the windows, so that a later window wins."""
    x = np.zeros((y.shape[0], *size, y.shape[3]), y.dtype)
    for b, r, c, channel in np.ndindex(y.shape):
        x[b, *where[b, r, c, channel], channel] = y[b, r, c, channel]
    return x


def conv_in_numpy(x, kernel, stride, padding):
    """Correlation by its definition; kernel (k, k, in, out)."""
    k = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((n - k) // stride + 1 for n in padded.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]), x.dtype)
    for r, c in np.ndindex(rows, columns):
        patch = padded[:, r * stride : r * stride + k, c * stride : c * stride + k]
        y[:, r, c] = np.einsum("bijc,ijco->bo", patch, kernel)
    return y


def conv_transpose_in_numpy(y, kernel, size, stride, padding):
    """Every output spreads its value over the inputs that it came from."""
    k = kernel.shape[0]
    padded = np.zeros((y.shape[0], size[0] + 2 * padding, size[1] + 2 * padding, kernel.shape[2]))
    for r, c in np.ndindex(y.shape[1:3]):
        padded[:, r * stride : r * stride + k, c * stride : c * stride + k] += np.einsum(
            "bo,ijco->bijc", y[:, r, c], kernel
        )
    return padded[:, padding : padding + size[0], padding : padding + size[1]]


class Recorded:
    """The arrays of a recorded file whose keys start with `prefix`, and which of them were read."""

    def __init__(self, file, prefix=""):
        self._arrays = {
            key.removeprefix(prefix): a for key, a in load(file).items() if key.startswith(prefix)
        }
        self.unread = set(self._arrays)

    def __getitem__(self, key):
        self.unread.discard(key)
        return self._arrays[key]


@cache
def load(file):
    """All arrays of tests/golden/<file>.npz."""
    with np.load(GOLDEN / f"{file}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def config_module(name):
    """configs/<name>.py, loaded as a program would."""
    path = REPOSITORY / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"configs.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_fields(name="digits_dtp", **changes):
    """The fields of that config as a dict, some of them changed."""
    return {**config_module(name).get_config().to_dict(), **changes}
