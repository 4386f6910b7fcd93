"""What the replays of all rules share: the recorded batches, and outputs that every rule has."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dtp_jax.blocks import forward_all
from dtp_jax.learning.learner import Learner, Record, TrainState, global_gradient, init_optimizers
from dtp_jax.learning.metrics import Alignment
from dtp_jax.parity.case import Case, ParityError
from dtp_jax.rules import backprop
from dtp_jax.rules.rule import cross_entropy

Array = jax.Array
Outputs = dict[str, Any]


def fresh_state(case: Case, learner: Learner, dtype: Any) -> TrainState:
    """The recorded initial parameters, and fresh optimizers."""
    forward, feedback = (
        jax.tree.map(jnp.asarray, case.parameters(side, dtype)) for side in ("fwd", "fb")
    )
    return TrainState(
        jnp.zeros((), jnp.int32),
        jax.random.key(0),
        forward,
        feedback,
        *init_optimizers(learner, forward, feedback),
    )


def batches(case: Case, dtype: Any) -> Iterator[tuple[int, Array, Array]]:
    """(number, images, labels) of every recorded batch.

    Raises:
      ParityError: images of another shape than the network's.
    """
    shape = case.network[0].input_shape
    for n in range(case.batches):
        images = jnp.asarray(case.images(case.arrays[f"b{n}/x"], shape), dtype)
        if images.shape[1:] != shape:
            raise ParityError(f"b{n}/x holds images {images.shape[1:]}; allowed: {shape}")
        yield n, images, jnp.asarray(case.arrays[f"b{n}/y"])


def activation_outputs(case: Case, record: Record) -> Outputs:
    """Activations and targets of every block."""
    found: Outputs = {}
    for i, block in enumerate(case.network):
        found[f"act/{block.name}"] = record.activations.h[i + 1]
        found[f"target/{block.name}"] = record.targets[i]
    return found


def backprop_outputs(case: Case, state: TrainState, images: Array, labels: Array) -> Outputs:
    """Mean cross-entropy and its ordinary gradients."""
    gradient = global_gradient(case.network, backprop(), state.forward, images, labels)
    outputs = forward_all(case.network, state.forward, images).h[-1]
    return {
        "bp_loss": cross_entropy(outputs, labels).mean(),
        **case.named("bp_grad", gradient),
    }


def stacked(tree: Any) -> Any:
    """A tree with arrays (2,), distance and angle, in place of `Alignment`s: what was recorded."""
    return jax.tree.map(jnp.stack, tree, is_leaf=lambda node: isinstance(node, Alignment))


def optimizer_memory(opt_state: Any) -> Iterator[tuple[str, Any]]:
    """(recorded name, tree like the parameters) of what an optimizer remembers."""
    for name, kind in (("trace", "velocity"), ("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        tree = optax.tree.get(opt_state, name)
        if tree is not None:
            yield kind, tree
