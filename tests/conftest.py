"""Every test process: float64 at hand, eight virtual CPU devices, programs compiled quickly and once.

Most of the time of these tests goes into compiling. So XLA's optimisations are mostly off, its older and
quicker way to write kernels is on, and what is compiled is kept for other processes and later sessions.
Programs that tests start inherit that, and are the same as those in this process.
"""

import gc
import os
import signal
import tempfile
from pathlib import Path

import jax
import pytest
from xdist.scheduler import LoadScopeScheduling

from dtp_jax.run import backend, signals

COMPILED = Path(tempfile.gettempdir()) / f"dtp_jax-tests-{os.getuid()}"
"""Of this machine: a program of one CPU may not run on another one."""
QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
"""test_backprop_rule.py took 7.7 s of processor time with these two, and 18.8 s without."""
APART = ("test_matrix.py",)
"""Their tests share nothing. They come last, and fill what the others leave of the processes' time."""

gc.set_threshold(
    100_000, 20, 50
)  # a process keeps millions of objects, through which it goes again and again
jax.config.update("jax_enable_x64", True)
if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", 8)
# Before any device is there: XLA reads its flags once.
backend.set_flags(QUICK)
backend.set_flags()
for name, value in {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": str(COMPILED),
    "jax_persistent_cache_min_compile_time_secs": 0.05,
    "jax_compilation_cache_max_size": 2**31,  # bytes; older programs give way
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


# Under nohup and in the background of a script, signals are ignored; what tests start would inherit that.
for number in signals.STOPPING:
    if signal.getsignal(number) == signal.SIG_IGN:
        plain = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, plain)


class ByFile(LoadScopeScheduling):
    """A process has all tests of a file, which may share what was costly to make."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return nodeid if Path(file).name in APART else file


def pytest_xdist_make_scheduler(config, log):
    """Not xdist's loadgroup, which does nothing, and says nothing, beneath pytest 9.2."""
    return ByFile(config, log)


@pytest.fixture
def single_precision():
    """JAX as it comes: without float64."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def optimised():
    """XLA as users have it, for modules whose subject is what it makes of a program."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
