"""Training of one feedback map on one batch, in pieces that can be stopped and gone on with."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import keystr

from dtp_jax import ops
from dtp_jax.blocks import Activations, Params, forward_all
from dtp_jax.data import Splits, iterate
from dtp_jax.figures.store import Store
from dtp_jax.learning import learner as learning
from dtp_jax.learning import metrics
from dtp_jax.learning.feedback import (
    Iteration,
    drawing,
    keys_per_iteration,
    random_bits,
    repeat_step,
    train_feedback_map,
)
from dtp_jax.learning.learner import Learner, TrainState
from dtp_jax.learning.observers import with_alignment
from dtp_jax.run.build import Experiment

Array = jax.Array

PIECE = 25
"""Iterations of a compiled program."""
SAVE_SECONDS = 30.0
"""At most so much of an unfinished job is lost."""


class Batch(NamedTuple):
    """The batch of a figure, and the untrained learner's pass over it."""

    state: TrainState
    images: Array
    labels: Array
    activations: Activations


def batch_of(learner: Learner, experiment: Experiment, splits: Splits, seed: int) -> Batch:
    """The first training batch of a seed, not augmented, and the parameters that the seed draws."""
    state = jax.jit(partial(learning.init, learner))(jax.random.key(seed))
    size = experiment.config["batch_size"]
    images, labels = next(iterate(splits.train, experiment.data, batch_size=size, seed=seed))
    with ops.products_in(learner.precision):
        activations = jax.jit(partial(forward_all, learner.network))(state.forward, images)
    return Batch(state, images, labels, activations)


def map_index(learner: Learner, n: int) -> int:
    """Index of the block of the n-th trained map."""
    return learner.rule.feedback_training.blocks(learner.network)[n]


def train_map(
    store: Store,
    name: str,
    learner: Learner,
    n: int,
    batch: Batch,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Trains the n-th feedback map as `learning.train_feedback` does, and stores the job `name`:

        omega/<path>    the trained parameters
        stale/<path>    after the further steps of the public program of DRL, which follow on the last gradient
        loss, angle, distance    (iterations,), before each update; see `observer`

    Goes on with what is there of the job. `progress`: told the number of iterations done, and of all.
    """
    block = learner.trained[n]
    iterations = learner.feedback_iterations[n]
    like = (batch.state.feedback[block.name], batch.state.feedback_opt_state[block.name])
    carry, seen, done = _resumed(store.load(name, part=True), like)
    seed = jax.random.fold_in(jax.random.fold_in(batch.state.key, batch.state.step), n + 1)
    keys = keys_per_iteration(seed, iterations, learner.feedback_samples)
    saved = time.monotonic()
    while done < iterations:
        progress(done, iterations)
        piece = keys[done : done + PIECE]
        carry, gradient, found = _piece(
            learner, n, batch.state.forward, batch.activations, carry, piece
        )
        seen.append(jax.device_get(found))
        done += len(piece)
        if time.monotonic() - saved > SAVE_SECONDS and done < iterations:
            curves = _joined(seen)
            store.save_part(name, {"done": done, **flat("carry", carry), **flat("seen", curves)})
            saved = time.monotonic()
    curves = _joined(seen)
    results = {**flat("omega", carry[0]), **curves}
    repeats = sum(learner.feedback_iterations[n + 1 :])
    if learner.rule.name == "drl":
        stale = jax.jit(partial(repeat_step, learner.feedback_optimizers[n]))(
            gradient, repeats, carry
        )
        results |= flat("stale", stale[0])
    columns = list(curves)
    rows = zip(range(iterations), *(curves[c].tolist() for c in columns), strict=True)
    store.save(name, results, [["iteration", *columns], *rows])


@partial(jax.jit, static_argnums=(0, 1))
def _piece(learner: Learner, n: int, forward, activations, carry, keys):
    """Some iterations. Returns (omega, optimizer state), the last gradient, what was seen."""
    network, training, i = learner.network, learner.rule.feedback_training, map_index(learner, n)
    size, dtype = activations.h[0].shape[0], activations.h[0].dtype
    source = random_bits(training, keys, network[i])
    with ops.products_in(learner.precision):
        omega, opt_state, (seen, gradients) = train_feedback_map(
            training,
            network,
            i,
            forward,
            *carry,
            learner.feedback_optimizers[n],
            activations,
            source,
            draw=drawing(training, network[i], size, dtype),
            observe=observer(learner, forward),
        )
    return (omega, opt_state), jax.tree.map(lambda g: g[-1], gradients), seen


def observer(learner: Learner, forward: dict[str, Params]) -> Callable[[int, Iteration], Any]:
    """What is stored of an iteration: its loss, angle and distance, and of DRL its gradient.

    DRL's map from the logits to the last hidden block mirrors the output layer, transposed. Those further
    down mirror nothing.
    """
    network, last = learner.network, learner.network[-1].name
    seen = with_alignment(network, forward, learner.state_shapes.feedback)

    def observe(i: int, iteration: Iteration) -> tuple[dict[str, Array], Any]:
        found = seen(i, iteration)
        if learner.rule.name != "drl":
            return found, ()
        if i == len(network) - 2:
            theta, omega = forward[last]["kernel"], iteration.omega["kernel"].T
            found |= metrics.alignment(theta, omega)._asdict()
        return found, iteration.gradient

    return observe


def _resumed(found: dict[str, np.ndarray] | None, fresh: Any) -> tuple[Any, list, int]:
    """(omega and optimizer state, curves, iterations done) of an unfinished job, or of a new one."""
    if found is None:
        return fresh, [], 0
    curves = {k.removeprefix("seen/"): v for k, v in found.items() if k.startswith("seen/")}
    return restored("carry", found, fresh), [curves], int(found["done"])


def _joined(seen: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The curves of all pieces as one."""
    return {name: np.concatenate([part[name] for part in seen]) for name in seen[0]}


def flat(head: str, tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree by "<head>/<path>"."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {f"{head}/{keystr(path, simple=True, separator='/')}": leaf for path, leaf in leaves}


def restored(head: str, arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The pytree like `like` whose leaves `flat` has named."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: arrays[f"{head}/{keystr(path, simple=True, separator='/')}"], like
    )
