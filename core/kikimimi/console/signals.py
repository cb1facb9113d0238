"""The signals that ask a process to stop, and how they are kept from processes that are being started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What asks a command to stop; its own process sees to it, those that work for it do not."""


class Stopped(BaseException):
    """A signal asks to stop, and nothing is lost by stopping here.

    Not an Exception, which libraries catch, and not a KeyboardInterrupt, which Lightning turns into a bare
    exit with 1.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def signals_held() -> Iterator[None]:
    """Let the signals wait: here until the end, in processes that are started until they ask for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
