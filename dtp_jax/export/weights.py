"""Files of weights: written as safetensors, read from safetensors or .npz, never from pickles.

A file of this project names its arrays forward/conv_0/kernel, feedback/fc/bias and so on. State dicts
of the original PyTorch program are read too, see `dtp_jax.torch_layout`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save

from dtp_jax import broken, torch_layout
from dtp_jax.blocks import Network
from dtp_jax.run.files import replacing
from dtp_jax.torch_layout import Place, Trees

FORMAT = {"format": "dtp_jax"}
"""In the metadata of a file whose arrays have this project's names, whatever these are."""
SHOWN = 3
"""At most so many names in a message."""


class WeightsError(Exception):
    """The file cannot be used: what is wrong with which parameter. One line, for the user."""


class Weights(NamedTuple):
    """The content of a file: arrays by the names they have there, and strings about them."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def write(file: Path, trees: Trees, metadata: Mapping[str, str]) -> int:
    """Writes a safetensors file, all or nothing.

    Returns:
      The number of arrays.

    Raises:
      WeightsError: the file system refuses.
    """
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in torch_layout.named(trees).items()}
    content = save(arrays, dict(metadata))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as opened:
            opened.write(content)
    except OSError as error:
        raise WeightsError(f"{file} cannot be written: {broken.first_line(error)}") from error
    return len(arrays)


def read(file: Path) -> Weights:
    """Reads a .safetensors or .npz file.

    Raises:
      WeightsError: it is missing, damaged, or of another kind.
    """
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    if file.suffix not in readers:
        raise WeightsError(
            f"{file} is no .safetensors or .npz file; allowed: these two, for pickles such as PyTorch's "
            "own files can run any program (safetensors.torch.save_file writes a state dict)"
        )
    if not os.path.exists(file):
        raise WeightsError(f"{file} does not exist")
    with broken.reading(lambda problem: WeightsError(f"{file} cannot be read: {problem}")):
        try:
            return readers[file.suffix](file)
        except safetensors.SafetensorError as error:
            raise ValueError(str(error)) from error


def match(network: Network, trees: Trees, weights: Weights) -> dict[str, Any]:
    """Finds every parameter of a network in a file.

    Args:
      trees: the shapes of the parameters, by side and block name.

    Returns:
      Such trees of arrays, in this project's layout, with the precision that they have in the file.

    Raises:
      WeightsError: a parameter is missing, has a wrong shape or values, or belongs nowhere.
    """
    places = torch_layout.places(network, trees)
    is_ours = FORMAT.items() <= weights.metadata.items()
    is_torch = not is_ours and torch_layout.is_torch(weights.arrays)
    origins = _origins(network, places, weights, is_torch)
    missing = [name for name in places if name not in origins]
    if missing:
        raise WeightsError(f"missing: {_listed(missing)}; the file holds {_listed(weights.arrays)}")
    result = {side: {} for side in trees}
    for name, place in places.items():
        *path, leaf = name.split("/")
        node = result
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = _checked(origins[name], weights.arrays[origins[name]], place, is_torch)
    return result


def _origins(
    network: Network, places: Mapping[str, Place], weights: Weights, is_torch: bool
) -> dict[str, str]:
    """Name of the parameter -> its name in the file; every name of the file must have a use."""
    origins, unknown, first = {}, [], f"feedback/{network[0].name}/"
    for given in weights.arrays:
        name = torch_layout.translate(given, network) if is_torch else given
        if name in origins:
            raise WeightsError(f"{origins[name]} and {given} are the same parameter, {name}")
        if name in places:
            origins[name] = given
        # The original has a feedback map of the first block too, which leads nowhere.
        elif name is not None and not (is_torch and name.startswith(first)):
            unknown.append(given)
    if unknown:
        raise WeightsError(
            f"unknown: {_listed(unknown)}; allowed: the parameters of this config, {_listed(places)}"
        )
    return origins


def _checked(given: str, a: np.ndarray, place: Place, is_torch: bool) -> np.ndarray:
    """The array in this project's layout, if it is one of finite numbers and of the right shape."""
    expected = place.torch_shape if is_torch else place.shape
    if a.shape != expected:
        raise WeightsError(f"{given} has shape {a.shape}, expected {expected}")
    if not jnp.issubdtype(a.dtype, jnp.floating):  # numpy does not know bfloat16
        raise WeightsError(f"{given} is {a.dtype}, expected floating-point numbers")
    if not np.isfinite(a).all():
        raise WeightsError(f"{given} holds numbers that are not finite")
    return torch_layout.from_torch(a, place) if is_torch else a


def _read_safetensors(file: Path) -> Weights:
    with safetensors.safe_open(file, framework="np") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return Weights(arrays, opened.metadata() or {})


def _read_npz(file: Path) -> Weights:
    return Weights(broken.npz_arrays(file), {})


def _listed(names) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
