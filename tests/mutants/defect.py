"""What a defect is."""

from pathlib import Path
from typing import NamedTuple


class Defect(NamedTuple):
    """One text in the place of another."""

    name: str
    """For --only."""
    what: str
    """In words."""
    file: str
    """In dtp_jax/."""
    old: str
    """Occurs once there."""
    new: str
    tests: tuple[str, ...]
    """Those that should see it, dear ones last: "test_ldrl.py::test_this" in tests/."""

    @property
    def test_files(self) -> tuple[str, ...]:
        """The files of these tests, each once."""
        return tuple(dict.fromkeys(test.partition("::")[0] for test in self.tests))

    def planted(self, code: str) -> str:
        """The code of its file, with the defect.

        Raises:
          ValueError: one line; its text is not there, or more than once.
        """
        times = code.count(self.old)
        if times != 1:
            raise ValueError(
                f"{self.name}: its text is {times} times in {self.file}; allowed: once"
            )
        return code.replace(self.old, self.new)

    def plant(self, package: Path) -> str:
        """Writes the defect into a copy of dtp_jax; returns the code that was there."""
        file = package / self.file
        code = file.read_text()
        file.write_text(self.planted(code))
        return code
