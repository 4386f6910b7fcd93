"""L-DRL on Fashion-MNIST with the LeNet-like network.

python launch.py --config=configs/fashion_mnist_dtp.py
"""

from dtp_jax.configs import cifar10_lenet_dtp


def get_config():
    """`cifar10_lenet_dtp` on Fashion-MNIST."""
    config = cifar10_lenet_dtp.get_config()
    config.dataset = "fashion_mnist"
    return config
