"""Runs of several processes."""

import signal
import socket

from tests.reliability.fault import ANYTHING, FINISHED, SAVED, fault
from tests.reliability.place import LONG, Ended, Place, Running

TWO = {"JAX_NUM_CPU_DEVICES": "2"}
TRAIN = "dtp train --config=tiny.py --config.data_parallel=4 --workdir=run"


def free_port() -> int:
    """Of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def both(place: Place, command: str) -> list[Running]:
    """A run of two processes with two devices each."""
    cluster = f"--coordinator=127.0.0.1:{free_port()} --processes=2"
    return [place.start(f"{command} {cluster} --process={i}", **TWO) for i in range(2)]


@fault(code=0, words="workdir +run", left=FINISHED)
def two_share_a_workdir(place: Place) -> Ended:
    """None: the second process of a run may have the workdir of the first one"""
    first, second = both(place, TRAIN)
    assert second.end().code == 0
    return first.end()


@fault(code=5, words="go on from run/checkpoints/", left=SAVED)
def one_killed(place: Place) -> Ended:
    """One of two processes is killed (kill -9): the other ends too; started again, both go on"""
    command = f"dtp train {LONG} --config.data_parallel=4"
    first, second = both(place, command)
    first.wait_for_checkpoint()
    second.kill()
    ended = first.end()
    first, second = both(place, command)
    first.wait_for_words("going on from step")
    first.wait_for_words("images/s")
    second.signal(signal.SIGTERM)
    assert (first.end().code, second.end().code) == (143, 143)
    return ended


@fault(code=143, words="saved in", left=SAVED)
def one_terminated(place: Place) -> Ended:
    """SIGTERM to one of two processes: both save and end"""
    first, second = both(place, f"dtp train {LONG} --config.data_parallel=4")
    first.wait_for_checkpoint()
    second.signal(signal.SIGTERM)
    assert second.end().code == 143
    return first.end()


@fault(code=2, words="differ among the processes", left=ANYTHING)
def different_configs(place: Place) -> Ended:
    """Two processes are given different configs"""
    cluster = f"--coordinator=127.0.0.1:{free_port()} --processes=2"
    first = place.start(f"{TRAIN} {cluster} --process=0", **TWO)
    second = place.start(f"{TRAIN} --config.seed=1 {cluster} --process=1", **TWO)
    assert second.end().code == 2
    return first.end()


@fault(code=130, words="stopped before the first step", left=ANYTHING)
def others_do_not_come(place: Place) -> Ended:
    """The other process does not come: after some seconds the run says that it waits; then ctrl-C"""
    command = f"{TRAIN} --coordinator=127.0.0.1:{free_port()} --processes=2 --process=0"
    running = place.start(command, **TWO)
    running.wait_for_words("waiting for")
    running.ctrl_c()
    return running.end()


@fault(code=0, words="workdir +run", left=FINISHED)
def shell_of_salloc(place: Place) -> Ended:
    """In the shell that salloc opens (an allocation of four tasks, and no srun): the run is alone"""
    slurm = "SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_JOB_NODELIST=n[1-2]"
    step = "SLURM_STEP_ID=4294967290 SLURM_STEP_NODELIST=n1 SLURM_STEP_NUM_TASKS=1"
    return place.run(f"{slurm} {step} dtp train --config=tiny.py --workdir=run")
