"""Optimizers in torch.optim's conventions, which the published hyper-parameters assume."""

import math
from typing import Any

import jax.numpy as jnp
import optax

from dtp_jax import fields


def sgd(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """torch.optim.SGD: weight decay joins the gradient before the momentum; the first buffer is the gradient.

    Raises:
      ValueError: one line; a value that is not allowed.
    """
    _check_rates(learning_rate, weight_decay)
    fields.require(fields.BELOW_1, momentum=momentum)
    optimizer = optax.sgd(learning_rate, momentum=momentum)
    return (
        optax.chain(optax.add_decayed_weights(weight_decay), optimizer)
        if fields.is_traced(weight_decay) or weight_decay
        else optimizer
    )


def adam(
    learning_rate: optax.ScalarOrSchedule, *, eps: float = 1e-8, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """torch.optim.Adam: weight decay joins the gradient before the moments (this is not AdamW).

    Raises:
      ValueError: one line; a value that is not allowed.
    """
    _check_rates(learning_rate, weight_decay)
    fields.require(fields.RATE, eps=eps)
    optimizer = optax.adam(learning_rate, eps=eps)
    return (
        optax.chain(optax.add_decayed_weights(weight_decay), optimizer)
        if fields.is_traced(weight_decay) or weight_decay
        else optimizer
    )


def _check_rates(learning_rate: optax.ScalarOrSchedule, weight_decay: float) -> None:
    if not callable(learning_rate):
        fields.require(fields.RATE, learning_rate=learning_rate)
    fields.require(fields.FACTOR, weight_decay=weight_decay)


def per_block(optimizers: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One optimizer for each block, as one transformation of the whole pytree.

    Args:
      optimizers: by block name, for every block of the network.

    Raises:
      ValueError: one line; one is no optimizer, or (from `init`) the blocks have other names.
    """
    for name, optimizer in optimizers.items():
        check_optimizer(f"optimizers[{name!r}]", optimizer)
    whole = optax.partition(optimizers, {name: name for name in optimizers})

    def init(params: dict[str, Any]) -> Any:
        if set(params) != set(optimizers):
            raise fields.error(
                "optimizers", list(optimizers), f"one for each of {', '.join(params)}"
            )
        return whole.init(params)

    return whole._replace(init=init)


def is_optimizer(value: Any) -> bool:
    """Whether the value is a gradient transformation as optax has them."""
    has = (getattr(value, name, None) for name in ("init", "update"))
    return not isinstance(value, type) and all(map(callable, has))


def check_optimizer(name: str, value: Any) -> None:
    """Raises ValueError, one line, where the value is none; the line begins with the name."""
    if not is_optimizer(value):
        raise fields.error(name, value, fields.AN_OPTIMIZER)


def cosine_per_epoch(
    learning_rate: float,
    *,
    steps_per_epoch: int,
    t_max: int,
    eta_min: float = 1e-5,
    rises: bool = True,
) -> optax.Schedule:
    """eta_min + (lr - eta_min) (1 + cos(pi epoch / t_max)) / 2, constant within an epoch.

    Past t_max the rate rises again, as torch's CosineAnnealingLR does: the original trains 90 epochs
    with t_max = 85. Ernoult et al. 2022, appendix. With `rises=False` it stays at eta_min.

    Raises:
      ValueError: one line; a value that is not allowed.
    """
    fields.require(fields.RATE, learning_rate=learning_rate)
    fields.require(fields.AT_LEAST_1, steps_per_epoch=steps_per_epoch, t_max=t_max)
    fields.require(fields.FACTOR, eta_min=eta_min)

    def schedule(step):
        epoch = step // steps_per_epoch
        epoch = epoch if rises else jnp.minimum(epoch, t_max)
        return eta_min + (learning_rate - eta_min) * (1 + jnp.cos(math.pi * epoch / t_max)) / 2

    return schedule


def step_per_epoch(
    learning_rate: float, *, steps_per_epoch: int, step_epochs: int, gamma: float = 0.1
) -> optax.Schedule:
    """lr gamma^floor(epoch / step_epochs), constant within an epoch: torch's StepLR.

    Raises:
      ValueError: one line; a value that is not allowed.
    """
    fields.require(fields.RATE, learning_rate=learning_rate, gamma=gamma)
    fields.require(fields.AT_LEAST_1, steps_per_epoch=steps_per_epoch, step_epochs=step_epochs)

    def schedule(step):
        return learning_rate * gamma ** (step // steps_per_epoch // step_epochs)

    return schedule


def switched(first: optax.Schedule, then: optax.Schedule, at_step: int) -> optax.Schedule:
    """`first` up to step number `at_step`, `then` after it; both count from the first step of all."""
    return lambda step: jnp.where(step < at_step, first(step), then(step))
