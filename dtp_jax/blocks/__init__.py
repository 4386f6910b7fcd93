"""Blocks: the links of the chain that target propagation trains, each with its feedback map.

A network is a tuple of blocks. Block i maps `h[i]` to `h[i + 1]` (so `h[0]` is the image and `h[-1]`
the logits); its feedback map G leads back from the space of `h[i + 1]` to that of `h[i]`.
"""

from dtp_jax.blocks.block import (
    Activations,
    Array,
    Block,
    BlockFactory,
    Network,
    Params,
    Residual,
    Shape,
    Statistics,
    batch_of,
    chain,
    check_images,
    check_network,
    count,
    forward_all,
    init_forward,
    is_mirrored,
    logits,
    mirror_feedback,
    zero_feedback,
)
from dtp_jax.blocks.conv import MaxPool, conv_block
from dtp_jax.blocks.dense import AdaptiveAveragePool, dense_block
from dtp_jax.blocks.norm import initial_statistics
from dtp_jax.blocks.residual import basic_block, residual_stage

__all__ = [
    "Activations",
    "AdaptiveAveragePool",
    "Array",
    "Block",
    "BlockFactory",
    "MaxPool",
    "Network",
    "Params",
    "Residual",
    "Shape",
    "Statistics",
    "basic_block",
    "batch_of",
    "chain",
    "check_images",
    "check_network",
    "conv_block",
    "count",
    "dense_block",
    "forward_all",
    "init_forward",
    "initial_statistics",
    "is_mirrored",
    "logits",
    "mirror_feedback",
    "residual_stage",
    "zero_feedback",
]
