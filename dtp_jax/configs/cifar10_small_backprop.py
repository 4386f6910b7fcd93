"""Backprop on the narrow net, the images and the schedule of cifar10_small_dtp.

python launch.py --config=configs/cifar10_small_backprop.py

Two shared cores of an AMD EPYC, 2026-11-23, seed 0, JPEG re-encoded images: 2.5 minutes, 75.4 % test accuracy.
"""

from dtp_jax.configs import cifar10_small_dtp


def get_config():
    """`cifar10_small_dtp` with backprop and a rate that was chosen for it."""
    config = cifar10_small_dtp.get_config()
    config.rule = "backprop"
    config.forward_lr = 0.03
    return config
