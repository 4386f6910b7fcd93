"""Groups of measures that a run takes once per epoch, on a fixed batch. Pure functions.

See docs/diagnostics.md for what each says. All compute in float32, whatever training does: they ask
where maps and targets point, and a small step of reduced precision points anywhere.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import jax

from dtp_jax import ops
from dtp_jax.blocks import mirror_feedback
from dtp_jax.learning import metrics
from dtp_jax.learning.learner import Learner, TrainState

Array = jax.Array
Numbers = dict[str, Array]
Measure = Callable[[Learner, TrainState, Array, Array, Array], Numbers]


class Group(NamedTuple):
    """Measures that one flag of the config turns on and off."""

    measure: Measure
    """(learner, state, images, labels, key) -> scalars by their names in metrics.jsonl. Traceable, with
    the learner static. The key draws the probes, where there are any."""
    refuses: Callable[[Learner], str]
    """"", or one line why this rule or network has no such measure, or is too dear for it."""
    dear: bool = False
    """More than a few training steps."""


def in_float32(measure: Measure) -> Measure:
    """The measure, with all products in float32."""

    @wraps(measure)
    def precise(*arguments):
        with ops.products_in("float32"):
            return measure(*arguments)

    return precise


def weights(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array
) -> Numbers:
    """Angle, distance and norm ratio of every feedback kernel and its forward one."""
    found = {}
    ratios = metrics.norm_ratio(state.forward, state.feedback)
    for name, value in metrics.weight_alignment(state.forward, state.feedback).items():
        found |= {f"distance/{name}": value.distance, f"angle/{name}": value.angle}
        found |= {f"norm_ratio/{name}": ratios[name]}
    return found


@in_float32
def updates(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array
) -> Numbers:
    """Angle and distance of the rule's update to backprop's gradient, per parameter."""
    found = metrics.update_alignment(
        learner.network, learner.rule, state.forward, state.feedback, images, labels
    )
    numbers = {}
    is_leaf = lambda node: isinstance(node, metrics.Alignment)  # noqa: E731
    for path, value in jax.tree.leaves_with_path(found, is_leaf=is_leaf):
        name = "/".join(entry.key for entry in path)
        numbers |= {f"update_angle/{name}": value.angle, f"update_distance/{name}": value.distance}
    return numbers


def without_mirrors(learner: Learner) -> str:
    """Why there are no feedback maps that mirror forward ones; "" where there are."""
    if not learner.state_shapes.feedback:
        return f"the rule {learner.rule.name} has no feedback maps"
    mirrored = jax.eval_shape(lambda: mirror_feedback(learner.network, jax.random.key(0)))
    if jax.tree.structure(mirrored) != jax.tree.structure(learner.state_shapes.feedback):
        return f"the feedback maps of the rule {learner.rule.name} mirror no forward ones"
    return ""


def without_update(learner: Learner) -> str:
    """Why the rule has no update to compare; "" where it has."""
    if learner.rule.global_loss is None and learner.rule.targets is None:
        return f"the rule {learner.rule.name} has neither targets nor a global loss"
    return ""


GROUPS: dict[str, Group] = {
    "weights": Group(weights, without_mirrors),
    "updates": Group(updates, without_update),
}
"""By the name of their flag: config.diagnostics_<name>; weights have none."""
