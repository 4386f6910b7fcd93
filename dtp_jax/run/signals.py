"""ctrl-C, SIGTERM and SIGHUP: at once while there is nothing to save, later at the end of a chunk of steps.

A signal that was ignored before stays so: SIGHUP under nohup, ctrl-C in what a script has put into the
background.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SETTLE_SECONDS = 0.2
"""Signals that come together are one: `timeout`, shells and schedulers send theirs to a process and once
more to its group."""
GRACE_SECONDS = 1.0
"""So long what is to be left at once may take to clean up."""
AGAIN_SECONDS = 0.05
"""After this time a Stopped that was dropped is raised once more."""
STOPPING_LATER = "stopping after this chunk of steps; once more to stop at once"


class Stopped(BaseException):
    """A signal came while there was nothing to save. No Exception: nothing is to swallow it."""

    def __init__(self, words: str, signal: int):
        super().__init__(words)
        self.signal = signal


def until_stopped(
    work: Callable[[], int], words: str, abandon: Callable[[], None] = lambda: None
) -> int:
    """Does work that may be left at any time. These calls may be nested: a comparison has its runs.

    Args:
      work: returns an exit code.
      words: said on stderr where a signal ends it, while no run of a training has begun.
      abandon: called before the process ends in the middle of something.

    Returns:
      What `work` returns, or 128 and the number of the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()  # signals are the main thread's
    this = _StopAtOnce(words, abandon)
    try:
        with this.hearing():
            code = work()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        this.heard, code = stopped.signal, 128 + stopped.signal
    if this.heard is not None and _StopAtOnce.open:
        outer = _StopAtOnce.open[-1]
        if code < 128:  # it came too late to stop this work, but not for what comes next
            outer.interrupt(this.heard)
        outer.heard = this.heard
    return code


class _StopAtOnce:
    """A context that a signal leaves with Stopped.

    Python prints and drops an exception that comes while it collects garbage, deletes an object or is
    called back from C, and hears nothing while compiled code runs. A Stopped that was dropped is raised
    once more; and where the context has not been left after GRACE_SECONDS, the process ends, which is
    no worse than to be killed.
    """

    open: ClassVar[list["_StopAtOnce"]] = []
    """Those that are entered, outermost first."""

    def __init__(self, words: str, abandon: Callable[[], None]):
        self.words, self._abandon, self._left = words, abandon, threading.Event()
        self.heard: int | None = None
        """A signal that something inside has heard, and acts on."""

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        """The context itself."""
        self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        self.open.append(self)
        try:
            with _hearing(lambda number, frame: self.interrupt(number), self._watch):
                yield
        finally:
            self._left.set()
            self.open.remove(self)
            sys.unraisablehook = self._hook

    def interrupt(self, number: int) -> None:
        """Raises Stopped, but where the signal has been heard already."""
        if self.heard is None:
            raise Stopped(self.words, number)

    def _dropped(self, unraisable: Any) -> None:
        """Called with an exception that Python has dropped."""
        lost = unraisable.exc_value
        if not isinstance(lost, Stopped):
            self._hook(unraisable)
            return
        # Not from here: it would be dropped once more.
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), lost.signal))
        again.daemon = True
        again.start()

    def _watch(self, received: Iterator[int], reader: int) -> None:
        for number in received:
            # A terminal that is closed sends more than one SIGHUP.
            again = self.heard is not None and number == signal.SIGHUP
            if again or self._left.wait(GRACE_SECONDS):
                continue
            _briefly(lambda: print(self.words, file=sys.stderr))
            _briefly(self._abandon)
            os._exit(128 + number)


def stop_signals(
    say: Callable[[str], None], abandon: Callable[[], None]
) -> AbstractContextManager[Callable[[], int | None]]:
    """`StopSignals`; in a thread, where signals are not heard, a context that never hears any."""
    if threading.current_thread() is threading.main_thread():
        return StopSignals(say, abandon)
    return contextlib.nullcontext(lambda: None)


class StopSignals:
    """A context that remembers a signal until it is asked; a second one ends the process at once.

    SIGHUP is never the second one: a terminal that is closed sends it more than once, and nobody is
    there to be impatient. A thread does all this, for the main thread hears nothing of a signal before a
    compilation or a chunk of steps is done.
    """

    def __init__(self, say: Callable[[str], None], abandon: Callable[[], None]):
        """`say` shows a line; `abandon` is called before the process ends at once."""
        self._say, self._abandon, self._number = say, abandon, None

    def __enter__(self) -> Callable[[], int | None]:
        """Returns a function that gives the number of the signal that came, or None."""
        self._hearing = _hearing(lambda number, frame: None, self._watch)
        self._hearing.__enter__()
        for outer in _StopAtOnce.open:
            outer.words = "stopped"
        return lambda: self._number

    def __exit__(self, *exception: Any) -> None:
        for outer in _StopAtOnce.open[-1:]:
            outer.heard = self._number
        self._hearing.__exit__(None, None, None)

    def _watch(self, received: Iterator[int], reader: int) -> None:
        for number in received:
            if self._number is None:
                self._number = number
                if _settled(reader):
                    _briefly(lambda: self._say(STOPPING_LATER))
            elif number != signal.SIGHUP:
                _briefly(self._abandon)
                os._exit(128 + number)


@contextlib.contextmanager
def _hearing(
    interrupt: Callable[[int, Any], None], watch: Callable[[Iterator[int], int], None]
) -> Iterator[None]:
    """A context that hears the stopping signals; afterwards everything is as before.

    Args:
      interrupt: the handler, in the main thread.
      watch: called in another thread with the numbers of signals as they come, until the context is
        left, and with the pipe that they come from.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_watching, args=(watch, reader), daemon=True).start()
    wakeup_before, before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False), {}
    try:
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, previous in before.items():
            # None: a handler that is not Python's, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        os.close(writer)


def _watching(watch: Callable[[Iterator[int], int], None], reader: int) -> None:
    try:
        watch(_received(reader), reader)
    finally:
        os.close(reader)


def _received(reader: int) -> Iterator[int]:
    while byte := os.read(reader, 1):
        if byte[0] in STOPPING:
            yield byte[0]


def _settled(reader: int) -> bool:
    """Drops what comes together with a signal. False where the context has been left meanwhile."""
    ready, end = select.poll(), time.monotonic() + SETTLE_SECONDS
    ready.register(reader, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        if ready.poll(1000 * left) and not os.read(reader, 64):
            return False
    return True


def _briefly(action: Callable[[], None]) -> None:
    """Does something that may hang, such as to write to a stopped terminal; waits a second at most."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(GRACE_SECONDS)
