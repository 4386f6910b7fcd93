"""Fully connected blocks."""

import math
from collections.abc import Callable
from typing import NamedTuple

from dtp_jax import fields, ops
from dtp_jax.blocks.affine import add_bias, init_affine
from dtp_jax.blocks.block import (
    Array,
    Block,
    BlockFactory,
    Params,
    Residual,
    Shape,
    require_images,
)


class AdaptiveAveragePool(NamedTuple):
    """Average-pooling of images of any size to size x size positions."""

    size: int = 1


def dense_block(
    name: str,
    *,
    features: int,
    activation: str = "linear",
    pool: AdaptiveAveragePool | None = None,
    bias: bool = True,
) -> BlockFactory:
    """A block of `features` units. Forward: (average-pool ->) flatten -> linear -> activation.

    Feedback: activation -> linear -> reshape (-> average-pool back to the input's height and width: a copy
    to every position where the size is 1).

    Images are flattened in (height, width, channel) order.

    Raises:
      ValueError: one line; an option has a value that it cannot have, or (from the factory) what is to be
        pooled are no images.
    """
    fields.require(fields.NAME, name=name)
    fields.require(fields.AT_LEAST_1, features=features)
    fields.require(fields.FLAG, bias=bias)
    act = ops.activation(activation)
    if pool is not None:
        if not isinstance(pool, AdaptiveAveragePool):
            raise fields.error("pool", pool, "None or AdaptiveAveragePool(size)")
        fields.require(fields.AT_LEAST_1, **{"pool.size": pool.size})

    def build(input_shape: Shape) -> Block:
        plane = tuple(input_shape)
        if pool is not None:
            require_images(name, input_shape)
            plane = (pool.size, pool.size, input_shape[2])
        maps = _DenseMaps(tuple(input_shape), plane, features, act, bias)
        description = "" if pool is None else f"average-pool to {pool.size}x{pool.size}, "
        description += ("flatten, " if len(input_shape) > 1 else "") + "linear"
        if activation != "linear":
            description += f", {activation}"
        return Block(
            name,
            description,
            maps.input_shape,
            (features,),
            maps.init,
            maps.init_feedback,
            maps.forward,
            maps.feedback,
            maps.features,
            maps.decode,
            forward_flops=2 * maps.size * features,
        )

    return build


class _DenseMaps(NamedTuple):
    """The functions of a fully connected block. `plane` is the shape of what is flattened."""

    input_shape: Shape
    plane: Shape
    width: int
    act: Callable[[Array], Array]
    bias: bool

    @property
    def size(self) -> int:
        return math.prod(self.plane)

    def init(self, key: Array) -> Params:
        return init_affine(
            key, (self.size, self.width), self.width, fan_in=self.size, bias=self.bias
        )

    def init_feedback(self, key: Array) -> Params:
        return init_affine(
            key, (self.size, self.width), self.size, fan_in=self.width, bias=self.bias
        )

    def forward(self, params: Params, x: Array) -> tuple[Array, Residual]:
        if self.plane != self.input_shape:
            x = ops.adaptive_average_pool(x, self.plane[:2])
        y = ops.linear(x.reshape(-1, self.size), params["kernel"])
        return self.act(add_bias(y, params)), ()

    def features(self, y: Array, residual: Residual) -> Array:
        del residual
        return self.act(y)

    def decode(self, params: Params, a: Array) -> Array:
        return self._spread(ops.linear(a, params["kernel"].T))

    def feedback(self, params: Params, y: Array, residual: Residual) -> Array:
        return self._spread(
            add_bias(ops.linear(self.features(y, residual), params["kernel"].T), params)
        )

    def _spread(self, x: Array) -> Array:
        """(batch, size) -> (batch, *input shape)."""
        x = x.reshape(-1, *self.plane)
        if self.plane == self.input_shape:
            return x
        return ops.adaptive_average_pool(x, self.input_shape[:2])
