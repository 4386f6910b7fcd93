"""DRL (Meulemans et al. 2020) on CIFAR-10: direct linear feedback, one Adam per block.

python launch.py --config=configs/cifar10_drl.py
"""

from dtp_jax.configs import default


def get_config():
    """DRL with the rates that Meulemans et al. published."""
    config = default.get_config()
    config.rule = "drl"
    config.network = "meulemans"
    config.activation = "tanh"
    config.dataset = "cifar10_3xstd"
    config.augment = False
    config.beta = 0.015962099947441903
    config.noise = (0.00921040366516759,)
    config.feedback_iterations = (1,)
    config.feedback_optimizer = "adam"
    config.feedback_lr = (0.0045157498494467095,)
    config.feedback_eps = 7.529093372180766e-07
    config.feedback_weight_decay = 6.169295107849636e-05
    config.pretrain_epochs = 10
    config.feedback_pass = True
    config.forward_optimizer = "adam"
    config.block_forward_lr = (
        0.00025935571806476586,
        0.000885500279951265,
        0.0001423047695105589,
        3.3871035558126015e-06,
    )
    config.normalize_lr = True
    config.forward_eps = (
        2.7867895625009e-08,
        1.9868935703787622e-08,
        4.515242618159344e-06,
        4.046144976139705e-05,
    )
    config.weight_decay = 0.0
    config.schedule = "constant"
    return config
