"""Signals and closed terminals: nothing is lost, and no signal is swallowed."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import REPOSITORY
from launching import TINY, checkpoint_steps, finish, rows, start, wait_for_lines

from dtp_jax.run import signals

pytest_plugins = ["run_fixtures"]

BEFORE = "stopped before the first step"


def python(code, *args):
    """A program with the package at hand, its streams as text."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


SWALLOWING = """
import ctypes, gc, sys, time
from dtp_jax.run import signals

def spin(*_):
    end = time.monotonic() + 0.3
    while time.monotonic() < end: pass

class Deleted:
    __del__ = spin

def collects():
    gc.callbacks.append(spin)
    while True: gc.collect()

def deletes():
    while True: Deleted()

def is_called_from_c():
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(spin)
    while True: ctypes.CDLL(None).qsort((ctypes.c_int * 9)(), 9, 4, compare)

def is_compiled():
    while True: ctypes.CDLL(None).sleep(60)

def catches():
    while True:
        try: time.sleep(60)
        except BaseException: pass

def work():
    print("ready", flush=True)
    globals()[sys.argv[1]]()

sys.exit(signals.until_stopped(work, "stopped before the first step"))
"""


@pytest.mark.parametrize(
    "work, number",
    [
        ("collects", signal.SIGINT),
        ("deletes", signal.SIGTERM),
        ("is_called_from_c", signal.SIGHUP),
        ("is_compiled", signal.SIGINT),
        ("catches", signal.SIGINT),
    ],
)
def test_no_signal_is_swallowed(work, number):
    """Python drops what is raised there; one signal ends the process all the same."""
    process = python(SWALLOWING, work)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    found = finish(process, timeout=60)
    assert (found.code, found.err) == (128 + number, f"{BEFORE}\n")


def test_a_signal_while_jax_is_imported():
    process = start("--workdir=w")
    assert process.stdout.readline().endswith("starting JAX\n")
    process.send_signal(signal.SIGINT)
    found = finish(process, timeout=60)
    assert (found.code, found.err) == (130, f"{BEFORE}\n")


TOGETHER = """
import os, signal, time
from dtp_jax.run.signals import StopSignals

said = []
with StopSignals(said.append, lambda: None) as received:
    os.kill(os.getpid(), signal.{first})
    os.kill(os.getpid(), signal.{first})  # as `timeout` does: to the process and to its group
    while not said: time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGHUP)  # as a terminal that is closed
    time.sleep(0.3)
print(received(), len(said))
"""


@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_that_come_together_are_one(first):
    found = finish(python(TOGETHER.format(first=first)), timeout=60)
    assert (found.code, found.out) == (0, f"{int(getattr(signal, first))} 1\n")


@pytest.fixture
def handlers():
    """The handlers of this process, which are the same afterwards."""
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    yield before
    assert {number: signal.getsignal(number) for number in signals.STOPPING} == before


def send(number):
    os.kill(os.getpid(), number)
    return 0


@pytest.mark.parametrize("number", signals.STOPPING)
def test_what_is_ignored_stays_ignored(number):
    """nohup; the background jobs of a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert signals.until_stopped(lambda: send(number), BEFORE) == 0
        with signals.StopSignals(print, print) as received:
            send(number)
            assert received() is None
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_work_that_is_not_stopped(handlers):
    assert signals.until_stopped(lambda: 4, BEFORE) == 4
    found = []
    thread = threading.Thread(target=lambda: found.append(signals.until_stopped(lambda: 3, "")))
    thread.start()
    thread.join()
    assert found == [3]


def test_a_signal_that_came_too_late_stops_what_comes_next(handlers, capsys):
    """A run of several that ends by itself, after a signal."""
    then = []

    def last_chunk():
        with signals.StopSignals(lambda _: None, print) as received:
            send(signal.SIGINT)
            while received() is None:
                time.sleep(0.001)
        return 0

    def several():
        then.append(signals.until_stopped(last_chunk, BEFORE))
        return 0

    assert signals.until_stopped(several, "stopped") == 130
    assert then == [] and capsys.readouterr().err == "stopped\n"


def test_who_has_been_stopped_is_not_stopped_again(handlers, capsys):
    """Further signals while the end is written down: those of a shell, of a scheduler."""

    def run():
        stopping = signals.StopSignals(lambda _: None, print)
        with contextlib.suppress(KeyError), stopping as received:
            send(signal.SIGHUP)
            while received() is None:
                time.sleep(0.001)
            raise KeyError  # as Interrupted, which leaves the context
        return 129 + send(signal.SIGHUP)

    assert signals.until_stopped(lambda: signals.until_stopped(run, "") + send(1), "") == 129
    assert capsys.readouterr().err == ""


def on_terminal(workdir, *args, first=""):
    """A run on a terminal of its own, and the function that closes it.

    Args:
      first: what the shell does before.
    """
    ours, theirs = pty.openpty()
    # The first terminal that the leader of a session opens is its own.
    script = f'{first} exec "$@" <{os.ttyname(theirs)} >&0 2>&0'
    process = start(
        f"--workdir={workdir}",
        *TINY,
        *args,
        shell=["sh", "-c", script, "sh"],
        start_new_session=True,
    )
    left = threading.Event()

    def read():
        while not left.is_set():
            if select.select([ours], [], [], 0.05)[0]:
                os.read(ours, 65536)
        os.close(ours)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()

    def close():
        left.set()
        reading.join()
        os.close(theirs)

    return process, close


def test_a_closed_terminal(place):
    """The run saves; one that ignores the signal, as under nohup, goes on, and saves at the next one."""
    endless = (
        "--config.epochs=100000",
        "--config.diagnostics=False",
        "--config.checkpoint_every=1000000",
    )
    process, close = on_terminal(place / "w", *endless)
    wait_for_lines(process, place / "w", 5)
    close()
    assert finish(process).code == 129
    assert checkpoint_steps(place / "w") == [rows(place / "w")[-1]["step"]]
    process, close = on_terminal(place / "w", *endless, first="trap '' HUP;")
    wait_for_lines(process, place / "w", 2)
    close()
    wait_for_lines(process, place / "w", 3)
    process.send_signal(signal.SIGINT)
    assert finish(process).code == 130
    assert checkpoint_steps(place / "w")[-1] == rows(place / "w")[-1]["step"]
