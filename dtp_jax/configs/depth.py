"""Depth on Fashion-MNIST: MLPs of 4, 8 or 16 layers, or a narrow resnet18: depth.py:RULE_NETWORK.

python launch.py --config=configs/depth.py:ldrl_8
python launch.py --config=configs/depth.py:backprop_resnet18

RULE is any rule; NETWORK is a number of layers (one less of 256 tanh units, and the readout), or resnet18: every
basic block a block of the chain, and 10,000 images, for it is dear.
"""

from dtp_jax.configs import fashion_mnist_mlp


def get_config(which="ldrl_4"):
    rule, _, network = which.rpartition("_")
    if not rule or not (network == "resnet18" or network.isdecimal() and int(network) > 1):
        raise ValueError(f"{which!r}; allowed: RULE_LAYERS, such as ldrl_8, or RULE_resnet18")
    config = fashion_mnist_mlp.get_config(rule)
    config.diagnostics_updates = "on"
    if network == "resnet18":
        config.network = "resnet18"
        config.hidden = ()
        config.channels = (8, 8, 16, 32, 64)
        config.split_stages = True
        config.train_images = 10_000
        config.feedback_iterations = (10,)
        config.feedback_lr = (0.01,)
        config.forward_lr = 0.02
    else:
        config.hidden = (256,) * (int(network) - 1)
    return config
