"""ARCHITECTURE.md is true: rooms, who imports whom, no circle."""

import ast
import re
from pathlib import Path

from helpers import REPOSITORY

PACKAGE = REPOSITORY / "dtp_jax"
PAGE = (REPOSITORY / "ARCHITECTURE.md").read_text()
DOORS = ("feedback", "metrics", "optim")


def promised():
    """Room -> the rooms that it imports, as the page says."""
    rows = re.findall(r"^\| `([\w/]+)` \| .*\|([^|]*)\|$", PAGE, re.MULTILINE)
    return {room: set(re.findall(r"`([\w/]+)`", imports)) for room, imports in rows}


def room_of(parts, rooms):
    """The room of dtp_jax/<parts>: the longest of its beginnings that is one."""
    for length in range(len(parts), 0, -1):
        if "/".join(parts[:length]) in rooms:
            return "/".join(parts[:length])
    return "/".join(parts) or "__init__"


def imported(file):
    """The modules of this package that a file imports, also inside functions, as tuples of names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            for name in node.names:
                yield (*node.module.split("."), name.name)
        elif isinstance(node, ast.Import):
            for name in node.names:
                yield tuple(name.name.split("."))


def arrows(rooms):
    """Room -> the rooms that its files import."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        mine = room_of(parts, rooms)
        if mine in DOORS:
            continue
        found.setdefault(mine, set())
        for package, *rest in imported(file):
            if package == "dtp_jax":
                found[mine] |= {room_of(tuple(rest), rooms)} - {mine}
    return found


def test_the_page_says_who_imports_whom():
    rooms = promised()
    assert arrows(rooms) == rooms


def test_every_import_goes_down():
    """So there is no circle either. `version` is below everything, `__init__` too."""
    lines = re.findall(r"^floor (\d) +((?:[\w/]+ {1,3})*[\w/]+)(?: {4,}.*)?$", PAGE, re.MULTILINE)
    floors = {room: int(number) for number, rooms in lines for room in rooms.split()}
    assert floors.keys() == promised().keys()
    for room, imports in promised().items():
        if room != "__init__":
            assert all(floors[other] < floors[room] for other in imports), room


def test_the_page_knows_every_file_and_folder_of_the_package():
    there = {path.stem for path in PACKAGE.glob("*.py")}
    there |= {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert there - set(DOORS) == {room for room in promised() if "/" not in room}
    for name in DOORS:
        assert f"`{name}`" in PAGE and (PACKAGE / "learning" / f"{name}.py").is_file()


def test_a_package_or_file_that_the_page_names_exists():
    for name in re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE):
        assert (PACKAGE / name).exists() or (REPOSITORY / name).exists(), name


def test_plots_know_nothing_of_runs():
    assert promised()["plots"] == set()


def test_no_old_module_path_is_left():
    """What lay in the street before there were rooms is found nowhere, but for the public doors."""
    old = "backend cli config distributed evaluation guard learner loop program screen sharding signals workdir"
    pattern = re.compile(rf"dtp_jax[./]({'|'.join(old.split())})\b")
    for folder in ("dtp_jax", "benchmarks", "docs", "tests", "."):
        for file in (REPOSITORY / folder).glob("*" if folder == "." else "**/*"):
            if file.suffix in (".py", ".md", ".toml") and file != Path(__file__):
                assert not pattern.search(file.read_text()), file
