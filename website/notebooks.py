"""Notebooks: run from their first cell to the last, and shown as pages.

They are committed without outputs. A build runs them once for every version of their text and of the package,
and keeps the outputs in .cache/notebooks.
"""

import base64
import hashlib
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

from website import REPOSITORY

FOLDER = REPOSITORY / "docs" / "notebooks"
CACHE = REPOSITORY / ".cache" / "notebooks"
SECONDS = 120
"""That a notebook has, from its first cell to its last."""
NO_NETWORK = """
import socket as _socket
_connect = _socket.socket.connect
def _local_only(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"no network here: {address}")
    return _connect(self, address)
_socket.socket.connect = _local_only
"""
"""Run before the first cell: a notebook needs no network."""


def names() -> list[str]:
    """Without their endings."""
    return sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> nbformat.NotebookNode:
    """The notebook as it is committed."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str, folder: Path) -> nbformat.NotebookNode:
    """The notebook with outputs, run in a folder of its own.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raises.
      nbclient.exceptions.CellTimeoutError: it takes longer than SECONDS.
    """
    from nbclient import NotebookClient  # here: a build without notebooks needs no kernel

    notebook = read(name)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(NO_NETWORK))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [before])])
    end = time.monotonic() + SECONDS
    try:
        NotebookClient(
            notebook,
            timeout_func=lambda cell: max(end - time.monotonic(), 1),
            kernel_name="python3",
            extra_arguments=["--log-level=40"],  # errors: it warns of its port on this machine
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    del notebook.cells[0]
    return notebook


def cached(name: str) -> nbformat.NotebookNode:
    """`executed`, or what it gave for the same text and package before."""
    file = CACHE / f"{name}_{_version(name)}.ipynb"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"{name}_*.ipynb"):
            old.unlink()
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(name, Path(folder)), file)
    return nbformat.read(file, as_version=4)


def _version(name: str) -> str:
    """Of the notebook and of all that it may import."""
    digest = hashlib.sha256((FOLDER / f"{name}.ipynb").read_bytes())
    for source in sorted((REPOSITORY / "dtp_jax").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def page(name: str, *, run: bool) -> tuple[str, dict[str, bytes]]:
    """(Markdown, pictures by file name) of a notebook."""
    notebook = cached(name) if run else read(name)
    parts, pictures = [], {}
    for n, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            for k, output in enumerate(cell.outputs):
                parts.append(_shown(output, f"{name}_{n}_{k}.png", pictures))
    return "\n\n".join(filter(None, parts)) + "\n", pictures


def _shown(output: Any, file: str, pictures: dict[str, bytes]) -> str:
    """One output as Markdown; a picture is added to the others."""
    if output.get("name") == "stderr":
        return ""
    data = output.get("data", {})
    if "image/png" in data:
        pictures[file] = base64.b64decode(data["image/png"])
        return f"![What the cell draws]({file})"
    text = output.get("text") or data.get("text/plain") or ""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip()
    return f"```text\n{text}\n```" if text else ""
