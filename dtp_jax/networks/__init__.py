"""Networks: one function per file, (input_shape, classes, *, options) -> tuple of blocks."""

from dtp_jax.networks.lenet import lenet
from dtp_jax.networks.mlp import mlp
from dtp_jax.networks.simple_vgg import simple_vgg

NETWORKS = {"simple_vgg": simple_vgg, "lenet": lenet, "mlp": mlp}
"""What `config.network` may name. A new network is a file here and an entry in this line."""

__all__ = ["NETWORKS", "lenet", "mlp", "simple_vgg"]
