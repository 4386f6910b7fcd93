"""DTP (Lee et al. 2015) on CIFAR-10: the reconstruction loss in place of L-DRL.

python launch.py --config=configs/cifar10_vanilla_dtp.py
"""

from dtp_jax.configs import cifar10_dtp


def get_config():
    """DTP on the network and images of `cifar10_dtp`."""
    config = cifar10_dtp.get_config()
    config.rule = "dtp"
    config.forward_lr = 1e-3  # with 0.05 it diverges at once
    return config
