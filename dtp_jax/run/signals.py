"""ctrl-C and SIGTERM: at once while there is nothing to save, later at the end of a chunk of steps."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal came while there was nothing to save. No Exception: nothing is to swallow it."""

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


def stopping_at_once() -> contextlib.AbstractContextManager[None]:
    """A context that a signal leaves with Stopped."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    return _handling(stop)


class StopSignals:
    """A context that remembers a signal until it is asked; a second one ends the process at once.

    A thread does this, for the main thread hears nothing of a signal before a compilation or a chunk
    of steps is done.
    """

    def __init__(self, say: Callable[[str], None], abandon: Callable[[], None]):
        """`say` shows a line; `abandon` is called before the process ends at once."""
        self._say, self._abandon, self._number = say, abandon, None

    def __enter__(self) -> Callable[[], int | None]:
        """Returns a function that gives the number of the signal that came, or None."""
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._handling = _handling(lambda number, frame: None)
        self._handling.__enter__()
        self._wakeup_before = signal.set_wakeup_fd(self._writer)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        return lambda: self._number

    def __exit__(self, *exception: Any) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        self._handling.__exit__(*exception)
        os.close(self._writer)

    def _watch(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] not in STOPPING:
                continue
            if self._number is not None:
                self._abandon()
                os._exit(128 + number[0])
            self._number = number[0]
            self._say("stopping after this chunk of steps; once more to stop at once")
        os.close(reader)


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Calls `handler` for the stopping signals; afterwards everything is as before."""
    before = {number: signal.signal(number, handler) for number in STOPPING}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
