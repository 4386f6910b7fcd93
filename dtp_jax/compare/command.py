"""A comparison from its arguments to its report."""

import os

from dtp_jax.compare.plan import parse_configs
from dtp_jax.compare.report import show, write_report
from dtp_jax.compare.runs import run_all
from dtp_jax.fields import local_folder
from dtp_jax.parallel import processes
from dtp_jax.run import cli
from dtp_jax.run.failures import INTERRUPTED
from dtp_jax.run.files import DiskError, disk_errors
from dtp_jax.run.screen import Screen


def compare(
    configs: str,
    seeds: int,
    workdir: str,
    overrides: list[str],
    command: str,
    screen: Screen,
    *,
    training: bool = False,
) -> int:
    """Runs all configs and seeds, writes the report, shows the table.

    Args:
      configs: see `parse_configs`. overrides: "--config.FIELD=VALUE" for all of them.
      command: as the report quotes it.
      training: training accuracy in the learning curves, as thin lines.

    Returns:
      The exit code: 0, or that of the first run that failed, or of an interruption.
    """
    if processes.several(os.environ):
        screen.error("there are several processes; allowed: one, which runs everything in turn")
        return cli.EXIT_INVALID
    try:
        folder = local_folder("--workdir", workdir)
        entries = parse_configs(configs, overrides)
    except ValueError as error:
        screen.error(str(error))
        return cli.EXIT_INVALID
    results = run_all(entries, seeds, folder, overrides, screen)
    codes = [run.code for result in results for run in result.runs if run.code != 0]
    stopped = [code for code in codes if code >= INTERRUPTED]
    if stopped:
        return stopped[0]
    try:
        with screen.task("drawing the pictures"), disk_errors(folder):
            rows, files = write_report(results, command, folder, training=training)
    except DiskError as problem:
        screen.error(f"{problem}; once that is mended, the same command writes the report")
        return cli.EXIT_DISK
    show(rows, screen)
    screen.note(f"{folder}: {', '.join(files)}")
    return codes[0] if codes else 0
