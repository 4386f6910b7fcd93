"""Opening a recorded case: its network, its parameters and its arrays in this project's layout.

The layout of the files is described in tests/golden/README.md. PyTorch puts channels first, and
flattens images in (channel, height, width) order; here both are the other way round.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dtp_jax import broken
from dtp_jax.blocks import (
    AdaptiveAveragePool,
    BlockFactory,
    MaxPool,
    Network,
    Shape,
    chain,
    conv_block,
    dense_block,
    init_forward,
    mirror_feedback,
    residual_stage,
)
from dtp_jax.rules.drl import direct_feedback
from dtp_jax.torch_layout import Place, from_torch, places

SUPPORTED_RULES = ("ldrl", "parallel_ldrl", "dtp", "tp", "drl")
SIDES = {"fwd": "forward", "fb": "feedback"}


class ParityError(Exception):
    """The file is no case that this program can replay."""


class ParamPath(NamedTuple):
    """Where this project keeps the parameters of a recorded module."""

    block: str
    keys: tuple[str, ...] = ()
    """Inside the parameters of the block: ("block_0", "conv1"), or () for a plain block."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A recorded case. Arrays keep their recorded layout until one of the methods converts them."""

    path: str
    rule: str
    """One of SUPPORTED_RULES."""
    arrays: Mapping[str, np.ndarray]
    network: Network
    layers: Mapping[str, ParamPath]
    """By path of the recorded module, as below `fwd/` and `fb/`: layer_1/0/conv1."""
    places: Mapping[str, Place]
    """Every parameter by its name in this project: forward/layer_1/block_0/conv1/kernel."""
    pools: Mapping[str, MaxPool]
    """By name of the blocks that pool."""
    batches: int

    @property
    def hyper_parameters(self) -> dict[str, np.ndarray]:
        """By name, without `hp/`."""
        return {k.removeprefix("hp/"): a for k, a in self.arrays.items() if k.startswith("hp/")}

    def parameters(self, side: str, dtype: Any) -> dict[str, dict[str, Any]]:
        """Initial parameters by block name; side is "fwd" or "fb".

        Feedback parameters that no rule uses, those of the first mirrored block, are left out.

        Raises:
          KeyError: an array is missing. ParityError: one has another shape than the network says.
        """
        result: dict[str, dict[str, Any]] = {}
        modules = {path: module for module, path in self.layers.items()}
        for name, place in self.places.items():
            of, block, *keys, leaf = name.split("/")
            if of != SIDES[side]:
                continue
            key = f"{side}/{modules[ParamPath(block, tuple(keys))]}/{_torch_leaf(leaf)}"
            a = self.arrays[key]
            if a.shape != place.torch_shape:
                raise ParityError(f"{key} has shape {a.shape}; allowed: {place.torch_shape}")
            tree = result.setdefault(block, {})
            for k in keys:
                tree = tree.setdefault(k, {})
            tree[leaf] = from_torch(a, place).astype(dtype)
        return result

    def converted(self, a: np.ndarray, path: str, side: str) -> np.ndarray:
        """A parameter or a gradient of it, with any leading axes, in this project's layout.

        Both kernels of a block get the forward layout: (k, k, in, out) or (in, out).

        Args:
          path: its recorded name, layer_1/0/conv1/weight.
        """
        module, _, leaf = path.rpartition("/")
        block, keys = self.layers[module]
        name = "/".join((SIDES[side], block, *keys, "kernel" if leaf == "weight" else leaf))
        return from_torch(a, self.places[name])

    def is_parameter(self, path: str) -> bool:
        """Whether this recorded name is that of a parameter."""
        return path.rpartition("/")[0] in self.layers

    def block_of(self, path: str) -> str | None:
        """Name of the block that a recorded name belongs to: its own, of a module or of a parameter."""
        if any(path == block.name for block in self.network):
            return path
        module = path if path in self.layers else path.rpartition("/")[0]
        return self.layers[module].block if module in self.layers else None

    def named(self, kind: str, tree: Mapping[str, Any]) -> dict[str, Any]:
        """A tree by block name, of the structure of the parameters, under recorded names: kind/path/weight."""
        modules = {path: module for module, path in self.layers.items()}
        result = {}
        for path, leaf in jax.tree.leaves_with_path(tree):
            block, *keys, name = (key.key for key in path)
            module = modules[ParamPath(block, tuple(keys))]
            result[f"{kind}/{module}/{_torch_leaf(name)}"] = leaf
        return result

    def named_kernels(self, kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """What `metrics.weight_alignment` returns, under recorded names: kind/path."""
        modules = {"/".join((block, *keys)): m for m, (block, keys) in self.layers.items()}
        return {f"{kind}/{modules[name]}": value for name, value in found.items()}

    def images(self, a: np.ndarray, shape: Shape) -> np.ndarray:
        """(..., C, H, W) -> (..., H, W, C) where `shape` (without batch) is that of an image."""
        return np.moveaxis(a, -3, -1) if len(shape) == 3 else a


def _torch_leaf(name: str) -> str:
    return "weight" if name == "kernel" else name


def open_case(path: str) -> Case:
    """Reads a file.

    Raises:
      ParityError: it cannot be read, or holds a rule or block that is not supported.
    """
    try:
        with broken.reading(lambda problem: ParityError(f"not a recorded case: {problem}")):
            return _case(path, broken.npz_arrays(Path(path)))
    except ParityError as error:
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        problem = "does not exist; allowed: a recorded case, .npz" if is_missing else error
        raise ParityError(f"{path}: {problem}") from error


def _case(path: str, arrays: Mapping[str, np.ndarray]) -> Case:
    if "meta/spec" not in arrays:
        raise ParityError(
            "holds no run of the original; allowed: a case with meta/spec, as `make parity` replays"
        )
    spec = json.loads(str(arrays["meta/spec"]))
    if spec["rule"] not in SUPPORTED_RULES:
        raise ParityError(
            f"rule {spec['rule']!r} is not supported; allowed: {', '.join(SUPPORTED_RULES)}"
        )
    network = network_from_spec(spec, arrays)
    return Case(
        path,
        spec["rule"],
        arrays,
        network,
        layers=_layers(spec),
        places=_places(network, direct=spec["rule"] == "drl"),
        pools={
            b["name"]: _max_pool(b["pool"])
            for b in spec["blocks"]
            if b["kind"] == "conv" and b.get("pool")
        },
        batches=spec["n_batches"],
    )


def _layers(spec: dict[str, Any]) -> dict[str, ParamPath]:
    found = {}
    for b in spec["blocks"]:
        if b["kind"] != "residual_stage":
            found[b["module"]] = ParamPath(b["name"])
            continue
        for i, basic in enumerate(b["blocks"]):
            for layer in ("conv1", "conv2", "shortcut"):
                if basic[layer] is not None:
                    found[basic[layer]] = ParamPath(b["name"], (f"block_{i}", layer))
    return found


def _places(network: Network, *, direct: bool) -> dict[str, Place]:
    """Args: direct: feedback maps lead from the logits to every hidden block, as DRL's do."""
    key, init_feedback = jax.random.key(0), direct_feedback if direct else mirror_feedback
    return places(
        network,
        {
            "forward": jax.eval_shape(lambda key: init_forward(network, key), key),
            "feedback": jax.eval_shape(lambda key: init_feedback(network, key), key),
        },
    )


def network_from_spec(spec: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Network:
    """Builds the network that `meta/spec` describes; channels of residual stages are read off the arrays.

    Raises:
      ParityError: a kind of block that is not supported.
    """
    channels, height, width = spec["input_shape"]
    return chain((height, width, channels), [_block(b, arrays) for b in spec["blocks"]])


def _block(b: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> BlockFactory:
    pool, activation = b.get("pool"), b.get("activation") or "linear"
    match b["kind"], pool and pool["kind"]:
        case "conv", None | "max":
            return conv_block(
                b["name"],
                channels=b["features"],
                window=b["kernel"],
                stride=b["stride"],
                padding=b["padding"],
                activation=activation,
                bias=b["bias"],
                pool=pool and _max_pool(pool),
            )
        case "dense", None | "adaptive_avg":
            return dense_block(
                b["name"],
                features=b["features"],
                activation=activation,
                pool=pool and AdaptiveAveragePool(pool["size"]),
                bias=b["bias"],
            )
        case "residual_stage", None:
            return _stage(b, arrays)
    raise ParityError(
        f"block {b['name']}: {b['kind']} with pool {pool} is not supported; allowed: conv with "
        "max-pooling or none, dense with adaptive_avg pooling or none, residual_stage without"
    )


def _stage(b: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> BlockFactory:
    activations = {basic["activation"] for basic in b["blocks"]}
    if len(activations) != 1 or any(basic["batch_norm"] for basic in b["blocks"]):
        raise ParityError(
            f"block {b['name']}: allowed: basic blocks with one activation and no batch norm"
        )
    return residual_stage(
        b["name"],
        channels=arrays[f"fwd/{b['blocks'][0]['conv1']}/weight"].shape[0],
        strides=tuple(basic["stride"] for basic in b["blocks"]),
        activation=activations.pop(),
    )


def _max_pool(pool: dict[str, Any]) -> MaxPool:
    return MaxPool(pool["kernel"], pool["stride"], pool["padding"])
