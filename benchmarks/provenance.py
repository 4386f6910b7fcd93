"""Where a measured number comes from."""

import datetime
import os
import platform
import sys
from pathlib import Path

import jax

from dtp_jax.run.provenance import commit


def provenance(benchmark: str) -> dict[str, str | None]:
    """Command, date, hardware and commit, for the JSON of `python -m benchmarks.<benchmark>`."""
    return {
        "command": " ".join([f"python -m benchmarks.{benchmark}", *sys.argv[1:]]),
        "date": str(datetime.date.today()),
        "hardware": hardware(),
        "commit": commit(),
    }


def hardware() -> str:
    """Device and processor, in words."""
    device = jax.devices()[0]
    return processor() if device.platform == "cpu" else device.device_kind


def processor() -> str:
    """The CPU and how many cores of it this process may use, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        model = platform.processor()
    has_affinity = hasattr(os, "sched_getaffinity")  # not everywhere
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    return f"{model}, {cores} core{'' if cores == 1 else 's'}"
