"""The convolutional network of Meulemans et al. 2020 (arXiv 2006.14331), on which DRL was published."""

from dtp_jax.blocks import Network, Shape
from dtp_jax.networks.lenet import lenet


def meulemans(
    input_shape: Shape,
    classes: int,
    *,
    channels: tuple[int, ...] = (32, 64),
    hidden: tuple[int, ...] = (512,),
    bias: bool = True,
) -> Network:
    """`lenet` with tanh units.

    Args:
      input_shape: (height, width, channels) of the images.
      classes: number of logits.

    Returns:
      Blocks conv_0, conv_1, fc1, fc2 (for the default sizes).

    Raises:
      ValueError: one line; an option has a value that it cannot have, or the images are too small.
    """
    return lenet(
        input_shape, classes, channels=channels, hidden=hidden, activation="tanh", bias=bias
    )
