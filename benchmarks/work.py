"""What a step of L-DRL has to do and to send, counted: what models of its time are made of."""

from functools import partial
from typing import Any, NamedTuple

import jax

from benchmarks.counting import FEEDBACK, count_step, nbytes
from dtp_jax.blocks import Block
from dtp_jax.learning.learner import Learner, init


class Work(NamedTuple):
    """What one training step has to do and to send, counted. Tuples: one entry per feedback map."""

    maps: tuple[str, ...]
    iterations: tuple[int, ...]
    map_flops: tuple[float, ...]
    """Per example, of all iterations."""
    other_flops: float
    """Per example: forward pass, targets, local gradients."""
    normals: tuple[float, ...]
    """Drawn per example, in all iterations."""
    reduced_bytes: tuple[int, ...]
    """Of the all-reduce that ends an iteration: the kernel's gradient and the loss."""
    forward_bytes: int
    """Of the all-reduce that ends a step: all forward gradients and the metrics."""
    exchanged_bytes: int
    """Of the exchange between layer-parallel groups: parameters, optimizer states, losses."""

    def flops(self, batch: int) -> float:
        """Of a step."""
        return batch * (sum(self.map_flops) + self.other_flops)


def count_work(learner: Learner) -> Work:
    """Counts a step of L-DRL with this learner's network and optimizers; nothing is computed."""
    trained, samples, scalar = learner.trained, learner.feedback_samples, 4
    parts = count_step(learner, batch=1, cache=0)
    state = jax.eval_shape(partial(init, learner), jax.random.key(0))
    return Work(
        maps=tuple(block.name for block in trained),
        iterations=tuple(learner.feedback_iterations),
        map_flops=learner.feedback_flops,
        other_flops=sum(part.least.flops for part in parts if part.phase != FEEDBACK),
        normals=tuple(part.normals for part in parts if part.phase == FEEDBACK),
        reduced_bytes=tuple(
            samples * (_reduced(block, state.feedback[block.name]) + scalar) for block in trained
        ),
        forward_bytes=nbytes(state.forward) + scalar * (len(learner.network) + 2),
        exchanged_bytes=nbytes((state.feedback, state.feedback_opt_state))
        + scalar * sum(learner.feedback_iterations),
    )


def _reduced(block: Block, omega: Any) -> int:
    """Bytes of the gradient that depends on the batch: no bias does in the difference form."""
    if block.features is None:
        return nbytes(omega)
    return nbytes({name: leaf for name, leaf in omega.items() if name != "bias"})
