"""Fixtures for runs of the command line; for test modules that say `pytest_plugins = ["run_fixtures"]`."""

import data_files
import jax
import pytest
import slurm_stand_in
from launching import TINY, launch
from submitting import as_here


@pytest.fixture
def place(monkeypatch, tmp_path):
    """An empty current folder, and none of the data of whoever runs the tests."""
    data_files.isolate(monkeypatch, tmp_path)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def slurm(place, monkeypatch):
    """A stand-in for Slurm; the folder of its jobs. They compute with the same programs as this process."""
    as_here(monkeypatch, jax.device_count())
    folder = slurm_stand_in.install(place.parent / "slurm", monkeypatch)
    yield folder
    slurm_stand_in.clear(folder)


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """An uninterrupted run of two epochs, to compare others with, and its arguments."""
    args = (*TINY, "--config.epochs=2", "--config.checkpoint_every=7")
    workdir = tmp_path_factory.mktemp("reference") / "run"
    assert launch(f"--workdir={workdir}", *args).code == 0
    return workdir, args
