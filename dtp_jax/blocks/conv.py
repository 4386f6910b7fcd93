"""Convolutional blocks."""

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
    Statistics,
    require_images,
)
from dtp_jax.blocks.norm import init_norm, normalize


class MaxPool(NamedTuple):
    """Max-pooling with square windows."""

    window: int
    stride: int
    padding: int = 0


class Conv(NamedTuple):
    """A convolution with square windows and every static size bound."""

    input_shape: Shape
    channels: int
    window: int
    stride: int = 1
    padding: int = 0

    @property
    def output_shape(self) -> Shape:
        return (*_slide(self.input_shape, self.window, self.stride, self.padding), self.channels)

    @property
    def flops(self) -> int:
        """Of one example."""
        return 2 * math.prod(self.output_shape) * self.input_shape[2] * self.window**2

    def init(self, key: Array, *, bias: bool = False) -> Params:
        """Of the convolution."""
        return self._init(key, self.channels, bias)

    def init_feedback(self, key: Array, *, bias: bool = False) -> Params:
        """Of the transposed convolution, in the same layout."""
        return self._init(key, self.input_shape[2], bias)

    def _init(self, key: Array, bias_size: int, bias: bool) -> Params:
        # One fan_in for both: torch's for a transposed convolution is its output channels * window^2.
        in_channels = self.input_shape[2]
        return init_affine(
            key,
            (self.window, self.window, in_channels, self.channels),
            bias_size,
            fan_in=in_channels * self.window**2,
            bias=bias,
        )

    def forward(self, params: Params, x: Array) -> Array:
        """x -> y, with bias."""
        y = ops.conv(x, params["kernel"], stride=self.stride, padding=self.padding)
        return add_bias(y, params)

    def transpose(self, params: Params, y: Array) -> Array:
        """y -> x by the adjoint for this kernel, without bias."""
        return ops.conv_transpose(
            y,
            params["kernel"],
            input_shape=self.input_shape,
            stride=self.stride,
            padding=self.padding,
        )


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
    batch_norm: bool = False,
) -> BlockFactory:
    """Convolution -> (batch norm) -> activation -> max-pool; feedback: unpool -> activation -> (batch
    norm) -> transposed convolution.

    With batch norm the block has no `features`: its feedback map has parameters that do not come last.

    Raises:
      ValueError: one line; an option has a value that it cannot have, or (from the factory) the images are
        too small for the window or the pooling.
    """
    fields.require(fields.NAME, name=name)
    fields.require(fields.AT_LEAST_1, channels=channels, window=window, stride=stride)
    fields.require(fields.COUNT, padding=padding)
    fields.require(fields.FLAG, bias=bias, batch_norm=batch_norm)
    act = ops.activation(activation)
    _check_pool(pool)
    description = f"conv {window}x{window}"
    if batch_norm:
        description += ", batch norm"
    description += f", {activation}"
    if pool is not None:
        description += f", max-pool {pool.window}/{pool.stride}"

    def build(input_shape: Shape) -> Block:
        require_images(name, input_shape)
        conv = Conv(tuple(input_shape), channels, window, stride, padding)
        maps = _ConvMaps(conv, act, pool, bias, batch_norm)
        for rows, columns, _ in (conv.output_shape, maps.output_shape):
            if min(rows, columns) < 1:
                raise ValueError(
                    f"network: block {name} reduces {input_shape[0]}x{input_shape[1]} images to "
                    f"{rows}x{columns}; allowed: fewer pooling blocks or larger images"
                )
        return Block(
            name,
            description,
            conv.input_shape,
            maps.output_shape,
            maps.init,
            maps.init_feedback,
            maps.forward,
            maps.feedback,
            features=None if batch_norm else maps.features,
            decode=None if batch_norm else conv.transpose,
            forward_flops=conv.flops,
            statistics=maps.statistics if batch_norm else None,
            infer=maps.infer if batch_norm else None,
        )

    return build


WIDEST_POOL = 16
"""The position in a window is a byte."""


def _check_pool(pool: MaxPool | None) -> None:
    if pool is None:
        return
    if not isinstance(pool, MaxPool):
        raise fields.error("pool", pool, "None or MaxPool(window, stride, padding)")
    fields.require(fields.AT_LEAST_1, **{"pool.window": pool.window, "pool.stride": pool.stride})
    fields.require(fields.COUNT, **{"pool.padding": pool.padding})
    if pool.window > WIDEST_POOL:
        raise fields.error("pool.window", pool.window, f"1 to {WIDEST_POOL}")
    if pool.padding >= pool.window:  # windows of nothing but padding have no maximum
        raise fields.error("pool.padding", pool.padding, f"0 to {pool.window - 1}")


class _ConvMaps(NamedTuple):
    """The functions of a convolutional block."""

    conv: Conv
    act: Callable[[Array], Array]
    pool: MaxPool | None
    bias: bool
    batch_norm: bool

    @property
    def output_shape(self) -> Shape:
        shape = self.conv.output_shape
        return shape if self.pool is None else (*_slide(shape, *self.pool), shape[2])

    def init(self, key: Array) -> Params:
        return self._with_norm(self.conv.init(key, bias=self.bias))

    def init_feedback(self, key: Array) -> Params:
        return self._with_norm(self.conv.init_feedback(key, bias=self.bias))

    def _with_norm(self, params: Params) -> Params:
        return params | {"bn": init_norm(self.conv.channels)} if self.batch_norm else params

    def forward(self, params: Params, x: Array) -> tuple[Array, Residual]:
        return self._pooled(self._activated(params, x)[0])

    def statistics(self, params: Params, x: Array) -> Statistics:
        return {"bn": self._activated(params, x)[1]}

    def infer(self, params: Params, running: Statistics, x: Array) -> Array:
        return self._pooled(self._activated(params, x, running["bn"])[0])[0]

    def _activated(
        self, params: Params, x: Array, given: Statistics | None = None
    ) -> tuple[Array, Statistics | None]:
        y, measured = normalize(params.get("bn"), self.conv.forward(params, x), given)
        return self.act(y), measured

    def _pooled(self, y: Array) -> tuple[Array, Residual]:
        return (y, ()) if self.pool is None else ops.max_pool(y, **self.pool._asdict())

    def features(self, y: Array, residual: Residual) -> Array:
        # act(unpool(y)) = unpool(act(y)) since act(0) = 0, and y is several times smaller.
        a = self.act(y)
        if self.pool is None:
            return a
        return ops.max_unpool(
            a, residual, input_shape=self.conv.output_shape, **self.pool._asdict()
        )

    def feedback(self, params: Params, y: Array, residual: Residual) -> Array:
        a, _ = normalize(params.get("bn"), self.features(y, residual))
        return add_bias(self.conv.transpose(params, a), params)


def _slide(shape: Shape, window: int, stride: int, padding: int) -> tuple[int, int]:
    """(rows, columns) of windows in an image of this shape."""
    rows, columns = (
        ops.pooled_size(n, window=window, stride=stride, padding=padding) for n in shape[:2]
    )
    return rows, columns
