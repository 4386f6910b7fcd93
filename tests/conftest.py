"""Every test process: float64 at hand, and eight virtual CPU devices.

Set through jax.config, not through the environment, so that programs which tests start are left
as a user would find them. XLA's flags are those of every program of this project.
"""

import os

import jax
import pytest

from dtp_jax.run import backend

jax.config.update("jax_enable_x64", True)
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", 8)
# Before any device is there, so that a run in this process and one in its own are the same program.
backend.set_flags()


@pytest.fixture
def single_precision():
    """JAX as it comes: without float64."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def quick_compiler():
    """XLA with most optimisations off: half the time for modules that compile tiny programs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
