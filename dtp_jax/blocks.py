"""Blocks: the links of the chain that target propagation trains, each with its feedback map.

A network is a tuple of blocks. Block i maps `h[i]` to `h[i + 1]` (so `h[0]` is the image and `h[-1]`
the logits); its feedback map G leads back from the space of `h[i + 1]` to that of `h[i]`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax import ops

Array = jax.Array
Params = dict[str, Array]
Shape = tuple[int, ...]
Residual = Any


class Block(NamedTuple):
    """One block: pure functions with every static shape bound.

    A feedback map mirrors the block with the order of operations reversed, so its parameters come
    last: `feedback(p, y, r) == decode(p, features(y, r)) + bias` wherever `features` is given, with
    `decode` linear in its parameters and in the features. The fast form of L-DRL lives on that
    split; a block without it leaves both None and is trained by the literal formulas.
    """

    name: str
    description: str
    input_shape: Shape
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


Network = tuple[Block, ...]
BlockFactory = Callable[[Shape], Block]


class Activations(NamedTuple):
    """A forward pass: h[0] is the input, h[i + 1] the output of block i, residuals[i] its residual."""

    h: tuple[Array, ...]
    residuals: tuple[Residual, ...]


def forward_all(network: Network, forward: dict[str, Params], x: Array) -> Activations:
    """Runs the chain and keeps everything: x of shape (batch, *input shape)."""
    h, residuals = [x], []
    for block in network:
        y, residual = block.forward(forward[block.name], h[-1])
        h.append(y)
        residuals.append(residual)
    return Activations(tuple(h), tuple(residuals))


def logits(network: Network, forward: dict[str, Params], x: Array) -> Array:
    """The forward network alone: (batch, *input shape) -> (batch, classes)."""
    return forward_all(network, forward, x).h[-1]


def init_forward(network: Network, key: Array) -> dict[str, Params]:
    """Forward parameters of all blocks, by block name."""
    keys = jax.random.split(key, len(network))
    return {block.name: block.init(k) for block, k in zip(network, keys)}


def mirror_feedback(network: Network, key: Array) -> dict[str, Params]:
    """Feedback parameters by block name. The first block has none: nothing lies below it."""
    keys = jax.random.split(key, len(network))
    return {block.name: block.init_feedback(k) for block, k in zip(network[1:], keys[1:])}


def zero_feedback(block: Block, dtype: Any) -> Params:
    """Zeros of the shapes of the block's feedback parameters."""
    shapes = jax.eval_shape(block.init_feedback, jax.random.key(0))
    return jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), shapes)


def chain(input_shape: Shape, factories: list[BlockFactory]) -> Network:
    """Builds a network: each block is given the shape that the one before it puts out."""
    blocks: list[Block] = []
    for factory in factories:
        blocks.append(factory(blocks[-1].output_shape if blocks else tuple(input_shape)))
    return tuple(blocks)


class MaxPool(NamedTuple):
    """Max-pooling with square windows."""

    window: int
    stride: int
    padding: int = 0


def conv_block(
    name: str,
    *,
    channels: int,
    window: int,
    stride: int = 1,
    padding: int = 0,
    activation: str = "elu",
    pool: MaxPool | None = None,
    bias: bool = True,
) -> BlockFactory:
    """Convolution -> activation -> max-pool; feedback: unpool -> activation -> transposed convolution.

    Raises:
      ValueError: (from the factory) if the images are too small for the window or the pooling.
    """
    act = ops.ACTIVATIONS[activation]

    def build(input_shape: Shape) -> Block:
        if len(input_shape) != 3:
            raise ValueError(
                f"network: block {name} needs images (height, width, channels), got shape {input_shape}"
            )
        in_channels = input_shape[2]
        conv_shape = (
            *(
                ops.pooled_size(n, window=window, stride=stride, padding=padding)
                for n in input_shape[:2]
            ),
            channels,
        )
        output_shape = (
            conv_shape
            if pool is None
            else (*(ops.pooled_size(n, **pool._asdict()) for n in conv_shape[:2]), channels)
        )
        if min(output_shape) < 1:
            raise ValueError(
                f"network: block {name} reduces {input_shape[0]}x{input_shape[1]} images to "
                f"{output_shape[0]}x{output_shape[1]}; allowed: fewer pooling blocks or larger images"
            )
        kernel_shape = (window, window, in_channels, channels)

        def init(key: Array) -> Params:
            return _init_affine(
                key, kernel_shape, channels, fan_in=in_channels * window**2, bias=bias
            )

        def init_feedback(key: Array) -> Params:
            # torch's rule for a transposed convolution: fan_in = its output channels * window^2.
            return _init_affine(
                key, kernel_shape, in_channels, fan_in=in_channels * window**2, bias=bias
            )

        def forward(params: Params, x: Array) -> tuple[Array, Residual]:
            y = act(
                _add_bias(ops.conv(x, params["kernel"], stride=stride, padding=padding), params)
            )
            return (y, ()) if pool is None else ops.max_pool(y, **pool._asdict())

        def features(y: Array, residual: Residual) -> Array:
            # act(unpool(y)) = unpool(act(y)) since act(0) = 0, and y is several times smaller.
            a = act(y)
            return (
                a
                if pool is None
                else ops.max_unpool(a, residual, input_shape=conv_shape, **pool._asdict())
            )

        def decode(params: Params, a: Array) -> Array:
            return ops.conv_transpose(
                a, params["kernel"], input_shape=input_shape, stride=stride, padding=padding
            )

        def feedback(params: Params, y: Array, residual: Residual) -> Array:
            return _add_bias(decode(params, features(y, residual)), params)

        description = f"conv {window}x{window}, {activation}"
        if pool is not None:
            description += f", max-pool {pool.window}/{pool.stride}"
        return Block(
            name,
            description,
            tuple(input_shape),
            output_shape,
            init,
            init_feedback,
            forward,
            feedback,
            features,
            decode,
            forward_flops=2 * math.prod(conv_shape) * in_channels * window**2,
        )

    return build


def dense_block(
    name: str, *, features: int, activation: str = "linear", bias: bool = True
) -> BlockFactory:
    """Flatten -> linear -> activation; feedback: activation -> linear -> reshape.

    Images are flattened in (height, width, channel) order.
    """
    act, width = ops.ACTIVATIONS[activation], features

    def build(input_shape: Shape) -> Block:
        size = math.prod(input_shape)

        def init(key: Array) -> Params:
            return _init_affine(key, (size, width), width, fan_in=size, bias=bias)

        def init_feedback(key: Array) -> Params:
            return _init_affine(key, (size, width), size, fan_in=width, bias=bias)

        def forward(params: Params, x: Array) -> tuple[Array, Residual]:
            return act(_add_bias(x.reshape(-1, size) @ params["kernel"], params)), ()

        def features(y: Array, residual: Residual) -> Array:
            del residual
            return act(y)

        def decode(params: Params, a: Array) -> Array:
            return (a @ params["kernel"].T).reshape(-1, *input_shape)

        def feedback(params: Params, y: Array, residual: Residual) -> Array:
            x_hat = decode(params, features(y, residual))
            return x_hat + params["bias"].reshape(input_shape) if "bias" in params else x_hat

        description = ("flatten, " if len(input_shape) > 1 else "") + "linear"
        if activation != "linear":
            description += f", {activation}"
        return Block(
            name,
            description,
            tuple(input_shape),
            (width,),
            init,
            init_feedback,
            forward,
            feedback,
            features,
            decode,
            forward_flops=2 * size * width,
        )

    return build


def _init_affine(
    key: Array, kernel_shape: Shape, bias_size: int, *, fan_in: int, bias: bool
) -> Params:
    kernel_key, bias_key = jax.random.split(key)
    params = {"kernel": ops.uniform_fan_in(kernel_key, kernel_shape, fan_in)}
    if bias:
        params["bias"] = ops.uniform_fan_in(bias_key, (bias_size,), fan_in)
    return params


def _add_bias(y: Array, params: Params) -> Array:
    return y + params["bias"] if "bias" in params else y


def count(params: Any) -> int:
    """Number of scalars in a pytree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
