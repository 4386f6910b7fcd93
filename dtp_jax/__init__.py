"""Difference target propagation with learned backprop targets (L-DRL), in JAX."""

from dtp_jax import blocks, feedback, metrics, networks, ops, optim, rules
from dtp_jax.blocks import Activations, Block, Network, chain, conv_block, dense_block, forward_all
from dtp_jax.learner import Learner, Metrics, Record, TrainState, init, step, train_step
from dtp_jax.networks import lenet, mlp, simple_vgg
from dtp_jax.rules import Rule, backprop, ldrl
from dtp_jax.version import __version__

__all__ = [
    "__version__",
    "Activations",
    "Block",
    "Learner",
    "Metrics",
    "Network",
    "Record",
    "Rule",
    "TrainState",
    "backprop",
    "blocks",
    "chain",
    "conv_block",
    "dense_block",
    "feedback",
    "forward_all",
    "init",
    "ldrl",
    "lenet",
    "metrics",
    "mlp",
    "networks",
    "ops",
    "optim",
    "rules",
    "simple_vgg",
    "step",
    "train_step",
]
