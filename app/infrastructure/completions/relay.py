"""Moves what waits in a spool into the outbox: how far it is, and the events, are written in one transaction."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import StorageUnavailable
from app.domain.metrics_ports import NO_METRICS, Metrics
from app.domain.models.completions import ReadBatch
from app.infrastructure.completions.segments import segment_sizes
from app.infrastructure.completions.spool_reader import SpoolReader
from app.infrastructure.persistence.engine import reading, writing
from app.infrastructure.persistence.recorded_events import record_events
from app.infrastructure.persistence.spool_cursors import CursorMoved, forget_cursors, move_cursors, read_cursors

log = structlog.get_logger(__name__)

ReadEvents = Callable[[Sequence[bytes]], ReadBatch]
"""Makes recordable events of what was captured; called in a thread of its own, and never raises."""

_PASS_BATCHES: Final = 50
"""Then files that are done are deleted: a folder that is never empty must not grow for ever."""

_TAKEN: Final = "event_id_taken: another organization has an event with this id."


@dataclass(frozen=True, slots=True)
class RelayTimes:
    """How the relay goes about it; the times are seconds."""

    batch_events: int = 1_000
    batch_bytes: int = 8 << 20
    poll_s: float = 0.25
    """Between two looks into a folder in which nothing waited."""
    first_backoff_s: float = 0.5
    """After a failure; twice as long after each that follows, and a random share of it."""
    most_backoff_s: float = 30.0
    stop_wait_s: float = 5.0
    """For the batch that is under way when the relay is stopped."""


class _Folder(SpoolReader):
    """A spool whose cursors are in the database; those of the folder follow, for whoever counts what waits."""

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on from where the database says; a file it does not know, from where the folder says."""
        self._positions.update(positions)

    def read_on(self, events: int, max_bytes: int) -> tuple[Sequence[bytes], dict[str, int]]:
        """Return the next events and how far they go, by file; the ones behind them come next, noted or not."""
        bodies, moves = self.next_batch(events, max_bytes), dict(self._moved)
        self._positions.update(moves)
        return bodies, moves

    def note(self, moves: Mapping[str, int], events: int) -> None:
        """Note in the folder what the database has by now."""
        with self._transaction():
            for name, position in moves.items():
                self._keep(name, position)
            self._add("relayed", events)


@dataclass(slots=True)
class _Batch:
    bodies: Sequence[bytes] = ()
    moves: dict[str, int] = field(default_factory=dict[str, int])
    read: ReadBatch = field(default_factory=ReadBatch)


class SpoolRelay:
    """Empties one folder. Any number of relays may be given the same folder, on one machine or several."""

    def __init__(
        self,
        engine: AsyncEngine,
        folder: Path,
        read: ReadEvents,
        *,
        on_recorded: Callable[[], None] = lambda: None,
        times: RelayTimes | None = None,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """`read`: `EventReader.read` with its source; `on_recorded` is called after each commit of new events."""
        self._engine: Final = engine
        self._folder: Final = folder
        self._read: Final = read
        self._on_recorded: Final = on_recorded
        self._times: Final = times or RelayTimes()
        self._metrics: Final = metrics
        self.failing = False
        """Whether the latest look could not be carried through."""
        self._known: dict[str, int | None] = {}
        """Cursors as the database has them; None: it has none."""
        self._aside = set[bytes]()
        """Digests of what was put aside for a batch that is not committed yet: it is not put aside twice."""
        self._one_by_one = 0
        """Events still to be recorded each by itself, as the database refused one of them."""
        self._one_pass: Final = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stopping: Final = asyncio.Event()

    async def start(self) -> None:
        """Begin to move events as they come; failures are waited out, and logged."""
        self._stopping.clear()
        self._task = asyncio.create_task(self._run(), name=f"spool-relay-{self._folder.name}")

    async def aclose(self) -> None:
        """Stop after the batch that is under way, or without it when it takes long; what waits stays in the folder."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait((task,), timeout=self._times.stop_wait_s)
            task.cancel()
            await asyncio.wait((task,))

    async def run_once(self) -> int:
        """Move everything that waits now; returns how many events were read, refused ones and repetitions included.

        0 also when another relay of this machine works on the folder.

        Raises:
            StorageUnavailable: the database is away or locked; what was not recorded stays.
            OSError: the folder cannot be read or written.
            sqlite3.Error: the same of the folder's own cursor.
        """
        async with self._one_pass:
            folder = await asyncio.to_thread(_Folder, self._folder)
            total, more = 0, True
            try:
                while more:
                    with folder.locked() as mine:
                        if not mine:
                            break
                        moved, more = await self._pass(folder)
                        total += moved
            finally:
                folder.close()
            return total

    async def _pass(self, folder: _Folder) -> tuple[int, bool]:
        """Move some batches, each read while the one before is recorded; returns how many events, and whether to go on.

        A pass that is interrupted leaves the folder's positions too far on: they are read anew for the next one.
        """
        await self._look_up(folder)
        total, batch = 0, await self._read_on(folder)
        for turn in count(1):
            if not batch.bodies:
                break
            last = turn == _PASS_BATCHES or self._stopping.is_set()
            ahead = None if last else asyncio.ensure_future(self._read_on(folder))
            try:
                await self._record(folder, batch)
            except CursorMoved:
                log.info("spool_relay_overtaken", folder=self._folder.name)
                return total, True
            except DBAPIError as error:  # not away: it refuses something of the batch, and would again
                await self._narrow(folder, batch, type(error).__name__)
                return total, True
            finally:
                if ahead is not None:
                    await asyncio.gather(ahead, return_exceptions=True)
            self._one_by_one = max(0, self._one_by_one - 1)
            total += len(batch.bodies)
            if ahead is None:
                break
            batch = ahead.result()
        # Everything that was read is recorded now: a file that is read to its end may go.
        await self._sweep(folder)
        return total, bool(batch.bodies) and not self._stopping.is_set()

    async def _narrow(self, folder: _Folder, batch: _Batch, error: str) -> None:
        """Find the event that the database refuses: the batch comes again, one by one, and that one is put aside."""
        if len(batch.bodies) > 1:
            self._one_by_one = len(batch.bodies)
            return
        await self._put_aside(folder, batch.bodies[0], f"refused_by_database: {error}")
        await self._record(folder, replace(batch, read=ReadBatch()))

    async def _look_up(self, folder: _Folder) -> None:
        names = [name for name, _ in segment_sizes(self._folder)]
        self._known = dict.fromkeys(names)
        if names:
            async with reading(self._engine) as connection:
                found = await read_cursors(connection, names)
            self._known.update(found)
            folder.seek(found)

    async def _read_on(self, folder: _Folder) -> _Batch:
        events = 1 if self._one_by_one else self._times.batch_events

        def read() -> _Batch:
            bodies, moves = folder.read_on(events, self._times.batch_bytes)
            return _Batch(bodies, moves, self._read(bodies)) if bodies else _Batch()

        return await asyncio.to_thread(read)

    async def _record(self, folder: _Folder, batch: _Batch) -> None:
        moves = {name: (self._known.get(name), position) for name, position in batch.moves.items()}
        places = dict(zip((event.id for event in batch.read.events), batch.read.places, strict=True))
        # Before the commit: an event may be put aside twice, by a process that is killed in between, but never not.
        for refused in batch.read.refused:
            await self._put_aside(folder, batch.bodies[refused.index], f"{refused.code}: {refused.message}")
        began = time.monotonic()
        async with writing(self._engine) as connection:
            await move_cursors(connection, moves, datetime.now(UTC))
            recorded = await record_events(connection, batch.read.events)
            for event_id in sorted(recorded.taken):
                await self._put_aside(folder, batch.bodies[places[event_id]], _TAKEN)
        self._aside.clear()
        self._known.update(batch.moves)
        latency_s = time.monotonic() - began
        self._metrics.captured("spool", recorded.new, latency_s)
        log.debug("spool_relayed", events=len(batch.bodies), new=recorded.new, latency_ms=round(latency_s * 1000))
        await asyncio.to_thread(folder.note, batch.moves, len(batch.bodies))
        if recorded.new:
            self._on_recorded()

    async def _put_aside(self, folder: _Folder, body: bytes, reason: str) -> None:
        digest = sha256(body).digest()
        if digest not in self._aside:
            await asyncio.to_thread(folder.put_aside, body, reason)
            self._aside.add(digest)
            log.warning("spool_event_put_aside", folder=self._folder.name, reason=reason)

    async def _sweep(self, folder: _Folder) -> None:
        """Delete files that are recorded to their end and have no writer, then their cursors."""
        before = set(self._known)
        await asyncio.to_thread(folder.sweep)
        gone = before - {name for name, _ in segment_sizes(self._folder)}
        if gone:
            async with writing(self._engine) as connection:
                await forget_cursors(connection, gone, datetime.now(UTC))

    async def _run(self) -> None:
        backoff_s = self._times.first_backoff_s
        while not self._stopping.is_set():
            try:
                await self.run_once()
            except (StorageUnavailable, OSError, sqlite3.Error) as error:
                self.failing = True
                log.warning("spool_relay_waits", folder=self._folder.name, error=type(error).__name__)
                await self._pause(backoff_s * random.uniform(0.5, 1.0))
                backoff_s = min(backoff_s * 2, self._times.most_backoff_s)
            else:
                self.failing = False
                backoff_s = self._times.first_backoff_s
                await self._pause(self._times.poll_s)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
