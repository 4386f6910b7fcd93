"""How large the noise of feedback training may be: each feedback map alone, beneath a net that stays as it began.

    python -m benchmarks.noise [--config depth:ldrl_resnet18] [--noises 0.1,0.01] [--batches 40] [--json FILE]

Every map is trained on so many batches of the config's images, with its optimizer, rate and iterations, and each
noise in turn; forward weights are those of a fresh net. Losses grow with the square of the noise: rates of SGD
are the config's, times the square of its noise over the one that is tried.

Shown are the root mean square of the block's output and `metrics.jacobian_distance` on a batch that was not
trained on: 0 where the map carries errors as backprop does, sqrt(2) for one of the right size in a random
direction. Noise above the activations asks a nonlinear map about places where no image is.
"""

import itertools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.program import add_json, make_console, make_table, parser_of, write_json
from benchmarks.provenance import provenance
from dtp_jax import ops
from dtp_jax.blocks import Activations, Params, forward_all
from dtp_jax.data import DataError, iterate, load_splits, locate
from dtp_jax.learning import learner as learner_
from dtp_jax.learning import metrics
from dtp_jax.learning.feedback import keys_per_iteration, train_feedback_map
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.run import backend
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config


class Given(NamedTuple):
    """What all maps are trained on."""

    state: TrainState
    batches: Activations
    """With a leading axis: of every batch."""
    held: Activations
    """Of the batch that is measured on."""
    labels: jax.Array
    """Of that batch."""


def given(experiment: Experiment, learner: Learner, batches: int) -> Given:
    """The fresh net on the first batches of an epoch, and on the one after them.

    Raises:
      DataError: no images, or too few.
    """
    config = experiment.config
    splits = load_splits(
        locate(config["dataset"], config["data_dir"]), config["val_split"], config["seed"]
    )
    state = learner_.init(learner, jax.random.key(config["seed"]))
    epoch = iterate(splits.train, experiment.data, batch_size=config["batch_size"])
    some = list(itertools.islice(epoch, batches + 1))
    each = [forward_all(learner.network, state.forward, images) for images, _ in some]
    if len(each) <= batches:
        raise DataError(
            f"--batches is {batches}; allowed: 1 to {len(each) - 1}, with one to measure on"
        )
    return Given(state, jax.tree.map(lambda *a: jnp.stack(a), *each[:-1]), each[-1], some[-1][1])


def trained(learner: Learner, n: int, found: Given) -> Params:
    """Omega of the n-th map after its training on all batches; theta stays as it is."""
    training = learner.rule.feedback_training
    i = training.blocks(learner.network)[n]
    block, forward = learner.network[i], found.state.forward
    optimizer, iterations = learner.feedback_optimizers[n], learner.feedback_iterations[n]
    batch = len(found.labels)

    def on_batch(carry, now):
        activations, key = now
        omega, opt_state, losses = train_feedback_map(
            training,
            learner.network,
            i,
            forward,
            *carry,
            optimizer,
            activations,
            keys_per_iteration(key, iterations, learner.feedback_samples),
            draw=jax.vmap(lambda k: training.draw_noise(k, block, batch, jnp.float32)),
        )
        return (omega, opt_state), losses.mean()

    @jax.jit
    def train(omega, opt_state, batches):
        keys = jax.random.split(jax.random.key(0), batches.h[0].shape[0])
        return jax.lax.scan(on_batch, (omega, opt_state), (batches, keys))[0][0]

    omega = found.state.feedback[block.name]
    with ops.products_in(learner.precision):
        return train(omega, optimizer.init(omega), found.batches)


def distance(learner: Learner, n: int, found: Given) -> float:
    """The distance of the n-th map after its training; see the top of this file."""
    block = learner.trained[n]
    x = found.held.h[learner.network.index(block)]
    theta, omega = found.state.forward[block.name], trained(learner, n, found)
    return float(metrics.jacobian_distance(block, theta, omega, x, jax.random.key(1)))


def with_noise(fields: dict[str, Any], noise: float) -> Experiment:
    """The experiment of a config, with this noise for every map, and a rate that fits it."""
    own = validate(fields).config
    validate(fields | {"noise": (noise,)})  # before it divides
    rates = own["feedback_lr"]
    if own["feedback_optimizer"] == "sgd":
        each = zip(rates, itertools.cycle(own["noise"]))
        rates = tuple(rate * (before / noise) ** 2 for rate, before in each)
    return validate(fields | {"noise": (noise,), "feedback_lr": rates})


def measure(config: str, noises: list[float], batches: int) -> list[dict[str, Any]]:
    """A row for each map."""
    experiments = [with_noise(load_config(config).config.to_dict(), noise) for noise in noises]
    learners = [build_learner(one, steps_per_epoch=1) for one in experiments]
    if not learners[0].trained:
        raise ValueError(f"--config is {config!r}; allowed: one whose rule trains feedback maps")
    found = given(experiments[0], learners[0], batches)
    rows = []
    for n, block in enumerate(learners[0].trained):
        h = found.held.h[learners[0].network.index(block) + 1]
        row = {"map": block.name, "activations": float(jnp.sqrt(jnp.mean(h**2)))}
        each = (distance(learner, n, found) for learner in learners)
        rows.append(row | dict(zip(map(str, noises), each)))
    return rows


def main(argv: list[str] | None = None) -> int:
    backend.prepare()
    parser = parser_of("noise", __doc__)
    parser.add_argument("--config", default="depth:ldrl_resnet18")
    parser.add_argument("--noises", default="0.1,0.01")
    parser.add_argument("--batches", type=int, default=40, help="that each map is trained on")
    add_json(parser)
    args = parser.parse_args(argv)
    if args.batches < 1:
        parser.error(f"--batches is {args.batches}; allowed: 1 or more")
    try:
        noises = [float(s) for s in args.noises.split(",")]
        rows = measure(args.config, noises, args.batches)
    except (ValueError, DataError) as problem:
        parser.error(str(problem))
    title = f"{args.config}: distance of each map from the transpose, by noise"
    table = make_table(title, list(rows[0]), ("map",))
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.3g}" for v in row.values()))
    make_console().print(table)
    asked = {"config": args.config, "noises": noises, "batches": args.batches}
    write_json(args.json, {**provenance("noise"), **asked, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
