"""The MLP of mnist_mlp, 6 x 256 units, on Fashion-MNIST; :RULE is another rule than L-DRL.

python launch.py --config=configs/fashion_mnist_mlp.py
python launch.py --config=configs/fashion_mnist_mlp.py:backprop
"""

from dtp_jax.configs import mnist_mlp


def get_config(rule="ldrl"):
    """The net of `mnist_mlp`, ten epochs of Fashion-MNIST."""
    config = mnist_mlp.get_config(rule)
    config.dataset = "fashion_mnist"
    return config
