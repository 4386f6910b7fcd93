"""Batch norm against PyTorch's: forward, feedback, gradients, running statistics, evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, make_parameters, normal

from dtp_jax import ops
from dtp_jax.blocks import (
    MaxPool,
    basic_block,
    conv_block,
    dense_block,
    initial_statistics,
    residual_stage,
)
from dtp_jax.networks import resnet18

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


def norm(channels):
    """momentum=1: after one batch the running statistics are those of that batch."""
    return nn.BatchNorm2d(channels, momentum=1.0)


class Forward(nn.Module):
    """A basic block as PyTorch programs write it."""

    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.shortcut = norm(channels), norm(channels), nn.Sequential()
        if stride > 1 or inputs != channels:
            self.shortcut.add_module("conv", nn.Conv2d(inputs, channels, 1, stride, bias=False))
            self.shortcut.add_module("bn", norm(channels))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class Feedback(nn.Module):
    """Its inverse: transposed convolutions, whose output_padding restores even sizes."""

    def __init__(self, inputs, channels, stride):
        super().__init__()
        transposed = nn.ConvTranspose2d
        self.conv1 = transposed(channels, inputs, 3, stride, 1, stride - 1, bias=False)
        self.conv2 = transposed(channels, channels, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.shortcut = norm(channels), norm(channels), nn.Sequential()
        if stride > 1 or inputs != channels:
            self.shortcut.add_module("bn", norm(channels))
            up = transposed(channels, inputs, 1, stride, 0, stride - 1, bias=False)
            self.shortcut.add_module("conv", up)

    def forward(self, y):
        z = y.relu()
        return self.conv1(self.bn1(self.conv2(self.bn2(z)).relu())) + self.shortcut(z)


def module_of(params, module):
    """`module`, a torch basic block, with our parameters."""
    state = {}
    for name in ("conv1", "conv2"):
        state[f"{name}.weight"] = params[name]["kernel"].transpose(3, 2, 0, 1)
    norms = {"bn1": params["bn1"], "bn2": params["bn2"]}
    if "shortcut" in params:
        state["shortcut.conv.weight"] = params["shortcut"]["kernel"].transpose(3, 2, 0, 1)
        norms["shortcut.bn"] = params["shortcut"]["bn"]
    for name, p in norms.items():
        state |= {f"{name}.weight": p["scale"], f"{name}.bias": p["bias"]}
    state = {name: torch.tensor(np.asarray(a)) for name, a in state.items()}
    module = module.double()
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and all("running" in k or "num_batches" in k for k in missing)
    return module


def to_torch(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def from_torch(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def running(bn):
    return {"mean": bn.running_mean.numpy().copy(), "var": bn.running_var.numpy().copy()}


def running_of(module):
    found = {"bn1": running(module.bn1), "bn2": running(module.bn2)}
    if len(module.shortcut):
        found["shortcut"] = {"bn": running(module.shortcut.bn)}
    return found


SHAPE, CHANNELS, STRIDES = (6, 4, 2), 3, (2, 1)


@pytest.fixture(scope="module")
def stage():
    """A stage with a strided and an identity shortcut: (block, theta, omega, torch's F, torch's G)."""
    block = residual_stage("s", channels=CHANNELS, strides=STRIDES, batch_norm=True)(SHAPE)
    # Forward and feedback parameters have the same shapes.
    theta, omega = (make_parameters((block,), seed)[0]["s"] for seed in (0, 1))
    sizes = [(SHAPE[2], CHANNELS, STRIDES[0]), (CHANNELS, CHANNELS, STRIDES[1])]
    f = [module_of(theta[f"block_{i}"], Forward(*s)) for i, s in enumerate(sizes)]
    g = [module_of(omega[f"block_{i}"], Feedback(*s)) for i, s in enumerate(sizes)]
    return block, theta, omega, nn.Sequential(*f), nn.Sequential(*reversed(g))


def test_stage_in_training(stage):
    """Every pass is normalised by its own batch, in both directions."""
    block, theta, omega, f, g = stage
    x, t = normal(1, (4, *SHAPE)), normal(2, (4, *block.output_shape))
    y, x_hat = jax.jit(lambda: (block.forward(theta, x)[0], block.feedback(omega, t, ())))()
    assert_close(y, from_torch(f.train()(to_torch(x))))
    assert_close(x_hat, from_torch(g.train()(to_torch(t))))


def test_gradients_of_a_stage(stage):
    """With respect to the parameters and the input, through the statistics of the batch."""
    block, theta, _, f, _ = stage
    x, c = normal(1, (4, *SHAPE)), normal(2, (4, *block.output_shape))
    image = to_torch(x).requires_grad_()
    f.zero_grad()
    (f.train()(image) * to_torch(c)).sum().backward()
    theta_grad, x_grad = jax.jit(
        jax.grad(lambda p, x: jnp.sum(block.forward(p, x)[0] * c), argnums=(0, 1))
    )(theta, x)
    assert_close(x_grad, from_torch(image.grad))
    for i, module in enumerate(f):
        found = theta_grad[f"block_{i}"]
        for name in ("conv1", "conv2"):
            expected = getattr(module, name).weight.grad.numpy().transpose(2, 3, 1, 0)
            assert_close(found[name]["kernel"], expected)
        for name in ("bn1", "bn2"):
            bn = getattr(module, name)
            expected = {"scale": bn.weight.grad.numpy(), "bias": bn.bias.grad.numpy()}
            assert_close(found[name], expected)


def test_statistics_and_evaluation_of_a_stage(stage):
    """Measured statistics are those that PyTorch would keep; evaluation uses the given ones alone."""
    block, theta, _, f, _ = stage
    x, other = normal(3, (4, *SHAPE)) + 1, normal(4, (3, *SHAPE))
    f.train()(to_torch(x))
    expected = {f"block_{i}": running_of(module) for i, module in enumerate(f)}
    found, y, single = jax.jit(
        lambda s: (
            block.statistics(theta, x),
            block.infer(theta, s, other),
            block.infer(theta, s, other[:1]),
        )
    )(expected)
    assert_close(found, expected)
    with torch.no_grad():
        wanted = from_torch(f.eval()(to_torch(other)))
    assert_close(y, wanted)
    assert_close(single, wanted[:1])  # no example sees another


@pytest.mark.parametrize("bias", [True, False])
def test_conv_block(bias):
    """conv -> batch norm -> ELU -> max-pool; unpool -> ELU -> batch norm -> transposed conv."""
    block = conv_block(
        "c", channels=3, window=3, padding=1, pool=MaxPool(2, 2), bias=bias, batch_norm=True
    )((6, 4, 2))
    theta, omega = (make_parameters((block,), seed)[0]["c"] for seed in (0, 1))
    if bias:
        omega["bias"] = normal(5, 2)
    x, t, other = normal(1, (3, 6, 4, 2)), normal(2, (3, 3, 2, 3)), normal(3, (2, 6, 4, 2))
    conv, bn, bn_t = nn.Conv2d(2, 3, 3, 1, 1, bias=bias), norm(3), norm(3)
    conv_t = nn.ConvTranspose2d(3, 2, 3, 1, 1, bias=bias)
    pool, unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)
    with torch.no_grad():
        for layer, normalizer, p in ((conv, bn, theta), (conv_t, bn_t, omega)):
            layer.double(), normalizer.double()
            layer.weight.copy_(torch.tensor(np.asarray(p["kernel"]).transpose(3, 2, 0, 1)))
            if bias:
                layer.bias.copy_(torch.tensor(np.asarray(p["bias"])))
            normalizer.weight.copy_(torch.tensor(np.asarray(p["bn"]["scale"])))
            normalizer.bias.copy_(torch.tensor(np.asarray(p["bn"]["bias"])))
        elu = nn.functional.elu
        expected, index = pool(elu(bn(conv(to_torch(x)))))
        expected_back = conv_t(bn_t(elu(unpool(to_torch(t), index))))
        statistics = {"bn": running(bn)}
        evaluated = pool(elu(bn.eval()(conv(to_torch(other)))))[0]

    @jax.jit
    def run():
        y, residual = block.forward(theta, x)
        found = block.statistics(theta, x)
        return y, block.feedback(omega, t, residual), found, block.infer(theta, found, other)

    y, back, found, inferred = run()
    assert_close(y, from_torch(expected))
    assert_close(back, from_torch(expected_back))
    assert_close(found, statistics)
    assert_close(inferred, from_torch(evaluated))
    assert block.features is None and block.decode is None


def test_batch_norms_start_as_the_identity():
    """Scale 1 and bias 0 in both directions; running mean 0 and variance 1."""
    network = resnet18((4, 4, 2), 3, channels=(2, 2, 3), batch_norm=True)
    for block in network[:-1]:
        for init in (block.init, block.init_feedback):
            for path, leaf in jax.tree.leaves_with_path(init(jax.random.key(0))):
                if path[-1].key != "kernel":
                    assert (np.asarray(leaf) == {"scale": 1, "bias": 0}[path[-1].key]).all()
    start = initial_statistics(network)
    assert list(start) == ["layer_0", "layer_1", "layer_2"]  # the head has none
    assert start["layer_2"]["block_0"].keys() == {"bn1", "bn2", "shortcut"}
    for path, leaf in jax.tree.leaves_with_path(start):
        assert (leaf == {"mean": 0, "var": 1}[path[-1].key]).all() and leaf.dtype == jnp.float32
    shapes = {
        block.name: jax.eval_shape(
            block.statistics, block.init(jax.random.key(0)), jnp.zeros((2, *block.input_shape))
        )
        for block in network[:-1]
    }
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(lambda s: s.shape, shapes)
    assert initial_statistics(resnet18((4, 4, 2), 3, channels=(2, 2))) == {}


def test_one_value_per_channel_has_variance_zero():
    """A batch of one image of one pixel: normalised to the bias, as the mean is the value itself."""
    block = conv_block("c", channels=2, window=1, batch_norm=True, activation="linear")((1, 1, 2))
    theta = make_parameters((block,))[0]["c"]
    x = normal(1, (1, 1, 1, 2))
    found = block.statistics(theta, x)["bn"]
    assert_close(found["mean"], jnp.squeeze(ops.conv(x, theta["kernel"])) + theta["bias"])
    assert (found["var"] == 0).all()
    assert_close(block.forward(theta, x)[0][0, 0, 0], theta["bn"]["bias"])


def test_blocks_without_batch_norm_have_no_statistics():
    made = [
        conv_block("c", channels=2, window=1)((2, 2, 1)),
        dense_block("d", features=2)((3,)),
        basic_block("b", channels=2)((2, 2, 1)),
    ]
    assert [(block.statistics, block.infer) for block in made] == [(None, None)] * 3
