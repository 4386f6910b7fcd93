"""Writes small runs of every kind with the launch.py of a checkout, and packs them for tests/test_formats.py.

    PYTHONPATH=. python tests/record_old_runs.py CHECKOUT tests/old_runs/NAME

To be run once for every format, with the last checkout that writes it. Everything is recorded with the flags
of these tests (`conftest.py`), so that the bits are those that they compute.
"""

import gzip
import json
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from pathlib import Path

import jax

TINY = ("--config.batch_size=32", "--config.keep_checkpoints=1", "--config.t_max=2")
KINDS = {
    "ldrl": (
        "--config=configs/digits_dtp.py",
        *TINY,
        "--config.channels=4,8",
        "--config.feedback_iterations=2",
        "--config.checkpoint_every=7",
        "--config.epochs=2",
    ),
    "parallel": (  # Adam on both sides, and an epoch of feedback training alone
        "--config=configs/digits_dtp.py",
        *TINY,
        "--config.channels=4,8",
        "--config.feedback_iterations=1",
        "--config.feedback_samples=2",
        "--config.feedback_optimizer=adam",
        "--config.feedback_lr=0.001",
        "--config.forward_optimizer=adam",
        "--config.forward_lr=0.001",
        "--config.train_images=640",
        "--config.checkpoint_every=7",
        "--config.pretrain_epochs=1",
        "--config.epochs=1",
    ),
    "norm": (  # running statistics
        "--config=configs/digits_backprop.py",
        *TINY,
        "--config.network=resnet18",
        "--config.channels=4,4",
        "--config.batch_norm=True",
        "--config.train_images=320",
        "--config.checkpoint_every=3",
        "--config.epochs=2",
    ),
}


def main(checkout: Path, out: Path) -> None:
    import conftest  # noqa: F401

    checkout, out = checkout.absolute(), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("configs").symlink_to(checkout / "configs")
        for kind, args in KINDS.items():
            launch(checkout, f"--workdir={kind}-finished", *args)
            interrupt(checkout, Path(f"{kind}-unfinished"), *args)
        tool(checkout, "export", "ldrl-finished", "ldrl.safetensors")
        tool(checkout, "export", "--to-workdir", "ldrl-imported", "ldrl.safetensors")
        names = [f"{kind}-{state}" for kind in KINDS for state in ("finished", "unfinished")]
        for name in [*names, "ldrl-imported", "ldrl.safetensors"]:
            pack(Path(name), out / f"{name}.tar.gz")
    (out / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


def machine() -> dict[str, str]:
    """What the bits of a run depend on: the compiler and the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return {
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "processor": f"{platform.machine()} {zlib.crc32(chr(10).join(cpu).encode()):08x}",
    }


def environment(checkout: Path) -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": str(checkout),
    }


def launch(checkout: Path, *args: str) -> None:
    command = [sys.executable, str(checkout / "launch.py"), *args]
    subprocess.run(command, env=environment(checkout), check=True)


def tool(checkout: Path, name: str, *args: str) -> None:
    command = [sys.executable, "-m", f"dtp_jax.{name}", *args]
    subprocess.run(command, env=environment(checkout), check=True)


def interrupt(checkout: Path, workdir: Path, *args: str) -> None:
    """A run that is stopped by a signal after its first checkpoint."""
    command = [sys.executable, str(checkout / "launch.py"), f"--workdir={workdir}", *args]
    process = subprocess.Popen(command, env=environment(checkout))
    while not list(workdir.glob("checkpoints/*/checksums.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if process.wait() != 128 + signal.SIGTERM:
        raise SystemExit(f"{workdir}: it was not stopped in time")


def pack(path: Path, file: Path) -> None:
    """The same bytes for the same files; pictures of TensorBoard are left out."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return None if "/tensorboard" in info.name else info

    with (
        file.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        tar.add(path, path.name, filter=plain)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
