"""Difference target propagation with learned backprop targets (L-DRL), in JAX."""

from dtp_jax import blocks, feedback, metrics, networks, ops, optim, rules
from dtp_jax.blocks import Activations, Block, Network, chain, conv_block, dense_block, forward_all
from dtp_jax.learner import Learner, Metrics, Record, TrainState, init, step, train_step
from dtp_jax.networks import lenet, meulemans, mlp, resnet18, resnet34, simple_vgg
from dtp_jax.rules import Rule, analytic, backprop, drl, dtp, fw_dtp, ldrl, tp
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
    "analytic",
    "backprop",
    "blocks",
    "chain",
    "conv_block",
    "dense_block",
    "drl",
    "dtp",
    "feedback",
    "forward_all",
    "fw_dtp",
    "init",
    "ldrl",
    "lenet",
    "metrics",
    "meulemans",
    "mlp",
    "networks",
    "ops",
    "optim",
    "resnet18",
    "resnet34",
    "rules",
    "simple_vgg",
    "step",
    "tp",
    "train_step",
]
