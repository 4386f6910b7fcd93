"""The LeNet-like network that the paper compares with DRL (Meulemans et al. 2020, appendix)."""

from dtp_jax import fields
from dtp_jax.blocks import MaxPool, Network, Shape, chain, conv_block, dense_block


def lenet(
    input_shape: Shape,
    classes: int,
    *,
    channels: tuple[int, ...] = (32, 64),
    hidden: tuple[int, ...] = (512,),
    activation: str = "elu",
    bias: bool = True,
) -> Network:
    """[conv 5x5 -> activation -> max-pool 3/2] blocks, then linear blocks; the pooling windows overlap.

    Args:
      input_shape: (height, width, channels) of the images.
      classes: number of logits.

    Returns:
      Blocks conv_0, conv_1, fc1, fc2 (for the default sizes).

    Raises:
      ValueError: one line; an option has a value that it cannot have, or the images are too small.
    """
    fields.require(fields.AT_LEAST_1, classes=classes)
    channels = fields.checked("channels", channels, fields.WIDTHS)
    hidden = fields.checked("hidden", hidden, fields.WIDTHS)
    convs = [
        conv_block(
            f"conv_{i}",
            channels=c,
            window=5,
            padding=2,
            activation=activation,
            pool=MaxPool(3, 2, 1),
            bias=bias,
        )
        for i, c in enumerate(channels)
    ]
    dense = [
        dense_block(f"fc{i + 1}", features=n, activation=activation, bias=bias)
        for i, n in enumerate(hidden)
    ]
    readout = dense_block(f"fc{len(hidden) + 1}", features=classes, bias=bias)
    return chain(input_shape, [*convs, *dense, readout])
