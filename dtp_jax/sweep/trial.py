"""One trial: a run in its own folder, whose validation accuracies go to the study."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from dtp_jax.data import DataError
from dtp_jax.parallel.mesh import Mesh
from dtp_jax.run import assemble, cli, signals
from dtp_jax.run.layout import show
from dtp_jax.run.owner import TakenError, lives
from dtp_jax.run.results import read_metrics
from dtp_jax.run.screen import BriefScreen
from dtp_jax.run.signals import until_stopped
from dtp_jax.run.workdir import Workdir, WorkdirError
from dtp_jax.sweep.dimensions import fields_at
from dtp_jax.sweep.plan import Plan
from dtp_jax.sweep.study import Study, draw, is_finished, storage_errors

if TYPE_CHECKING:
    import optuna

PRUNED, DIVERGED, FAILED, SECONDS, CODE = "pruned", "diverged", "failed", "seconds", "code"
"""What a study says of a trial beside its value: after which epoch it was pruned, why it came to nothing,
how long it took, the exit code of what came to nothing."""
NOTHING = 0.0
"""The value of a trial that came to nothing: the sampler is to go elsewhere."""
ABOUT_CHECKPOINTS = re.compile(r"; (the last good checkpoint is .*|no checkpoint yet)$")
"""Nobody goes on from there."""
DEEDS = {cli.EXIT_DIVERGED: DIVERGED, cli.EXIT_MEMORY: FAILED}
"""Exit codes of a run that concern its trial alone."""


class Ended(NamedTuple):
    """How a trial ended here."""

    code: int
    """0: it has a result. Else the exit code of the sweep."""
    message: str = ""
    """Why, where it has none."""


class TrialScreen(BriefScreen):
    """Of a run in a sweep: bars move, and what it says in the end is kept for the sweep."""

    def __init__(self, console: Console, head: str):
        super().__init__(console, head)
        self.problem, self.seconds = "", 0.0

    def warn(self, text: str) -> None:
        """A line on stderr, with the trial that it is about."""
        super().warn(f"{self.head}: {text}")

    def error(self, text: str) -> None:
        """Keeps the line."""
        self.problem = text

    def note(self, text: str) -> None:
        """Keeps the line, for the last one says why a run was left; shows whence it goes on, and that it ends."""
        self.problem = text
        if text == signals.STOPPING_LATER or text.startswith("going on from step"):
            show(self.console, f"{self.head}: {text}")

    def summary(self, summary: Any, workdir: Path) -> None:
        """Keeps its time, and the accuracy that is the trial's value."""
        self.seconds, self.value = summary["wall_seconds"], summary["val_accuracy"]


def folder_of(sweep: Path, number: int) -> Path:
    """The run folder of the trial with this number."""
    return sweep / f"trial_{number}"


def attempt(
    plan: Plan,
    study: Study,
    found: "optuna.trial.FrozenTrial",
    console: Console,
    mesh: Mesh | None,
) -> Ended | None:
    """Takes a trial to its end, or up again where another worker has left it. None: it is not to be had.

    Whoever owns the run folder has the trial. Nothing of it is drawn, trained or told without.

    Raises:
      WorkdirError: the folder cannot be used. DiskError: the storage cannot.
    """
    folder = Workdir(folder_of(plan.folder, found.number))
    if lives(folder.path):
        return None
    folder.read_config()
    try:
        with folder.owned():
            now = next(one for one in study.trials() if one.number == found.number)
            return None if is_finished(now) else _take(plan, study, now, folder, console, mesh)
    except TakenError:
        return None


def _take(
    plan: Plan,
    study: Study,
    found: "optuna.trial.FrozenTrial",
    folder: Workdir,
    console: Console,
    mesh: Mesh | None,
) -> Ended:
    """Draws what is not drawn, trains what is not trained, tells the study."""
    trial = study.open_trial(found, plan.config["seed"], plan.pruner)
    values = draw(trial, plan.dimensions)
    screen = TrialScreen(console, f"trial {found.number}")
    if PRUNED in found.user_attrs:  # its worker was killed before it could say so
        study.tell(found.number, None, pruned=True)
        return Ended(0)
    try:
        config = {**plan.config, **fields_at(plan.dimensions, values)}
        made = assemble.plan(config, folder, overridden=plan.overridden)
        made = made._replace(unused=())  # the sweep has said it: see `plan.easiest_trial`
    except DataError as error:
        return Ended(cli.EXIT_DATA, str(error))
    except WorkdirError as error:
        return Ended(cli.EXIT_INVALID, str(error))
    except ValueError as error:
        return _come_to_nothing(study, trial, cli.EXIT_INVALID, str(error))
    _tell_of_old(trial, folder)
    screen.start()
    watch = _watch(trial, made.experiment.config)
    code = until_stopped(
        lambda: cli.train(made, plan.request, screen, mesh, watch=watch),
        "stopped before the first step",
        screen.abandon,
    )
    if code in DEEDS:
        return _come_to_nothing(study, trial, code, screen.problem)
    if code:
        return Ended(code, screen.problem)
    with storage_errors():
        trial.set_user_attr(SECONDS, screen.seconds)
    if PRUNED in trial.user_attrs:
        study.tell(trial.number, None, pruned=True)
    else:
        study.tell(trial.number, screen.value)
    return Ended(0)


def _come_to_nothing(study: Study, trial: "optuna.Trial", code: int, why: str) -> Ended:
    with storage_errors():
        trial.set_user_attr(CODE, code)
        trial.set_user_attr(DEEDS.get(code, FAILED), ABOUT_CHECKPOINTS.sub("", why))
    study.tell(trial.number, NOTHING)
    return Ended(0)


def _watch(trial: "optuna.trial.Trial", config: dict[str, Any]) -> Callable[[int, float], bool]:
    """Tells the study of every validation; says whether the pruner ends the trial there."""
    told = set(_told(trial))

    def watch(epoch: int, accuracy: float) -> bool:
        with storage_errors():
            if epoch not in told:  # one that is taken again has the same value
                trial.report(accuracy, epoch)
                told.add(epoch)
            prunes = epoch < config["epochs"] and trial.should_prune()
            if prunes:
                trial.set_user_attr(PRUNED, epoch)
            return prunes

    return watch


def _told(trial: "optuna.trial.Trial") -> dict[int, float]:
    """Epoch -> validation accuracy, as the study has it."""
    found = trial.study.get_trials(deepcopy=False)
    return next(one.intermediate_values for one in found if one.number == trial.number)


def _tell_of_old(trial: "optuna.trial.Trial", folder: Workdir) -> None:
    """Tells of the epochs whose worker was killed after it had written them, and before it told."""
    found = read_metrics(folder.metrics_file).of("val")
    if not {"epoch", "accuracy"} <= found.keys():
        return
    told = _told(trial)
    with storage_errors():
        for epoch, accuracy in zip(found["epoch"].tolist(), found["accuracy"].tolist()):
            if int(epoch) not in told:
                trial.report(accuracy, int(epoch))
