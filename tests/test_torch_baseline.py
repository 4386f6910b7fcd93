"""The eager PyTorch baseline against recorded cases, closed forms and its own promises."""

import json
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from benchmarks.torch_baseline import (  # noqa: E402
    LDRL,
    Backprop,
    Pool,
    TorchBlockSpec,
    cuda_precision,
    from_meta_spec,
    lenet,
    simple_vgg,
)

GOLDEN = Path(__file__).parent / "golden"
CASES = ("ldrl_vgg", "ldrl_vgg_2batches", "ldrl_lenet", "ldrl_multi_sample")
SMALL = simple_vgg(3, (4, 5))
SHAPE = (2, 8, 8)


@pytest.fixture(autouse=True)
def one_thread():
    """Overlapping unpooling is only defined with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Case:
    """A recorded case: its arrays, its network, and the modules named as it names them."""

    def __init__(self, name):
        self.file = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
        self.meta = json.loads(str(self.file["meta/spec"]))
        self.spec, self.shape = from_meta_spec(self.meta), tuple(self.meta["input_shape"])
        self.names = [block["name"] for block in self.meta["blocks"]]
        self.modules = [block["module"] for block in self.meta["blocks"]]

    def tensor(self, key):
        return torch.from_numpy(np.array(self.file[key]))

    def load(self, blocks, prefix, modules):
        """Overwrites the parameters of `blocks` with the recorded initial ones."""
        for block, module in zip(blocks, modules, strict=True):
            parameters = dict(block.layer.named_parameters())
            state = {name: self.tensor(f"{prefix}/{module}/{name}") for name in parameters}
            block.layer.load_state_dict(state)

    def ldrl(self):
        hp = {key[3:]: self.file[key] for key in self.file.files if key.startswith("hp/")}
        learner = LDRL(
            self.spec,
            self.shape,
            noise=hp["noise"][1:].tolist(),
            iterations=hp["iterations"][1:].tolist(),
            feedback_lr=hp["feedback_lr"][1:].tolist(),
            forward_lr=float(hp["forward_lr"]),
            beta=float(hp["beta"]),
            samples=int(hp["feedback_samples"]),
            momentum=float(hp["forward_momentum"]),
            weight_decay=float(hp["forward_weight_decay"]),
            dtype=torch.float64,
        )
        self.load(learner.forward_blocks, "fwd", self.modules)
        self.load(learner.feedback_blocks, "fb", self.modules[1:])
        return learner

    def batch(self, b):
        return self.tensor(f"b{b}/x"), self.tensor(f"b{b}/y")

    def noise(self, b):
        names = [f"b{b}/noise/{name}" for name in self.names[1:]]
        return [(self.tensor(f"{name}/dx"), self.tensor(f"{name}/dy")) for name in names]

    def check(self, key, value):
        """The recorded files' own float64 tolerance: 1e-10 of the largest entry, plus 1e-12."""
        expected = self.file[key]
        assert value.shape == expected.shape, key
        tolerance = 1e-10 * np.abs(expected).max() + 1e-12
        np.testing.assert_allclose(
            value.detach().numpy(), expected, rtol=0, atol=tolerance, err_msg=key
        )

    def check_parameters(self, prefix, blocks, modules, read):
        for block, module in zip(blocks, modules, strict=True):
            for name, parameter in block.layer.named_parameters():
                self.check(f"{prefix}/{module}/{name}", read(parameter))


@pytest.mark.parametrize("name", CASES)
def test_step_replays_recorded_batches(name):
    case = Case(name)
    learner = case.ldrl()
    for b in range(case.meta["n_batches"]):
        out = f"b{b}/out"
        step = learner.step(*case.batch(b), case.noise(b))
        for layer, losses in zip(case.names[1:], step.feedback_losses, strict=True):
            case.check(f"{out}/fb_loss/{layer}", losses)
        for i, layer in enumerate(case.names):
            case.check(f"{out}/target/{layer}", step.targets[i])
            case.check(f"{out}/fwd_loss/{layer}", step.local_losses[i])
        case.check(f"{out}/step_loss", step.loss)
        forward = learner.forward_blocks, case.modules
        case.check_parameters(f"{out}/grad", *forward, lambda p: p.grad)
        case.check_parameters(f"{out}/fwd_after", *forward, lambda p: p)
        momentum = learner.forward_optimizer.state
        case.check_parameters(
            f"{out}/fwd_velocity", *forward, lambda p, m=momentum: m[p]["momentum_buffer"]
        )
        feedback = learner.feedback_blocks, case.modules[1:]
        case.check_parameters(f"{out}/fb_after", *feedback, lambda p: p)
        optimizers = {
            p: o for o in learner.feedback_optimizers for p in o.param_groups[0]["params"]
        }
        case.check_parameters(
            f"{out}/fb_velocity",
            *feedback,
            lambda p, o=optimizers: o[p].state[p]["momentum_buffer"],
        )


@pytest.mark.parametrize("name", CASES)
def test_clean_pass_equals_recorded_activations_and_positions(name):
    case = Case(name)
    h, indices = case.ldrl().activations(case.batch(0)[0])
    for i, layer in enumerate(case.names):
        case.check(f"b0/out/act/{layer}", h[i + 1])
        if case.spec[i].pool:
            assert np.array_equal(indices[i], case.file[f"b0/out/pool_idx/{layer}"])


@pytest.mark.parametrize("name", CASES)
def test_backprop_gradient_equals_recorded(name):
    case = Case(name)
    learner = Backprop(case.spec, case.shape, lr=0.1, dtype=torch.float64)
    case.load(learner.forward_blocks, "fwd", case.modules)
    case.check("b0/out/bp_loss", learner.step(*case.batch(0)))
    case.check_parameters("b0/out/bp_grad", learner.forward_blocks, case.modules, lambda p: p.grad)


def test_backprop_update_is_momentum_sgd_with_decay_inside_the_gradient():
    learner = Backprop(SMALL, SHAPE, lr=0.1, momentum=0.8, weight_decay=0.02, dtype=torch.float64)
    parameters = list(learner.forward_blocks.parameters())
    expected, velocity = [p.detach().clone() for p in parameters], [0.0] * len(parameters)
    for b in range(3):
        h, y = random_batch(seed=b)
        for block in learner.forward_blocks:
            h, _ = block(h)
        loss = torch.nn.functional.nll_loss(h.log_softmax(1), y)
        gradients = torch.autograd.grad(loss, parameters)
        torch.testing.assert_close(learner.step(*random_batch(seed=b)), loss.detach())
        for i, (p, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            velocity[i] = 0.8 * velocity[i] + gradient + 0.02 * expected[i]
            expected[i] = expected[i] - 0.1 * velocity[i]
            torch.testing.assert_close(p.detach(), expected[i], rtol=0, atol=1e-13)


def random_batch(seed=0, dtype=torch.float64, batch=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *SHAPE, generator=generator, dtype=dtype)
    return x, torch.randint(3, (batch,), generator=generator)


def small_ldrl(spec=SMALL, shape=SHAPE, **changes):
    options = {
        "noise": (0.3, 0.1),
        "iterations": (3, 2),
        "feedback_lr": (0.004, 0.1),
        "forward_lr": 0.05,
        "beta": 0.7,
        "dtype": torch.float64,
    }
    return LDRL(spec, shape, **options | changes)


def parameters_of(learner):
    return [*learner.forward_blocks.parameters(), *learner.feedback_blocks.parameters()]


def test_own_noise_has_the_expected_loss_of_a_linear_block():
    """E[loss] = sigma^2 (||G||^2 - 2 tr(G F)) for F, G linear, dx and dy ~ sigma N(0, 1)."""
    spec = [TorchBlockSpec("linear", 4, flatten=True), TorchBlockSpec("linear", 3)]
    learner = small_ldrl(spec, noise=[0.3], iterations=[400], feedback_lr=[0.0], samples=2)
    forward = learner.forward_blocks[1].layer.weight.detach().clone()
    feedback = learner.feedback_blocks[0].layer.weight.detach().clone()
    losses = learner.step(*random_batch(batch=32)).feedback_losses[0]
    expected = 0.3**2 * (feedback.square().sum() - 2 * torch.trace(feedback @ forward))
    error = losses.std() / len(losses) ** 0.5
    assert error < 0.05 * abs(expected)
    assert abs(losses.mean() - expected) < 4 * error


def test_noise_is_fresh_in_every_iteration_batch_and_seed():
    frozen = {"feedback_lr": [0.0], "forward_lr": 0.0}
    learner, batch = small_ldrl(**frozen), random_batch()
    first, second = learner.step(*batch), learner.step(*batch)
    losses = torch.cat([*first.feedback_losses, *second.feedback_losses])
    assert len(losses.unique()) == len(losses) == 10


def test_same_seed_same_bits_other_seed_other_bits():
    def run(seed):
        learner = small_ldrl(seed=seed)
        learner.step(*random_batch())
        return parameters_of(learner)

    state = torch.get_rng_state()
    first = run(7)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is nobody's business
    assert all(map(torch.equal, first, run(7)))
    assert not any(map(torch.equal, first, run(8)))


def test_backprop_starts_from_the_weights_of_ldrl():
    backprop = Backprop(SMALL, SHAPE, lr=0.1, dtype=torch.float64, seed=3)
    ldrl = small_ldrl(seed=3)
    pairs = zip(backprop.forward_blocks.parameters(), ldrl.forward_blocks.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class NoHostReads(TorchDispatchMode):
    """Fails on what makes a GPU wait: reading a value, or a size that depends on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), name
        return function(*args, **kwargs or {})


def test_the_guard_sees_host_reads():
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoHostReads():
        torch.ones(3).sum().item()


@pytest.mark.parametrize("spec", [SMALL, lenet(3, (2, 3), 5)], ids=["vgg", "lenet"])
def test_steps_read_nothing_back_to_the_host(spec):
    x, y = random_batch()
    ldrl = small_ldrl(spec, noise=[0.1], iterations=[2], feedback_lr=[0.01])
    backprop = Backprop(spec, SHAPE, lr=0.1, dtype=torch.float64)
    with NoHostReads():
        assert ldrl.step(x, y).loss.shape == ()
        assert backprop.step(x, y).shape == ()


def test_bfloat16_follows_float32():
    x, y = random_batch(dtype=torch.float32)
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    noise = [
        (draw(3, 1, 6, 4, 4, 4), draw(3, 1, 6, 5, 2, 2)),
        (draw(2, 1, 6, 5, 2, 2), draw(2, 1, 6, 3)),
    ]
    exact, rounded = small_ldrl(dtype=torch.float32), small_ldrl(dtype=torch.bfloat16)
    assert rounded.activations(x)[0][1].dtype == torch.bfloat16
    a, b = exact.step(x, y, noise), rounded.step(x, y, noise)
    for want, got in zip(a.feedback_losses, b.feedback_losses, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.1, atol=0.02 * float(want.abs().max()))
    for want, got in zip(parameters_of(exact), parameters_of(rounded), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("spec", [simple_vgg(), lenet()], ids=["vgg", "lenet"])
def test_default_networks_have_the_stated_sizes(spec):
    learner = Backprop(spec, (3, 32, 32), lr=0.1)
    sizes = [sum(p.numel() for p in block.parameters()) for block in learner.forward_blocks]
    if spec[0].features == 128:
        channels = (3, 128, 128, 256, 256, 512)
        convs = [9 * a * b + b for a, b in zip(channels, channels[1:], strict=False)]
        assert sizes == [*convs, 512 * 10 + 10]
    else:
        assert sizes == [75 * 32 + 32, 800 * 64 + 64, 4096 * 512 + 512, 5130]
    shapes = [block.output_shape for block in learner.forward_blocks]
    assert shapes[-1] == (10,) and prod(shapes[-2]) == 512


def test_strided_conv_without_pool_has_a_feedback_of_the_input_size():
    spec = [
        TorchBlockSpec("conv", 4, 3, 1, 1, "relu", Pool(2, 2)),
        TorchBlockSpec("conv", 5, 3, 2, 1, "tanh", bias=False),
        TorchBlockSpec("linear", 3, flatten=True),
    ]
    step = small_ldrl(spec).step(*random_batch())
    assert [t.shape[1:] for t in step.targets] == [(4, 4, 4), (5, 2, 2), (3,)]


def test_cuda_precision_is_put_back():
    def flags():
        backends = torch.backends
        return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark

    before = flags()
    for tf32 in (True, False):
        with pytest.raises(KeyError), cuda_precision(tf32=tf32):
            assert flags() == (tf32, tf32, True)
            raise KeyError
        assert flags() == before


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: small_ldrl(noise=(0.1, 0.2, 0.3)), "noise has 3 entries, allowed: 1 or 2"),
        (lambda: small_ldrl(dtype=torch.int32), "dtype is torch.int32"),
        (lambda: small_ldrl(simple_vgg(3, (4,) * 4)), "does not fit a plane of \\(1, 1\\)"),
        (lambda: small_ldrl([TorchBlockSpec("pool", 3)]), "kind is 'pool', allowed"),
        (lambda: small_ldrl([SMALL[0]._replace(activation="gelu")]), "activation is 'gelu'"),
        (
            lambda: small_ldrl([SMALL[0], TorchBlockSpec("conv", 4, 2, 2)]),
            "2/2/0 conv maps \\(4, 4\\) back to \\(5, 5\\)",
        ),
        (lambda: Case("ldrl_resnet"), "kind is 'residual_stage', allowed: conv, dense"),
    ],
)
def test_bad_configurations_name_the_value_and_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()
