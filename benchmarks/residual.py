"""What the activation of residual blocks does to L-DRL: updates against backprop's, going down a narrow resnet18.

    python -m benchmarks.residual [--activations relu,elu] [--batches 20] [--json FILE]

The net of the config depth:ldrl_resnet18, as it begins, and the same with another activation. Every feedback map
is trained alone, see `benchmarks/noise.py`. Then a batch that was not trained on is propagated down. For each
block, the columns are

    angle    degrees between L-DRL's update of its weights and backprop's gradient, at a small step of the logits
    shared   part of the targets' steps t - h that all images of the batch have in common, 0 to 1: the norm of
             their mean over the root mean square of their norms. In brackets: that of backprop's steps.

A unit at zero hands on what a target adds to it, and cannot hand on what it takes away: relu(t) - relu(0) is no
less than 0. Backprop hands on neither. What is left over has one sign for all images.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.noise import Given, given, trained
from benchmarks.program import add_json, make_console, make_table, parser_of, write_json
from benchmarks.provenance import provenance
from dtp_jax import ops
from dtp_jax.blocks import Network, Shape
from dtp_jax.data import DataError
from dtp_jax.learning import metrics
from dtp_jax.learning.learner import Learner
from dtp_jax.networks.resnet import resnet
from dtp_jax.rules.targets import backpropagated_targets
from dtp_jax.run import backend
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate
from dtp_jax.run.loading import load_config

CONFIG = "depth:ldrl_resnet18"


def network_with(
    activation: str, image_shape: Shape, classes: int, channels: tuple[int, ...]
) -> Network:
    """`networks.resnet18`, split into its basic blocks, with this activation; there it is relu."""
    options = {"channels": channels, "split_stages": True, "activation": activation}
    return resnet((2, 2, 2, 2), image_shape, classes, **options)


def shared(steps: jax.Array) -> jax.Array:
    """||mean_b s_b|| / sqrt(mean_b ||s_b||^2) of steps (batch, ...): 1 where all are the same."""
    each = steps.reshape(len(steps), -1)
    return jnp.linalg.norm(each.mean(axis=0)) / jnp.sqrt((each**2).sum(axis=1).mean())


def going_down(learner: Learner, feedback: dict[str, Any], found: Given) -> list[dict[str, float]]:
    """A row for each block, in forward order."""
    network, rule = learner.network, learner.rule

    @jax.jit
    def measured(forward, feedback, activations, labels):
        given = (network, rule, forward, feedback, activations.h[0], labels)
        update, _, gradient = metrics.compared_updates(*given)
        _, targets = metrics.small_step(*given)
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
        rows = measured(found.state.forward, feedback, found.held, found.labels)
    return [{name: float(value) for name, value in row.items()} for row in rows]


def joined(tree: Any) -> jax.Array:
    """All leaves as one vector."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def measure(activation: str, batches: int) -> list[dict[str, Any]]:
    """A row for each block of the net with this activation, after the training of its maps."""
    experiment = validate(load_config(CONFIG).config.to_dict())
    learner = build_learner(experiment, steps_per_epoch=1)
    shapes = (experiment.data.image_shape, experiment.data.classes, experiment.config["channels"])
    learner = learner.replace(network=network_with(activation, *shapes))
    found = given(experiment, learner, batches)
    feedback = {block.name: trained(learner, n, found) for n, block in enumerate(learner.trained)}
    rows = going_down(learner, found.state.feedback | feedback, found)
    return [{"block": b.name, **row} for b, row in zip(learner.network, rows, strict=True)]


def main(argv: list[str] | None = None) -> int:
    backend.prepare()
    parser = parser_of("residual", __doc__)
    parser.add_argument("--activations", default="relu,elu")
    parser.add_argument("--batches", type=int, default=20, help="that each map is trained on")
    add_json(parser)
    args = parser.parse_args(argv)
    if args.batches < 1:
        parser.error(f"--batches is {args.batches}; allowed: 1 or more")
    activations = args.activations.split(",")
    try:
        rows = {activation: measure(activation, args.batches) for activation in activations}
    except (ValueError, DataError) as problem:
        parser.error(str(problem))
    columns = [f"{a}: {what}" for a in activations for what in ("angle", "shared")]
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
