"""Parallel L-DRL on CIFAR-10: one iteration for all blocks at once, ten noise samples, Adam.

python launch.py --config=configs/cifar10_parallel_dtp.py
"""

from dtp_jax.configs import cifar10_dtp


def get_config():
    """`cifar10_dtp` with one iteration, ten noise samples and Adam on both sides."""
    config = cifar10_dtp.get_config()
    config.feedback_iterations = (1,)
    config.feedback_samples = 10
    config.feedback_optimizer = "adam"
    config.feedback_lr = (3e-4,)
    config.feedback_weight_decay = 1e-4
    config.forward_optimizer = "adam"
    config.forward_lr = 3e-4
    config.schedule = "constant"
    return config
