"""Five rules on CIFAR-10 with the narrow net of cifar10_small_dtp: cifar10_small:RULE.

python launch.py --config=configs/cifar10_small.py:dtp

RULE is ldrl, backprop (the configs cifar10_small_dtp and cifar10_small_backprop), dtp, drl or analytic.
"""

from dtp_jax.configs import cifar10_small_backprop, cifar10_small_dtp

RULES = ("ldrl", "backprop", "dtp", "drl", "analytic")


def get_config(rule="ldrl"):
    """`cifar10_small_dtp` with another rule, each at rates of its own."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}; allowed: {', '.join(RULES)}")
    if rule == "backprop":
        return cifar10_small_backprop.get_config()
    config = cifar10_small_dtp.get_config()
    config.rule = rule
    if rule == "dtp":
        config.feedback_lr = (3e-6, 3e-5, 3e-3)  # its loss is a sum over all positions
        config.forward_lr = 3e-3
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
