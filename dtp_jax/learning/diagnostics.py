"""Groups of measures that a run takes once per epoch, on a fixed batch. Pure functions.

docs/diagnostics.md says what each number means. All are computed in float32, whatever training does: they
ask where maps and targets point, and a small step in reduced precision points anywhere.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax

from dtp_jax import ops
from dtp_jax.blocks import Params, forward_all, is_mirrored
from dtp_jax.learning import metrics
from dtp_jax.learning.learner import Learner, TrainState, solved_feedback

Array = jax.Array
Numbers = dict[str, Array]
Measure = Callable[[Learner, TrainState, Array, Array, Array], Numbers]

JACOBIAN_IMAGES, DISTANCE_PROBES, TRACE_PROBES = 32, 2, 8
"""A distance from 64 probes of a thousand units errs by less than a percent; a trace needs more."""
EIGENVALUE_IMAGES, MOST_EIGENVALUES = 2, 256
"""LAPACK takes some 50 ms for 256 eigenvalues of one image, and eight times as long for twice as many."""
GAUSS_NEWTON_ROWS, MOST_CLASSES = 160, 40
"""Rows of Jacobians, one per image and class: 16 images of 10 classes, and never fewer than 4."""


class Group(NamedTuple):
    """Measures that one flag of the config turns on and off."""

    measure: Measure
    """(learner, state, images, labels, key) -> scalars by their names in metrics.jsonl. Traceable, with
    the learner static. The key draws the probes, where there are any."""
    refuses: Callable[[Learner], str]
    """"", or one line why this rule or network has no such measure, or is too dear for it."""


def in_float32(measure: Measure) -> Measure:
    """The measure, with all products in float32."""

    @wraps(measure)
    def precise(*arguments: Any) -> Numbers:
        with ops.products_in("float32"):
            return measure(*arguments)

    return precise


def weights(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array
) -> Numbers:
    """Angle, distance and norm ratio of every feedback kernel and its forward one."""
    del learner, images, labels, key
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
    del key
    found = metrics.update_alignment(
        learner.network, learner.rule, state.forward, state.feedback, images, labels
    )
    numbers, is_one = {}, lambda node: isinstance(node, metrics.Alignment)
    for path, value in jax.tree.leaves_with_path(found, is_leaf=is_one):
        name = "/".join(entry.key for entry in path)
        numbers |= {f"update_angle/{name}": value.angle, f"update_distance/{name}": value.distance}
    return numbers


@in_float32
def jacobians(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array
) -> Numbers:
    """How far the Jacobian of every feedback map is from the transpose of the forward one."""
    del labels
    return {
        f"jacobian_distance/{name}": metrics.jacobian_distance(*pair, k, DISTANCE_PROBES)
        for name, pair, k in _maps(learner, state, images[:JACOBIAN_IMAGES], key)
    }


@in_float32
def eigenvalues(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array
) -> Numbers:
    """Trace of J_F J_G; for small blocks without batch norm also the share of positive eigenvalues."""
    del labels
    found = {}
    for name, pair, k in _maps(learner, state, images[:JACOBIAN_IMAGES], key):
        found[f"eigenvalue_trace/{name}"] = metrics.product_trace(*pair, k, TRACE_PROBES)
        block, theta, omega, x = pair
        size = min(math.prod(block.input_shape), math.prod(block.output_shape))
        if size <= MOST_EIGENVALUES and block.statistics is None:
            values = metrics.product_eigenvalues(block, theta, omega, x[:EIGENVALUE_IMAGES])
            found[f"eigenvalue_positive/{name}"] = metrics.positive_share(values)
    return found


@in_float32
def gauss_newton(
    learner: Learner, state: TrainState, images: Array, labels: Array, key: Array
) -> Numbers:
    """Of the rule's steps t_i - h_i of hidden blocks: their angle to Gauss-Newton's, and how much of them
    the logits do not feel."""
    del key
    network, count = learner.network, GAUSS_NEWTON_ROWS // learner.network[-1].output_shape[0]
    activations, targets = metrics.small_step(
        network, learner.rule, state.forward, state.feedback, images[:count], labels[:count]
    )
    steps = [t - h for t, h in zip(targets, activations.h[1:])]
    above, found = metrics.output_jacobians(network, state.forward, activations), {}
    for block, jacobian, step in list(zip(network, above, steps))[:-1]:
        angle = metrics.gauss_newton_angle(jacobian, step, steps[-1])
        found[f"gauss_newton_angle/{block.name}"] = angle
        found[f"null_space_share/{block.name}"] = metrics.null_space_share(jacobian, step)
    return found


def _maps(
    learner: Learner, state: TrainState, images: Array, key: Array
) -> list[tuple[str, tuple[Any, Params, Params, Array], Array]]:
    """(name, (block, theta, omega, its input), key) of every mirrored feedback map."""
    network = learner.network
    activations = forward_all(network, state.forward, images)
    feedback = solved_feedback(network, learner.rule, state.forward, state.feedback, activations)
    return [
        (b.name, (b, state.forward[b.name], feedback[b.name], x), jax.random.fold_in(key, i))
        for i, (b, x) in enumerate(zip(network, activations.h))
        if i > 0
    ]


def without_mirrors(learner: Learner) -> str:
    """Why there are no feedback maps that mirror forward ones; "" where there are."""
    name, there = learner.rule.name, learner.state_shapes.feedback
    if not there:
        return f"the rule {name} has no feedback maps"
    if not is_mirrored(learner.network, there):
        return f"the feedback maps of the rule {name} mirror no forward ones"
    return ""


def without_mirrored_kernels(learner: Learner) -> str:
    """Why no feedback kernel mirrors a forward one; "" where some do: a rule may have maps of some blocks alone,
    or with parameters more. Direct maps, which mirror nothing, lead to the first block too."""
    there = learner.state_shapes.feedback
    mirrored = {block.name for block in learner.network[1:]}
    if there and mirrored.issuperset(there):
        return ""
    return without_mirrors(learner)


def without_maps(learner: Learner) -> str:
    """Why the Jacobians of feedback maps say nothing of the rule; "" where they do."""
    if learner.rule.name == "feedback_alignment":
        return "the rule feedback_alignment uses the kernels of feedback maps, not the maps"
    return without_mirrors(learner)


def without_update(learner: Learner) -> str:
    """Why the rule has no update to compare; "" where it has."""
    if learner.rule.global_loss is None and learner.rule.targets is None:
        return f"the rule {learner.rule.name} has neither targets nor a global loss"
    return ""


def without_hidden_steps(learner: Learner) -> str:
    """Why there are no steps of hidden blocks, or too many Jacobians above them; "" where it is fine."""
    network, classes = learner.network, learner.network[-1].output_shape[0]
    if learner.rule.targets is None:
        return f"the rule {learner.rule.name} has no targets"
    if len(network) == 1:
        return "the network has no hidden blocks"
    if any(block.statistics is not None for block in network[1:]):
        return "batch norm couples the examples, which then have no Jacobians of their own"
    if classes > MOST_CLASSES:
        return f"{classes} classes are more than {MOST_CLASSES}, and each costs a backward pass"
    return ""


GROUPS: dict[str, Group] = {
    "weights": Group(weights, without_mirrored_kernels),
    "updates": Group(updates, without_update),
    "jacobians": Group(jacobians, without_maps),
    "gauss_newton": Group(gauss_newton, without_hidden_steps),
    "eigenvalues": Group(eigenvalues, without_maps),
}
"""By the end of their flag, config.diagnostics_<name>; weights have none."""
