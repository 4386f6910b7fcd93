"""Small files of JSON, written all at once."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WorkdirError(ValueError):
    """The folder cannot be written to, or belongs to something else. One line, for the user."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file at once: a reader finds the old or the new content."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({k: finite(v) for k, v in content.items()}, indent=2) + "\n")
    temporary.replace(path)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
