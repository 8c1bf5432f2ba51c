"""The live events of one run in this process: written once, read by any number of readers at their own pace."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from app.domain.errors import AppError
from app.domain.models.events import TERMINAL_TYPES, RunEvent, SequencedEvent


class RunFeed:
    """Numbers the events of a run from 1 and hands them out.

    Readers share the one list, so a slow reader costs nothing and holds up nothing; it is bounded by the run itself.
    """

    def __init__(self) -> None:
        """A feed with no events."""
        self._events: list[SequencedEvent] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._error: AppError | None = None
        self._done = asyncio.Event()

    @property
    def events(self) -> Sequence[SequencedEvent]:
        """All events so far, in order."""
        return self._events

    def publish(self, event: RunEvent) -> None:
        """Give the event the next number and wake the readers."""
        self._events.append(SequencedEvent(len(self._events) + 1, event))
        if self._waiters:
            self._wake()

    def close(self, terminal: SequencedEvent) -> None:
        """End the feed with the event that the last transaction has recorded."""
        self._events.append(terminal)
        self._done.set()
        self._wake()

    def fail(self, error: AppError) -> None:
        """End the feed without a terminal event: the end of the run could not be recorded here."""
        self._error = error
        self._done.set()
        self._wake()

    async def wait(self) -> None:
        """Return when the run has ended here.

        Raises:
            AppError: what `fail` was given.
        """
        await self._done.wait()
        if self._error is not None:
            raise self._error

    async def read(self, after: int = 0) -> AsyncGenerator[Sequence[SequencedEvent]]:
        """Yield batches of the events with a number above `after`, as they come; leaving early stops nothing.

        Raises:
            AppError: what `fail` was given, after the events before it.
        """
        position = after
        while True:
            batch = self._events[position:]
            if batch:
                position += len(batch)
                yield batch
                if type(batch[-1].event) in TERMINAL_TYPES:
                    return
            elif self._done.is_set():
                if self._error is not None:
                    raise self._error
                return
            else:
                await self._changed()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
