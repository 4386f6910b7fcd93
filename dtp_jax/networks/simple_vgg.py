"""The VGG-like network of the paper's CIFAR-10 experiment (Ernoult et al. 2022, appendix)."""

from dtp_jax import fields
from dtp_jax.blocks import MaxPool, Network, Shape, chain, conv_block, dense_block


def simple_vgg(
    input_shape: Shape,
    classes: int,
    *,
    channels: tuple[int, ...] = (128, 128, 256, 256, 512),
    activation: str = "elu",
    bias: bool = True,
) -> Network:
    """One [conv 3x3 -> activation -> max-pool 2/2] block per entry of `channels`, then a linear readout.

    Args:
      input_shape: (height, width, channels) of the images.
      classes: number of logits.

    Returns:
      Blocks conv_0, conv_1, ..., fc.

    Raises:
      ValueError: one line; an option has a value that it cannot have, or the images are too small.
    """
    fields.require(fields.AT_LEAST_1, classes=classes)
    channels = fields.checked("channels", channels, fields.WIDTHS)
    convs = [
        conv_block(
            f"conv_{i}",
            channels=c,
            window=3,
            padding=1,
            activation=activation,
            pool=MaxPool(2, 2),
            bias=bias,
        )
        for i, c in enumerate(channels)
    ]
    return chain(input_shape, [*convs, dense_block("fc", features=classes, bias=bias)])
