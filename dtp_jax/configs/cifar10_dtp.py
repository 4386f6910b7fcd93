"""The paper's main experiment: L-DRL on CIFAR-10 with the VGG-like network.

python launch.py --config=configs/cifar10_dtp.py

A GPU's experiment: two shared cores of an AMD EPYC train 7 images/s (2026-11-23), so try it there with
--config.max_steps=20. The first 20 steps take the cross-entropy from 2.30 to 2.21 (means of five steps).
"""

from dtp_jax.configs import default


def get_config():
    """L-DRL with the noise, iterations and rates of every feedback map as the paper has them."""
    config = default.get_config()
    config.noise = (0.4, 0.4, 0.2, 0.2, 0.08)
    config.feedback_iterations = (20, 30, 35, 55, 20)
    config.feedback_lr = (1e-4, 3.5e-4, 8e-3, 8e-3, 0.18)
    return config
