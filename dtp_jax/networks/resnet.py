"""Residual networks for small images (He et al. 2015, arXiv 1512.03385, as Ernoult et al. 2022 use them)."""

from dtp_jax import fields
from dtp_jax.blocks import (
    AdaptiveAveragePool,
    BlockFactory,
    Network,
    Shape,
    basic_block,
    chain,
    conv_block,
    dense_block,
    residual_stage,
)


def resnet18(
    input_shape: Shape,
    classes: int,
    *,
    channels: tuple[int, ...] = (64, 64, 128, 256, 512),
    batch_norm: bool = False,
    split_stages: bool = False,
) -> Network:
    """Stem [conv 3x3 -> (batch norm) -> ReLU], stages of 2, 2, 2, 2 basic blocks with strides 1, 2, 2, 2,
    and [average-pool to 1x1 -> linear]. Convolutions have no bias, the linear map has one.

    Args:
      input_shape: (height, width, channels) of the images.
      classes: number of logits.
      channels: of the stem, then of one to four stages; fewer leave out the last stages.
      split_stages: every basic block is a block of the chain, instead of every stage.

    Returns:
      Blocks layer_0 (the stem), layer_1, ..., fc; split: layer_0, layer_1_0, layer_1_1, ..., fc.

    Raises:
      ValueError: one line; too few or too many channels, or an option has a value that it cannot have.
    """
    return resnet((2, 2, 2, 2), input_shape, classes, channels, batch_norm, split_stages)


def resnet34(
    input_shape: Shape,
    classes: int,
    *,
    channels: tuple[int, ...] = (64, 64, 128, 256, 512),
    batch_norm: bool = False,
    split_stages: bool = False,
) -> Network:
    """As `resnet18`, with 3, 4, 6, 3 basic blocks; `channels` and `split_stages` as there."""
    return resnet((3, 4, 6, 3), input_shape, classes, channels, batch_norm, split_stages)


def resnet(
    depths: tuple[int, ...],
    input_shape: Shape,
    classes: int,
    channels: tuple[int, ...],
    batch_norm: bool = False,
    split_stages: bool = False,
    *,
    activation: str = "relu",
) -> Network:
    """As `resnet18`, with any number of basic blocks and any activation.

    Args:
      depths: basic blocks of each stage.
      channels: of the stem, then of the first stages; fewer leave out the last ones.
      split_stages: as there.
      activation: of the stem and of all blocks. No field of a config: relu is the original's.

    Raises:
      ValueError: as `resnet18`.
    """
    depths = fields.checked("depths", depths, fields.SIZES)
    fields.require(fields.AT_LEAST_1, classes=classes)
    fields.require(fields.FLAG, batch_norm=batch_norm, split_stages=split_stages)
    channels = fields.checked("channels", channels, fields.WIDTHS)
    if not 2 <= len(channels) <= 1 + len(depths):
        stages = f"2 to {1 + len(depths)} of them, of the stem and one to {len(depths)} stages"
        raise fields.error("channels", channels, stages)
    stem = conv_block(
        "layer_0",
        channels=channels[0],
        window=3,
        padding=1,
        activation=activation,
        bias=False,
        batch_norm=batch_norm,
    )
    stages: list[BlockFactory] = []
    for i, (depth, c) in enumerate(zip(depths, channels[1:], strict=False), start=1):
        strides = (1 if i == 1 else 2, *(1,) * (depth - 1))
        if split_stages:
            stages += [
                basic_block(
                    f"layer_{i}_{k}",
                    channels=c,
                    stride=stride,
                    activation=activation,
                    batch_norm=batch_norm,
                )
                for k, stride in enumerate(strides)
            ]
        else:
            stages.append(
                residual_stage(
                    f"layer_{i}",
                    channels=c,
                    strides=strides,
                    activation=activation,
                    batch_norm=batch_norm,
                )
            )
    head = dense_block("fc", features=classes, pool=AdaptiveAveragePool(1))
    return chain(input_shape, [stem, *stages, head])
