"""Rules whose feedback weights stay as they were drawn: cheap reference points.

FW-DTP: Shibuya et al., "Fixed-Weight Difference Target Propagation", AAAI 2023 (arXiv 2212.10352).
Feedback alignment: Lillicrap et al., "Random synaptic feedback weights support error backpropagation
for deep learning", 2016. Direct feedback alignment: Nokland, 2016 (arXiv 1609.01596).
"""

import math

import jax

from dtp_jax import fields, ops
from dtp_jax.blocks import Activations, Block, Network, Params, mirror_feedback
from dtp_jax.rules.rule import (
    Rule,
    check_kernels,
    gradient_step_target,
    half_square_loss,
    hidden,
    known,
    read_by,
    shapes_of,
)
from dtp_jax.rules.targets import backpropagated_targets, difference_targets

Array = jax.Array


def fw_dtp(*, beta: float) -> Rule:
    """FW-DTP: the targets of DTP, t_{n-1} = h_{n-1} + G_n(t_n) - G_n(h_n), with feedback maps that are
    never trained. They keep PyTorch's default initialisation (the paper's best variant adds batch
    normalisation; this one is plain).

    Raises:
      ValueError: one line; a beta that is not allowed.
    """
    beta = fields.checked("beta", beta, fields.RATE)
    return Rule(
        name="fw_dtp",
        init_feedback=mirror_feedback,
        feedback_training=None,
        output_target=lambda logits, labels: gradient_step_target(logits, labels, beta=beta),
        targets=difference_targets,
        local_loss=half_square_loss,
        beta=known(beta),
    )


def feedback_alignment(*, beta: float) -> Rule:
    r"""Feedback alignment: backprop's chain with fixed random weights in place of the transposed ones.

        e_L = h_L - t_L,   e_{n-1} = J_n^T e_n,   t_n = h_n - e_n

    J_n is the Jacobian of F_n whose kernels are those of the mirrored feedback map omega_n, while slopes
    and pool indices are those of the forward pass. At omega = theta and beta = 1 the gradients are
    backprop's. omega_n starts (and stays) uniform as PyTorch initialises the mirrored layers.
    """

    def targets(network, forward, feedback, activations: Activations, top: Array):
        mixed = {name: with_backward_kernels(forward[name], feedback[name]) for name in feedback}
        return backpropagated_targets(network, mixed, activations, top)

    return fw_dtp(beta=beta)._replace(
        name="feedback_alignment",
        targets=targets,
        check=lambda network: check_kernels("feedback_alignment", network, takes_backward_kernels),
    )


def with_backward_kernels(theta: Params, omega: Params) -> Params:
    """theta, with every kernel made an `ops.Asymmetric` whose derivative uses omega's."""
    return {
        name: ops.Asymmetric(value, omega[name])
        if name == "kernel"
        else with_backward_kernels(value, omega[name])
        if isinstance(value, dict)
        else value
        for name, value in theta.items()
    }


def takes_backward_kernels(block: Block) -> bool:
    """Whether a block has kernels, and the derivative of its forward map reads all those of omega."""
    theta, omega, x = shapes_of(block)

    def forward(omega, theta, x):
        return block.forward(with_backward_kernels(theta, omega), x)[0]

    read = jax.tree.leaves_with_path(read_by(forward, omega, theta, x))
    kernels = [is_read for path, is_read in read if path[-1].key == "kernel"]
    return bool(kernels) and all(kernels)


def direct_feedback_alignment(*, beta: float) -> Rule:
    r"""Direct feedback alignment: e_n = B_n (softmax - onehot), t_n = h_n - beta e_n.

    B_n, one fixed random matrix per hidden block, is uniform in +-1/sqrt(size of h_n), so that e_n is
    about as long as the output error.
    """

    def targets(network, forward, feedback, activations: Activations, top: Array):
        del forward
        error = activations.h[-1] - top  # beta (softmax - onehot)
        found = []
        for i in hidden(network):
            e = ops.linear(error, feedback[network[i].name]["kernel"]).reshape(
                activations.h[i + 1].shape
            )
            found.append(activations.h[i + 1] - e)
        return (*found, top)

    return fw_dtp(beta=beta)._replace(
        name="direct_feedback_alignment", init_feedback=random_matrices, targets=targets
    )


def random_matrices(network: Network, key: Array) -> dict[str, Params]:
    """B_n by hidden block: kernel (classes, size of h_n), uniform in +-1/sqrt(size of h_n)."""
    classes, result = network[-1].output_shape[0], {}
    for i, k in zip(hidden(network), jax.random.split(key, len(network)), strict=False):
        size = math.prod(network[i].output_shape)
        result[network[i].name] = {"kernel": ops.uniform_fan_in(k, (classes, size), size)}
    return result
