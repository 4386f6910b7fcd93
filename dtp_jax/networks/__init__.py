"""Networks: (input_shape, classes, *, options) -> tuple of blocks; one file per kind."""

from dtp_jax.networks.lenet import lenet
from dtp_jax.networks.meulemans import meulemans
from dtp_jax.networks.mlp import mlp
from dtp_jax.networks.resnet import resnet18, resnet34
from dtp_jax.networks.simple_vgg import simple_vgg
from dtp_jax.registry import Registry

NETWORKS = Registry("network", (simple_vgg, lenet, meulemans, mlp, resnet18, resnet34))
"""What `config.network` may name. A new network is a file here and an entry in this table, or a call of
`register` in a file of your own."""
register = NETWORKS.register
"""Adds a network of your own, as a function or as a decorator: see `dtp_jax.registry.Registry.register`."""

__all__ = [
    "NETWORKS",
    "lenet",
    "meulemans",
    "mlp",
    "register",
    "resnet18",
    "resnet34",
    "simple_vgg",
]
