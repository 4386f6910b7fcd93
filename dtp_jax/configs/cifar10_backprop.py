"""The backprop baseline on CIFAR-10 with the VGG-like network; no weight decay, as in the original.

python launch.py --config=configs/cifar10_backprop.py
"""

from dtp_jax.configs import default


def get_config():
    """Backprop on the network and images of `cifar10_dtp`."""
    config = default.get_config()
    config.rule = "backprop"
    config.weight_decay = 0.0
    return config
