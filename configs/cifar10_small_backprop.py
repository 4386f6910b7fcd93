"""Backprop on the narrow net, the images and the schedule of cifar10_small_dtp.

python launch.py --config=configs/cifar10_small_backprop.py
"""

from configs import cifar10_small_dtp


def get_config():
    config = cifar10_small_dtp.get_config()
    config.rule = "backprop"
    config.forward_lr = 0.03
    return config
