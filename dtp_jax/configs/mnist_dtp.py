"""L-DRL on MNIST with the LeNet-like network.

python launch.py --config=configs/mnist_dtp.py
"""

from dtp_jax.configs import cifar10_lenet_dtp


def get_config():
    """`cifar10_lenet_dtp` on MNIST."""
    config = cifar10_lenet_dtp.get_config()
    config.dataset = "mnist"
    return config
