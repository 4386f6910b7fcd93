"""What the activation of residual blocks does to L-DRL: updates against backprop's, going down a narrow resnet18.

    python -m benchmarks.residual [--activations relu,elu] [--batches 20] [--json FILE]

The net of the config depth:ldrl_resnet18, as it begins, and the same with another activation. Feedback maps are
trained beneath it, see `benchmarks/noise.py`. Then a batch that was not trained on is propagated down. For each
block, the columns are

    angle    degrees between L-DRL's update of its weights and backprop's gradient, at a small step of the logits
    shared   what the targets' steps t - h of all images have in common: the mean product of those of two images
             over the mean square of one; 0 where they are unrelated, 1 where they are the same. In brackets:
             that of backprop's steps.

A unit at zero hands on what a target adds to it, and cannot hand on what it takes away: relu(t) - relu(0) is no
less than 0. Backprop hands on neither. What is left over has one sign for all images.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.noise import Setting, prepared, trained
from benchmarks.program import (
    add_batches,
    add_json,
    make_console,
    make_table,
    parser_of,
    write_json,
)
from benchmarks.provenance import provenance
from dtp_jax import ops
from dtp_jax.blocks import Network, Shape, forward_all
from dtp_jax.data import DataError
from dtp_jax.learning import metrics
from dtp_jax.learning.learner import Learner
from dtp_jax.networks.resnet import resnet
from dtp_jax.rules.targets import backpropagated_targets
from dtp_jax.run import backend
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config

CONFIG = "depth:ldrl_resnet18"


def network_with(
    activation: str, image_shape: Shape, classes: int, channels: tuple[int, ...]
) -> Network:
    """`networks.resnet18`, split into its basic blocks, with this activation; there it is relu."""
    options = {"split_stages": True, "activation": activation}
    return resnet((2, 2, 2, 2), image_shape, classes, channels, **options)


def shared(steps: jax.Array) -> jax.Array:
    """mean_{a != b} <s_a, s_b> / mean_a ||s_a||^2 of steps (batch, ...): 1 where all are the same."""
    each = steps.reshape(len(steps), -1)
    squares, batch = (each**2).sum(), len(each)
    return ((each.sum(axis=0) ** 2).sum() - squares) / ((batch - 1) * squares)


def going_down(
    learner: Learner, feedback: dict[str, Any], setting: Setting
) -> list[dict[str, float]]:
    """A row for each block, in forward order."""
    network, rule = learner.network, learner.rule

    @jax.jit
    def measured(forward, feedback, images, labels):
        activations = forward_all(network, forward, images)
        arguments = (network, rule, forward, feedback, images, labels)
        update, _, gradient = metrics.compared_updates(*arguments)
        _, targets = metrics.small_step(*arguments)
        of_backprop = backpropagated_targets(network, forward, activations, targets[-1])
        return [
            {
                "angle": metrics.direction_angle(joined(update[b.name]), joined(gradient[b.name])),
                "shared": shared(t - h),
                "shared_of_backprop": shared(r - h),
            }
            for b, h, t, r in zip(network, activations.h[1:], targets, of_backprop, strict=True)
        ]

    with ops.products_in("float32"):
        rows = measured(setting.state.forward, feedback, setting.images, setting.labels)
    return [{name: float(value) for name, value in row.items()} for row in rows]


def joined(tree: Any) -> jax.Array:
    """All leaves as one vector."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def measure(experiment: Experiment, network: Network, batches: int) -> list[dict[str, Any]]:
    """A row for each block of the network, after the training of its maps."""
    learner = build_learner(experiment, steps_per_epoch=1).replace(network=network)
    setting = prepared(experiment, learner, batches)
    rows = going_down(learner, trained(learner, setting), setting)
    return [{"block": block.name, **row} for block, row in zip(network, rows, strict=True)]


def measure_all(activations: list[str], batches: int) -> dict[str, list[dict[str, Any]]]:
    """Activation -> what `measure` says.

    Raises:
      ValueError: one line, before anything is measured; there is no such activation.
      DataError: see `benchmarks.noise.prepared`.
    """
    experiment = validate(load_config(CONFIG).config.to_dict())
    shapes = (experiment.data.image_shape, experiment.data.classes)
    channels = experiment.config["channels"]
    networks = {one: network_with(one, *shapes, channels) for one in activations}
    return {one: measure(experiment, network, batches) for one, network in networks.items()}


def main(argv: list[str] | None = None) -> int:
    backend.prepare()
    parser = parser_of("residual", __doc__)
    parser.add_argument("--activations", default="relu,elu")
    add_batches(parser, default=20)
    add_json(parser)
    args = parser.parse_args(argv)
    try:
        rows = measure_all(args.activations.split(","), args.batches)
    except (ValueError, DataError) as problem:
        parser.error(str(problem))
    columns = [f"{a}: {what}" for a in rows for what in ("angle", "shared")]
    table = make_table("updates, going down", ["block", *columns], ("block",))
    for each in reversed(list(zip(*rows.values(), strict=True))):
        cells = [
            (f"{r['angle']:.0f}", f"{r['shared']:.2f} ({r['shared_of_backprop']:.2f})")
            for r in each
        ]
        table.add_row(each[0]["block"], *(cell for pair in cells for cell in pair))
    make_console().print(table)
    write_json(args.json, {**provenance("residual"), "batches": args.batches, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
