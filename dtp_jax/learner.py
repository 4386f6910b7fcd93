"""The learner: a network, a rule and optimizers, and the training step that puts them together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dtp_jax.blocks import Activations, Network, Params, forward_all, init_forward
from dtp_jax.feedback import Iteration, keys_per_iteration, only_loss, train_feedback_map
from dtp_jax.rules.rule import Rule, cross_entropy

Array = jax.Array


class Learner(NamedTuple):
    """Everything static about training. Feedback entries are tuples over the blocks 1, 2, ..."""

    network: Network
    rule: Rule
    forward_optimizer: optax.GradientTransformation
    feedback_optimizers: tuple[optax.GradientTransformation, ...] = ()
    feedback_iterations: tuple[int, ...] = ()
    feedback_samples: int = 1


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes. Forward and feedback parameters are separate pytrees."""

    step: Array
    """int32 scalar: batches seen."""
    key: Array
    """The run's key; never advanced: randomness is keyed by the step."""
    forward: dict[str, Params]
    feedback: dict[str, Params]
    forward_opt_state: Any
    feedback_opt_state: dict[str, Any]


class Metrics(flax.struct.PyTreeNode):
    """What a training step reports, float32."""

    loss: Array
    """Mean cross-entropy of the batch, before the update."""
    accuracy: Array
    feedback_loss: dict[str, Array]
    """By trained feedback block: mean over the iterations of this batch."""
    forward_loss: dict[str, Array]
    """By block: local loss before the update; empty for rules with one global loss."""


class Record(NamedTuple):
    """Everything that one training step computes on its way, for diagnostics and replays."""

    activations: Activations
    observations: dict[str, Any]
    """By trained feedback block: what `observe` returned, stacked over iterations."""
    targets: tuple[Array, ...]
    forward_loss: dict[str, Array]
    forward_gradient: dict[str, Params]


def init(learner: Learner, key: Array) -> TrainState:
    """A fresh state. `key`: a typed key (`jax.random.key(seed)`)."""
    forward_key, feedback_key, run_key = jax.random.split(key, 3)
    forward = init_forward(learner.network, forward_key)
    feedback = learner.rule.init_feedback(learner.network, feedback_key)
    return TrainState(
        jnp.zeros((), jnp.int32),
        run_key,
        forward,
        feedback,
        *init_optimizers(learner, forward, feedback),
    )


def init_optimizers(
    learner: Learner, forward: dict[str, Params], feedback: dict[str, Params]
) -> tuple[Any, dict[str, Any]]:
    """(forward, feedback) optimizer states for these parameters; feedback ones by block name."""
    return learner.forward_optimizer.init(forward), {
        block.name: optimizer.init(feedback[block.name])
        for block, optimizer in zip(learner.network[1:], learner.feedback_optimizers)
    }


def step(
    learner: Learner,
    state: TrainState,
    images: Array,
    labels: Array,
    *,
    noise: dict[str, Any] | None = None,
    observe: Callable[[int, Iteration], Any] = only_loss,
) -> tuple[TrainState, Record]:
    """One training step on a batch, in the order of the paper.

    Args:
      images: float, (batch, *input shape), normalised. labels: integers, (batch,).
      noise: recorded noise by block name, arrays (iterations, samples, batch, ...), instead of draws
        keyed by `state.step`.
      observe: see `train_feedback_map`.

    Returns:
      The next state, and everything computed along the way.
    """
    network, rule = learner.network, learner.rule
    # 1. One clean forward pass.
    activations = forward_all(network, state.forward, images)
    # 2. Feedback training: theta does not change, every block on its own.
    feedback, feedback_opt_state, observations = train_feedback(
        learner, state, activations, noise=noise, observe=observe
    )
    # 3. and 4. The target of the logits, and from it one target per block.
    # 5. Local losses: no gradient crosses a block boundary.
    if rule.global_loss is None:
        top = rule.output_target(activations.h[-1], labels)
        targets = rule.targets(network, state.forward, feedback, activations, top)
        forward_loss, gradient = local_gradients(network, rule, state.forward, activations, targets)
    else:
        targets, forward_loss = (), {}
        gradient = global_gradient(network, rule, state.forward, images, labels)
    # 6. The forward step.
    updates, forward_opt_state = learner.forward_optimizer.update(
        gradient, state.forward_opt_state, state.forward
    )
    state = state.replace(
        step=state.step + 1,
        forward=optax.apply_updates(state.forward, updates),
        feedback=feedback,
        forward_opt_state=forward_opt_state,
        feedback_opt_state=feedback_opt_state,
    )
    return state, Record(activations, observations, targets, forward_loss, gradient)


def train_step(
    learner: Learner, state: TrainState, images: Array, labels: Array
) -> tuple[TrainState, Metrics]:
    """`step`, reduced to what training logs."""
    state, record = step(learner, state, images, labels)
    logits = record.activations.h[-1]
    metrics = Metrics(
        loss=cross_entropy(logits, labels).mean(),
        accuracy=(logits.argmax(-1) == labels).mean(dtype=jnp.float32),
        feedback_loss={name: losses.mean() for name, losses in record.observations.items()},
        forward_loss=record.forward_loss,
    )
    return state, metrics


def train_feedback(
    learner: Learner,
    state: TrainState,
    activations: Activations,
    *,
    noise: dict[str, Any] | None = None,
    observe: Callable[[int, Iteration], Any] = only_loss,
):
    """Trains every feedback map on one batch; see `step` for the arguments.

    Returns:
      (feedback parameters, optimizer states, observations), each a dict by block name.
    """
    feedback, opt_state, seen = dict(state.feedback), dict(state.feedback_opt_state), {}
    training = learner.rule.feedback_training
    if training is None:
        return feedback, opt_state, seen
    batch, dtype = activations.h[0].shape[0], activations.h[0].dtype
    step_key = jax.random.fold_in(state.key, state.step)
    for i, (optimizer, iterations) in enumerate(
        zip(learner.feedback_optimizers, learner.feedback_iterations), start=1
    ):
        block = learner.network[i]
        if noise is None:
            source = keys_per_iteration(
                jax.random.fold_in(step_key, i), iterations, learner.feedback_samples
            )
            draw = jax.vmap(lambda key, block=block: training.draw_noise(key, block, batch, dtype))
        else:
            source, draw = noise[block.name], lambda recorded: recorded
        feedback[block.name], opt_state[block.name], seen[block.name] = train_feedback_map(
            training,
            learner.network,
            i,
            state.forward,
            feedback[block.name],
            opt_state[block.name],
            optimizer,
            activations,
            source,
            draw=draw,
            observe=observe,
        )
    return feedback, opt_state, seen


def local_gradients(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    activations: Activations,
    targets: tuple[Array, ...],
) -> tuple[dict[str, Array], dict[str, Params]]:
    """Local losses by block name, and the gradient of each for its own block's parameters alone."""
    losses, gradients = {}, {}
    for block, x, t in zip(network, activations.h, targets):

        def loss(theta, block=block, x=x, t=t):
            return rule.local_loss(block, block.forward(theta, x)[0], t)

        losses[block.name], gradients[block.name] = jax.value_and_grad(loss)(forward[block.name])
    return losses, gradients


def global_gradient(
    network: Network, rule: Rule, forward: dict[str, Params], images: Array, labels: Array
) -> dict[str, Params]:
    """One ordinary gradient of the rule's global loss."""

    def loss(forward):
        return rule.global_loss(forward_all(network, forward, images).h[-1], labels)

    return jax.grad(loss)(forward)


def evaluate_batch(
    network: Network, forward: dict[str, Params], images: Array, labels: Array, weights: Array
) -> dict[str, Array]:
    """Sums over a batch, for exact means over a data set whose last batch is padded.

    Args:
      weights: (batch,), 1 for an example and 0 for padding.

    Returns:
      loss: summed cross-entropy; correct, correct_top5, examples: counts. All float32.
    """
    outputs = forward_all(network, forward, images).h[-1]
    own = jnp.take_along_axis(outputs, labels[:, None], axis=1)
    # Rank of the label: classes above it, and of equal ones those that come first. Written so that
    # nan is above everything: a diverged network has no correct answers.
    earlier = jnp.arange(outputs.shape[1]) < labels[:, None]
    rank = jnp.sum(~(outputs <= own) | ((outputs == own) & earlier), axis=1)
    weights = weights.astype(jnp.float32)
    return {
        "loss": jnp.sum(weights * cross_entropy(outputs, labels)),
        "correct": jnp.sum(weights * (rank < 1)),
        "correct_top5": jnp.sum(weights * (rank < 5)),
        "examples": jnp.sum(weights),
    }
