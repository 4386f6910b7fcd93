"""Single layers against recorded PyTorch: every array of torch_layers.npz, in both precisions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Recorded, assert_close, load

from dtp_jax import ops
from dtp_jax.blocks import dense_block

GROUPS = sorted({key.split("/")[0] for key in load("torch_layers")})
FAMILIES = ("maxpool", "conv", "convT", "linear", "elu", "adaptive_avgpool")
RELATIVE = {"float64": 1e-10, "float32": 1e-5}

pytestmark = pytest.mark.parametrize("dtype", RELATIVE)


def groups(family):
    found = [name for name in GROUPS if re.fullmatch(f"{family}(_.*)?", name)]
    return pytest.mark.parametrize("name", found)


class Layer(Recorded):
    """One recorded layer, channels last, in one precision. On leaving, all must have been read."""

    def __init__(self, name, dtype):
        super().__init__("torch_layers", f"{name}/")
        self.dtype = dtype

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        assert error or not self.unread, f"recorded but not compared: {self.unread}"

    def __getitem__(self, key):
        """NCHW -> NHWC; [out, in, k, k] of Conv2d and [in, out, k, k] of ConvTranspose2d -> HWIO of
        the forward convolution, whose outputs come first in both."""
        a = super().__getitem__(key)
        if a.ndim == 4:
            a = a.transpose((2, 3, 1, 0) if "weight" in key else (0, 2, 3, 1))
        return jnp.asarray(a if a.dtype.kind == "i" else a.astype(self.dtype))

    def check(self, key, actual):
        assert actual.dtype == self.dtype
        assert_close(actual, self[key], RELATIVE[self.dtype])

    def check_affine(self, function):
        """Value and all three gradients of function(x, weight) + bias."""

        def affine(x, weight, bias):
            return function(x, weight) + bias

        y, gradients = value_and_pullback(
            affine, self["grad_y"], self["x"], self["weight"], self["bias"]
        )
        self.check("y", y)
        for name, gradient in zip(("x", "weight", "bias"), gradients, strict=True):
            self.check(f"grad_{name}", gradient)


def value_and_pullback(function, g, *arguments):
    """function(*arguments), and the gradients of its product with g; one compiled program."""

    @jax.jit
    def run(g, *arguments):
        y, pullback = jax.vjp(function, *arguments)
        return y, pullback(g)

    return run(g, *arguments)


def test_every_group_is_of_a_tested_family(dtype):
    for name in GROUPS:
        assert any(re.fullmatch(f"{family}(_.*)?", name) for family in FAMILIES), name


@groups("maxpool")
def test_max_pool(name, dtype):
    window, stride, padding = (*map(int, re.findall(r"\d", name)), 0)[:3]
    pool = dict(window=window, stride=stride, padding=padding)
    with Layer(name, dtype) as layer:
        x = layer["x"]
        index = jax.jit(lambda x: ops.max_pool(x, **pool)[1])(x)
        y, gradients = value_and_pullback(lambda x: ops.max_pool(x, **pool)[0], layer["grad_y"], x)
        layer.check("y", y)
        layer.check("grad_x", gradients[0])
        recorded = np.asarray(layer["indices"])  # row * width + column in the pooled plane
        row, column = np.divmod(np.asarray(index, int), window)
        rows, columns = (np.arange(n) * stride - padding for n in y.shape[1:3])
        flat = (row + rows[:, None, None]) * x.shape[2] + column + columns[:, None]
        np.testing.assert_array_equal(flat, recorded)
        check_unpooling(layer, index, recorded, pool)


def check_unpooling(layer, index, recorded, pool):
    """torch's gradient of unpooling is a plain gather. Ours is the derivative: the same, but for
    the values that a later window of the same position overwrote, which have none."""
    size = layer["x"].shape[1:]

    def unpool(v):
        return ops.max_unpool(v, index, input_shape=size, **pool)

    layer.check("unpool_of_y", jax.jit(unpool)(layer["y"]))
    out, (gradient,) = value_and_pullback(unpool, layer["unpool_grad_out"], layer["unpool_in"])
    layer.check("unpool_out", out)
    gathered = np.take_along_axis(
        np.asarray(layer["unpool_grad_out"]).reshape(len(out), -1, out.shape[-1]),
        recorded.reshape(len(out), -1, out.shape[-1]),
        axis=1,
    ).reshape(recorded.shape)
    np.testing.assert_array_equal(layer["unpool_grad_in"], gathered)
    overwritten = np.zeros(recorded.shape, bool)
    for b, channel in np.ndindex(recorded.shape[0], recorded.shape[-1]):
        plane = recorded[b, :, :, channel].ravel()
        later = [position in plane[k + 1 :] for k, position in enumerate(plane)]
        overwritten[b, :, :, channel] = np.reshape(later, recorded.shape[1:3])
    assert overwritten.any() == (pool["window"] > pool["stride"])
    np.testing.assert_array_equal(gradient, np.where(overwritten, 0, gathered))


@groups("conv")
@pytest.mark.parametrize("implementation", [None, "lax"])
def test_convolution(name, dtype, implementation):
    _, stride, padding = map(int, re.findall(r"[ksp](\d)", name))
    with Layer(name, dtype) as layer:
        layer.check_affine(
            lambda x, kernel: ops.conv(
                x, kernel, stride=stride, padding=padding, implementation=implementation
            )
        )


@groups("convT")
@pytest.mark.parametrize("implementation", [None, "lax"])
def test_transposed_convolution(name, dtype, implementation):
    _, stride, padding = map(int, re.findall(r"(?<!o)[ksp](\d)", name))
    with Layer(name, dtype) as layer:
        size = layer["y"].shape[1:]
        layer.check_affine(
            lambda y, kernel: ops.conv_transpose(
                y,
                kernel,
                input_shape=size,
                stride=stride,
                padding=padding,
                implementation=implementation,
            )
        )


@groups("linear")
def test_linear(name, dtype):
    """The dense block, and its mirror image as the feedback map of a block from 5 to 7."""
    with Layer(name, dtype) as layer:
        outputs, inputs = layer["weight"].shape
        forward = dense_block("fc", features=outputs)((inputs,))
        feedback = dense_block("fc", features=inputs)((outputs,))
        layer.check_affine(lambda x, weight: forward.forward({"kernel": weight.T}, x)[0])
        layer.check_affine(lambda x, weight: feedback.feedback({"kernel": weight}, x, ()))


@groups("elu")
def test_elu(name, dtype):
    with Layer(name, dtype) as layer:
        elu = ops.ACTIVATIONS["elu"]
        y, gradient = jax.jit(jax.vmap(jax.value_and_grad(elu)))(layer["x"])
        layer.check("y", y)
        layer.check("grad", gradient)


@groups("adaptive_avgpool")
def test_adaptive_average_pool(name, dtype):
    with Layer(name, dtype) as layer:
        size = layer["y"].shape[1:3]
        y, gradients = value_and_pullback(
            lambda x: ops.adaptive_average_pool(x, size), layer["grad_y"], layer["x"]
        )
        layer.check("y", y)
        layer.check("grad_x", gradients[0])
