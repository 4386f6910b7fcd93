"""TP (Bengio 2014) on CIFAR-10: targets without the difference correction.

python launch.py --config=configs/cifar10_target_prop.py
"""

from dtp_jax.configs import cifar10_vanilla_dtp


def get_config():
    """TP with the settings of `cifar10_vanilla_dtp`."""
    config = cifar10_vanilla_dtp.get_config()
    config.rule = "tp"
    return config
