"""DRL: direct linear feedback from the logits to every hidden block.

Meulemans et al., "A Theoretical Framework for Target Propagation", NeurIPS 2020 (arXiv 2006.14331):
direct difference target propagation ("DDTP-linear") with the difference reconstruction loss.
"""

import math
import zlib

import jax
import jax.numpy as jnp

from dtp_jax import fields, ops
from dtp_jax.blocks import Activations, Block, Network, Params, init_forward
from dtp_jax.rules.rule import (
    FeedbackTraining,
    Normals,
    Rule,
    gradient_step_target,
    hidden,
    known,
    of_blocks_above,
    of_map,
    per_map,
)

Array = jax.Array


def drl(
    *, noise: float | tuple[float, ...], beta: float, feedback_activation: str = "linear"
) -> Rule:
    r"""DRL. Hidden block i has one matrix Q_i from the logits o: G_i(o) = reshape(act(o Q_i^T)).

        o* = o - beta d(mean_b CE_b)/do,      h_i* = h_i + G_i(o*) - G_i(o)
        forward loss of i = mean over all elements of (h_i - h_i*)^2              (images)
                          = mean_b of the sum over features of (h_i - h_i*)^2     (vectors)

        o~ = the rest of the network at h_i + sigma_i xi,   xi drawn from N(0, 1)
        feedback loss of i = mean over all elements of (G_i(o~) - G_i(o) - sigma_i xi)^2 / sigma_i^2

    The targets come from Q_i as it was before this batch's feedback training. In the paper each block
    has its own Adam for the forward weights, with its learning rate divided by beta ("normalize_lr").
    Q_i starts from Xavier's normal distribution; for vectors it has a bias, which cancels.

    Args:
      noise: sigma of each hidden block, in forward order; or one for all.
      beta: step size of the output target (the paper's eta).
      feedback_activation: act, by its name in `ops.ACTIVATIONS`.

    Raises:
      ValueError: one line; a value that is not allowed.
    """
    noise = fields.checked("noise", noise, fields.NOISE)
    beta = fields.checked("beta", beta, fields.RATE)
    act = ops.activation(feedback_activation, "feedback_activation")

    def direct(block: Block, omega: Params, outputs: Array) -> Array:
        y = ops.linear(outputs, omega["kernel"])
        y = y + omega["bias"] if "bias" in omega else y
        return act(y).reshape(-1, *block.output_shape)

    def feedback_loss(network, forward, omega, i, activations, xi):
        block, sigma = network[i], of_map(noise, i)
        perturbed = activations.h[i + 1] + sigma * xi
        for above in network[i + 1 :]:
            perturbed, _ = above.forward(forward[above.name], perturbed)
        change = direct(block, omega, perturbed) - direct(block, omega, activations.h[-1])
        return jnp.mean((change - sigma * xi) ** 2) / sigma**2

    def targets(network, forward, feedback, activations: Activations, top: Array):
        del forward
        outputs, found = activations.h[-1], []
        for i in hidden(network):
            omega = feedback[network[i].name]
            correction = direct(network[i], omega, top) - direct(network[i], omega, outputs)
            found.append(activations.h[i + 1] + correction)
        return (*found, top)

    return Rule(
        name="drl",
        init_feedback=direct_feedback,
        feedback_training=FeedbackTraining(
            draw_output_noise,
            feedback_loss,
            blocks=hidden,
            flops=iteration_flops,
            divides=of_blocks_above,
        ),
        output_target=lambda logits, labels: gradient_step_target(
            logits, labels, beta=beta / len(logits)
        ),
        targets=targets,
        local_loss=square_loss,
        init_forward=xavier_forward,
        targets_first=True,
        per_map=per_map(noise=noise),
        beta=known(beta),
    )


def iteration_flops(network: Network, i: int) -> float:
    """Of one example: the rest of the network, G twice, and the gradient of each."""
    direct = 2 * math.prod(network[i].output_shape) * network[-1].output_shape[0]
    return sum(block.forward_flops for block in network[i + 1 :]) + 4 * direct


def square_loss(block: Block, h: Array, t: Array) -> Array:
    """DRL's local loss: mean over all elements for images, sum over features and mean over the batch
    for vectors. There is no 1/2."""
    square = (h - t) ** 2
    return square.mean() if len(block.output_shape) == 3 else square.sum() / h.shape[0]


def xavier_forward(network: Network, key: Array) -> dict[str, Params]:
    """Forward parameters with Xavier-normal kernels and biases of zero."""

    def drawn(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return ops.xavier_normal(
                jax.random.fold_in(key, zlib.crc32(str(path).encode())), leaf.shape
            )
        return jnp.zeros_like(leaf) if name == "bias" else leaf

    return jax.tree_util.tree_map_with_path(drawn, init_forward(network, key))


def direct_feedback(network: Network, key: Array) -> dict[str, Params]:
    """Q_i by hidden block: kernel (classes, size of the block's output), Xavier-normal; bias zero.

    Images have no bias; vectors have one where the block has one.
    """
    classes, result = network[-1].output_shape[0], {}
    for i, k in zip(hidden(network), jax.random.split(key, len(network)), strict=False):
        block, size = network[i], math.prod(network[i].output_shape)
        result[block.name] = {"kernel": ops.xavier_normal(k, (classes, size))}
        if len(block.output_shape) == 1 and "bias" in jax.eval_shape(block.init, k):
            result[block.name]["bias"] = jnp.zeros(size, jnp.float32)
    return result


draw_output_noise = Normals(lambda block: block.output_shape)
"""One noise sample for a batch: N(0, 1) of shape (batch, *block output)."""
