"""How large the noise of feedback training may be: L-DRL's feedback maps, beneath a net that stays as it began.

    python -m benchmarks.noise [--config depth:ldrl_resnet18] [--noises 0.1,0.01] [--batches 40] [--json FILE]

The maps are trained on so many batches of the config's images, not augmented, with its optimizer, rates and
iterations, and each noise in turn; forward weights are those of a fresh net. Losses grow with the square of the
noise: rates of SGD are the config's, times the square of its noise over the one that is tried.

Shown are the root mean square of the block's output and `metrics.jacobian_distance` on a batch that was not
trained on: 0 where the map carries errors as backprop does, sqrt(2) for one of the right size in a random
direction. Noise above the activations asks a nonlinear map about places where no image is.
"""

import itertools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.program import (
    add_batches,
    add_json,
    make_console,
    make_table,
    parser_of,
    positives,
    write_json,
)
from benchmarks.provenance import provenance
from dtp_jax import ops
from dtp_jax.blocks import Params, forward_all
from dtp_jax.data import DataError, Split, iterate, load_splits, locate
from dtp_jax.fields import error
from dtp_jax.learning import learner as learner_
from dtp_jax.learning import metrics
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.run import backend
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config


class Setting(NamedTuple):
    """A fresh net, and images of the config."""

    state: TrainState
    batches: list[jax.Array]
    """Images of each batch that maps are trained on."""
    images: jax.Array
    """Of the batch that is measured on."""
    labels: jax.Array
    """Of that one."""


def prepared(experiment: Experiment, learner: Learner, batches: int) -> Setting:
    """The fresh net, the first batches of the run's first epoch, and the one after them.

    Raises:
      DataError: no images, or too few.
    """
    config = experiment.config
    split = trained_on(experiment)
    most = len(split.labels) // config["batch_size"] - 1
    if batches > most:
        allowed = f"1 to {most}, with one to measure on" if most > 0 else "a smaller batch_size"
        raise DataError(f"--batches is {batches}; allowed: {allowed}")
    state = learner_.init(learner, jax.random.key(config["seed"]))
    epoch = iterate(split, experiment.data, batch_size=config["batch_size"], seed=config["seed"])
    *first, (images, labels) = itertools.islice(epoch, batches + 1)
    return Setting(state, [images for images, _ in first], images, labels)


def trained_on(experiment: Experiment) -> Split:
    """The examples that a run of the config trains on."""
    config = experiment.config
    splits = load_splits(
        locate(config["dataset"], config["data_dir"]),
        config["val_split"],
        config["seed"],
        val_per_class=config["val_per_class"],
    )
    chosen = splits.train_indices[: config["train_images"] or None]
    return Split(*(array[chosen] for array in splits.train))


def trained(learner: Learner, setting: Setting) -> dict[str, Params]:
    """Feedback parameters after training on all batches; forward ones stay as they are."""

    @jax.jit
    def on_batch(state, images):
        activations = forward_all(learner.network, state.forward, images)
        feedback, opt_state, _ = learner_.train_feedback(learner, state, activations)
        return state.replace(feedback=feedback, feedback_opt_state=opt_state, step=state.step + 1)

    state = setting.state
    with ops.products_in(learner.precision):
        for images in setting.batches:
            state = on_batch(state, images)
    return state.feedback


def distances(learner: Learner, setting: Setting) -> dict[str, float]:
    """Of every trained map, its distance after training; see the top of this file."""
    forward, feedback = setting.state.forward, trained(learner, setting)
    h = forward_all(learner.network, forward, setting.images).h
    found = {}
    for block in learner.trained:
        x, name = h[learner.network.index(block)], block.name
        parameters = (forward[name], feedback[name])
        found[name] = float(metrics.jacobian_distance(block, *parameters, x, jax.random.key(1)))
    return found


def with_noise(fields: dict[str, Any], noise: float) -> Experiment:
    """The experiment of a config, with this noise for every map, and rates that fit it."""
    own = validate(fields).config
    rates = own["feedback_lr"]
    if own["feedback_optimizer"] == "sgd":
        each = zip(rates, itertools.cycle(own["noise"]))
        rates = tuple(rate * (before / noise) ** 2 for rate, before in each)
    return validate(fields | {"noise": (noise,), "feedback_lr": rates})


def measure(config: str, noises: list[float], batches: int) -> list[dict[str, Any]]:
    """A row for each map.

    Raises:
      ValueError: one line; no such config, or one of another rule.
      DataError: see `prepared`.
    """
    fields = load_config(config).config.to_dict()
    if (rule := validate(fields).rule.name) != "ldrl":
        raise error("--config", config, f"one of L-DRL: maps of {rule} have another goal, or none")
    experiments = [with_noise(fields, noise) for noise in noises]
    learners = [build_learner(one, steps_per_epoch=1) for one in experiments]
    setting, network = prepared(experiments[0], learners[0], batches), learners[0].network
    h = forward_all(network, setting.state.forward, setting.images).h
    found = {str(s): distances(one, setting) for s, one in zip(noises, learners, strict=True)}
    return [
        {
            "map": block.name,
            "activations": float(jnp.sqrt(jnp.mean(h[network.index(block) + 1] ** 2))),
            **{noise: of_maps[block.name] for noise, of_maps in found.items()},
        }
        for block in learners[0].trained
    ]


def main(argv: list[str] | None = None) -> int:
    backend.prepare()
    parser = parser_of("noise", __doc__)
    parser.add_argument("--config", default="depth:ldrl_resnet18")
    parser.add_argument(
        "--noises", type=positives, default=[0.1, 0.01], help="numbers above 0 (0.1,0.01)"
    )
    add_batches(parser, default=40)
    add_json(parser)
    args = parser.parse_args(argv)
    try:
        rows = measure(args.config, args.noises, args.batches)
    except (ValueError, DataError) as problem:
        parser.error(str(problem))
    title = f"{args.config}: distance of each map from the transpose, by noise"
    table = make_table(title, list(rows[0]), ("map",))
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.3g}" for v in row.values()))
    make_console().print(table)
    asked = {"config": args.config, "noises": args.noises, "batches": args.batches}
    write_json(args.json, {**provenance("noise"), **asked, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
