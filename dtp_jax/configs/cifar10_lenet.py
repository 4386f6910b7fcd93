"""Other rules on CIFAR-10 with the LeNet-like network: cifar10_lenet:RULE with dtp, tp or backprop.

python launch.py --config=configs/cifar10_lenet.py:dtp

The original never tuned DTP and TP there: tune forward_lr and feedback_lr on validation.
"""

from dtp_jax.configs import cifar10_lenet_dtp

RULES = ("dtp", "tp", "backprop")


def get_config(rule="dtp"):
    """`cifar10_lenet_dtp` with another rule and a rate for it.

    Raises:
      ValueError: the rule is none of RULES.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}; allowed: {', '.join(RULES)}")
    config = cifar10_lenet_dtp.get_config()
    config.rule = rule
    config.forward_lr = 0.05 if rule == "backprop" else 1e-3
    config.weight_decay = 0.0 if rule == "backprop" else config.weight_decay
    return config
