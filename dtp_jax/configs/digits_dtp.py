"""Quick start: L-DRL on scikit-learn's 8x8 digits."""

from dtp_jax.configs import default


def get_config():
    """L-DRL on two narrow blocks: seconds on a CPU."""
    config = default.get_config()
    config.dataset = "digits"
    config.val_split = 0.125
    config.channels = (32, 64)
    config.epochs = 15
    config.batch_size = 32
    config.noise = (0.2, 0.08)
    config.feedback_iterations = (10,)
    config.feedback_lr = (0.005, 0.1)
    config.forward_lr = 0.01
    return config
