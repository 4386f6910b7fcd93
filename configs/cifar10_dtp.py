"""The paper's main experiment: L-DRL on CIFAR-10 with the VGG-like network.

python launch.py --config=configs/cifar10_dtp.py
"""

from configs import default


def get_config():
    config = default.get_config()
    config.noise = (0.4, 0.4, 0.2, 0.2, 0.08)
    config.feedback_iterations = (20, 30, 35, 55, 20)
    config.feedback_lr = (1e-4, 3.5e-4, 8e-3, 8e-3, 0.18)
    return config
