"""Optimizers against torch's conventions, the schedule against recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Recorded, assert_close, normal, sgd_in_numpy

from dtp_jax.learning import optim

PARAMETERS = {"a": {"kernel": normal(0, (3, 2)), "bias": normal(1, 2)}}
GRADIENTS = [jax.tree.map(lambda p, k=k: normal(10 + k, p.shape), PARAMETERS) for k in range(4)]
each_sgd = pytest.mark.parametrize(
    ("momentum", "weight_decay"), [(0.9, 0.0), (0.9, 0.1), (0.0, 0.1)]
)


def train(optimizer, gradients=GRADIENTS):
    """The parameters after each step."""
    parameters = jax.tree.map(jnp.asarray, PARAMETERS)
    state, history = optimizer.init(parameters), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, parameters)
        parameters = jax.tree.map(jnp.add, parameters, updates)
        history.append(parameters)
    return history


@each_sgd
def test_sgd_against_numpy(momentum, weight_decay):
    """Weight decay joins the gradient before the momentum; the first buffer is the gradient."""
    parameters, buffers = PARAMETERS, None
    found = train(optim.sgd(0.1, momentum=momentum, weight_decay=weight_decay))
    for gradient, after in zip(GRADIENTS, found, strict=True):
        parameters, buffers = sgd_in_numpy(
            gradient, parameters, 0.1, momentum, weight_decay, buffers
        )
        assert_close(after, parameters)


@each_sgd
def test_sgd_against_torch(momentum, weight_decay):
    torch = pytest.importorskip("torch")
    tensor = torch.nn.Parameter(torch.tensor(PARAMETERS["a"]["kernel"]))
    optimizer = torch.optim.SGD([tensor], lr=0.1, momentum=momentum, weight_decay=weight_decay)
    found = train(optim.sgd(0.1, momentum=momentum, weight_decay=weight_decay))
    for gradient, after in zip(GRADIENTS, found, strict=True):
        tensor.grad = torch.tensor(gradient["a"]["kernel"])
        optimizer.step()
        assert_close(after["a"]["kernel"], tensor.detach().numpy().copy())


# The cosine schedule.


def rates(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps, dtype=jnp.int32)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cosine_per_epoch_is_the_recorded_one(dtype):
    """Every epoch from 0 to 90, past T_max = 85, and a whole run of 200."""
    recorded = Recorded("schedule")
    t_max, eta_min = int(recorded["T_max"]), float(recorded["eta_min"])
    assert (t_max, eta_min) == (85, 1e-5)
    schedule = optim.cosine_per_epoch(
        float(recorded["base_lr"]), steps_per_epoch=1, t_max=t_max, eta_min=eta_min
    )
    tolerance = dict(rtol=1e-10, atol=1e-15) if dtype == "float64" else dict(rtol=0, atol=5e-7)
    with jax.enable_x64(dtype == "float64"):
        by_epoch = rates(schedule, 200)
    assert by_epoch.dtype == dtype
    np.testing.assert_allclose(by_epoch[recorded["epoch"]], recorded["lr"], **tolerance)
    np.testing.assert_allclose(by_epoch[recorded["epoch"]], recorded["closed_form"], **tolerance)
    np.testing.assert_allclose(by_epoch, recorded["lr_200_epochs"], **tolerance)
    assert by_epoch[90] > by_epoch[86] > by_epoch[85]  # rises again
    assert not recorded.unread


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
def test_cosine_is_constant_within_an_epoch(steps_per_epoch):
    schedule = optim.cosine_per_epoch(0.05, steps_per_epoch=steps_per_epoch, t_max=5)
    found = rates(schedule, 7 * steps_per_epoch).reshape(7, steps_per_epoch)
    epoch = np.arange(7)[:, None]
    expected = 1e-5 + (0.05 - 1e-5) * (1 + np.cos(np.pi * epoch / 5)) / 2
    assert_close(found, np.broadcast_to(expected, found.shape))


def test_step_per_epoch_against_torch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.2)
    expected = []
    for _ in range(15):
        expected += [theirs.get_last_lr()[0]] * 3
        optimizer.step()
        theirs.step()
    schedule = optim.step_per_epoch(0.3, steps_per_epoch=3, step_epochs=4, gamma=0.2)
    assert_close(rates(schedule, 45), np.array(expected))


def test_sgd_follows_the_schedule_from_its_first_step():
    """Steps 0 and 1 are of epoch 0, with the full rate; the buffer holds gradients, not steps."""
    ones = [jax.tree.map(np.ones_like, PARAMETERS)] * 6
    schedule = optim.cosine_per_epoch(0.1, steps_per_epoch=2, t_max=4, eta_min=0.0)
    found = train(optim.sgd(schedule, momentum=0.5), ones)
    values = [p["a"]["bias"][0] for p in found]
    steps = -np.diff([PARAMETERS["a"]["bias"][0], *values])
    rate = 0.1 * (1 + np.cos(np.pi * np.array([0, 0, 1, 1, 2, 2]) / 4)) / 2
    buffer = np.array([1, 1.5, 1.75, 1.875, 1.9375, 1.96875])
    assert_close(steps, rate * buffer)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_against_torch(weight_decay):
    """Weight decay joins the gradient before the moments; an epsilon as large as the gradients."""
    torch = pytest.importorskip("torch")
    options = {"eps": 0.5, "weight_decay": weight_decay}
    tensor = torch.nn.Parameter(torch.tensor(PARAMETERS["a"]["kernel"]))
    optimizer = torch.optim.Adam([tensor], lr=0.1, **options)
    found = train(optim.adam(0.1, **options))
    for gradient, after in zip(GRADIENTS, found, strict=True):
        tensor.grad = torch.tensor(gradient["a"]["kernel"])
        optimizer.step()
        assert_close(after["a"]["kernel"], tensor.detach().numpy().copy())


def test_switched_at_its_step():
    """Step number 3, the fourth, is the first of the second schedule, and counts from the beginning."""
    schedule = optim.switched(lambda step: 10.0 + step, lambda step: 20.0 + step, 3)
    assert rates(schedule, 5).tolist() == [10, 11, 12, 23, 24]
