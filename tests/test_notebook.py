"""The README's example: twenty lines of a notebook that train L-DRL on digits."""

import ast
import re

import jax
import numpy as np
import pytest
from helpers import REPOSITORY

from dtp_jax import Metrics, TrainState

pytestmark = pytest.mark.usefixtures("single_precision")


def first_python_block(readme):
    found = re.search(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert found, (
        "README.md shows no ```python block: the example that trains a step of L-DRL is gone"
    )
    return found[1]


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """Not that of whoever runs the tests."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_readme_example_learns(capsys, own_cache):
    readme = REPOSITORY / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    code = first_python_block(readme.read_text())
    assert len(code.splitlines()) <= 25 and len(ast.parse(code).body) <= 20
    space = {}
    exec(compile(code, str(readme), "exec"), space)
    states = [value for value in space.values() if isinstance(value, TrainState)]
    metrics = [value for value in space.values() if isinstance(value, Metrics)]
    assert len(states) == len(metrics) == 1 and states[0].step == 3 * 39
    assert metrics[0].feedback_loss.keys() == states[0].feedback.keys() != set()
    for leaf in jax.tree.leaves((metrics, states[0].forward, states[0].feedback)):
        assert np.isfinite(leaf).all()
    # It learns, and its feedback aligns: 90 degrees is what random weights have.
    assert space["accuracy"] > 0.7 and space["angle"] < 45
    assert len(capsys.readouterr().out.splitlines()) == 3
