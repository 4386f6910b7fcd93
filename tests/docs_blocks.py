"""The blocks of code of the pages, and the commands in them, read by the parsers that will read them."""

import argparse
import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from helpers import REPOSITORY

from dtp_jax.__main__ import SUBMITTED
from dtp_jax.run import arguments, config
from dtp_jax.submit import options

PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md"))
)
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[\w ]+):\s+(?P<said>.*?)\s+-->\n\n?)?"
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
CONTROL = re.compile(r"[;&|()]+")
WORDS = ("do", "then", "else", "srun", "nohup", "time", "exec", "done", "fi", "wait")
"""What may stand in front of a command in its line."""
OF_OTHERS = {
    *("cd", "exit", "export", "kill", "sleep", "tail", "[", "for", "case", "esac"),  # of the shell
    *("gcloud", "git", "pip", "python", "python3", ".", "scontrol", "squeue", "tensorboard"),
}
"""Commands that are not ours, so that a name of ours which is misspelt is none of them."""
NO_COMMAND = re.compile(r"\d+|code=.*|--unbuffered")
"""Cases of a `case`, an assignment, the rest of a line that begins with a path."""


class Block(NamedTuple):
    """A block of code."""

    page: str
    line: int
    language: str
    code: str
    mark: str
    """What the comment in front of it asks for: "before", "file"; "" without one."""
    said: str
    """What is run before it, or the file that it is."""


def blocks(page: str, language: str | None = None) -> list[Block]:
    """All blocks of a page, or those of a language."""
    text = (REPOSITORY / page).read_text()
    found = [
        Block(
            page,
            text[: m.start("code")].count("\n"),
            m["language"],
            re.sub(f"^{m['indent']}", "", m["code"], flags=re.MULTILINE),
            m["mark"] or "",
            m["said"] or "",
        )
        for m in BLOCK.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


def commands(script: str) -> list[list[str]]:
    """The commands of a script as lists of words, with those inside of quoted ones. Variables are 1."""
    script = re.sub(r"(^|\s)#.*$", "", script, flags=re.MULTILINE).replace("\\\n", " ")
    script = re.sub(r"\$\{?\w+\}?", "1", script)
    script = re.sub(r"\s\d?>{1,2}\s*&?[\w./-]+", "", script)  # where the output goes
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    found, current = [], []
    for word in [*_with_ends(lexer), "\n"]:
        if word != "\n" and not CONTROL.fullmatch(word):
            current.append(word)
            continue
        while current and (current[0] in WORDS or re.match(r"[A-Z_]+=", current[0])):
            current.pop(0)
        if current:
            found.append(current)
        current = []
    inner = [w.partition("=")[2] or w for words in found for w in words if "launch.py " in w]
    return found + [command for script in inner for command in commands(script)]


def _with_ends(lexer):
    """Words of a lexer that takes the end of a line for punctuation, which may stand beside other such."""
    for word in lexer:
        yield from (re.findall(r"\n|[^\n]+", word) if set(word) <= set(";&|()\n") else [word])


class Parsed(Exception):
    """A parser has taken the arguments."""


def check(command: list[str], monkeypatch) -> str:
    """Has the program's own parser read a command. Returns what kind it is, "" where it is not ours.

    Raises:
      ValueError, AssertionError or SystemExit: it does not understand it.
    """
    if command[0].startswith("--config."):
        command = ["dtp", "train", *command]
    if command[:2] == ["python", "launch.py"]:
        command = ["dtp", "train", *command[2:]]
    if command[:2] == ["python", "-m"] and command[2].startswith("dtp_jax."):
        command = ["dtp", command[2].removeprefix("dtp_jax."), *command[3:]]
    if command[0] == "dtp" and command[1] in SUBMITTED:
        submitted, others = options.split(command[2:])
        command = [*command[:2], *others]
        if submitted:
            options.read(submitted)
    if command[0] == "make":
        targets = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        wanted = [word for word in command[1:] if "=" not in word]
        assert set(wanted) <= {*targets[1].split(), "lock"}, command
        return "make"
    if command[0] == "dtp" and command[1] == "train":
        _train(command)
        return "dtp"
    if command[0] == "dtp":
        _main(f"dtp_jax.{command[1]}.__main__", command[2:], monkeypatch)
        return "dtp"
    if command[:2] == ["python", "-m"] and command[2].startswith(("benchmarks.", "tests.")):
        module = command[2] + ("" if command[2].startswith("benchmarks.") else ".__main__")
        _main(module, command[3:], monkeypatch)
        return "python"
    if command[0] not in OF_OTHERS and not NO_COMMAND.fullmatch(command[0]):
        raise ValueError(f"{command[0]}: no such command; allowed: {', '.join(sorted(OF_OTHERS))}")
    return ""


def _train(command: list[str]) -> None:
    """Flags, config and fields of `dtp train`, up to where a run would begin."""
    if "--help" in command:
        return
    given = [
        "--config=digits_dtp" if re.match(r"--config=runs/", word) else word for word in command
    ]
    parsed = arguments.parse(["dtp train", *given[2:]])
    config.validate(parsed.config, parsed.overridden)


def _main(module: str, args: list[str], monkeypatch) -> None:
    """Arguments of a program that has argparse, and overrides of config fields among them."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_only(self, args=None, namespace=None):
        found, others = parse(self, args, namespace)
        raise Parsed(found, others)

    loaded = importlib.import_module(module)
    if args in (["--help"], ["--version"]):
        return
    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", parse_only)
        patched.setattr(sys, "argv", [module, *args])
        try:
            loaded.main(*([args] if inspect.signature(loaded.main).parameters else []))
        except Parsed as found:
            namespace, others = found.args
        else:
            raise AssertionError(f"{module} has read no arguments")
    _train(["dtp", "train", *others])
    if module == "dtp_jax.compare.__main__":
        from dtp_jax.compare.plan import parse_configs

        assert parse_configs(namespace.configs, others)


def write_files(page: str, folder: Path) -> list[str]:
    """Writes the files that a page shows. Returns their names."""
    shown = [block for block in blocks(page) if block.mark == "file"]
    for block in shown:
        (folder / block.said).write_text(block.code)
    return [block.said for block in shown]
