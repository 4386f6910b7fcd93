"""Opening a recorded case: its network, its parameters and its arrays in this project's layout.

The layout of the files is described in tests/golden/README.md. PyTorch puts channels first, and
flattens images in (channel, height, width) order; here both are the other way round.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from dtp_jax.blocks import Block, MaxPool, Network, Shape, chain, conv_block, dense_block

SUPPORTED_RULES = ("ldrl",)


class ParityError(Exception):
    """The file is no case that this program can replay."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A recorded case. Arrays keep their recorded layout until one of the methods converts them."""

    path: str
    arrays: Mapping[str, np.ndarray]
    network: Network
    modules: Mapping[str, str]
    """Block name -> path of its parameters below `fwd/` and `fb/`."""
    pools: Mapping[str, MaxPool]
    """By name of the blocks that pool."""
    batches: int

    def parameters(self, side: str, dtype: Any) -> dict[str, dict[str, np.ndarray]]:
        """Initial parameters by block name; side is "fwd" or "fb".

        The feedback parameters of the first block are left out: they are recorded, but never used.
        """
        result = {}
        for block in self.network[1:] if side == "fb" else self.network:
            path = f"{side}/{self.modules[block.name]}"
            torch_names = {"kernel": f"{path}/weight"}
            if f"{path}/bias" in self.arrays:
                torch_names["bias"] = f"{path}/bias"
            result[block.name] = {
                name: self.parameter(self.arrays[key], block, side).astype(dtype)
                for name, key in torch_names.items()
            }
        return result

    def parameter(self, a: np.ndarray, block: Block, side: str) -> np.ndarray:
        """A weight, bias or gradient of them, with any leading axes, in this project's layout.

        Both kernels of a block get the forward layout: (k, k, in, out) or (in, out).
        """
        is_image, is_weight = len(block.output_shape) == 3, _is_weight(a, block, side)
        if not is_weight:
            return _hwc_order(a, block.input_shape, axis=-1) if side == "fb" and not is_image else a
        if is_image:  # [out, in, kh, kw], of the transposed convolution too
            return np.moveaxis(a, (-4, -3, -2, -1), (-1, -2, -4, -3))
        if side == "fwd":  # [out, in]
            a = a.swapaxes(-1, -2)
        return _hwc_order(a, block.input_shape, axis=-2)

    def images(self, a: np.ndarray, shape: Shape) -> np.ndarray:
        """(..., C, H, W) -> (..., H, W, C) where `shape` (without batch) is that of an image."""
        return np.moveaxis(a, -3, -1) if len(shape) == 3 else a


def _is_weight(a: np.ndarray, block: Block, side: str) -> bool:
    """Told by the trailing shape, since gradients carry a leading axis of iterations."""
    if len(block.output_shape) == 3:
        return a.ndim >= 4
    inputs, outputs = int(np.prod(block.input_shape)), block.output_shape[0]
    return a.shape[-2:] == ((inputs, outputs) if side == "fb" else (outputs, inputs))


def _hwc_order(a: np.ndarray, shape: Shape, axis: int) -> np.ndarray:
    """Reorders an axis that runs over a flattened image of the given (H, W, C) shape."""
    if len(shape) != 3:
        return a
    height, width, channels = shape
    order = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0)
    return np.take(a, order.ravel(), axis=axis)


def open_case(path: str) -> Case:
    """Reads a file.

    Raises:
      ParityError: it cannot be read, or holds a rule or block that is not supported.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        spec = json.loads(str(arrays["meta/spec"]))
        if spec["rule"] not in SUPPORTED_RULES:
            raise ParityError(
                f"rule {spec['rule']!r} is not supported; allowed: {', '.join(SUPPORTED_RULES)}"
            )
        return Case(
            path,
            arrays,
            network_from_spec(spec),
            batches=spec["n_batches"],
            modules={b["name"]: b["module"] for b in spec["blocks"]},
            pools={b["name"]: _max_pool(b["pool"]) for b in spec["blocks"] if b.get("pool")},
        )
    except ParityError as error:
        raise ParityError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ParityError(f"{path}: not a recorded case: {problem}") from error


def network_from_spec(spec: dict[str, Any]) -> Network:
    """Builds the network that `meta/spec` describes.

    Raises:
      ParityError: a kind of block that is not supported.
    """
    channels, height, width = spec["input_shape"]
    factories = []
    for b in spec["blocks"]:
        pool, activation = b.get("pool"), b.get("activation") or "linear"
        if b["kind"] == "conv" and (pool is None or pool["kind"] == "max"):
            factories.append(
                conv_block(
                    b["name"],
                    channels=b["features"],
                    window=b["kernel"],
                    stride=b["stride"],
                    padding=b["padding"],
                    activation=activation,
                    bias=b["bias"],
                    pool=pool and _max_pool(pool),
                )
            )
        elif b["kind"] == "dense" and pool is None:
            factories.append(
                dense_block(
                    b["name"], features=b["features"], activation=activation, bias=b["bias"]
                )
            )
        else:
            raise ParityError(
                f"block {b['name']}: {b['kind']} with pool {pool} is not supported; "
                "allowed: conv with max-pooling or none, dense without pooling"
            )
    return chain((height, width, channels), factories)


def _max_pool(pool: dict[str, Any]) -> MaxPool:
    return MaxPool(pool["kernel"], pool["stride"], pool["padding"])
