"""A report from its arguments to its file."""

import argparse
import contextlib
import os
from pathlib import Path

import jax

from dtp_jax.fields import local_path
from dtp_jax.report import words
from dtp_jax.report.content import content
from dtp_jax.report.folders import Found, find
from dtp_jax.report.page import page
from dtp_jax.report.text import show
from dtp_jax.run import backend, cli
from dtp_jax.run.files import DiskError, disk_errors, replace_text
from dtp_jax.run.loading import load_plugins
from dtp_jax.run.screen import Screen

NAME = "report.html"


def report(args: argparse.Namespace, screen: Screen) -> int:
    """Reads, and writes or prints. Returns the exit code."""
    quiet = args.text and not screen.console.is_terminal
    try:
        backend.check_flags()
        backend.prepare()
        if "JAX_PLATFORMS" not in os.environ:
            jax.config.update(
                "jax_platforms", "cpu"
            )  # a run may have all of an accelerator's memory
        load_plugins(args.plugin)
        found = find(args.workdirs)
        file = None if args.text else _file(args.out, found)
        with (
            screen.hearing(),
            contextlib.nullcontext() if quiet else screen.task("reading runs") as progress,
        ):
            made = content(
                found,
                reference=args.reference,
                predictions=not args.no_predictions,
                pictures=not args.text,
                told=progress or (lambda *what: None),
            )
    except ValueError as error:
        screen.error(str(error))
        return cli.EXIT_INVALID
    if file is None:
        show(made, found.groups, screen)
        return 0
    try:
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(file, page(made))
    except DiskError as error:
        screen.error(f"{error}; allowed: --out=FILE, a file elsewhere")
        return cli.EXIT_DISK
    for problem in found.passed_over:
        screen.warn(problem)
    screen.note(f"{file}: {words.size(file.stat().st_size)}")
    return 0


def _file(given: str | None, found: Found) -> Path:
    """Where the page goes.

    Raises:
      ValueError: one line; a folder is there.
    """
    file = local_path("--out", given) if given is not None else (found.folder or Path()) / NAME
    if os.path.isdir(file):
        raise ValueError(f"--out is {str(file)!r}, which is a folder; allowed: a file to write")
    return file
