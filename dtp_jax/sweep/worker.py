"""A worker: takes up trials until the sweep has as many as it is to have."""

import time
from typing import NamedTuple

from dtp_jax.parallel.mesh import data_share, make_mesh
from dtp_jax.run import backend, cli
from dtp_jax.run.files import DiskError, WorkdirError
from dtp_jax.run.screen import Screen
from dtp_jax.sweep.plan import Plan
from dtp_jax.sweep.study import Study, is_finished
from dtp_jax.sweep.tell import Teller
from dtp_jax.sweep.trial import Ended, attempt

WAITING_SECONDS = 2.0
"""Between looks at the trials of other workers, where all are taken."""


class Round(NamedTuple):
    """What there is to do."""

    waiting: list
    """Trials without a result, some of which nobody may have."""
    missing: int
    """How many trials are yet to be added."""


def work(plan: Plan, study: Study, trials: int, teller: Teller, screen: Screen) -> Ended:
    """Takes trials to their ends until there are so many results. Code 0: they are there.

    The trials of a sweep are those with the numbers below `trials`. Where machines whose locks do not
    reach each other add one too many between them, it waits for a sweep of more.
    """
    try:
        backend.require_devices()
        config = plan.experiment.config
        mesh = make_mesh(config["data_parallel"], config["layer_parallel"])
        data_share(mesh)
    except ValueError as error:
        return Ended(cli.EXIT_INVALID, str(error))
    try:
        while True:
            waiting, missing = _round(study, trials)
            if not waiting and not missing:
                return Ended(0)
            ended = None
            for one in waiting:
                ended = attempt(plan, study, one, screen.console, mesh)
                if ended is not None:
                    break
            if ended is not None and ended.code:
                return ended
            if ended is not None:
                teller.tell(study.trials())
            elif missing:
                study.add(trials, plan.first)
            else:
                _wait(study, trials, teller, screen)
    except DiskError as error:
        return Ended(cli.EXIT_DISK, str(error))
    except WorkdirError as error:
        return Ended(cli.EXIT_INVALID, str(error))


def _round(study: Study, trials: int) -> Round:
    found = [one for one in study.trials() if one.number < trials]
    return Round([one for one in found if not is_finished(one)], trials - len(found))


def _wait(study: Study, trials: int, teller: Teller, screen: Screen) -> None:
    """Returns once a trial of another worker has ended, or nobody may have it any more."""
    before = [one.number for one in _round(study, trials).waiting]
    numbers = ", ".join(map(str, before))
    what = f"waiting for trial{'s' if before[1:] else ''} {numbers} of other workers"
    with screen.task(what):
        while True:
            time.sleep(WAITING_SECONDS)  # in any case: who lives elsewhere is not seen for certain
            is_same = [one.number for one in _round(study, trials).waiting] == before
            if not (is_same and teller.are_all_taken(before)):
                break
    teller.tell(study.trials())
