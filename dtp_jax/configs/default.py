"""Every field with its default; the other configs change a few of them."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """L-DRL with the paper's CIFAR-10 hyper-parameters where they do not depend on the network."""
    config = config_dict.ConfigDict()
    for section in (what_is_trained, data, length, machine, feedback, forward, bookkeeping):
        section(config)
    return config


def what_is_trained(config: config_dict.ConfigDict) -> None:
    """What is trained. Allowed names: see dtp_jax/rules, dtp_jax/networks, dtp_jax/data."""
    config.rule = "ldrl"  # the learning rule
    config.network = "simple_vgg"  # the chain of blocks
    config.channels = ()  # channels of the convolutional blocks; () = the network's own
    config.hidden = ()  # units of the hidden dense blocks; () = the network's own
    config.activation = "elu"  # elu, relu, tanh
    config.bias = True  # biases in all blocks
    config.batch_norm = False  # after every convolution of the resnets
    config.split_stages = False  # resnets: a block of the chain is a basic block, not a stage


def data(config: config_dict.ConfigDict) -> None:
    """Where the images come from, and what is done to them."""
    config.dataset = "cifar10"  # what the images are
    config.data_dir = ""  # "" = $DTP_JAX_DATA, $TFDS_DATA_DIR, TFDS's default folder
    config.val_split = 0.1  # fraction of the training images held out; 0 = train on all
    config.val_per_class = 0  # instead of val_split: so many images of every class; 0 = val_split
    config.train_images = 0  # train on so many of the images left, the first ones; 0 = all
    config.overfit_batches = 0  # to debug: train on so many batches, not augmented; 0 = all
    config.augment = True  # random flips and crops, as far as the data set has them
    config.flip = False  # flips also where the data set has none (mnist, fashion_mnist)
    config.seed = 0  # parameters, noise, order, augmentation, validation split; -1 = one is drawn
    config.seeds = 1  # so many runs: seed, seed + 1, ..., each in a folder seed_<n> of the workdir
    config.seeds_as = "auto"  # together (one program), in_turn, auto: in_turn on CPUs and meshes


def length(config: config_dict.ConfigDict) -> None:
    """How long a run is."""
    config.epochs = 90  # passes over the training images
    config.max_steps = 0  # stop after this many steps; 0 = after all epochs
    config.patience = 0  # stop after so many epochs without a better validation accuracy; 0 = never
    config.max_minutes = 0.0  # stop after this time, all starts together; 0 = never
    config.batch_size = 128  # images per step, on all devices together
    config.guard = "stop"  # or, where numbers go wrong: skip (the batch), halve (a feedback_lr)


def machine(config: config_dict.ConfigDict) -> None:
    """Precision, and devices: data_parallel * layer_parallel of them. See docs/cluster.md."""
    config.precision = "tf32"  # of products: float32, tf32 (float32 without tf32 units), bfloat16
    config.data_parallel = 1  # parts of every batch, each on devices of its own
    config.layer_parallel = 1  # groups of feedback maps, each on devices of its own


def feedback(config: config_dict.ConfigDict) -> None:
    """Targets and feedback maps. Per-block values: one per trained feedback map, or one for all."""
    config.beta = 0.7  # step size of the output target
    config.noise = (0.4,)  # sigma
    config.feedback_iterations = (20,)  # iterations per batch
    config.feedback_samples = 1  # noise samples per iteration
    config.feedback_optimizer = "sgd"  # sgd, adam; one for each map
    config.feedback_lr = (1e-3,)  # constant
    config.feedback_momentum = 0.9  # of sgd
    config.feedback_weight_decay = 0.0  # joins the gradient, before momentum or moments
    config.feedback_eps = 1e-8  # of adam
    config.feedback_activation = "linear"  # of DRL's direct feedback maps
    config.stale_gradients = "none"  # or as the original's DRL left them: kept, zeroed
    config.pretrain_epochs = 0  # epochs of feedback training alone, before everything else
    config.feedback_pass = False  # one epoch of feedback training alone after every epoch
    config.alternate = False  # feedback maps for an epoch, then forward weights for an epoch
    config.init_symmetric = False  # feedback weights start as the forward ones, biases at zero


def forward(config: config_dict.ConfigDict) -> None:
    """The forward optimizer."""
    config.forward_optimizer = "sgd"  # sgd, adam
    config.forward_lr = 0.05  # at the beginning of the schedule
    config.block_forward_lr = ()  # instead of forward_lr: one for each block
    config.normalize_lr = False  # divide the learning rates by beta
    config.forward_eps = (1e-8,)  # of adam: one for each block, or one for all
    config.momentum = 0.9  # of sgd
    config.weight_decay = 1e-4  # joins the gradient, before momentum or moments
    config.schedule = "cosine"  # of forward_lr, per epoch: cosine, step, constant
    config.t_max = 0  # epochs to the cosine's minimum; 0 = round(epochs * 85 / 90)
    config.eta_min = 1e-5  # the cosine's minimum
    config.step_epochs = 30  # of step: after so many epochs forward_lr is multiplied ...
    config.gamma = 0.1  # ... by this, again and again


def bookkeeping(config: config_dict.ConfigDict) -> None:
    """Bookkeeping: changes no number, and may differ when a run is continued."""
    config.images_on = "auto"  # device, host (streamed), auto = device where they fit half of it
    config.checkpoint_every = 0  # steps; 0 = once per epoch
    config.checkpoint_minutes = 30.0  # and when the last one is so old; 0 = not by time
    config.keep_checkpoints = 3  # so many of the newest, and the best by validation
    config.log_every = 1  # steps per line of metrics.jsonl
    config.trackers = (
        "tensorboard",
    )  # tensorboard, wandb, mlflow; () = none; see docs/trackers.md
    config.project = "dtp_jax"  # what wandb and mlflow have the run under
    config.eval_batch_size = 500  # images at a time, in evaluation
    config.ahead_mb = 1024  # of a device, for feedback iterations that are prepared ahead (GPU)
    config.diagnostics = True  # False = none of these; see docs/diagnostics.md
    config.diagnostics_every = 1000  # steps between looks into the feedback training; 0 = none
    # on, off, auto = on in runs of 5,000 steps or more, where the rule and the network have it:
    config.diagnostics_iterations = "auto"  # the looks: loss and angle of one batch's iterations
    config.diagnostics_updates = "auto"  # once per epoch, and so the following: against backprop
    config.diagnostics_jacobians = "auto"  # feedback Jacobians against transposed forward ones
    config.diagnostics_gauss_newton = "auto"  # targets against Gauss-Newton's
    config.diagnostics_eigenvalues = "auto"  # of forward times feedback Jacobian
