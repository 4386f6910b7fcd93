"""The config: every field is checked here, before anything is read or compiled."""

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax

from dtp_jax.blocks import Network, count, init_forward
from dtp_jax.data import DATASETS, PLACES, DatasetSpec
from dtp_jax.fields import (
    AT_LEAST_1,
    BELOW_1,
    COUNT,
    FACTOR,
    FLAG,
    GUARD,
    ITERATIONS,
    NAME,
    NOISE,
    NOTHING_TO_HALVE,
    OPTIMIZER,
    PRECISION,
    RATE,
    RATES,
    STALE,
    SWITCH,
    WIDTHS,
    Field,
    checked,
    choice,
    error,
    for_no_maps,
    full_length,
    local_path,
    positive,
    shown,
    single,
)
from dtp_jax.learning.symmetric import check_mirrored
from dtp_jax.networks import NETWORKS
from dtp_jax.ops import ACTIVATIONS
from dtp_jax.rules import RULES
from dtp_jax.run import trackers
from dtp_jax.run.build import (
    Experiment,
    build_learner,
    build_network,
    build_rule,
    forward_rates,
)
from dtp_jax.run.extension import from_json

Config = Mapping[str, Any]

SEED = Field(int, "a whole number from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)
DRAWN = -1
"""The seed that stands for one that is drawn when a run begins."""
FIELDS: dict[str, Field] = {
    "rule": choice(RULES),
    "network": choice(NETWORKS),
    "channels": WIDTHS,
    "hidden": WIDTHS,
    "activation": choice([name for name in ACTIVATIONS if name != "linear"]),
    "bias": FLAG,
    "batch_norm": FLAG,
    "split_stages": FLAG,
    "dataset": choice(DATASETS),
    "data_dir": Field(str, "a folder, or the empty string"),
    "images_on": choice(PLACES),
    "val_split": BELOW_1,
    "val_per_class": COUNT,
    "train_images": COUNT,
    "overfit_batches": COUNT,
    "augment": FLAG,
    "flip": FLAG,
    "seed": SEED._replace(
        allowed=f"{SEED.allowed}, or {DRAWN} for one that is drawn",
        accepts=lambda value: value == DRAWN or SEED.accepts(value),
    ),
    "seeds": AT_LEAST_1,
    "seeds_as": choice(("auto", "together", "in_turn")),
    "epochs": AT_LEAST_1,
    "max_steps": COUNT,
    "patience": COUNT,
    "max_minutes": FACTOR,
    "guard": GUARD,
    "batch_size": AT_LEAST_1,
    "precision": PRECISION,
    "data_parallel": AT_LEAST_1,
    "layer_parallel": AT_LEAST_1,
    "beta": RATE,
    "noise": NOISE,
    "feedback_iterations": ITERATIONS,
    "feedback_lr": RATES,
    "feedback_optimizer": OPTIMIZER,
    "feedback_momentum": BELOW_1,
    "feedback_weight_decay": FACTOR,
    "feedback_eps": RATE,
    "feedback_samples": AT_LEAST_1,
    "feedback_activation": choice(ACTIVATIONS),
    "stale_gradients": STALE,
    "pretrain_epochs": COUNT,
    "feedback_pass": FLAG,
    "alternate": FLAG,
    "init_symmetric": FLAG,
    "forward_optimizer": OPTIMIZER,
    "forward_lr": RATE,
    "block_forward_lr": Field(float, "() or finite numbers above 0", positive, is_tuple=True),
    "normalize_lr": FLAG,
    "forward_eps": RATES._replace(per_block=False),
    "momentum": BELOW_1,
    "weight_decay": FACTOR,
    "schedule": choice(("cosine", "step", "constant")),
    "t_max": COUNT,
    "eta_min": FACTOR,
    "step_epochs": AT_LEAST_1,
    "gamma": RATE,
    "checkpoint_every": COUNT,
    "checkpoint_minutes": FACTOR,
    "keep_checkpoints": AT_LEAST_1,
    "log_every": AT_LEAST_1,
    "trackers": trackers.NAMES,
    "project": NAME,
    "eval_batch_size": AT_LEAST_1,
    "ahead_mb": AT_LEAST_1,
    "diagnostics": FLAG,
    "diagnostics_every": COUNT,
    "diagnostics_iterations": SWITCH,
    "diagnostics_updates": SWITCH,
    "diagnostics_jacobians": SWITCH,
    "diagnostics_gauss_newton": SWITCH,
    "diagnostics_eigenvalues": SWITCH,
}

BOOKKEEPING = (
    "data_dir",
    "images_on",
    "seeds",
    "seeds_as",
    "data_parallel",
    "layer_parallel",
    "max_steps",
    "patience",
    "max_minutes",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "log_every",
    "trackers",
    "project",
    "eval_batch_size",
    "ahead_mb",
    "diagnostics",
    "diagnostics_every",
    "diagnostics_iterations",
    "diagnostics_updates",
    "diagnostics_jacobians",
    "diagnostics_gauss_newton",
    "diagnostics_eigenvalues",
)
"""Fields that change no number of a run (mesh and `ahead_mb`: none beyond rounding), so that a continued run
may have others."""
ENDS = ("max_steps", "patience", "max_minutes")
"""Among them, those that say how long a run is: a repetition of it has the same."""
NOT_COMPARED = tuple(name for name in BOOKKEEPING if name not in ENDS)
"""What, beside the seed, may differ between repetitions of one experiment."""

ORIGIN = ("format", "provenance", "extended")
"""What config.json holds beside the config: see `run/formats.py`, `provenance.py` and `extension.py`."""

OTHER_WORDS = {
    **dict.fromkeys(("lr", "learning_rate", "rate"), ("forward_lr", "feedback_lr")),
    **dict.fromkeys(("optimizer", "optim"), ("forward_optimizer", "feedback_optimizer")),
    **dict.fromkeys(("sigma", "sigmas", "noise_scale"), ("noise",)),
    **dict.fromkeys(("k", "iterations", "iters"), ("feedback_iterations",)),
    **dict.fromkeys(("samples", "noise_samples"), ("feedback_samples",)),
    **dict.fromkeys(("wd", "decay", "l2"), ("weight_decay",)),
    **dict.fromkeys(("batch", "bs"), ("batch_size",)),
    **dict.fromkeys(("steps", "max_iters"), ("max_steps",)),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), ("patience",)),
    **dict.fromkeys(("max_time", "time_limit"), ("max_minutes",)),
    **dict.fromkeys(("step_size", "decay_every"), ("step_epochs",)),
    **dict.fromkeys(("model", "arch", "architecture", "net"), ("network",)),
    **dict.fromkeys(("method", "algorithm", "algo", "learning_rule"), ("rule",)),
    **dict.fromkeys(("data", "task"), ("dataset",)),
    **dict.fromkeys(("widths", "width", "units", "hidden_sizes"), ("channels", "hidden")),
    **dict.fromkeys(("nonlinearity", "act"), ("activation",)),
    **dict.fromkeys(("scheduler", "lr_schedule"), ("schedule",)),
    **dict.fromkeys(("dtype", "compute_dtype"), ("precision",)),
    **dict.fromkeys(("random_seed", "rng", "key"), ("seed",)),
    **dict.fromkeys(("target_stepsize", "eta"), ("beta",)),
    **dict.fromkeys(("tracker", "logger", "loggers", "wandb", "mlflow"), ("trackers",)),
}
"""What others call the fields, where no typing error leads there."""
MOST_VALUES = 1_000
"""Of a tuple; no network has more blocks."""
MOST_BYTES = 2**40
"""Of memory; no device has more."""
SIMILAR = 0.75
"""From here on (difflib's ratio) a name is taken for a misspelt one."""


def fields_of(config: Config) -> dict[str, Field]:
    """The fields that this config may have: everybody's, and those its rule and network bring.

    Raises:
      ValueError: one line; a registered rule or network brings a field that exists already.
    """
    tables = {"rule": RULES, "network": NETWORKS, "dataset": DATASETS}  # which may have grown
    found = {**FIELDS, **{name: choice(table) for name, table in tables.items()}}
    for table in (RULES, NETWORKS):
        name = config.get(table.kind)
        brought = table.fields.get(name, {}) if isinstance(name, str) else {}
        for taken in brought.keys() & found.keys():
            raise ValueError(
                f"config.{taken}: the {table.kind} {name} brings it; allowed: a name that is not "
                "that of another field"
            )
        found |= brought
    return found


def meant(name: str) -> tuple[str, ...]:
    """The fields that somebody may mean by a name that is none; () where it resembles nothing."""
    name = name.lower().replace("-", "_").replace("learning_rate", "lr").split(".")[0]
    words = {
        **{field: (field,) for field in FIELDS},
        **OTHER_WORDS,
        "learning_rate": OTHER_WORDS["lr"],
    }
    if name in words:
        return words[name]
    close = difflib.get_close_matches(name, words, n=1, cutoff=SIMILAR)
    return words[close[0]] if close else ()


def unknown(name: str) -> ValueError:
    """The error for a field that does not exist."""
    for table in (RULES, NETWORKS):
        for owner, brought in table.fields.items():
            if name in brought:
                return ValueError(
                    f"config.{name}: a field of the {table.kind} {owner} alone; "
                    f"allowed: with --config.{table.kind}={owner}"
                )
    hint = " or ".join(meant(name))
    return ValueError(
        f"config.{shown(name)}: no such field; "
        + (f"did you mean {hint}?" if hint else "allowed: " + ", ".join(FIELDS))
    )


def validate(config: Config, overridden: Collection[str] = ()) -> Experiment:
    """Checks every field and how they fit together. Reads no file and compiles nothing.

    Args:
      config: every field; what config.json holds beside them may be there.
      overridden: the fields that the user has set, which an error rather blames than others.

    Raises:
      ValueError: one line with the field, its value and what is allowed.
    """
    config, extensions = dict(config), from_json(config)
    config = {name: value for name, value in config.items() if name not in ORIGIN}
    known = fields_of(config)
    for table in (RULES, NETWORKS):  # first: they say which fields there are
        if table.kind in config:
            checked(f"config.{table.kind}", config[table.kind], known[table.kind])
    for name in config:
        if name not in known:
            raise unknown(name)
    if "trackers" in config:
        config["trackers"] = trackers.split(config["trackers"])
    for name, field in known.items():
        if name not in config and field.default is None:
            raise ValueError(f"config.{name}: missing; allowed: {field.allowed}")
        config[name] = _checked(f"config.{name}", config.get(name, field.default), field)
    if config["data_dir"]:
        local_path("config.data_dir", config["data_dir"])
    _overfit(config, overridden)
    _check_seeds(config)
    data = DATASETS[config["dataset"]]
    data = data._replace(flip=data.flip or config["flip"])
    network = build_network(config, data)
    _check_memory(config, network, overridden)
    _fill_tuples(config, known, network, overridden)
    held_out = _held_out(config, data)
    if config["patience"] and not held_out:
        raise error(
            "config.patience", config["patience"], "0, where no images are held out (val_split)"
        )
    left = data.train_examples - held_out
    check_sizes(config, min(left, config["train_images"] or left))
    experiment = Experiment(config, data, network, build_rule(config), extensions)
    _check_samples(experiment)
    if config["init_symmetric"]:
        check_mirrored("config.init_symmetric", network, experiment.rule)
    if config["normalize_lr"]:
        for rate in forward_rates(experiment):
            single("config.forward_lr / config.beta", rate, RATE)
    # A learner refuses what it cannot train: here, before a run has a folder.
    build_learner(experiment, steps_per_epoch=1)
    return experiment


def _overfit(config: dict[str, Any], overridden: Collection[str]) -> None:
    """Sets what `overfit_batches` stands for; refuses what contradicts it."""
    images = config["overfit_batches"] * config["batch_size"]
    if not images:
        return
    if config["train_images"] not in (0, images):
        raise error("config.train_images", config["train_images"], "0 with config.overfit_batches")
    if config["augment"] and "augment" in overridden:
        raise error("config.augment", True, "False with config.overfit_batches")
    config |= {"train_images": images, "augment": False}


def _check_seeds(config: Config) -> None:
    """Raises ValueError where several seeds cannot be trained as they are asked for."""
    first, count = max(0, config["seed"]), config["seeds"]
    if not SEED.accepts(first + count - 1):
        raise error("config.seeds", count, f"1 to {2**31 - first}, for seeds end at 2**31 - 1")
    if count == 1 or config["seeds_as"] != "together":
        return
    for name in ("data_parallel", "layer_parallel"):
        if config[name] > 1:
            raise error(f"config.{name}", config[name], "1 with config.seeds_as together")
    if config["images_on"] == "host":
        raise error("config.images_on", "host", "auto or device with config.seeds_as together")


def _checked(name: str, value: Any, field: Field) -> Any:
    """The value as a run can compute with it."""
    if isinstance(value, (tuple, list)) and len(value) > MOST_VALUES:
        raise error(name, value, f"no more than {MOST_VALUES} values")
    value = checked(name, value, field)
    if field.kind is float:
        single(name, value, field)
    return value


def least_bytes(config: Config, network: Network) -> int:
    """What a device needs at the least, in float32: the parameters, and the activations of its batch."""
    batch = max(1, config["batch_size"] // config["data_parallel"])
    activations = batch * sum(math.prod(block.output_shape) for block in network)
    parameters = count(jax.eval_shape(lambda: init_forward(network, jax.random.key(0))))
    return 4 * (parameters + activations)


def _check_memory(config: Config, network: Network, overridden: Collection[str]) -> None:
    """Raises ValueError where no device has the memory for a network."""
    needed = least_bytes(config, network)
    if needed > MOST_BYTES:
        widest = max(("channels", "hidden"), key=lambda name: max(config[name], default=0))
        names = (widest, "channels", "hidden", "batch_size", "network")
        blamed = [name for name in names if name in overridden] or [widest]
        name = next((name for name in blamed if config[name]), "network")
        raise error(
            f"config.{name}",
            config[name],
            f"less: parameters and activations of this network are {needed:,} bytes, and no device "
            f"has more than {MOST_BYTES:,}",
        )


def _check_samples(experiment: Experiment) -> None:
    """Raises ValueError where no device has the memory for the noise of an iteration."""
    config, network = experiment.config, experiment.network
    training = experiment.rule.feedback_training
    if training is None:
        return
    # Noise is drawn in the shape of what a block takes, of what it puts out, or of both.
    sizes = [
        min(math.prod(network[i].input_shape), math.prod(network[i].output_shape))
        for i in training.blocks(network)
    ]
    of_a_sample = 4 * (config["batch_size"] // config["data_parallel"]) * max(sizes, default=0)
    if of_a_sample * config["feedback_samples"] > MOST_BYTES:
        raise error(
            "config.feedback_samples",
            config["feedback_samples"],
            f"at most {MOST_BYTES // of_a_sample}: the noise of one is {of_a_sample:,} bytes, and no "
            f"device has more than {MOST_BYTES:,}",
        )


def _fill_tuples(
    config: dict[str, Any], known: dict[str, Field], network: Network, overridden: Collection[str]
) -> None:
    """Brings tuples over blocks to their full length, and checks what only some rules have."""
    per_map = [name for name, field in known.items() if field.per_block]
    # Asked which maps it trains, a rule has one value for each that there can be.
    some = {name: config[name][:1] * (len(network) - 1) for name in per_map}
    training = build_rule({**config, **some}).feedback_training
    if training is not None:
        trained = [network[i].name for i in training.blocks(network)]
        _check_lengths(config, per_map, trained, overridden)
        for name in per_map:
            config[name] = full_length(f"config.{name}", config[name], trained)
    elif any(config[name] for name in ("pretrain_epochs", "feedback_pass", "alternate")):
        name = next(n for n in ("pretrain_epochs", "feedback_pass", "alternate") if config[n])
        raise for_no_maps(f"config.{name}", config[name], config["rule"])
    elif config["guard"] == "halve":
        raise error("config.guard", "halve", f"{NOTHING_TO_HALVE} by {config['rule']}")
    blocks = [block.name for block in network]
    for name in ("block_forward_lr", "forward_eps"):
        if config[name] or name == "forward_eps":
            config[name] = full_length(f"config.{name}", config[name], blocks)


def _check_lengths(
    config: Config, per_map: list[str], trained: list[str], overridden: Collection[str]
) -> None:
    """Where the user has changed the number of maps and not the values for each, says just that."""
    wrong = [name for name in per_map if len(config[name]) not in (1, len(trained))]
    shapes = ("channels", "hidden", "network", "split_stages", "rule")
    changed = [name for name in shapes if name in overridden]
    if not wrong or not changed or set(wrong) & set(overridden):
        return
    maps = f"{len(trained)} feedback map" + ("s" if len(trained) > 1 else "")
    have = " and ".join(f"{name} has {len(config[name])}" for name in wrong)
    raise ValueError(
        f"config.{changed[0]} is {config[changed[0]]!r}, which makes {maps} "
        f"({', '.join(trained)}), but {have} values; allowed: as many maps as values, or "
        + " and ".join(f"--config.{name}" for name in wrong)
        + " with one value for each map, or one for all"
    )


def _held_out(config: Config, data: DatasetSpec) -> int:
    """How many of the usual number of training images are for validation."""
    per_class, count = config["val_per_class"], data.train_examples
    if per_class * data.classes >= count:
        allowed = f"0 to {(count - 1) // data.classes}, for {data.name} has {count} training images"
        raise error("config.val_per_class", per_class, f"{allowed} of {data.classes} classes")
    return per_class * data.classes or round(config["val_split"] * count)


def check_sizes(config: Config, left: int) -> None:
    """Raises ValueError where the training images left after the validation split fill no batch."""
    name = "val_per_class" if config["val_per_class"] else "val_split"
    if left <= 0:
        raise error(
            f"config.{name}", config[name], f"less, for this {config['dataset']} has too few images"
        )
    if config["batch_size"] > left:
        raise error(
            "config.batch_size",
            config["batch_size"],
            f"1 to {left}, the training images of {config['dataset']} ({name} {config[name]})",
        )
    if config["batch_size"] % config["data_parallel"]:
        raise error(
            "config.data_parallel",
            config["data_parallel"],
            f"divisors of the batch_size {config['batch_size']}",
        )
