"""Every rule on 10,000 images of Fashion-MNIST with a narrow LeNet: fashion_mnist_small.py:RULE.

python launch.py --config=configs/fashion_mnist_small.py:ldrl
python -m dtp_jax.compare --configs=fashion_mnist_small:ldrl,fashion_mnist_small:backprop --seeds=3

Two CPU cores train L-DRL in about two minutes. Rates were chosen on the validation images: up to eight trials of two or
three epochs for L-DRL, one to three for the other rules.
"""

from configs import default


def get_config(rule="ldrl"):
    config = default.get_config()
    config.rule = rule
    config.network = "lenet"
    config.channels = (8, 16)
    config.hidden = (64,)
    config.activation = "tanh"
    config.dataset = "fashion_mnist"
    config.train_images = 10_000
    config.epochs = 5
    config.batch_size = 100
    config.noise = (0.4, 0.2, 0.1)
    config.feedback_iterations = (5, 5, 10)
    config.feedback_lr = (1e-3, 0.03, 0.1)
    config.forward_lr = 0.07 if rule == "ldrl" else 0.05
    if rule in ("dtp", "tp"):
        config.noise = (0.2, 0.2, 0.1)
        config.feedback_lr = (1e-5, 1e-3, 1e-2)
    if rule == "tp":
        config.forward_lr = 1e-4
    if rule == "drl":
        config.beta = 0.1
        config.noise = (0.05,)
        config.feedback_iterations = (1,)
        config.feedback_optimizer = config.forward_optimizer = "adam"
        config.feedback_lr = (1e-2,)
        config.forward_lr = 1e-3
        config.weight_decay = 0.0
        config.pretrain_epochs = 1
    return config
