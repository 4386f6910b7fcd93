"""Depth on Fashion-MNIST: MLPs of 4, 8 or 16 layers, or a narrow resnet18: depth:RULE_NETWORK.

python launch.py --config=configs/depth.py:ldrl_8
python launch.py --config=configs/depth.py:backprop_resnet18

RULE is any rule. NETWORK is a number of layers: one less of 256 tanh units, and the readout, on 20,000 images. Or it
is resnet18, every basic block a block of the chain, on 5,000 images, for it is dear.

Forward weights are trained by Adam. With SGD backprop itself does not train 16 layers: gradients vanish on the way
down. L-DRL does not train the resnet18, whose blocks have relu; with elu it does (benchmarks/elu_resnet18.py).
"""

from dtp_jax.configs import fashion_mnist_mlp


def get_config(which="ldrl_4"):
    """An MLP of so many layers, or a narrow resnet18, on Fashion-MNIST."""
    rule, _, network = which.rpartition("_")
    if not rule or not (network == "resnet18" or network.isdecimal() and int(network) > 1):
        raise ValueError(f"{which!r}; allowed: RULE_LAYERS, such as ldrl_8, or RULE_resnet18")
    config = fashion_mnist_mlp.get_config(rule)
    config.forward_optimizer = "adam"
    config.forward_lr = 5e-4
    config.train_images = 20_000
    config.diagnostics_updates = "on"
    if network == "resnet18":
        config.network = "resnet18"
        config.hidden = ()
        config.channels = (8, 8, 16, 32, 64)
        config.split_stages = True
        config.train_images = 5_000
        config.batch_size = 50
        # Below the activations, whose root mean square is 0.023 in the last stage. Rates of SGD go with 1 / noise^2.
        config.noise = (0.01,)
        config.feedback_iterations = (5,)
        config.feedback_optimizer = "adam"  # one rate for maps of very different losses
        config.feedback_lr = (1e-3,)
        if rule == "ldrl":  # its loss curves by about 2 noise^2 for each pixel of a block's output
            config.feedback_optimizer = "sgd"
            config.feedback_lr = (0.1, 0.1, 0.4, 0.4, 1.5, 1.5, 5.0, 5.0, 0.8)
            config.feedback_iterations = (*(5,) * 8, 50)  # the readout's cost next to nothing
    else:
        config.hidden = (256,) * (int(network) - 1)
    return config
