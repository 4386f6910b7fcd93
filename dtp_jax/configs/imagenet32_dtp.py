"""L-DRL on ImageNet 32x32 with the VGG-like network and 1000 classes.

python launch.py --config=configs/imagenet32_dtp.py
"""

from dtp_jax.configs import cifar10_dtp


def get_config():
    """`cifar10_dtp` on ImageNet 32x32, 50 images of each class held out."""
    config = cifar10_dtp.get_config()
    config.dataset = "imagenet32"
    config.val_split = 0.0
    config.val_per_class = 50
    return config
