"""Ctrl-C while a run goes on: the first one stops the run, so that it is recorded; the second one ends the program."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any


class Interruption:
    """Whether someone asked to stop."""

    def __init__(self) -> None:
        """Nobody has, yet."""
        self.signal: int | None = None
        """The signal that asked; None: nobody did."""
        self._stopping: asyncio.Future[asyncio.Task[object]] = asyncio.get_running_loop().create_future()

    @property
    def exit_code(self) -> int:
        """What a shell expects after that signal: 130 for Ctrl-C, 143 for a termination; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal

    async def stopped(self) -> None:
        """Return when someone has asked and `stop` is done; raises what `stop` raised."""
        await asyncio.shield(await asyncio.shield(self._stopping))

    def begin(self, stop: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Call `stop` in a task of its own, once."""
        self._stopping.set_result(asyncio.create_task(stop(), name="stop-run"))


@asynccontextmanager
async def interruptible(stop: Callable[[], Coroutine[Any, Any, object]]) -> AsyncGenerator[Interruption]:
    """Call `stop` in the running event loop at the first SIGINT or SIGTERM; at the second raise KeyboardInterrupt.

    At its end the block waits for a `stop` that has begun.
    """
    loop = asyncio.get_running_loop()
    interruption = Interruption()

    def handle(signum: int, _frame: FrameType | None) -> None:
        if interruption.signal is not None:
            raise KeyboardInterrupt
        interruption.signal = signum
        loop.call_soon_threadsafe(interruption.begin, stop)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
        if interruption.signal is not None:
            await interruption.stopped()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
