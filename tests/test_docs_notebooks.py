"""The notebooks of the documentation run from their first cell to the last, without a network."""

import pytest
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from website import notebooks


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """None of whoever runs the tests."""
    for name in ("DTP_JAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DTP_JAX_CACHE", str(tmp_path / "cache"))


def shown(notebook):
    """All text that cells have put out."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


def pictures(notebook):
    """How many cells have drawn something."""
    return sum(
        any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        for cell in notebook.cells
    )


def test_there_are_two():
    assert notebooks.names() == ["invent_a_rule", "train_and_look"]


def test_train_and_look(tmp_path):
    notebook = notebooks.executed("train_and_look", tmp_path)
    assert pictures(notebook) == 3
    text = shown(notebook)
    accuracies = [
        float(line.split(": ")[1].split("%")[0]) for line in text.splitlines() if "% of" in line
    ]
    assert len(accuracies) == 2 and min(accuracies) > 85
    assert (tmp_path / "runs" / "ldrl" / "summary.json").is_file()


def test_invent_a_rule(tmp_path):
    notebook = notebooks.executed("invent_a_rule", tmp_path)
    assert pictures(notebook) == 1
    assert all(
        f"'{rule}': '9" in shown(notebook) for rule in ("backprop", "L-DRL", "weight mirror")
    )


def test_a_notebook_has_its_time_as_a_whole(tmp_path, monkeypatch):
    import nbformat

    slow = [nbformat.v4.new_code_cell("import time; time.sleep(3)") for _ in range(4)]
    notebook = nbformat.v4.new_notebook(cells=slow)
    monkeypatch.setattr(notebooks, "read", lambda name: notebook)
    monkeypatch.setattr(notebooks, "SECONDS", 6)
    with pytest.raises(CellTimeoutError):
        notebooks.executed("slow", tmp_path)


def test_a_notebook_that_fails_or_asks_for_a_network_is_seen(tmp_path, monkeypatch):
    import nbformat

    connect = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(connect)])
    monkeypatch.setattr(notebooks, "read", lambda name: broken)
    with pytest.raises(CellExecutionError, match="no network here"):
        notebooks.executed("broken", tmp_path)
