"""The wheel, in an environment without a checkout; and what the command `dtp` says."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import GOLDEN, REPOSITORY
from launching import TINY, rows

from dtp_jax import __main__
from dtp_jax.version import __version__

pytest_plugins = ["run_fixtures"]


class Installed(NamedTuple):
    """A fresh environment with the wheel in it, and an empty folder to work in."""

    wheel: Path
    bin: Path
    folder: Path

    def run(self, *args, code=0, quickly=True):
        """A command of the environment; what it prints.

        Args:
          quickly: with the compiler of the tests; else as a user has it.
        """
        done = subprocess.run(
            [self.bin / args[0], *map(str, args[1:])],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment(quickly),
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def environment(self, quickly):
        """Nothing of the checkout."""
        others = ("PYTHONPATH", "VIRTUAL_ENV", *([] if quickly else ["XLA_FLAGS"]))
        mine = {k: v for k, v in os.environ.items() if k not in others}
        if not quickly:
            mine = {k: v for k, v in mine.items() if not k.startswith("JAX_")}
        return {**mine, "JAX_PLATFORMS": "cpu", "DTP_JAX_CACHE": str(self.folder / "cache")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout; dependencies are those of this process."""
    base = tmp_path_factory.mktemp("package")
    source, env, folder = base / "source", base / "env", base / "empty"
    folder.mkdir()
    shutil.copytree(
        REPOSITORY / "dtp_jax", source / "dtp_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", base, source], check=True)
    (wheel,) = base.glob("dtp_jax-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    subprocess.run(
        [*pip, "--python", env / "bin" / "python", "install", "--no-deps", wheel], check=True
    )
    (site,) = (env / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return Installed(wheel, env / "bin", folder)


def test_what_is_in_the_wheel(installed):
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    configs = {path.name for path in (REPOSITORY / "configs").glob("*.py")}
    assert {f"dtp_jax/configs/{name}" for name in configs} <= names
    assert "dtp_jax/__init__.pyi" in names
    assert {f"dtp_jax/report/templates/report.{kind}" for kind in ("html", "css")} <= names
    assert all(name.startswith(("dtp_jax/", "dtp_jax-")) for name in names)


def test_it_is_not_the_checkout_that_runs(installed):
    where = installed.run("python", "-c", "import dtp_jax; print(dtp_jax.__file__)")
    assert Path(where.strip()).is_relative_to(installed.bin.parent)


def test_train_resume_and_export(installed):
    shown = installed.run(
        "dtp", "train", "--workdir=w", *TINY, "--config.max_steps=2", quickly=False
    )
    assert shown.startswith(f"dtp-jax {__version__}: starting JAX\n") and "test_accuracy" in shown
    assert "going on from step 2 of 3" in installed.run(
        "dtp", "train", "--workdir=w", "--config.max_steps=3"
    )
    assert len(rows(installed.folder / "w", "train")) == 3
    origin = json.loads((installed.folder / "w" / "config.json").read_text())["provenance"]
    assert origin["commit"] is None and origin["config"] == "digits_dtp"
    assert origin["command"].startswith("dtp train --workdir=w --config.channels=4,8")
    assert "arrays of w, step 3" in installed.run("dtp", "export", "w", "out.safetensors")
    assert (installed.folder / "out.safetensors").stat().st_size > 1000


@pytest.mark.slow
def test_compare(installed):
    shown = installed.run(
        *("dtp", "compare", "--configs=digits_dtp,digits_backprop", "--seeds=1"),
        *("--workdir=c", *TINY, "--config.max_steps=1", "--config.epochs=1"),
    )
    assert "digits_backprop" in shown
    assert "dtp compare --configs=" in (installed.folder / "c" / "comparison.md").read_text()
    assert (installed.folder / "c" / "comparison.png").exists()
    assert "c/report.html: " in installed.run("dtp", "report", "c", "--no-predictions")
    page = (installed.folder / "c" / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and "validation accuracy" in page


@pytest.mark.slow
def test_parity(installed):
    shown = installed.run("dtp", "parity", GOLDEN / "symmetric_init.npz")
    assert "every quantity within its tolerance" in shown


def test_the_same_command_by_its_module(installed):
    assert installed.run("python", "-m", "dtp_jax", "--version") == f"dtp_jax {__version__}\n"
    for args in (("dtp", "--help"), ("python", "-m", "dtp_jax")):
        shown = installed.run(*args)
        assert all(f"dtp {tool}" in shown for tool in __main__.TOOLS)
    for tool in __main__.TOOLS:
        assert f"dtp {tool}" in installed.run("dtp", tool, "--help")
    installed.run("dtp", "trian", code=2)


FIRST_WORDS = """
import io, sys
from dtp_jax import __main__

class Listening(io.StringIO):
    def write(self, text):
        seen.append((text, {"jax", "numpy", "rich"} & set(sys.modules)))
        return len(text)

seen, sys.stdout = [], Listening()
assert __main__.main(["train", "--config.epochs=0"]) == 2
print(seen[0], file=sys.__stdout__)
"""


def test_the_first_word_comes_before_anything_that_takes_its_time(installed):
    shown = installed.run("python", "-c", FIRST_WORDS)
    assert shown == f"{(f'dtp-jax {__version__}: starting JAX', set())}\n"


# The command, in this process.


def test_an_unknown_tool_is_one_line(capsys):
    assert __main__.main(["trian"]) == 2
    error = capsys.readouterr().err
    tools = "train, compare, sweep, report, figures, export, parity"
    assert error == f"error: the tool is 'trian'; allowed: {tools}, --help, --version\n"
