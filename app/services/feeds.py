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
        self._readers = _Waiters()
        self._record_readers = _Waiters()
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
        self._readers.changed()

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
        self._readers.changed()
        self._record_readers.changed()

    def close(self, last: SequencedEvent) -> None:
        """End the feed with the event that the last transaction has recorded."""
        self._events.append(last)
        self._recorded = last.sequence
        self._end()

    def fail(self, error: AppError) -> None:
        """End the feed without a last event: this process does not go on with the run."""
        self._error = error
        self._end()

    async def wait(self) -> None:
        """Return when the execution has ended here.

        Raises:
            AppError: what `fail` was given.
        """
        await self._done.wait()
        if self._error is not None:
            raise self._error

    async def read(self, after: int = 0, *, recorded_only: bool = False) -> AsyncGenerator[EventBatch]:
        """Yield the events with a number above `after`, as they come; leaving early stops nothing.

        `recorded_only`: each of them when it is on disk, and not before; such a reader sleeps while deltas are only
        told, and what it was told is never void. It ends after the last event, or when the reader has fallen behind
        what is kept.

        Raises:
            AppError: what `fail` was given, after the events before it.
        """
        position = after
        if after > self.last_sequence and not recorded_only:
            # A reader that is ahead was told events of a lost attempt: what replaces them begins where this one does.
            position = max(self._first, self._before)
        waiters = self._record_readers if recorded_only else self._readers
        told = -1
        while self.holds(position):
            last = self._recorded if recorded_only else self.last_sequence
            events = self._events[position - self._before : last - self._before]
            if events or (told < min(position, self._recorded) and not recorded_only):
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
                await waiters.wait()

    def _end(self) -> None:
        self._done.set()
        self._readers.wake()
        self._record_readers.wake()


class _Waiters:
    """Readers that have read all there is for them."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._planned: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """Wake them, at once or, where they are many, together in a moment."""
        if not self._waiting:
            return
        if len(self._waiting) <= FEW_READERS:
            self.wake()
        elif self._planned is None:
            delay_s = len(self._waiting) * WAKE_S_PER_READER
            self._planned = asyncio.get_running_loop().call_later(delay_s, self.wake)

    def wake(self) -> None:
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter
