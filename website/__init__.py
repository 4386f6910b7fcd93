"""The documentation site: what is made of the pages, the docstrings and the notebooks while it is built.

make docs              builds site/, which opens without a network and without a server
python -m website      the same, in an environment that has the extra `docs`
"""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
