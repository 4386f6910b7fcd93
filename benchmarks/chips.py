"""Chips that are not at hand, described so that their compilers work all the same."""

import importlib.util
import math
import os
from typing import Any, NamedTuple

GPU_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""An H100 SXM as XLA asks a device for it."""


class Chip(NamedTuple):
    """Published figures of a chip; all that is assumed here."""

    platform: str
    """As JAX names it."""
    peaks: dict[str, float]
    """FLOP/s without sparsity, by `precision`."""
    bandwidth: float
    """Bytes a second, of its memory."""
    memory: float
    """Bytes."""
    source: str
    clock: float = 0.0
    """Hz: what the cycles of a TPU's compiler are turned into seconds with."""
    launch: float = 0.0
    """Seconds from one kernel to the next, at least."""
    host: str = ""
    """What TPU_ACCELERATOR_TYPE is."""


CHIPS = {
    "tpu-v5e": Chip(
        "tpu",
        {"bfloat16": 197e12, "tf32": 197e12 / 3, "float32": 197e12 / 6},
        819e9,
        16e9,
        "Cloud TPU v5e page; three and six passes of bfloat16 for tf32 and float32; 4 units of 128 x 128 make "
        "the peak at 1.5 GHz",
        clock=1.5e9,
        host="v5litepod-4",
    ),
    "tpu-v6e": Chip(
        "tpu",
        {"bfloat16": 918e12, "tf32": 918e12 / 3, "float32": 918e12 / 6},
        1640e9,
        32e9,
        "Cloud TPU v6e page; three and six passes of bfloat16 for tf32 and float32; 4 units of 256 x 256 make "
        "the peak at 1.75 GHz",
        clock=1.75e9,
        host="v6e-4",
    ),
    "h100": Chip(
        "gpu",
        {"bfloat16": 989e12, "tf32": 495e12, "float32": 67e12},
        3352e9,
        80e9,
        "NVIDIA H100 datasheet, SXM; 4 us from kernel to kernel are a guess",
        launch=4e-6,
    ),
}
NEEDS = {
    "tpu": ("libtpu", 'pip install "dtp-jax[compiled]"', "libtpu, 0.7 GB"),
    "gpu": ("jax_cuda13_plugin", 'pip install "dtp-jax[cuda]"', "CUDA, 4 GB"),
}
"""By platform: a module, what installs it, what that is."""
GRIDS = {1: "2x2", 2: "2x2", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 256: "16x16"}
"""By number of chips, the smallest slice of a TPU pod that has them."""
GPUS_PER_NODE = 8


def require(chip: Chip) -> None:
    """Raises ValueError, one line, where the chip's compiler is not installed."""
    module, command, what = NEEDS[chip.platform]
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"the compiler of this chip is not here ({what}); {command} brings it")


def prepare(chip: Chip) -> None:
    """To be called before JAX asks for a device: none is looked for, the compiler is loaded all the same."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if chip.platform == "tpu":
        os.environ |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": chip.host,
            "TPU_WORKER_HOSTNAMES": "localhost",
        }
        return
    # Without the device no algorithm of a product can be timed.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "XLA_FLAGS": f"--xla_gpu_autotune_level=0 {flags}".strip(),
    }


def devices(name: str, count: int) -> list[Any]:
    """So many devices of a chip, which can be compiled for and no more.

    Raises:
      ValueError: one line; there is no such number of them.
    """
    from jax.experimental import topologies

    chip = CHIPS[name]
    if chip.platform == "tpu":
        if count not in GRIDS:
            raise ValueError(f"the mesh has {count} chips; allowed: {', '.join(map(str, GRIDS))}")
        grid = f"{name.removeprefix('tpu-')}:{GRIDS[count]}"
        return list(topologies.get_topology_desc(grid, platform="tpu").devices)[:count]
    nodes = math.ceil(count / GPUS_PER_NODE)
    if count % nodes:
        raise ValueError(f"the mesh has {count} chips; allowed: 1 to 8, or a multiple of 8")
    return list(
        topologies.get_topology_desc(
            name, platform="cuda", target_config=GPU_H100, topology=f"1x{nodes}x{count // nodes}"
        ).devices
    )
