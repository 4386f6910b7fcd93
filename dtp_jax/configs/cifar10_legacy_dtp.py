"""The paper's legacy command: all 50,000 images, three times the usual deviation, forward rate .08.

python launch.py --config=configs/cifar10_legacy_dtp.py
"""

from dtp_jax.configs import cifar10_dtp


def get_config():
    """`cifar10_dtp` with what the legacy command sets."""
    config = cifar10_dtp.get_config()
    config.dataset = "cifar10_3xstd"
    config.val_split = 0.0
    config.forward_lr = 0.08
    return config
