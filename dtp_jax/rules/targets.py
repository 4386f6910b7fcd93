"""Ways from the output target down the network: each gives one target per block.

All take (network, forward, feedback, activations, top) and return the targets in forward order: entry
i belongs to the output of block i, and the last one is `top` itself.
"""

import jax

from dtp_jax.blocks import Activations, Network, Params

Array = jax.Array


def difference_targets(
    network: Network,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    activations: Activations,
    top: Array,
) -> tuple[Array, ...]:
    """t_{n-1} = h_{n-1} + G_n(t_n) - G_n(h_n) from the top down (Lee et al. 2015, eq. 15)."""
    del forward
    targets = [top]
    for i in reversed(range(1, len(network))):
        block, residual = network[i], activations.residuals[i]
        omega = feedback[block.name]
        correction = block.feedback(omega, targets[0], residual) - block.feedback(
            omega, activations.h[i + 1], residual
        )
        targets.insert(0, activations.h[i] + correction)
    return tuple(targets)


def propagated_targets(
    network: Network,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    activations: Activations,
    top: Array,
) -> tuple[Array, ...]:
    """t_{n-1} = G_n(t_n) from the top down (Bengio 2014): exact where G_n inverts F_n."""
    del forward
    targets = [top]
    for i in reversed(range(1, len(network))):
        block = network[i]
        targets.insert(
            0, block.feedback(feedback[block.name], targets[0], activations.residuals[i])
        )
    return tuple(targets)


def backpropagated_targets(
    network: Network, parameters: dict[str, Params], activations: Activations, top: Array
) -> tuple[Array, ...]:
    """t_i = h_i - e_i with e_L = h_L - t_L and e_{i-1} = J_i^T e_i, J_i the Jacobian of block i.

    `parameters` may hold `ops.Asymmetric` kernels, whose Jacobian has weights of its own.
    """
    error, targets = activations.h[-1] - top, [top]
    for i in reversed(range(1, len(network))):
        theta = parameters[network[i].name]
        _, pullback = jax.vjp(lambda x, f=network[i].forward, p=theta: f(p, x)[0], activations.h[i])
        (error,) = pullback(error)
        targets.insert(0, activations.h[i] - error)
    return tuple(targets)
