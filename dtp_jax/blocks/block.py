"""What a block is, and the functions over a chain of blocks."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax import fields

Array = jax.Array
"""An array of JAX."""
Params = dict[str, Any]
"""Arrays by name, in dicts of their own where a block is made of several layers."""
Shape = tuple[int, ...]
"""Sizes of the axes of one example: without the batch."""
Residual = Any
"""What a forward pass leaves for the feedback map: the pool indices, or ()."""
Statistics = dict[str, Any]
"""{"mean", "var"} of every batch norm, (channels,) each, below the names of its parameters."""


class Block(NamedTuple):
    """One block: pure functions with every static shape bound.

    A feedback map mirrors the block with the order of operations reversed, so its parameters come
    last: `feedback(p, y, r) == decode(p, features(y, r)) + bias` wherever `features` is given, with
    `decode` linear in its parameters and in the features, and the bias one that `y` does not reach.
    The fast form of L-DRL lives on that split; a block without it leaves both None and is trained by
    the literal formulas.
    """

    name: str
    """Different for each block of a network."""
    description: str
    """Its operations, as a network's table shows them."""
    input_shape: Shape
    """Without the batch: (height, width, channels), or (features,)."""
    output_shape: Shape
    init: Callable[[Array], Params]
    """key -> forward parameters."""
    init_feedback: Callable[[Array], Params]
    """key -> feedback parameters, in the layout of the forward ones."""
    forward: Callable[[Params, Array], tuple[Array, Residual]]
    """x -> (y, residual): the residual is what unpooling needs, or ()."""
    feedback: Callable[[Params, Array, Residual], Array]
    """y, residual -> x_hat."""
    features: Callable[[Array, Residual], Array] | None = None
    """y, residual -> a, the part of the feedback map without parameters."""
    decode: Callable[[Params, Array], Array] | None = None
    """a -> x_hat without bias."""
    forward_flops: int = 0
    """Floating-point operations of one example's forward pass (multiply and add count as two)."""
    statistics: Callable[[Params, Array], Statistics] | None = None
    """x -> batch mean and unbiased variance of every batch norm on the way forward. A block without
    batch norm has neither this nor `infer`; `forward` and `feedback` of one that has couple the examples
    of a batch, which must then not be cut into pieces."""
    infer: Callable[[Params, Statistics, Array], Array] | None = None
    """Running statistics, x -> y: `forward` of a trained network, which normalises by the former."""


class Network(tuple[Block, ...]):
    """Blocks in forward order: a tuple that prints as a table. What takes a network takes any tuple of blocks."""

    __slots__ = ()

    def __repr__(self) -> str:
        from dtp_jax.blocks import table  # here, for it is made of what is below

        is_one = self and all(isinstance(block, Block) for block in self)
        return table.text(self) if is_one else super().__repr__()


BlockFactory = Callable[[Shape], Block]
"""Shape of the input -> the block: what `conv_block` and its like return, and `chain` calls."""


class Activations(NamedTuple):
    """A forward pass: h[0] is the input, h[i + 1] the output of block i, residuals[i] its residual."""

    h: tuple[Array, ...]
    residuals: tuple[Residual, ...]


def forward_all(network: Network, forward: dict[str, Params], x: Array) -> Activations:
    """Runs the chain and keeps everything: x of shape (batch, *input shape).

    Raises:
      ValueError: one line; x is not floating-point or of another shape, a block has no parameters.
    """
    check_images(network, x)
    names = [block.name for block in network]
    if not set(names) <= set(forward):
        raise fields.error("forward", sorted(forward), f"parameters of {', '.join(names)}")
    h, residuals = [x], []
    for block in network:
        with jax.named_scope(f"forward.{block.name}"):
            y, residual = block.forward(forward[block.name], h[-1])
        h.append(y)
        residuals.append(residual)
    return Activations(tuple(h), tuple(residuals))


def logits(network: Network, forward: dict[str, Params], x: Array) -> Array:
    """The forward network alone: x of shape (batch, *input shape) -> (batch, classes).

    Raises:
      ValueError: one line; as `forward_all`.
    """
    return forward_all(network, forward, x).h[-1]


def init_forward(network: Network, key: Array) -> dict[str, Params]:
    """Forward parameters of all blocks, by block name."""
    keys = jax.random.split(key, len(network))
    return {block.name: block.init(k) for block, k in zip(network, keys)}


def mirror_feedback(network: Network, key: Array) -> dict[str, Params]:
    """Feedback parameters by block name. The first block has none: nothing lies below it."""
    keys = jax.random.split(key, len(network))
    return {block.name: block.init_feedback(k) for block, k in zip(network[1:], keys[1:])}


def is_mirrored(network: Network, feedback: dict[str, Params]) -> bool:
    """Whether these are parameters (or their shapes) of `mirror_feedback`: maps from block to block, in the
    layout of the forward parameters."""

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.shape(leaf), tree)

    expected = jax.eval_shape(lambda: mirror_feedback(network, jax.random.key(0)))
    return bool(expected) and shapes(feedback) == shapes(expected)


def zero_feedback(block: Block, dtype: Any) -> Params:
    """Zeros of the shapes of the block's feedback parameters."""
    shapes = jax.eval_shape(block.init_feedback, jax.random.key(0))
    return jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), shapes)


def chain(input_shape: Shape, factories: list[BlockFactory]) -> Network:
    """Builds a network: each block is given the shape that the one before it puts out.

    Args:
      input_shape: of one example, for instance (height, width, channels).
      factories: what `conv_block`, `dense_block` and their like return, in forward order.

    Raises:
      ValueError: one line; a size is none, a block does not fit the one before it or has its name.
    """
    shape = fields.checked("input_shape", input_shape, fields.SIZES)
    blocks: list[Block] = []
    for n, factory in enumerate(factories):
        if not callable(factory):
            raise fields.error(
                f"factories[{n}]", factory, "what conv_block, dense_block, ... return"
            )
        blocks.append(factory(blocks[-1].output_shape if blocks else shape))
    return check_network(Network(blocks))


def check_network(network: Any) -> Network:
    """The network, as a tuple.

    Raises:
      ValueError: one line; it is empty, not made of blocks, two have one name, one has half of a pair of
        functions, or does not take what the one before it puts out.
    """
    if isinstance(network, Block) or not isinstance(network, (tuple, list)) or not network:
        raise fields.error("network", network, f"one or more {fields.BLOCKS}")
    for n, block in enumerate(network):
        if not isinstance(block, Block):
            raise fields.error(f"network[{n}]", block, f"one of the {fields.BLOCKS}")
        for first, second in (("features", "decode"), ("statistics", "infer")):
            if (getattr(block, first) is None) != (getattr(block, second) is None):
                there, lacks = (
                    (first, second) if getattr(block, second) is None else (second, first)
                )
                raise ValueError(
                    f"network: block {block.name} has {there} and no {lacks}; allowed: both or neither"
                )
    names = tuple(block.name for block in network)
    if len(set(names)) < len(names):
        raise fields.error("network", names, "blocks with a name of their own each")
    for below, block in zip(network, network[1:]):
        if block.input_shape != below.output_shape:
            raise fields.error(
                "network",
                names,
                f"blocks that take what the one before puts out, and {block.name} takes "
                f"{block.input_shape} where {below.name} puts out {below.output_shape}",
            )
    return network if isinstance(network, tuple) else Network(network)


def check_images(network: Network, images: Any) -> None:
    """Raises ValueError, one line, where these are no images for the network, or it is none."""
    check_network(network)
    expected = network[0].input_shape
    dtype, shape = getattr(images, "dtype", None), getattr(images, "shape", ())
    is_float = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    if is_float and len(shape) == 1 + len(expected) and shape[0] != 0 and shape[1:] == expected:
        return
    allowed = f"floating-point {batch_of(expected)}"
    if not is_float:
        allowed += ", e.g. dtp_jax.data.prepare_images(images, spec, jnp.float32)"
    raise fields.error("images", images, allowed)


def batch_of(shape: Shape) -> str:
    """A shape as an error shows it, for a batch of any size: (batch, 8, 8, 1)."""
    return f"({', '.join(['batch', *map(str, shape)])}{'' if shape else ','})"


def require_images(name: str, shape: Shape) -> None:
    """Raises ValueError where the input of block `name` is not (height, width, channels)."""
    if len(shape) != 3:
        raise ValueError(
            f"network: block {name} needs images (height, width, channels), got shape {shape}"
        )


def count(params: Any) -> int:
    """Number of scalars in `params`, a pytree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
