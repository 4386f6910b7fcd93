"""Every rule on 10,000 images of Fashion-MNIST with a narrow LeNet: fashion_mnist_small.py:RULE.

python launch.py --config=configs/fashion_mnist_small.py:ldrl
python -m dtp_jax.compare --configs=fashion_mnist_small:ldrl,fashion_mnist_small:backprop --seeds=3

A CPU trains a run in about a minute. Forward and feedback rates were chosen on the validation images.
"""

from configs import default


def get_config(rule="ldrl"):
    config = default.get_config()
    config.rule = "ldrl" if rule == "parallel_ldrl" else rule
    config.network = "lenet"
    config.channels = (8, 16)
    config.hidden = (64,)
    config.dataset = "fashion_mnist"
    config.train_images = 10_000
    config.epochs = 8
    config.batch_size = 100
    config.noise = (0.2, 0.2, 0.1)
    config.feedback_iterations = (10, 10, 20)
    config.feedback_lr = (3e-4, 0.06, 0.12)
    config.forward_lr = 0.05
    return config
