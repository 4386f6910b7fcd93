"""Residual blocks of He et al. 2015 (arXiv 1512.03385), with their inverted feedback maps."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from dtp_jax import fields, ops
from dtp_jax.blocks.block import (
    Array,
    Block,
    BlockFactory,
    Params,
    Residual,
    Shape,
    Statistics,
    chain,
    require_images,
)
from dtp_jax.blocks.conv import Conv
from dtp_jax.blocks.norm import init_norm, normalize


def basic_block(
    name: str,
    *,
    channels: int,
    stride: int = 1,
    activation: str = "relu",
    batch_norm: bool = False,
) -> BlockFactory:
    r"""Two 3x3 convolutions and a shortcut, without biases (bn: batch norm, or nothing):

        F(x) = act(bn2(conv2(act(bn1(conv1 x)))) + shortcut(x))
        G(y) = convT1(bn1'(act(convT2(bn2'(z))))) + shortcut'(z)   with z = act(y)

    conv1 has the stride. The shortcut is the identity where the shapes allow it, else a 1x1 convolution
    with that stride and a batch norm; shortcut' is a batch norm and the transposed convolution.

    Parameters: conv1, conv2 and shortcut with a kernel each; bn1, bn2 and shortcut/bn with scale and bias.
    G is not linear in its own, so the block has no `features`.

    Raises:
      ValueError: one line; an option has a value that it cannot have, or (from the factory) its input are
        no images.
    """
    fields.require(fields.NAME, name=name)
    fields.require(fields.AT_LEAST_1, channels=channels, stride=stride)
    fields.require(fields.FLAG, batch_norm=batch_norm)
    act = ops.activation(activation)
    description = f"basic block{_details(stride, batch_norm)}, {activation}"

    def build(input_shape: Shape) -> Block:
        require_images(name, input_shape)
        conv1 = Conv(tuple(input_shape), channels, 3, stride, 1)
        conv2 = Conv(conv1.output_shape, channels, 3, 1, 1)
        shortcut = None
        if conv1.output_shape != conv1.input_shape or stride > 1:
            shortcut = Conv(conv1.input_shape, channels, 1, stride)
        maps = _BasicMaps(conv1, conv2, shortcut, act, batch_norm)
        return Block(
            name,
            description,
            conv1.input_shape,
            conv2.output_shape,
            maps.init,
            maps.init_feedback,
            maps.forward,
            maps.feedback,
            forward_flops=sum(conv.flops for conv in maps.convs.values()),
            statistics=maps.statistics if batch_norm else None,
            infer=maps.infer if batch_norm else None,
        )

    return build


class _BasicMaps(NamedTuple):
    """The functions of a basic block."""

    conv1: Conv
    conv2: Conv
    shortcut: Conv | None
    act: Callable[[Array], Array]
    batch_norm: bool

    @property
    def convs(self) -> dict[str, Conv]:
        convs = {"conv1": self.conv1, "conv2": self.conv2}
        return convs if self.shortcut is None else {**convs, "shortcut": self.shortcut}

    def init(self, key: Array) -> Params:
        keys = dict(zip(self.convs, jax.random.split(key, 3)))
        return self._with_norms({name: c.init(keys[name]) for name, c in self.convs.items()})

    def init_feedback(self, key: Array) -> Params:
        keys = dict(zip(self.convs, jax.random.split(key, 3)))
        return self._with_norms(
            {name: c.init_feedback(keys[name]) for name, c in self.convs.items()}
        )

    def _with_norms(self, params: Params) -> Params:
        if not self.batch_norm:
            return params
        # Each has as many channels as the block's output, in both directions.
        norms = {name: init_norm(self.conv1.channels) for name in ("bn1", "bn2")}
        if self.shortcut is not None:
            norms["shortcut"] = params["shortcut"] | {"bn": init_norm(self.conv1.channels)}
        return params | norms

    def forward(self, params: Params, x: Array) -> tuple[Array, Residual]:
        return self._run(params, x, {})[0], ()

    def statistics(self, params: Params, x: Array) -> Statistics:
        return self._run(params, x, {})[1]

    def infer(self, params: Params, running: Statistics, x: Array) -> Array:
        return self._run(params, x, running)[0]

    def _run(self, params: Params, x: Array, given: Statistics) -> tuple[Array, Statistics]:
        """F, normalised by the given statistics or by those of the batch, and the latter."""
        measured = {}
        y = self.conv1.forward(params["conv1"], x)
        y, measured["bn1"] = normalize(params.get("bn1"), y, given.get("bn1"))
        y = self.conv2.forward(params["conv2"], self.act(y))
        y, measured["bn2"] = normalize(params.get("bn2"), y, given.get("bn2"))
        if self.shortcut is not None:
            theta, bn = params["shortcut"], given.get("shortcut", {}).get("bn")
            x, bn = normalize(theta.get("bn"), self.shortcut.forward(theta, x), bn)
            measured["shortcut"] = {"bn": bn}
        return self.act(y + x), measured

    def feedback(self, params: Params, y: Array, residual: Residual) -> Array:
        del residual
        z = self.act(y)
        x = self.conv2.transpose(params["conv2"], normalize(params.get("bn2"), z)[0])
        x = self.conv1.transpose(params["conv1"], normalize(params.get("bn1"), self.act(x))[0])
        if self.shortcut is not None:
            omega = params["shortcut"]
            z = self.shortcut.transpose(omega, normalize(omega.get("bn"), z)[0])
        return x + z


def residual_stage(
    name: str,
    *,
    channels: int,
    strides: tuple[int, ...],
    activation: str = "relu",
    batch_norm: bool = False,
) -> BlockFactory:
    """Basic blocks in a row as one block of the chain; feedback: the inverted ones in reversed order.

    Args:
      strides: of each basic block.

    Returns:
      A factory of a block whose parameters are those of the basic blocks, below block_0, block_1, ...

    Raises:
      ValueError: one line; no strides, an option has a value that it cannot have, or (from the factory)
        the stage's input are no images.
    """
    fields.require(fields.NAME, name=name)
    strides = fields.checked("strides", strides, fields.SIZES)
    if not strides:
        raise ValueError(f"network: block {name} has strides (); allowed: one or more")
    factories = [
        basic_block(
            f"block_{i}",
            channels=channels,
            stride=stride,
            activation=activation,
            batch_norm=batch_norm,
        )
        for i, stride in enumerate(strides)
    ]
    plural = "s" if len(strides) > 1 else ""
    details = _details(max(strides), batch_norm)
    description = f"{len(strides)} basic block{plural}{details}, {activation}"

    def build(input_shape: Shape) -> Block:
        require_images(name, input_shape)
        maps = _StageMaps(chain(input_shape, factories))
        return Block(
            name,
            description,
            tuple(input_shape),
            maps.blocks[-1].output_shape,
            maps.init,
            maps.init_feedback,
            maps.forward,
            maps.feedback,
            forward_flops=sum(block.forward_flops for block in maps.blocks),
            statistics=maps.statistics if batch_norm else None,
            infer=maps.infer if batch_norm else None,
        )

    return build


class _StageMaps(NamedTuple):
    """The functions of a stage. Basic blocks do not pool, so there are no residuals."""

    blocks: tuple[Block, ...]

    def init(self, key: Array) -> Params:
        keys = jax.random.split(key, len(self.blocks))
        return {block.name: block.init(k) for block, k in zip(self.blocks, keys)}

    def init_feedback(self, key: Array) -> Params:
        keys = jax.random.split(key, len(self.blocks))
        return {block.name: block.init_feedback(k) for block, k in zip(self.blocks, keys)}

    def forward(self, params: Params, x: Array) -> tuple[Array, Residual]:
        for block in self.blocks:
            x, _ = block.forward(params[block.name], x)
        return x, ()

    def feedback(self, params: Params, y: Array, residual: Residual) -> Array:
        for block in reversed(self.blocks):
            y = block.feedback(params[block.name], y, residual)
        return y

    def statistics(self, params: Params, x: Array) -> Statistics:
        found = {}
        for block in self.blocks:
            found[block.name] = block.statistics(params[block.name], x)
            x, _ = block.forward(params[block.name], x)
        return found

    def infer(self, params: Params, running: Statistics, x: Array) -> Array:
        for block in self.blocks:
            x = block.infer(params[block.name], running[block.name], x)
        return x


def _details(stride: int, batch_norm: bool) -> str:
    return (f", stride {stride}" if stride > 1 else "") + (", batch norm" if batch_norm else "")
