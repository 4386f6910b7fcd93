"""Optimizers in torch.optim's conventions, which the published hyper-parameters assume."""

import math

import jax.numpy as jnp
import optax


def sgd(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """torch.optim.SGD: weight decay joins the gradient before the momentum; the first buffer is the gradient."""
    optimizer = optax.sgd(learning_rate, momentum=momentum)
    return (
        optax.chain(optax.add_decayed_weights(weight_decay), optimizer)
        if weight_decay
        else optimizer
    )


def adam(
    learning_rate: optax.ScalarOrSchedule, *, eps: float = 1e-8, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """torch.optim.Adam: weight decay joins the gradient before the moments (this is not AdamW)."""
    optimizer = optax.adam(learning_rate, eps=eps)
    return (
        optax.chain(optax.add_decayed_weights(weight_decay), optimizer)
        if weight_decay
        else optimizer
    )


def per_block(optimizers: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One optimizer for each block, by block name, as one transformation of the whole pytree."""
    return optax.partition(optimizers, {name: name for name in optimizers})


def cosine_per_epoch(
    learning_rate: float, *, steps_per_epoch: int, t_max: int, eta_min: float = 1e-5
) -> optax.Schedule:
    """eta_min + (lr - eta_min) (1 + cos(pi epoch / t_max)) / 2, constant within an epoch.

    Past t_max the rate rises again, as torch's CosineAnnealingLR does: the original trains 90 epochs
    with t_max = 85. Ernoult et al. 2022, appendix.
    """

    def schedule(step):
        epoch = step // steps_per_epoch
        return eta_min + (learning_rate - eta_min) * (1 + jnp.cos(math.pi * epoch / t_max)) / 2

    return schedule
