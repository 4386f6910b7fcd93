"""Every field with its default; the other configs change a few of them."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """L-DRL with the paper's CIFAR-10 hyper-parameters where they do not depend on the network."""
    config = config_dict.ConfigDict()

    # What is trained. Allowed names: see dtp_jax/rules, dtp_jax/networks, dtp_jax/data.
    config.rule = "ldrl"
    config.network = "simple_vgg"
    config.channels = ()  # channels of the convolutional blocks; () = the network's own
    config.hidden = ()  # units of the hidden dense blocks; () = the network's own
    config.activation = "elu"  # elu, relu, tanh
    config.bias = True  # biases in all blocks

    # Data.
    config.dataset = "cifar10"
    config.data_dir = (
        ""  # where the data is; "" = $DTP_JAX_DATA, $TFDS_DATA_DIR, TFDS's default folder
    )
    config.val_split = 0.1  # fraction of the training images held out; 0 = train on all
    config.augment = True  # random flips and crops, as far as the data set has them
    config.seed = 0  # parameters, noise, order, augmentation and validation split

    # Length.
    config.epochs = 90
    config.max_steps = 0  # stop after this many steps; 0 = after all epochs
    config.batch_size = 128

    # L-DRL. Per-block values: one per trained feedback block (the second to the last), or one for all.
    config.beta = 0.7  # step size of the output target
    config.noise = (0.4,)  # sigma
    config.feedback_iterations = (20,)  # iterations per batch
    config.feedback_lr = (1e-3,)  # constant; SGD
    config.feedback_momentum = 0.9
    config.feedback_samples = 1  # noise samples per iteration

    # Forward optimizer: SGD.
    config.forward_lr = 0.05
    config.momentum = 0.9
    config.weight_decay = 1e-4
    config.schedule = "cosine"  # of forward_lr, per epoch: cosine or constant
    config.t_max = 0  # epochs to the cosine's minimum; 0 = round(epochs * 85 / 90)
    config.eta_min = 1e-5  # the cosine's minimum

    # Bookkeeping: changes no number, and may differ when a run is continued.
    config.checkpoint_every = 0  # steps; 0 = once per epoch
    config.keep_checkpoints = 3
    config.log_every = 1  # steps per line of metrics.jsonl
    config.eval_batch_size = 500
    config.diagnostics = True  # angles between forward and feedback weights, once per epoch

    return config
