"""The GPUs of this machine, as CUDA names them. JAX is not asked: it would take their memory."""

import contextlib
import itertools
import shutil
import subprocess
from collections.abc import Mapping

GPUS = "CUDA_VISIBLE_DEVICES"
PATIENCE_SECONDS = 30


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The names of those that may be used; []: none, or none that answers."""
    if GPUS in environment:
        names = [name.strip() for name in environment[GPUS].split(",") if name.strip()]
        # CUDA reads up to the first that is none, by habit -1.
        return list(itertools.takewhile(lambda name: not name.startswith("-"), names))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = [tool, "--list-gpus"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
        return [str(number) for number in range(len(lines))]
    return []
