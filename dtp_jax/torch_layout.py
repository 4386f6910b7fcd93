"""The layout of the original PyTorch program: the names of its state dict, the order of its axes.

PyTorch puts channels first and flattens images in (channel, height, width) order; here both are the
other way round. Kernels are [out, in, kh, kw] or [out, in] there. A transposed convolution, whose
kernel is [in, out, kh, kw], has so the same array as the convolution that it mirrors.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dtp_jax.blocks import Network, Shape

SIDES = {
    "forward_net": "forward",
    "fwd": "forward",
    "forward": "forward",
    "feedback_net": "feedback",
    "backward_net": "feedback",
    "fb": "feedback",
    "feedback": "feedback",
}
WRAPPERS = ("model", "network", "net")
"""What a program may call the whole of the two networks; they stand first in a name."""
HIDDEN = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""DataParallel, `torch.compile`, FSDP and checkpointing wrap any module: they stand anywhere in a name."""
LAYERS = ("conv", "linear", "linear1")
"""Names of the one layer with parameters in a module; this project's names do without them."""
STATISTICS = {"running_mean": "mean", "running_var": "var"}
Trees = Mapping[str, Mapping[str, Any]]
"""Nested dicts of arrays below "forward", "feedback" and, with batch norm, "statistics"."""


class Place(NamedTuple):
    """Where a parameter belongs, and how PyTorch's array of it differs."""

    shape: Shape
    """In this project's layout."""
    transposed: bool
    """It is a matrix, which PyTorch holds the other way round."""
    plane: Shape
    """What one of its axes runs over: (H, W, C) where that was an image before it was flattened."""
    axis: int
    """That axis, counted from the end."""

    @property
    def torch_shape(self) -> Shape:
        """The shape of PyTorch's array."""
        if len(self.shape) == 4:
            return tuple(self.shape[i] for i in (3, 2, 0, 1))
        return self.shape[::-1] if self.transposed else self.shape


def is_torch(names: Mapping[str, Any]) -> bool:
    """Whether these are names of a state dict: PyTorch's kernels are called weight."""
    return any(re.split("[./]", name)[-1] == "weight" for name in names)


def translate(name: str, network: Network) -> str | None:
    """The parameter's name here: forward_net.layer_1.0.conv1.weight -> forward/layer_1/block_0/conv1/kernel.

    Returns:
      None for what has no use here: counters of batches, and running statistics of feedback maps. The
      name itself where it is none of the two networks'.
    """
    *path, leaf = re.split("[./]", name)
    own = {block.name for block in network}
    while path and path[0] in (*WRAPPERS, *HIDDEN):
        path = path[1:]
    path = [part for part in path if part not in HIDDEN or part in own]
    if len(path) < 2 or path[0] not in SIDES:
        return name
    side, block, *modules = path
    side = SIDES[side]
    if leaf == "num_batches_tracked" or (side == "feedback" and leaf in STATISTICS):
        return None
    if leaf in STATISTICS:
        side, leaf = "statistics", STATISTICS[leaf]
    elif leaf == "weight":
        leaf = "scale" if modules and modules[-1].startswith("bn") else "kernel"
    if modules and f"{block}_{modules[0]}" in {b.name for b in network}:  # stages that are split
        block, *modules = f"{block}_{modules[0]}", *modules[1:]
    layers = [f"block_{m}" if m.isdigit() else m for m in modules if m not in LAYERS]
    return "/".join([side, block, *layers, leaf])


def named(trees: Trees) -> dict[str, Any]:
    """The leaves of nested dicts by name: side/block/.../parameter."""
    return {
        "/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(trees)
    }


def places(network: Network, trees: Trees) -> dict[str, Place]:
    """Every parameter of a network by name.

    Args:
      trees: parameters, or their shapes, by side and block name. Feedback maps may mirror the blocks,
        or lead from the logits to the output of the hidden blocks, as those of DRL do.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in named(trees).items()}
    is_direct = network[-1].name not in trees["feedback"]
    blocks = {block.name: block for block in network}
    found = {}
    for name, shape in shapes.items():
        side, block = name.split("/")[:2]
        is_kernel = len(shape) == 2
        inputs, outputs = blocks[block].input_shape, blocks[block].output_shape
        if len(shapes.get(f"{name.rpartition('/')[0]}/kernel", ())) != 2:
            found[name] = Place(shape, False, (), -1)
        elif side == "forward":
            found[name] = Place(shape, is_kernel, inputs if is_kernel else (), -2)
        elif is_direct:
            found[name] = Place(shape, is_kernel, outputs, -1)
        else:
            found[name] = Place(shape, False, inputs, -len(shape))
    return found


def from_torch(a: np.ndarray, place: Place) -> np.ndarray:
    """PyTorch's array, of shape (..., *place.torch_shape), as (..., *place.shape)."""
    if len(place.shape) == 4:
        return np.moveaxis(a, (-4, -3, -2, -1), (-1, -2, -4, -3))
    if place.transposed:
        a = a.swapaxes(-1, -2)
    return _channels_last(a, place.plane, place.axis) if len(place.plane) == 3 else a


def _channels_last(a: np.ndarray, shape: Shape, axis: int) -> np.ndarray:
    """Reorders an axis over a flattened (C, H, W) image; `shape` is (H, W, C), before any pooling to a square."""
    (height, width, channels), size = shape, a.shape[axis]
    if size != math.prod(shape):
        height = width = math.isqrt(size // channels)
    order = np.arange(size).reshape(channels, height, width).transpose(1, 2, 0)
    return np.take(a, order.ravel(), axis=axis)
