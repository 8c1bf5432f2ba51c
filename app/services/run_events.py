"""Reading the events of a run from wherever they are: live in this process, or in the log that any process writes."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import structlog

from app.domain.errors import LeaseLost, StorageUnavailable
from app.domain.models.conversations import Caller
from app.domain.models.events import STOP_TYPES, EventBatch
from app.domain.models.runs import FINAL_STATUSES, RunStatus
from app.domain.run_ports import RunJournal, Wakeups
from app.services.feeds import RunFeed

log = structlog.get_logger(__name__)

LOG_POLL_S: Final = 0.5
"""How often a reader looks into the log when nothing wakes it."""


class RunReader:
    """One reader of one run; it follows the run from process to process."""

    def __init__(
        self,
        caller: Caller,
        run_id: str,
        *,
        journal: RunJournal,
        wakeups: Wakeups,
        live: Callable[[Caller, str], RunFeed | None],
    ) -> None:
        """`live` returns the feed of a run that this process executes for the caller."""
        self._caller = caller
        self._run_id = run_id
        self._journal = journal
        self._wakeups = wakeups
        self._live = live
        self._position = 0

    async def read(self, after: int = 0, *, recorded_only: bool = False) -> AsyncGenerator[EventBatch]:
        """Yield the events with a number above `after` until the run ends or waits for a person.

        `recorded_only`: each of them when it is on disk, and not before. A reader that begins after `RunWaiting`
        waits with the run. Leaving early stops nothing.

        Raises:
            RunNotFound: the run does not exist for this tenant.
            StorageUnavailable: the database did not answer; go on from the last recorded number.
        """
        self._position = after
        at_log_end = False
        while True:
            feed = self._live(self._caller, self._run_id)
            if feed is not None and not feed.done and feed.holds(self._position):
                ended = False
                async with aclosing(self._follow(feed, recorded_only=recorded_only)) as batches:
                    async for batch in batches:
                        ended = _stops(batch)
                        yield batch
                if ended:
                    return
                at_log_end = False
                continue
            events, status = await self._journal.events(self._caller, self._run_id, self._position)
            if events:
                self._position = events[-1].sequence
                batch = EventBatch(events, self._position)
                yield batch
                if _stops(batch):
                    return
                at_log_end = False
                continue
            if not at_log_end:
                at_log_end = True
                if await self._was_ahead(status):
                    continue
            if status in FINAL_STATUSES:
                return
            await self._wakeups.wait(self._run_id, LOG_POLL_S)

    async def _follow(self, feed: RunFeed, *, recorded_only: bool) -> AsyncGenerator[EventBatch]:
        try:
            async with aclosing(feed.read(self._position, recorded_only=recorded_only)) as batches:
                async for batch in batches:
                    if batch.events:
                        self._position = batch.events[-1].sequence
                    yield batch
        except (LeaseLost, StorageUnavailable):
            # What was told early and not recorded is void: the next attempt gives these numbers anew.
            self._position = min(self._position, feed.recorded)
            log.info("following_run_elsewhere", run_id=self._run_id, after=self._position)

    async def _was_ahead(self, status: RunStatus) -> bool:
        """Set the position back when the reader has seen events that were never recorded; tell whether it was."""
        last = await self._journal.last_sequence(self._caller, self._run_id)
        if self._position <= last:
            return False
        # Of a run that has ended its last event is told again: the reader cannot have had that one.
        self._position = last - 1 if status in FINAL_STATUSES else last
        return True


def _stops(batch: EventBatch) -> bool:
    return bool(batch.events) and type(batch.events[-1].event) in STOP_TYPES
