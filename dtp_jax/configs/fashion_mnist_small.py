"""Every rule on 10,000 images of Fashion-MNIST with a narrow LeNet: fashion_mnist_small:RULE.

python launch.py --config=configs/fashion_mnist_small.py:ldrl
python -m dtp_jax.compare --configs=fashion_mnist_small:ldrl,fashion_mnist_small:backprop --seeds=3

RULE is any rule, or one of its variants parallel_ldrl, p_ddtp and s_ddtp. Two CPU cores train L-DRL in two to three
minutes. Rates were chosen on the validation images, in trials of two to ten epochs: two dozen for L-DRL, one to four
for the others.
"""

from dtp_jax.configs import default

VARIANTS = {"parallel_ldrl": "ldrl", "p_ddtp": "drl", "s_ddtp": "drl"}


def get_config(rule="ldrl"):
    """Rates that were chosen for each rule on validation images."""
    config = default.get_config()
    config.rule = VARIANTS.get(rule, rule)
    config.network = "lenet"
    config.channels = (8, 16)
    config.hidden = (64,)
    config.activation = "tanh"
    config.dataset = "fashion_mnist"
    config.train_images = 10_000
    config.epochs = 10
    config.batch_size = 100
    # A small beta keeps the targets where the feedback maps are linear: worth a point over 0.7.
    config.beta = 0.2
    config.noise = (1.4, 0.3, 0.1)
    config.feedback_iterations = (5, 10, 20)
    config.feedback_lr = (1e-4, 0.015, 0.06)
    config.forward_lr = 0.08 if rule == "ldrl" else 0.05
    config.normalize_lr = rule not in ("backprop", "tp")  # divided by beta
    config.weight_decay = 2e-5
    if rule == "parallel_ldrl":
        config.feedback_iterations = (1,)
        config.feedback_samples = 5  # the paper has 10; with 5 a run is as long as one of L-DRL
        config.feedback_optimizer = "adam"
        config.feedback_lr = (3e-3,)
        config.feedback_weight_decay = 1e-4
    if rule in ("dtp", "tp"):
        config.noise = (0.2, 0.2, 0.1)
        config.feedback_lr = (1e-5, 1e-3, 1e-2)
    if rule == "tp":
        config.beta = 0.7
        config.forward_lr = 1e-4
    if config.rule == "drl":
        config.beta = 0.1
        config.normalize_lr = False
        config.noise = (0.05,)
        config.feedback_iterations = (1,)
        config.feedback_optimizer = config.forward_optimizer = "adam"
        config.feedback_lr = (1e-2,)
        config.forward_lr = 1e-3
        config.weight_decay = 0.0
        config.pretrain_epochs = 1
    config.alternate = rule == "s_ddtp"
    return config
