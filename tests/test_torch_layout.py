"""State dicts of the original PyTorch program, against recorded numbers and PyTorch's own layers."""

import jax
import numpy as np
import pytest
from helpers import assert_close, load
from safetensors.numpy import save_file

from dtp_jax.blocks import (
    AdaptiveAveragePool,
    chain,
    conv_block,
    dense_block,
    forward_all,
    init_forward,
    mirror_feedback,
    residual_stage,
)
from dtp_jax.export import match, read
from dtp_jax.networks import lenet, resnet18, simple_vgg
from dtp_jax.rules.targets import difference_targets
from dtp_jax.torch_layout import translate


def recorded_state_dict(case, fb="fb", sides=("forward_net.", "feedback_net."), dot="."):
    """The recorded parameters by the names of the original's state dict."""
    prefixes = {"fwd/": sides[0], f"{fb}/": sides[1]}
    return {
        side + key.removeprefix(prefix).replace("/", dot): a
        for key, a in load(case).items()
        for prefix, side in prefixes.items()
        if key.startswith(prefix)
    }


def shapes(network):
    return {
        "forward": jax.eval_shape(lambda k: init_forward(network, k), jax.random.key(0)),
        "feedback": jax.eval_shape(lambda k: mirror_feedback(network, k), jax.random.key(0)),
    }


def small_resnet():
    """One basic block per stage, as recorded, and a head that pools."""
    stem = conv_block("layer_0", channels=4, window=3, padding=1, activation="relu", bias=False)
    stages = [
        residual_stage("layer_1", channels=4, strides=(1,)),
        residual_stage("layer_2", channels=6, strides=(2,)),
    ]
    head = dense_block("fc", features=10, pool=AdaptiveAveragePool(1))
    return chain((8, 8, 3), [stem, *stages, head])


RECORDED = {
    "ldrl_vgg": lambda: simple_vgg((16, 16, 3), 10, channels=(4, 6, 8)),
    "ldrl_lenet": lambda: lenet((32, 32, 3), 10, channels=(3, 4), hidden=(16,)),
    "ldrl_resnet": small_resnet,
}


def channels_first(a):
    return np.moveaxis(a, -1, 1)


@pytest.mark.parametrize("case", RECORDED)
def test_recorded_weights_give_the_recorded_activations_and_targets(case, tmp_path):
    """With the feedback weights that the recorded targets were made with."""
    network, recorded = RECORDED[case](), load(case)
    np.savez(tmp_path / "w.npz", **recorded_state_dict(case, "b0/out/fb_after"))
    found = match(network, shapes(network), read(tmp_path / "w.npz"))
    activations = forward_all(network, found["forward"], recorded["b0/x"].transpose(0, 2, 3, 1))
    for block, h in zip(network, activations.h[1:], strict=True):
        assert_close(channels_first(h), recorded[f"b0/out/act/{block.name}"])
    top = recorded[f"b0/out/target/{network[-1].name}"]
    targets = difference_targets(network, found["forward"], found["feedback"], activations, top)
    for block, t in zip(network, targets, strict=True):
        assert_close(channels_first(t), recorded[f"b0/out/target/{block.name}"])


@pytest.mark.parametrize(
    "sides, dot",
    [
        (("fwd/", "fb/"), "/"),
        (("model.forward_net.", "model.backward_net."), "."),
        (("network.forward_net.", "network.feedback_net."), "."),
    ],
)
def test_names_may_be_spelt_in_several_ways(sides, dot, tmp_path):
    network = RECORDED["ldrl_vgg"]()
    for number, style in enumerate([{}, {"sides": sides, "dot": dot}]):
        save_file(recorded_state_dict("ldrl_vgg", **style), tmp_path / f"{number}.safetensors")
    first, second = (
        match(network, shapes(network), read(tmp_path / f"{number}.safetensors"))
        for number in (0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    "given",
    [
        "_orig_mod.forward_net.conv_0.conv.weight",
        "forward_net._orig_mod.conv_0.conv.weight",
        "module._orig_mod.forward_net.conv_0._orig_mod.conv.weight",
        "_orig_mod.module.model.forward_net.conv_0.conv._orig_mod.weight",
        "model.forward_net.module.conv_0.conv.weight",
        "_fsdp_wrapped_module.forward_net._fsdp_wrapped_module.conv_0.conv.weight",
        "net.forward_net.conv_0._checkpoint_wrapped_module.conv.weight",
        "_orig_mod/fwd/_orig_mod/conv_0/conv/weight",
    ],
)
def test_wrappers_of_modules_are_seen_through(given):
    network = simple_vgg((16, 16, 3), 10, channels=(4, 6, 8))
    assert translate(given, network) == "forward/conv_0/kernel"


def test_names_that_are_nothing_but_wrappers_stay():
    network = simple_vgg((16, 16, 3), 10, channels=(4, 6, 8))
    for name in (
        "module",
        "_orig_mod",
        "_orig_mod.weight",
        "model.module.weight",
        "",
        "forward_net",
    ):
        assert translate(name, network) == name


def test_a_block_may_have_the_name_of_a_wrapper():
    network = chain((4,), [dense_block("module", features=3)])
    assert translate("module.forward_net.module.weight", network) == "forward/module/kernel"


def test_a_compiled_network_of_torch_is_that_network(tmp_path):
    """The names that `torch.compile` and DataParallel give, around the whole and inside."""
    torch = pytest.importorskip("torch")
    network, nn = lenet((7, 10, 2), 5, channels=(3,), hidden=()), torch.nn
    height, width, channels = network[-1].input_shape
    size = height * width * channels

    def model(wrap):
        torch.manual_seed(0)
        one = nn.Module()
        conv, fc, back = nn.Conv2d(2, 3, 5, padding=2), nn.Linear(size, 5), nn.Linear(5, size)
        one.forward_net = wrap(
            nn.ModuleDict(
                {
                    "conv_0": nn.ModuleDict({"conv": wrap(conv)}),
                    "fc1": wrap(nn.ModuleDict({"linear1": fc})),
                }
            )
        )
        one.feedback_net = nn.ModuleDict({"fc1": nn.ModuleDict({"linear1": wrap(back)})})
        return wrap(one)

    found = []
    for number, wrap in enumerate((lambda m: m, torch.compile, nn.DataParallel)):
        state = {name: a.numpy() for name, a in model(wrap).state_dict().items()}
        save_file(state, tmp_path / f"{number}.safetensors")
        found.append(match(network, shapes(network), read(tmp_path / f"{number}.safetensors")))
        assert number == 0 or any("_orig_mod" in n or "module" in n for n in state)
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


def test_feedback_biases_by_torch_layers(tmp_path):
    """They cancel in targets: against PyTorch's own layers, by the names that it gives them itself."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = lenet((7, 10, 2), 5, channels=(3,), hidden=())
    height, width, channels = network[-1].input_shape
    size, nn = height * width * channels, torch.nn
    model = nn.Module()
    model.forward_net = nn.ModuleDict(
        {
            "conv_0": nn.ModuleDict({"conv": nn.Conv2d(2, 3, 5, padding=2)}),
            "fc1": nn.ModuleDict({"linear1": nn.Linear(size, 5)}),
        }
    )
    model.feedback_net = nn.ModuleDict({"fc1": nn.ModuleDict({"linear1": nn.Linear(5, size)})})
    state = {name: a.numpy() for name, a in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    found = match(network, shapes(network), read(tmp_path / "w.safetensors"))
    y = torch.randn(3, 5)
    expected = model.feedback_net["fc1"]["linear1"](y).detach().reshape(3, channels, height, width)
    x_hat = network[-1].feedback(found["feedback"]["fc1"], y.numpy(), ())
    np.testing.assert_allclose(np.moveaxis(x_hat, -1, 1), expected, rtol=1e-5, atol=1e-6)


def test_names_of_residual_stages():
    """Stages may be blocks, or split; batch norm has a scale, a bias, and running statistics."""
    stages = resnet18((8, 8, 3), 10, channels=(4, 4))
    split = resnet18((8, 8, 3), 10, channels=(4, 4), split_stages=True)
    for given, whole, cut in (
        ("1.conv2.weight", "block_1/conv2/kernel", "_1/conv2/kernel"),
        ("0.bn1.weight", "block_0/bn1/scale", "_0/bn1/scale"),
        ("0.shortcut.bn.bias", "block_0/shortcut/bn/bias", "_0/shortcut/bn/bias"),
        ("0.shortcut.conv.weight", "block_0/shortcut/kernel", "_0/shortcut/kernel"),
    ):
        assert translate(f"forward_net.layer_1.{given}", stages) == f"forward/layer_1/{whole}"
        assert translate(f"backward_net.layer_1.{given}", split) == f"feedback/layer_1{cut}"
    assert translate("forward_net.layer_0.bn.running_var", stages) == "statistics/layer_0/bn/var"
    assert translate("feedback_net.layer_0.bn.running_var", stages) is None
    assert translate("forward_net.layer_0.bn.num_batches_tracked", stages) is None
    assert translate("optimizer.weight", stages) == "optimizer.weight"


def test_direct_feedback_runs_over_images_of_hidden_blocks(tmp_path):
    """DRL's matrices: rows of the file in (channel, height, width) order."""
    network = lenet((7, 10, 2), 5, channels=(3,), hidden=(6,))
    drl = shapes(network)
    height, width, channels = network[0].output_shape
    q = np.random.default_rng(0).normal(size=(channels, height, width, 5))
    kernels = {"conv_0": (height * width * channels, 5), "fc1": (6, 5)}
    drl["feedback"] = {
        name: {"kernel": jax.ShapeDtypeStruct(shape[::-1], np.float32)}
        for name, shape in kernels.items()
    }
    torch_shapes = {"conv_0/conv": (3, 2, 5, 5), "fc1": (6, 60), "fc2": (5, 6)}
    state = {f"fwd/{name}/weight": np.zeros(shape) for name, shape in torch_shapes.items()}
    state |= {f"fwd/{name}/bias": np.zeros(shape[0]) for name, shape in torch_shapes.items()}
    state |= {"fb/conv_0/weight": q.reshape(-1, 5), "fb/fc1/weight": np.ones((6, 5))}
    save_file(state, tmp_path / "w.safetensors")
    found = match(network, drl, read(tmp_path / "w.safetensors"))["feedback"]
    o = np.arange(5.0)
    assert_close(
        (o @ found["conv_0"]["kernel"]).reshape(height, width, channels),
        np.einsum("chwo,o->hwc", q, o),
    )
