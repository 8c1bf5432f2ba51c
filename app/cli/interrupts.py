"""Ctrl-C while a run goes on: the first one stops the run, so that it is recorded; the second one ends the program."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Interruption:
    """Whether someone asked to stop."""

    signal: int | None = None
    """The signal that asked; None: nobody did."""

    @property
    def exit_code(self) -> int:
        """What a shell expects after that signal: 130 for Ctrl-C, 143 for a termination; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def interruptible(stop: Callable[[], object]) -> Generator[Interruption]:
    """Call `stop` in the running event loop at the first SIGINT or SIGTERM; at the second raise KeyboardInterrupt."""
    loop = asyncio.get_running_loop()
    interruption = Interruption()

    def handle(signum: int, _frame: FrameType | None) -> None:
        if interruption.signal is not None:
            raise KeyboardInterrupt
        interruption.signal = signum
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
