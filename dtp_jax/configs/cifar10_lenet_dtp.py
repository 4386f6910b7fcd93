"""L-DRL on CIFAR-10 with the LeNet-like network of the paper's comparison with DRL.

python launch.py --config=configs/cifar10_lenet_dtp.py
"""

from dtp_jax.configs import default


def get_config():
    """L-DRL on LeNet, with one noise and one rate for each of its three feedback maps."""
    config = default.get_config()
    config.network = "lenet"
    config.batch_size = 256
    config.beta = 0.4655
    config.noise = (0.41640228838517584, 0.3826146261623929, 0.1395382069358601)
    config.feedback_iterations = (41, 51, 24)
    config.feedback_lr = (0.0007188427494432325, 0.00012510321884615596, 0.03541466958291287)
    config.forward_lr = 0.03618
    return config
