"""What is declared is what is imported; what is locked is what is declared."""

import ast
import os
import re
import sys
import tomllib
from importlib import metadata

import pytest
from helpers import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DECLARED = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
EXTRAS = {
    canonicalize_name(Requirement(line).name)
    for name in ("cluster", "wandb", "mlflow")
    for line in PROJECT["optional-dependencies"][name]
}
"""Imported where a run asks for them."""
DEV = [
    line
    for name in ("dev", "docs")
    for line in PROJECT["optional-dependencies"][name]
    if line != "dtp-jax[docs]"
]
"""What the tests need: `dev`, and `docs`, which it asks for."""
NOT_IMPORTED = {
    "array-record": "tensorflow-datasets reads its files with it, and does not bring it",
    "importlib-resources": "tensorflow-datasets needs it to prepare data, and does not bring it",
    "jaxlib": "jax's other half: the two have one version",
}
"""Declared all the same, and why."""
LOCKS = ("build", "run", "dev", "torch_cpu", "torch_cuda")


def imported(*folders):
    """The distributions of other people that Python files import, anywhere in them."""
    names = set()
    for folder in folders:
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(node.module.partition(".")[0])
    ours = {path.stem for path in (REPOSITORY / "tests").rglob("*.py")}
    ours |= {"dtp_jax", "benchmarks", "tests", "reliability", "website"}
    foreign = names - ours - sys.stdlib_module_names
    owners = metadata.packages_distributions()
    return {canonicalize_name(owners[name][0]) if name in owners else name for name in foreign}


def locked(name):
    """The entries of a lock, by distribution: the requirement, and its hashes."""
    found = {}
    for entry in re.split(r"\n(?=\S)", (REPOSITORY / f"requirements/{name}.lock").read_text()):
        if not entry.startswith("#"):
            line, *hashes = re.split(r"\s*\\\n\s*", entry.strip())
            found[canonicalize_name(Requirement(line).name)] = (Requirement(line), hashes)
    return found


def test_every_import_of_the_package_is_declared():
    assert imported("dtp_jax") <= DECLARED | EXTRAS


def test_no_extra_is_imported_before_it_is_asked_for():
    """By functions alone."""
    for file in (REPOSITORY / "dtp_jax").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", ())]
            names += [getattr(node, "module", None) or ""]
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert not {name.partition(".")[0] for name in names} & {"wandb", "mlflow"}, file


def test_every_dependency_is_imported_or_has_a_reason():
    assert DECLARED - imported("dtp_jax") == set(NOT_IMPORTED)


def test_every_import_of_tests_and_benchmarks_is_declared():
    assert "dtp-jax[docs]" in PROJECT["optional-dependencies"]["dev"]
    known = DECLARED | {canonicalize_name(Requirement(line).name) for line in DEV}
    # They come with pytest and with Sphinx; nothing else would do in their place.
    assert imported("tests", "benchmarks", "website") <= known | {"packaging", "docutils"}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_one_version_and_hashes_for_everything(name):
    entries = locked(name)
    assert entries
    for requirement, hashes in entries.values():
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes and all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", h) for h in hashes)


@pytest.mark.parametrize("name", ["run", "dev"])
def test_the_locks_have_what_pyproject_asks_for(name):
    """In versions that it allows, and the same in both."""
    entries = locked(name)
    extra = DEV if name == "dev" else []
    for line in PROJECT["dependencies"] + extra:
        wanted = Requirement(line)
        found, _ = entries[canonicalize_name(wanted.name)]
        version = str(found.specifier).removeprefix("==")
        assert wanted.specifier.contains(version, prereleases=True), (line, version)
    assert locked("run").items() <= locked("dev").items()


def test_the_locks_are_complete():
    """Whatever a locked package needs here is locked too: pip is told to look for nothing else."""
    here = locked("run") | locked("dev") | locked("build")
    for name, (requirement, _) in here.items():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                known = here | locked("torch_cuda")
                assert canonicalize_name(needed.name) in known, f"{name} needs {needed}"


def test_the_cuda_libraries_of_torch_are_by_themselves():
    """A CPU build needs none of them."""
    cuda = re.compile("(cuda-|nvidia-|triton$)")
    assert not any(map(cuda.match, locked("dev")))
    assert all(map(cuda.match, locked("torch_cuda")))
    version = str(locked("dev")["torch"][0].specifier)
    assert str(locked("torch_cpu")["torch"][0].specifier) == f"{version}+cpu"


ran_in: list[int] = []
"""The process of the first of two tests."""


def test_the_first_of_two_tests_of_a_file():
    ran_in.append(os.getpid())


def test_the_second_one_has_the_same_process(request):
    """Or else what a file shares is made in every process: xdist's own grouping did so beneath pytest 9.2."""
    names = [item.name for item in request.session.items]
    same = ran_in == [os.getpid()]
    assert same or "test_the_first_of_two_tests_of_a_file" not in names
