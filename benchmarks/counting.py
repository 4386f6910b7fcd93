"""The least arithmetic and the least memory traffic of a training step, counted from shapes alone.

Arithmetic is that of the products, counted as direct convolutions: two operations for a multiplication
and its addition, the zeros of the padding included. Element-wise work is not counted, nor is what a
batch norm does. Gradients of a residual stage count as those of one affine map, which is less than
they take. What an iteration of feedback training takes is what the rule itself says
(`FeedbackTraining.flops`).

Memory traffic is counted row by row: whatever a row works on comes from memory once and what it leaves
behind goes there once, since nothing stays in the cache from one row to the next. Within a row

- element-wise work is part of the product before or after it, and moves nothing: activation, pooling,
  unpooling, differences, and the optimizer, which takes the gradient as the product makes it;
- noise is drawn where it is used, and drawn again where it is used again;
- what one product makes for another one (the noisy output, the reconstruction) is written and read
  where it is larger than the cache, and moves nothing where it is not;
- an iteration of feedback training reads input, output, pool indices, forward and feedback
  parameters and the optimizer's state, and writes the last two. Where all that and what it makes
  on the way fits the cache, this happens once per batch; otherwise in every iteration.

Beside the least stands the literal form: the formulas of L-DRL's feedback loss and of the difference
targets as they are written, without using that feedback maps are linear in their features. An iteration
is then F, three G and three gradients where the difference form has F, one G and two (seven products
where it has four), and a target is two G where it has one.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax.blocks import forward_all
from dtp_jax.learning.learner import Learner, init
from dtp_jax.rules.targets import difference_targets, propagated_targets

FORWARD, FEEDBACK, TARGETS = "forward", "feedback", "targets"
LOCAL, GLOBAL, UPDATE = "local gradients", "gradient", "update"
ALL = "all"


class Work(NamedTuple):
    """Floating-point operations, and bytes read or written."""

    flops: float
    bytes: float


class Part(NamedTuple):
    """One phase of a step in one block."""

    phase: str
    block: str
    least: Work
    literal: Work
    normals: float = 0
    """N(0, 1) numbers drawn."""


class Sizes(NamedTuple):
    """Bytes of everything that a step keeps, for its batch."""

    h: tuple[int, ...]
    """As `Activations.h`: h[0] are the images, h[i + 1] is the output of block i."""
    residuals: tuple[int, ...]
    """Pool indices of every block."""
    theta: dict[str, int]
    omega: dict[str, int]
    feedback_state: dict[str, int]
    """Of the feedback optimizers, by trained map."""
    forward_state: int
    """Of the forward optimizer."""


def count_step(learner: Learner, batch: int, cache: float) -> tuple[Part, ...]:
    """Everything that one training step does, in its order.

    Args:
      batch: examples.
      cache: bytes; see the module's docstring.
    """
    sizes = sizes_of(learner, batch)
    if learner.rule.global_loss is None:
        gradients = (*_targets(learner, sizes, batch), *_local_gradients(learner, sizes, batch))
    else:
        gradients = _global_gradient(learner, sizes, batch)
    update = _both(UPDATE, ALL, Work(0, 2 * (sum(sizes.theta.values()) + sizes.forward_state)))
    return (
        *_forward(learner, sizes, batch),
        *_solved_maps(learner, sizes),
        *(_trained_map(learner, sizes, batch, cache, n) for n in range(len(learner.trained))),
        *gradients,
        update,
    )


def total(parts: Sequence[Part], phase: str, block: str = ALL) -> Part:
    """The sum of these parts, under another name."""
    least, literal = (
        Work(*map(sum, zip(*work)))
        for work in ([p.least for p in parts], [p.literal for p in parts])
    )
    return Part(phase, block, least, literal, sum(p.normals for p in parts))


def sizes_of(learner: Learner, batch: int) -> Sizes:
    """Found by tracing; nothing is computed."""
    state = jax.eval_shape(partial(init, learner), jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, *learner.network[0].input_shape), jnp.float32)
    passed = jax.eval_shape(partial(forward_all, learner.network), state.forward, images)
    return Sizes(
        tuple(map(nbytes, passed.h)),
        tuple(map(nbytes, passed.residuals)),
        {name: nbytes(params) for name, params in state.forward.items()},
        {name: nbytes(params) for name, params in state.feedback.items()},
        {name: nbytes(kept) for name, kept in state.feedback_opt_state.items()},
        nbytes(state.forward_opt_state),
    )


def nbytes(tree: Any) -> int:
    """Of all arrays of a pytree together."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _both(phase: str, block: str, work: Work) -> Part:
    """A part whose literal form is its least one."""
    return Part(phase, block, work, work)


def _forward(learner: Learner, sizes: Sizes, batch: int) -> list[Part]:
    """One F of every block: reads input and parameters, writes output and pool indices."""
    return [
        _both(
            FORWARD,
            block.name,
            Work(
                batch * block.forward_flops,
                sizes.h[i] + sizes.theta[block.name] + sizes.h[i + 1] + sizes.residuals[i],
            ),
        )
        for i, block in enumerate(learner.network)
    ]


def _solved_maps(learner: Learner, sizes: Sizes) -> list[Part]:
    """Feedback maps in closed form: sums over activations and forward parameters, without products."""
    if learner.rule.solve_feedback is None:
        return []
    return [
        _both(
            FEEDBACK,
            block.name,
            Work(
                0,
                sizes.h[i]
                + sizes.h[i + 1]
                + sizes.residuals[i]
                + sizes.theta[block.name]
                + sizes.omega[block.name],
            ),
        )
        for i, block in enumerate(learner.network)
        if i > 0
    ]


def _trained_map(learner: Learner, sizes: Sizes, batch: int, cache: float, n: int) -> Part:
    """All iterations of the n-th trained feedback map."""
    network, training = learner.network, learner.rule.feedback_training
    i, direct = training.blocks(network)[n], _direct(learner, sizes)
    block, ldrl = network[i], training.prepare is not None
    # What noise is sent through: the block, or with direct feedback everything above it.
    through = range(i + 1, len(network)) if direct else range(i, i + 1)
    written = sizes.omega[block.name] + sizes.feedback_state[block.name]
    read = sizes.h[through[0]] + sum(sizes.theta[network[j].name] for j in through) + written
    if ldrl:  # it compares with the clean output
        read += sizes.h[i + 1] + sizes.residuals[i]
    elif direct:  # it compares with the clean logits
        read += sizes.h[-1]
    noisy = [sizes.h[j + 1] + (0 if direct else sizes.residuals[j]) for j in through]

    def traffic(reconstructions: int) -> float:
        planes = noisy + [sizes.h[through[0]]] * reconstructions
        samples = learner.feedback_samples
        if read + samples * sum(planes) <= cache:
            return read + written
        moved = 2 * samples * sum(plane for plane in planes if plane > cache)
        return learner.feedback_iterations[n] * (read + written + moved)

    # Written out there are G(h), G(F(x + dx)) and G(h + dy), of which the difference form has one.
    literal = 3 if ldrl else 1
    least = 1 if block.features is not None else literal
    written_out = learner._replace(
        network=tuple(b._replace(features=None, decode=None) for b in network)
    )
    drawn = jax.eval_shape(
        lambda key: training.draw_noise(key, block, batch, jnp.float32), jax.random.key(0)
    )
    draws = learner.feedback_iterations[n] * learner.feedback_samples
    return Part(
        FEEDBACK,
        block.name,
        Work(batch * learner.feedback_flops[n], traffic(least)),
        Work(batch * written_out.feedback_flops[n], traffic(literal)),
        draws * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(drawn)),
    )


def _direct(learner: Learner, sizes: Sizes) -> bool:
    """Whether feedback maps lead from the logits to every hidden block: mirrored ones lead to the
    block below, so that the first one has none."""
    return learner.network[0].name in sizes.omega


def _targets(learner: Learner, sizes: Sizes, batch: int) -> list[Part]:
    """One target for every block but the last, named after the block whose map it comes through.

    That of the logits is a few operations for each of them.
    """
    network, rule = learner.network, learner.rule
    if _direct(learner, sizes):
        # Kernels are nearly all of omega; four bytes of it are a multiplication and an addition.
        return [
            _both(
                TARGETS,
                block.name,
                Work(
                    batch * sizes.omega[block.name] / 2,
                    2 * sizes.h[-1] + sizes.omega[block.name] + 2 * sizes.h[i + 1],
                ),
            )
            for i, block in enumerate(network[:-1])
        ]
    parts = []
    for i in reversed(range(1, len(network))):
        block, one = network[i], batch * network[i].forward_flops
        params = sizes.omega.get(block.name, sizes.theta[block.name])
        moved = sizes.h[i + 1] + sizes.residuals[i] + params + sizes.h[i]
        if rule.targets is not propagated_targets:  # the others start from the clean h
            moved += sizes.h[i + 1] + sizes.h[i]
        literal = 2 * one if rule.targets is difference_targets else one
        least = one if block.features is not None else literal
        parts.append(Part(TARGETS, block.name, Work(least, moved), Work(literal, moved)))
    return parts


def _local_gradients(learner: Learner, sizes: Sizes, batch: int) -> list[Part]:
    """One kernel gradient per block, from its input, output, pool indices and target: the output of
    the forward pass is that of the local loss."""
    return [
        _both(
            LOCAL,
            block.name,
            Work(
                batch * block.forward_flops,
                sizes.h[i] + sizes.residuals[i] + 2 * sizes.h[i + 1],
            ),
        )
        for i, block in enumerate(learner.network)
    ]


def _global_gradient(learner: Learner, sizes: Sizes, batch: int) -> list[Part]:
    """Backprop: a kernel gradient per block, and above the first one that of the block's input."""
    parts = []
    for i, block in reversed(list(enumerate(learner.network))):
        moved = sizes.h[i] + sizes.residuals[i] + 2 * sizes.h[i + 1]
        if i > 0:
            moved += sizes.theta[block.name] + sizes.h[i]
        flops = batch * block.forward_flops * (2 if i > 0 else 1)
        parts.append(_both(GLOBAL, block.name, Work(flops, moved)))
    return parts
