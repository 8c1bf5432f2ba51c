"""The live events of one execution in this process: written once, read by any number of readers at their own pace."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from app.domain.errors import AppError
from app.domain.models.events import STOP_TYPES, EventBatch, RunEvent, SequencedEvent

KEPT_EVENTS: Final = 5_000
"""Recorded events that stay in memory; a reader that is further behind reads them from the log."""
FEW_READERS: Final = 16
WAKE_S_PER_READER: Final = 0.00005
"""With many readers an event waits this long for each of them before it is handed out, and others join it: waking
a thousand tasks for every delta would leave the run itself no time."""


class RunFeed:
    """Numbers the events of a run and hands them out.

    Readers share the one list, so a slow reader costs nothing and holds up nothing. What is recorded leaves the list
    in time, so a long run is bounded too.
    """

    def __init__(self, last_sequence: int = 0) -> None:
        """Begin after `last_sequence`, the number of the last event that an earlier attempt has recorded."""
        self._before = last_sequence
        self._first = last_sequence
        self._events: list[SequencedEvent] = []
        self._recorded = last_sequence
        self._waiters: list[asyncio.Future[None]] = []
        self._planned: asyncio.TimerHandle | None = None
        self._error: AppError | None = None
        self._done = asyncio.Event()

    @property
    def last_sequence(self) -> int:
        """The number of the last event, recorded or not."""
        return self._before + len(self._events)

    @property
    def recorded(self) -> int:
        """The number of the last event that is on disk."""
        return self._recorded

    @property
    def done(self) -> bool:
        """Whether nothing will be added here any more."""
        return self._done.is_set()

    def holds(self, after: int) -> bool:
        """Tell whether a reader that has read up to `after` can go on here."""
        return after >= self._before

    def publish(self, event: RunEvent) -> None:
        """Give the event the next number and wake the readers."""
        self._events.append(SequencedEvent(self._before + len(self._events) + 1, event))
        if self._waiters:
            self._changed_now()

    def since(self, sequence: int) -> Sequence[SequencedEvent]:
        """Return the events after a number that has not been dropped yet."""
        return self._events[sequence - self._before :]

    def mark_recorded(self, sequence: int) -> None:
        """Note that everything up to a number is on disk; the oldest of a long run leave the memory."""
        if sequence <= self._recorded:
            return
        self._recorded = sequence
        surplus = self._recorded - self._before - KEPT_EVENTS
        if surplus >= KEPT_EVENTS:
            del self._events[:surplus]
            self._before += surplus
        if self._waiters:
            self._changed_now()

    def close(self, last: SequencedEvent) -> None:
        """End the feed with the event that the last transaction has recorded."""
        self._events.append(last)
        self._recorded = last.sequence
        self._done.set()
        self._wake()

    def fail(self, error: AppError) -> None:
        """End the feed without a last event: this process does not go on with the run."""
        self._error = error
        self._done.set()
        self._wake()

    async def wait(self) -> None:
        """Return when the execution has ended here.

        Raises:
            AppError: what `fail` was given.
        """
        await self._done.wait()
        if self._error is not None:
            raise self._error

    async def read(self, after: int = 0) -> AsyncGenerator[EventBatch]:
        """Yield the events with a number above `after`, as they come; leaving early stops nothing.

        It ends after the last event, or when the reader has fallen behind what is kept.

        Raises:
            AppError: what `fail` was given, after the events before it.
        """
        # A reader that is ahead was told events of a lost attempt: what replaces them begins where this one does.
        position = after if after <= self.last_sequence else max(self._first, self._before)
        told = -1
        while self.holds(position):
            events = self._events[position - self._before :]
            if events or told < min(position, self._recorded):
                position += len(events)
                told = self._recorded
                yield EventBatch(events, told)
                if events and self._done.is_set() and type(events[-1].event) in STOP_TYPES:
                    return
            elif self._done.is_set():
                if self._error is not None:
                    raise self._error
                return
            else:
                await self._changed()

    def _changed_now(self) -> None:
        if len(self._waiters) <= FEW_READERS:
            self._wake()
        elif self._planned is None:
            delay_s = len(self._waiters) * WAKE_S_PER_READER
            self._planned = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
