"""Batch normalisation, as PyTorch's BatchNorm2d computes it (Ioffe and Szegedy 2015, arXiv 1502.03167).

In training every pass, clean or noisy, forward or feedback, is normalised by the statistics of the very
batch that it is given. Running statistics, by which a trained network is evaluated, are measured on
the clean forward pass alone: a noisy one would widen them by the noise, which evaluation does not have.
"""

import jax
import jax.numpy as jnp

from dtp_jax.blocks.block import Array, Network, Params, Statistics

EPSILON = 1e-5


def init_norm(channels: int) -> Params:
    """Scale 1 and bias 0."""
    return {"scale": jnp.ones(channels, jnp.float32), "bias": jnp.zeros(channels, jnp.float32)}


def normalize(
    params: Params | None, x: Array, given: Statistics | None = None
) -> tuple[Array, Statistics | None]:
    """(x - mean) / sqrt(var + 1e-5) * scale + bias by channel, with the biased variance of the batch.

    Args:
      params: scale and bias, (channels,) each. None: no batch norm, x stays as it is.
      x: (batch, height, width, channels).
      given: mean and variance to normalise by, instead of those of x.

    Returns:
      (y, mean and unbiased variance of x, whose moving averages are the running statistics). In place
      of the latter `given` where it is given, and None without batch norm.
    """
    if params is None:
        return x, None
    if given is None:
        mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        n = x.size // x.shape[-1]
        # A single value has no variance: 0, not 0/0.
        measured = {"mean": mean, "var": var * (n / max(n - 1, 1))}
        # Images may be float64 beside float32 parameters; a state keeps its types.
        measured = jax.tree.map(lambda a: a.astype(params["scale"].dtype), measured)
    else:
        mean, var, measured = given["mean"], given["var"], given
    y = (x - mean) * (params["scale"] * jax.lax.rsqrt(var + EPSILON)) + params["bias"]
    return y, measured


def initial_statistics(network: Network) -> dict[str, Statistics]:
    """Running statistics before the first batch: mean 0 and variance 1, by name of the blocks that
    have batch norm; empty where none has."""

    def start(path, shape):
        return (jnp.zeros if path[-1].key == "mean" else jnp.ones)(shape.shape, jnp.float32)

    found = {}
    for block in network:
        if block.statistics is not None:
            theta = jax.eval_shape(block.init, jax.random.key(0))
            x = jax.ShapeDtypeStruct((1, *block.input_shape), jnp.float32)
            shapes = jax.eval_shape(block.statistics, theta, x)
            found[block.name] = jax.tree.map_with_path(start, shapes)
    return found
