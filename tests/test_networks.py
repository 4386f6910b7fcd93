"""The networks of the papers: blocks, shapes and parameter counts worked out by hand."""

import jax
import numpy as np
import pytest
from helpers import slow

from dtp_jax import blocks
from dtp_jax.blocks import table
from dtp_jax.networks import NETWORKS, lenet, meulemans, mlp, simple_vgg
from dtp_jax.rules.drl import direct_feedback


def shapes(network):
    return {block.name: block.output_shape for block in network}


def counts(network):
    """(forward, feedback) numbers of parameters, without drawing them."""
    key = jax.random.key(0)
    return tuple(
        sum(
            leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda k, f=f: f(network, k), key))
        )
        for f in (blocks.init_forward, blocks.mirror_feedback)
    )


def test_simple_vgg_of_the_paper():
    """Five times conv 3x3 -> ELU -> max-pool 2/2, then linear: 32x32 images end as one position."""
    network = simple_vgg((32, 32, 3), 10)
    assert shapes(network) == {
        "conv_0": (16, 16, 128),
        "conv_1": (8, 8, 128),
        "conv_2": (4, 4, 256),
        "conv_3": (2, 2, 256),
        "conv_4": (1, 1, 512),
        "fc": (10,),
    }
    kernels = [9 * 3 * 128, 9 * 128 * 128, 9 * 128 * 256, 9 * 256 * 256, 9 * 256 * 512, 512 * 10]
    forward = sum(kernels) + 128 + 128 + 256 + 256 + 512 + 10
    feedback = (
        sum(kernels[1:]) + 128 + 128 + 256 + 256 + 512
    )  # each bias as large as the block's input
    assert counts(network) == (forward, feedback)
    assert counts(simple_vgg((32, 32, 3), 10, bias=False)) == (sum(kernels), sum(kernels[1:]))


def test_lenet_of_the_paper():
    """Two times conv 5x5 -> ELU -> max-pool 3/2/1, linear 4096 -> 512 -> ELU, linear."""
    network = lenet((32, 32, 3), 10)
    assert shapes(network) == {
        "conv_0": (16, 16, 32),
        "conv_1": (8, 8, 64),
        "fc1": (512,),
        "fc2": (10,),
    }
    kernels = [25 * 3 * 32, 25 * 32 * 64, 4096 * 512, 512 * 10]
    forward = sum(kernels) + 32 + 64 + 512 + 10
    feedback = sum(kernels[1:]) + 32 + 4096 + 512
    assert counts(network) == (forward, feedback)


def test_mlp_of_the_field():
    """Six hidden layers of 256 on 28x28 images."""
    network = mlp((28, 28, 1), 10)
    assert list(shapes(network).values()) == [(256,)] * 6 + [(10,)]
    kernels = [784 * 256] + [256 * 256] * 5 + [256 * 10]
    assert counts(network) == (sum(kernels) + 6 * 256 + 10, sum(kernels[1:]) + 6 * 256)


def resnet_kernels(depths, image_channels, classes):
    """Sizes of the kernels by hand: the stem, each stage's 3x3 convolutions, shortcuts, the head."""
    sizes, below = [9 * image_channels * 64], 64
    for depth, planes in zip(depths, (64, 128, 256, 512), strict=True):
        sizes += [9 * below * planes] + [9 * planes * planes] * (2 * depth - 1)
        sizes += [below * planes] if below != planes else []
        below = planes
    return [*sizes, 512 * classes]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("name", "depths", "published"),
    [("resnet18", (2, 2, 2, 2), 11_173_962), ("resnet34", (3, 4, 6, 3), 21_282_122)],
)
def test_resnets_of_the_paper(name, depths, published, split):
    """Stages of basic blocks on 32x32, 16x16, 8x8 and 4x4; with batch norm as many parameters as
    the residual networks for CIFAR-10 that everybody uses."""
    network = NETWORKS[name]((32, 32, 3), 10, split_stages=split)
    expected = {"layer_0": (32, 32, 64)}
    for i, (depth, planes) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=1):
        names = [f"layer_{i}_{k}" for k in range(depth)] if split else [f"layer_{i}"]
        expected |= dict.fromkeys(names, (64 >> i, 64 >> i, planes))
    assert shapes(network) == {**expected, "fc": (10,)}
    kernels = resnet_kernels(depths, 3, 10)
    assert counts(network) == (sum(kernels) + 10, sum(kernels[1:]) + 512)
    forward, feedback = counts(NETWORKS[name]((32, 32, 3), 10, split_stages=split, batch_norm=True))
    assert forward == published
    # Scale and bias after every convolution; feedback maps have as many, but for the stem's.
    assert forward - sum(kernels) - 10 == feedback - sum(kernels[1:]) - 512 + 2 * 64


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnets_say_how_many_channels_they_take(name):
    for channels in ((4,), (4,) * 6):
        with pytest.raises(ValueError, match=r"channels is \(4,.*allowed: 2 to 5"):
            NETWORKS[name]((8, 8, 1), 5, channels=channels)
    network = NETWORKS[name]((8, 8, 1), 5, channels=(2, 3, 4))
    assert list(shapes(network)) == ["layer_0", "layer_1", "layer_2", "fc"]


def test_meulemans_is_lenet_with_tanh():
    network, other = meulemans((8, 8, 1), 5), lenet((8, 8, 1), 5, activation="tanh")
    assert [(b.name, b.description, b.output_shape) for b in network] == [
        (b.name, b.description, b.output_shape) for b in other
    ]


TINY = {
    "simple_vgg": {"channels": (4, 4)},
    "lenet": {"channels": (4, 4), "hidden": (6,)},
    "meulemans": {"channels": (4, 4), "hidden": (6,)},
    "mlp": {"hidden": (6, 6)},
    "resnet18": {"channels": (4, 4, 4)},
    "resnet34": {"channels": (4, 4, 4)},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 7), ((40, 33, 2), 1000)])
def test_sizes_follow_the_data(name, shape, classes):
    """Nothing is hard-coded to 32x32 images or 10 classes."""
    network = NETWORKS[name](shape, classes, **TINY[name])
    assert network[0].input_shape == shape and network[-1].output_shape == (classes,)
    for below, above in zip(network, network[1:], strict=False):
        assert above.input_shape == below.output_shape


RANGES = {"elu": (-1.0, 1.0, np.inf), "relu": (0.0, 1.0, np.inf), "tanh": (-1.0, 0.9, 1.0)}
"""By activation: the lowest value, and two numbers between which the largest ones are."""
FIXED = {"meulemans": "tanh", "resnet18": "relu", "resnet34": "relu"}
"""Activations that are no option."""


@pytest.mark.parametrize(
    ("name", "activation"),
    [(n, None) for n in NETWORKS]
    + [slow(n, a) for n in NETWORKS if n not in FIXED for a in RANGES],
)
def test_all_blocks_but_the_last_have_the_activation(name, activation):
    """Told by the range of their outputs for large inputs; ELU is the default. Logits have none."""
    options = dict(TINY[name]) if activation is None else {**TINY[name], "activation": activation}
    network = NETWORKS[name]((8, 8, 1), 5, **options)
    low, least, most = RANGES[activation or FIXED.get(name, "elu")]

    @jax.jit
    def outputs(key):
        forward = jax.tree.map(lambda w: 20 * w, blocks.init_forward(network, key))
        images = jax.random.normal(key, (50, 8, 8, 1))
        return [(h.min(), h.max()) for h in blocks.forward_all(network, forward, images).h[1:]]

    *hidden, logits = outputs(jax.random.key(0))
    for smallest, largest in hidden:
        assert low <= smallest < low + 0.1 and least < largest <= most
    assert logits[0] < -1.5 and logits[1] > 1.5


def test_five_poolings_of_28x28_are_too_many():
    with pytest.raises(ValueError, match="conv_4.*1x1.*0x0"):
        simple_vgg((28, 28, 1), 10)


def test_a_network_prints_as_a_table():
    """Kernels 3x3x1x4, 3x3x4x1000 and 4000x10, each with a bias as large as what the map puts out; nothing
    leads below the first block."""
    network = simple_vgg((8, 8, 1), 10, channels=(4, 1000))
    assert repr(network) == "\n".join(
        [
            "network, input 8x8x1",
            "block       operations                   output    forward  feedback",
            "conv_0      conv 3x3, elu, max-pool 2/2  4x4x4          40         -",
            "conv_1      conv 3x3, elu, max-pool 2/2  2x2x1000   37,000    36,004",
            "fc          flatten, linear              10         40,010    44,000",
            "parameters                                          77,050    80,004",
        ]
    )
    assert str(network) == f"{network}" == repr(network)


def test_a_network_is_a_tuple():
    network = mlp((4,), 3, hidden=(2,))
    plain = tuple(network)
    assert type(network) is blocks.Network and isinstance(network, tuple)
    assert network == plain and hash(network) == hash(plain) and {network: 1}[plain] == 1
    assert network[:1] == plain[:1] and [*network] == [*plain] and len(network) == 2
    assert repr(network[0]).startswith("Block(name='fc1'")
    assert repr(blocks.Network()) == "()" and repr(blocks.Network((1, 2))) == "(1, 2)"


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_of_a_network(name):
    """What the start-up screen shows: the counts of this rule's feedback maps."""
    network = NETWORKS[name]((8, 8, 2), 5, **TINY[name])
    found, totals = table.rows(network)
    assert [row[:3] for row in found] == [
        (b.name, b.description, "x".join(map(str, b.output_shape))) for b in network
    ]
    assert totals[3:] == counts(network)
    for column, whole in zip((3, 4), counts(network), strict=True):
        assert sum(row[column] for row in found) == whole
    # Direct feedback: a matrix from the five logits to each hidden block, with a bias for vectors.
    direct, _ = table.rows(network, direct_feedback)
    for row, block in zip(direct[:-1], network, strict=False):
        size = np.prod(block.output_shape)
        assert row.feedback == 5 * size + (size if len(block.output_shape) == 1 else 0)
    assert direct[-1].feedback == 0 and direct[-1].cells[-1] == "-"
