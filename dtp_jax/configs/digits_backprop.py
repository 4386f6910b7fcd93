"""Backprop on the net and the data of the quick start."""

from dtp_jax.configs import digits_dtp


def get_config():
    """Backprop on the network and images of `digits_dtp`."""
    config = digits_dtp.get_config()
    config.rule = "backprop"
    return config
