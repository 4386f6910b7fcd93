"""Fixtures for runs of the command line; for test modules that say `pytest_plugins = ["run_fixtures"]`."""

import data_files
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from launching import TINY, launch


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory):
    """Runs of the same program, here or in another process, are compiled once: most of their time."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def place(compiled_once, monkeypatch, tmp_path):
    """An empty current folder, and none of the data of whoever runs the tests."""
    data_files.isolate(monkeypatch, tmp_path)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def reference(compiled_once, tmp_path_factory):
    """An uninterrupted run of two epochs, to compare others with, and its arguments."""
    args = (*TINY, "--config.epochs=2", "--config.checkpoint_every=7")
    workdir = tmp_path_factory.mktemp("reference") / "run"
    assert launch(f"--workdir={workdir}", *args).code == 0
    return workdir, args
