"""The resnet18 of the config depth, with elu in its blocks instead of relu; :RULE is another rule than L-DRL.

dtp train --config=benchmarks/elu_resnet18.py
dtp train --config=benchmarks/elu_resnet18.py:backprop
"""

from dtp_jax import networks
from dtp_jax.configs import depth
from dtp_jax.networks.resnet import resnet


@networks.register
def elu_resnet18(input_shape, classes, *, channels=(64, 64, 128, 256, 512)):
    """A block of the chain for each basic block."""
    options = {"split_stages": True, "activation": "elu"}
    return resnet((2, 2, 2, 2), input_shape, classes, channels, **options)


def get_config(rule="ldrl"):
    """All else is as there."""
    config = depth.get_config(f"{rule}_resnet18")
    config.network = "elu_resnet18"
    config.split_stages = False  # not asked for: it always is
    return config
