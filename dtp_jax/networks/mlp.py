"""Fully connected networks, on which most papers of the field compare (e.g. 6 x 256 on MNIST)."""

from dtp_jax import fields
from dtp_jax.blocks import Network, Shape, chain, dense_block


def mlp(
    input_shape: Shape,
    classes: int,
    *,
    hidden: tuple[int, ...] = (256,) * 6,
    activation: str = "elu",
    bias: bool = True,
) -> Network:
    """Linear -> activation blocks of the given widths, then a linear readout.

    Args:
      input_shape: shape of one example; flattened by the first block.
      classes: number of logits.

    Returns:
      Blocks fc1, fc2, ...

    Raises:
      ValueError: one line; an option has a value that it cannot have.
    """
    fields.require(fields.AT_LEAST_1, classes=classes)
    hidden = fields.checked("hidden", hidden, fields.WIDTHS)
    dense = [
        dense_block(f"fc{i + 1}", features=n, activation=activation, bias=bias)
        for i, n in enumerate(hidden)
    ]
    return chain(
        input_shape, [*dense, dense_block(f"fc{len(hidden) + 1}", features=classes, bias=bias)]
    )
