"""What a learner and a step refuse: one line each, `fields.error`, before anything is computed.

A learner is checked when it is built, arrays when a step is traced: by type and shape alone, so that
nothing is added to the compiled program.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dtp_jax import fields
from dtp_jax.blocks import Activations, Network, batch_of, check_images, check_network
from dtp_jax.learning import optim
from dtp_jax.learning.symmetric import check_mirrored
from dtp_jax.parallel.mesh import DATA, LAYERS
from dtp_jax.rules.rule import Rule

CHOICES = {
    "feedback_samples": fields.AT_LEAST_1,
    "trains": fields.TRAINS,
    "stale_gradients": fields.STALE,
    "guard": fields.GUARD,
    "precision": fields.PRECISION,
    "init_symmetric": fields.FLAG,
    "ahead_mb": fields.AT_LEAST_1,
}
"""Options of a learner that do not depend on others."""
NO_FEEDBACK = f"; or trains={('forward',)!r}, which trains no feedback"
FROM_INIT = "as in dtp_jax.init(learner, key)"


# When a learner is built.


def learner_options(learner: Any) -> dict[str, Any]:
    """The fields of a learner as it keeps them: tuples over the trained feedback maps in full length.

    Raises:
      ValueError: one line with the field, its value and what is allowed.
    """
    network, rule = check_network(learner.network), learner.rule
    if len(network[-1].output_shape) != 1:
        raise fields.error("network[-1].output_shape", network[-1].output_shape, "(classes,)")
    check_rule(rule)
    rule.check(network)
    optim.check_optimizer("forward_optimizer", learner.forward_optimizer)
    found = {name: fields.checked(name, getattr(learner, name), f) for name, f in CHOICES.items()}
    found |= {
        "network": network,
        "trains": _trains(found["trains"], rule),
        "feedback_optimizers": _optimizers(learner.feedback_optimizers),
        "feedback_iterations": fields.checked(
            "feedback_iterations", learner.feedback_iterations, fields.ITERATIONS
        ),
    }
    check_mesh(learner.mesh)
    if found["init_symmetric"]:
        check_mirrored("init_symmetric", network, rule)
    if rule.feedback_training is None:
        for name, nothing in fields.UNTRAINED.items():
            if found[name] != nothing:
                raise fields.for_no_maps(name, found[name], rule.name)
    else:
        found |= _over_maps(network, rule, found)
    if found["guard"] == "halve" and not found["feedback_iterations"]:
        raise fields.error("guard", "halve", fields.NOTHING_TO_HALVE)
    return found


def _over_maps(network: Network, rule: Rule, options: dict[str, Any]) -> dict[str, Any]:
    """Optimizers and iterations in full length; () where no feedback is trained, which must be said."""
    given = {name: options[name] for name in ("feedback_optimizers", "feedback_iterations")}
    if "feedback" not in options["trains"] and not any(given.values()):
        return given
    maps = [network[i].name for i in rule.feedback_training.blocks(network)]
    for name, values in rule.per_map:
        fields.full_length(name, values, maps)
    return {
        name: fields.full_length(name, value, maps, "" if value else NO_FEEDBACK)
        for name, value in given.items()
    }


def check_rule(rule: Any) -> None:
    """Raises ValueError, one line, where this is no rule, or one that lacks a function."""
    if not isinstance(rule, Rule):
        raise fields.error("rule", rule, fields.A_RULE)
    training = rule.feedback_training
    if training is not None and (training.prepare is None) != (training.gradient is None):
        missing = "prepare" if training.prepare is None else "gradient"
        raise fields.error(
            f"rule.feedback_training.{missing}", None, "both or neither of prepare and gradient"
        )


def _trains(parts: tuple[str, ...], rule: Rule) -> tuple[str, ...]:
    """In one order, so that equal learners are equal."""
    if not parts:
        raise fields.error("trains", parts, fields.TRAINS.allowed)
    has_feedback = rule.feedback_training is not None or rule.solve_feedback is not None
    if "forward" not in parts and not has_feedback:
        allowed = f"with forward, for the rule {rule.name} trains no feedback maps"
        raise fields.error("trains", parts, allowed)
    return tuple(part for part in fields.PARTS if part in parts)


def _optimizers(given: Any) -> tuple[Any, ...]:
    if optim.is_optimizer(given):  # which is a tuple of functions itself
        return (given,)
    if not isinstance(given, (tuple, list)):
        raise fields.error(
            "feedback_optimizers", given, f"{fields.AN_OPTIMIZER}, or a tuple of them"
        )
    for n, one in enumerate(given):
        optim.check_optimizer(f"feedback_optimizers[{n}]", one)
    return tuple(given)


def check_mesh(mesh: Any) -> None:
    """Raises ValueError, one line, where this is not None nor a mesh with the axes that training uses."""
    if mesh is not None and not (isinstance(mesh, Mesh) and {DATA, LAYERS} <= set(mesh.shape)):
        allowed = "None, or what dtp_jax.parallel.mesh.make_mesh(data, layers) returns"
        raise fields.error("mesh", mesh, allowed)


# When a step is traced.


def check_kind(name: str, value: Any, kind: type, allowed: str) -> None:
    """Raises ValueError, one line, where an argument is something else."""
    if not isinstance(value, kind):
        raise fields.error(name, value, allowed)


def check_key(key: Any) -> None:
    """Raises ValueError, one line, where this is not one typed key."""
    dtype = getattr(key, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not is_key or key.shape:
        raise fields.error("key", key, "a typed key, jax.random.key(seed)")


def check_batch(network: Network, images: Any, labels: Any) -> None:
    """Raises ValueError, one line, where these are no images and labels for the network."""
    check_images(network, images)
    dtype, batch = getattr(labels, "dtype", None), images.shape[0]
    is_integer = dtype is not None and jnp.issubdtype(dtype, jnp.integer)
    if not is_integer or labels.shape != (batch,):
        raise fields.error("labels", labels, f"integers ({batch},), the class of each image")


def check_weights(weights: Any, batch: int) -> None:
    """Raises ValueError, one line, where these are not weights of the examples of a batch."""
    if getattr(weights, "shape", None) != (batch,):
        raise fields.error("weights", weights, f"({batch},), 1 for an example and 0 for padding")


def check_activations(network: Network, activations: Any) -> None:
    """Raises ValueError, one line, where these do not come from a forward pass of the network."""
    h = getattr(activations, "h", ())
    if len(h) != len(network) + 1:
        allowed = (
            f"{len(network) + 1} activations, as of dtp_jax.forward_all(network, forward, images)"
        )
        raise fields.error("activations", activations, allowed)
    check_images(network, h[0])
    for i, block in enumerate(network):
        expected = (h[0].shape[0], *block.output_shape)
        if h[i + 1].shape != expected:
            raise fields.error(f"activations.h[{i + 1}]", h[i + 1], batch_of(block.output_shape))


def check_targets(rule: Rule, targets: Any, activations: Activations) -> None:
    """Raises ValueError, one line, where a rule's targets are not one for every block, of its output's shape.

    They would be broadcast, or a block be left out, without a word.
    """
    try:
        chex.assert_trees_all_equal_shapes(tuple(targets), tuple(activations.h[1:]))
    except (AssertionError, TypeError) as problem:
        shapes = ", ".join(map(fields.described, activations.h[1:]))
        raise fields.error(f"targets of the rule {rule.name}", targets, shapes) from problem


def check_gradient(name: str, gradient: Any, parameters: Any) -> None:
    """Raises ValueError, one line, where a rule's gradient is none of these parameters."""
    try:
        chex.assert_trees_all_equal_shapes(gradient, parameters)
    except AssertionError as problem:
        found, allowed = (jax.tree.map(fields.described, tree) for tree in (gradient, parameters))
        raise fields.error(f"gradient of the feedback map {name}", found, str(allowed)) from problem


def check_noise(noise: Any, name: str, draw: Callable[[], Any], counts: tuple[int, int]) -> None:
    """Compares recorded noise of a block with what its rule draws.

    Args:
      draw: draws one noise sample; only traced. counts: (iterations, samples).

    Raises:
      ValueError: one line; there is none for the block, or of another shape.
    """
    allowed = "noise of every trained feedback map, by block name"
    if not isinstance(noise, dict) or name not in noise:
        raise fields.error("noise", sorted(noise) if isinstance(noise, dict) else noise, allowed)
    sample = jax.eval_shape(draw)
    expected = jax.tree.map(lambda s: jax.ShapeDtypeStruct((*counts, *s.shape), s.dtype), sample)
    check_tree(f"noise[{name!r}]", noise[name], expected, "(iterations, samples, batch, ...)")


def check_state(state: Any, expected: Any, kind: type) -> None:
    """Raises ValueError, one line, where this is the state of another learner.

    Feedback maps that the learner does not have are no harm.

    Args:
      expected: the state of this one, as shapes. kind: TrainState.
    """
    check_kind(
        "state", state, kind, "a TrainState, from dtp_jax.init(learner, key) or a step before"
    )
    for name in ("step", "key", "forward", "forward_opt_state", "statistics", "guard"):
        check_tree(f"state.{name}", getattr(state, name), getattr(expected, name))
    for name in ("feedback", "feedback_opt_state"):
        check_tree(f"state.{name}", getattr(state, name), getattr(expected, name), more=True)


def check_tree(
    name: str, found: Any, expected: Any, source: str = FROM_INIT, *, more: bool = False
) -> None:
    """Compares the shapes of two trees of arrays, whatever the types of their numbers.

    Args:
      source: where the expected shapes are from, for the error. more: `found` may have more arrays.

    Raises:
      ValueError: one line that names the first array that is missing, of another shape, or too many.
    """
    there = _by_path(found)
    for path, leaf in _by_path(expected).items():
        if path not in there:
            raise ValueError(f"{name}{path} is missing; allowed: shape {leaf.shape}, {source}")
        if np.shape(there[path]) != leaf.shape:
            raise fields.error(f"{name}{path}", there[path], f"shape {leaf.shape}, {source}")
        del there[path]
    if there and not more:
        path, leaf = next(iter(there.items()))
        raise fields.error(f"{name}{path}", leaf, f"nothing there, {source}")


def _by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
