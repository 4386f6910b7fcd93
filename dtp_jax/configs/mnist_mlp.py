"""The deep MLP of the field's comparisons, 6 x 256 units, on MNIST; :RULE is another rule than L-DRL.

python launch.py --config=configs/mnist_mlp.py
python launch.py --config=configs/mnist_mlp.py:backprop

Two shared cores of an AMD EPYC, 2026-11-23, seed 0: L-DRL 3 minutes, 97.92 % test accuracy; backprop 13 s, 97.83 %.
"""

from dtp_jax.configs import default


def get_config(rule="ldrl"):
    """Six tanh layers of 256 units, ten epochs."""
    config = default.get_config()
    config.rule = rule
    config.network = "mlp"
    config.hidden = (256,) * 6
    config.activation = "tanh"
    config.dataset = "mnist"
    config.augment = False
    config.epochs = 10
    config.batch_size = 128
    config.noise = (0.1,)
    config.feedback_iterations = (10,)
    config.feedback_lr = (0.25,)
    config.forward_lr = 0.05
    config.weight_decay = 0.0
    if rule in ("dtp", "tp"):  # the loss of a whole reconstruction: its gradients are larger
        config.feedback_lr = (5e-3,)
        config.forward_lr = 1e-2 if rule == "dtp" else 1e-3
    if rule == "drl":
        config.beta = 0.1
        config.noise = (0.05,)
        config.feedback_iterations = (1,)
        config.feedback_optimizer = config.forward_optimizer = "adam"
        config.feedback_lr = (1e-2,)
        config.forward_lr = 1e-3
        config.pretrain_epochs = 1
    return config
