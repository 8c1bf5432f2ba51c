"""Capturing and delivering processes that are killed at random, and the check that every receiver has every event."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from app.domain.models.deliveries import DestinationSettings
from app.infrastructure.completions.spool import HEADER, SUFFIX
from app.infrastructure.completions.spool_reader import SpoolReader
from app.infrastructure.persistence.deliveries import SqlDeliveryStore
from app.infrastructure.persistence.engine import build_engine
from tests.storm.capturer import AT_ONCE, Task, capture
from tests.storm.children import Child
from tests.storm.receivers import Billing, Lines, ids_in_outbox, ids_in_table, rows_in_table
from tests.storm.server import serve

CAPTURERS: Final = 3
SERVERS: Final = 2
LOOK_EVERY_S: Final = 0.1
WORTH_IT_S: Final = 1.0
"""How long a kill waits for something that is not on the disk yet."""
STALLED_S: Final = 120.0


@dataclass(frozen=True)
class Plan:
    """What a storm does; the seed decides whom it hits."""

    events: int
    kills: int
    seed: int = 1
    mode: Literal["spool", "fsync"] = "spool"
    capture_s: float = 30.0
    """Seconds over which the events are offered."""
    timeout_ms: int = 2_000
    """Of one request to a destination; the heir of a dead process waits four times as long."""


@dataclass
class Figures:
    """What a storm found."""

    seconds: float = 0.0
    captured: int = 0
    """Events whose capture had returned, and in mode fsync had been synced."""
    in_flight: int = 0
    """Events beyond these that arrived: their capturer was killed before it could write them down."""
    cut_files: int = 0
    cut_bytes: int = 0
    """What was thrown away of killed capturers' files because nothing had synced it."""
    killed: dict[str, int] = field(default_factory=lambda: {"capturer": 0, "server": 0})
    repeated: dict[str, int] = field(default_factory=dict[str, int])
    refusals: int = 0
    half_lines: int = 0
    backlog: int = 0
    """Events that billing had not got when it worked again after its outage."""
    caught_up_s: float = 0.0


class Capturer:
    """The process that captures one share of the events, started again until all of them are noted."""

    def __init__(self, plan: Plan, number: int, folder: Path) -> None:
        self._plan = plan
        self._name = f"c{number}"
        self._folder = folder
        self._notes = folder / f"{self._name}.notes"
        self._synced = Path(f"{self._notes}.synced")
        self._lives = 0
        self.share = plan.events // CAPTURERS + (number < plan.events % CAPTURERS)
        self.process: Child | None = None
        self._noted_before = 0

    @property
    def at_work(self) -> bool:
        """Whether it has captured in this life, and has not finished."""
        running = self.process is not None and self.process.is_alive
        return running and self._noted_before < len(self.noted()) < self.share

    def noted(self) -> list[str]:
        """Return the ids that captures have returned with."""
        if not self._notes.exists():
            return []
        return [line for line in self._notes.read_text().split("\n")[:-1] if line]

    @property
    def done(self) -> bool:
        """Whether its share is noted."""
        return len(self.noted()) >= self.share

    def launch(self) -> Child:
        """Start it for what is left."""
        self._lives += 1
        self._noted_before = len(self.noted())
        left = self.share - self._noted_before
        rate = self._plan.events / CAPTURERS / self._plan.capture_s
        prefix = f"{self._name}.{self._lives}"
        task = Task(self._folder / "spool", self._notes, prefix, left, rate, self._plan.mode)
        self.process = Child(capture, task)
        return self.process

    async def kill(self) -> tuple[int, int]:
        """Kill it; in mode fsync also cut its files to what was synced. Returns how many files, and bytes."""
        assert self.process is not None
        if self._plan.mode != "fsync":
            await self.process.kill()
            return 0, 0
        until = time.monotonic() + WORTH_IT_S
        self.process.freeze()  # it could sync what was just seen before it is killed
        while not self._unsynced() and self.process.is_alive and time.monotonic() < until:
            self.process.thaw()
            await asyncio.sleep(0.001)
            self.process.freeze()
        await self.process.kill()
        lost = self._unsynced()
        for path, (synced, _) in lost.items():
            os.truncate(path, synced)
        return len(lost), sum(size - synced for synced, size in lost.values())

    def _unsynced(self) -> dict[Path, tuple[int, int]]:
        """Return the process's files of which a part is not on the disk: how much is, and how much there is."""
        assert self.process is not None
        synced: dict[str, int] = {}
        for line in self._synced.read_text().split("\n")[:-1] if self._synced.exists() else []:
            name, bytes_ = line.split()
            synced[name] = max(synced.get(name, 0), int(bytes_))
        found: dict[Path, tuple[int, int]] = {}
        for path in (self._folder / "spool").glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # a relay was done with it
                head, size = path.read_bytes()[: HEADER.size], path.stat().st_size
                owner = HEADER.unpack(head)[2] if len(head) == HEADER.size else None
                if owner == self.process.pid and size > synced.get(path.stem, 0):
                    found[path] = synced.get(path.stem, 0), size
        return found


class Storm:
    """One storm over one empty database."""

    def __init__(self, plan: Plan, url: str, folder: Path) -> None:
        self.plan = plan
        self.figures = Figures()
        self._url = url
        self._folder = folder
        self._random = random.Random(plan.seed)
        self._billing = Billing()
        self._lines = Lines(folder / "audit.jsonl")
        self._table = folder / "copies.db"
        self._capturers = [Capturer(plan, number, folder) for number in range(CAPTURERS)]
        self._servers: list[Child] = []
        self._cutting = False
        self._seen: object = None
        self._seen_at = 0.0

    async def run(self) -> Figures:
        """Do all of it, and check what is left.

        Raises:
            AssertionError: an event is missing, made up, damaged or different from one receiver to the other.
        """
        began = time.monotonic()
        (self._folder / "spool").mkdir()
        async with self._billing.serving(), self._serving():
            async with asyncio.TaskGroup() as group:
                for capturer in self._capturers:
                    group.create_task(self._capture(capturer))
                group.create_task(self._strike())
            captured = {one for capturer in self._capturers for one in capturer.noted()}
            await self._until(lambda: self._arrived() >= len(captured), "events are missing")
            await self._settled()
        self.figures.seconds = time.monotonic() - began
        await self._check(captured)
        return self.figures

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        self._servers = await asyncio.gather(*(self._launch_server() for _ in range(SERVERS)))
        try:
            yield
        finally:
            for server in self._servers:
                server.terminate()
            codes = [await server.wait() for server in self._servers]
        assert codes == [0] * SERVERS

    async def _launch_server(self) -> Child:
        common: dict[str, Any] = {"timeout_ms": self.plan.timeout_ms, "give_up_after_s": 3_600.0}
        destinations = [
            DestinationSettings(
                "billing", "http", self._billing.url, "billing_v1", batch_size=100, concurrency=2, **common
            ),
            DestinationSettings("audit", "jsonl", str(self._lines.path), batch_size=200, concurrency=1, **common),
            DestinationSettings("copies", "table", f"sqlite:///{self._table}", batch_size=200, concurrency=1, **common),
        ]
        server = Child(serve, self._url, self._folder / "spool", destinations)
        await server.ready()
        return server

    async def _capture(self, capturer: Capturer) -> None:
        while not capturer.done:
            code = await capturer.launch().wait()
            assert code in {0, -9}, f"a capturer ended with {code}"
            while self._cutting:  # its files are being cut; the next life comes after the power
                await asyncio.sleep(LOOK_EVERY_S / 10)

    async def _strike(self) -> None:
        """Kill, spread over the capturing; billing is down between the second quarter of the kills and the third."""
        kills, pause_s = self.plan.kills, self.plan.capture_s / (self.plan.kills + 1)
        async with asyncio.TaskGroup() as group:
            for number in range(kills):
                await self._until(self._may_strike, "nobody captures")
                await asyncio.sleep(self._random.uniform(0.2, 1.8) * pause_s)
                if number == kills // 4:
                    self._billing.down = True
                if number == kills // 2:
                    await self._until(lambda: self._billing.refusals > 0, "nobody asks billing")
                    group.create_task(self._recover())
                living = [one for one in self._capturers if one.at_work]
                if number % 2 == 0 and living:
                    await self._kill_capturer(self._random.choice(living))
                else:
                    await self._kill_server()

    def _may_strike(self) -> bool:
        return any(one.at_work for one in self._capturers) or all(one.done for one in self._capturers)

    async def _kill_capturer(self, capturer: Capturer) -> None:
        self._cutting = True
        files, lost = await capturer.kill()
        self._cutting = False
        self.figures.killed["capturer"] += 1
        self.figures.cut_files += files
        self.figures.cut_bytes += lost

    async def _kill_server(self) -> None:
        victim = self._random.randrange(SERVERS)
        await self._servers[victim].kill()
        self.figures.killed["server"] += 1
        self._servers[victim] = await self._launch_server()

    async def _recover(self) -> None:
        """Let billing work again; it has caught up when it has what was noted by then."""
        waiting = {one for capturer in self._capturers for one in capturer.noted()} - set(self._billing.times)
        self._billing.down = False
        before = len(self._billing.times)
        await self._until(lambda: len(self._billing.times) > before or not waiting, "billing does not recover")
        began = time.monotonic()
        await self._until(lambda: waiting <= self._billing.times.keys(), "billing does not catch up")
        self.figures.backlog, self.figures.caught_up_s = len(waiting), time.monotonic() - began

    def _arrived(self) -> int:
        self._lines.look()
        return min(len(self._billing.times), len(self._lines.times), rows_in_table(self._table))

    async def _settled(self) -> None:
        """Wait until nothing is owed any more: events that were in flight at a kill, and notes of deliveries."""
        engine = build_engine(self._url)
        store = SqlDeliveryStore(engine)
        try:
            while True:
                stats = await store.stats()
                reader = SpoolReader(self._folder / "spool")
                waiting = reader.stats().waiting_bytes
                reader.close()
                if not waiting and not any(one.pending or one.unread for one in stats):
                    break
                await self._progress(("settling", waiting, sum(one.delivered for one in stats)))
            assert all(one.dead == 0 for one in stats)
        finally:
            await engine.dispose()

    async def _until(self, reached: Callable[[], bool], complaint: str) -> None:
        while not reached():
            await self._progress((complaint, len(self._billing.times), self._arrived()))

    async def _progress(self, state: object) -> None:
        """Wait a moment; nothing may stand still for long."""
        if state != self._seen:
            self._seen, self._seen_at = state, time.monotonic()
        assert time.monotonic() - self._seen_at < STALLED_S, state
        await asyncio.sleep(LOOK_EVERY_S)

    async def _check(self, captured: set[str]) -> None:
        self._lines.look()
        engine = build_engine(self._url)
        recorded = await ids_in_outbox(engine)
        await engine.dispose()
        copies = ids_in_table(self._table)
        assert len(captured) == sum(one.share for one in self._capturers)
        for name, got in {"billing": self._billing.times, "audit": self._lines.times, "copies": copies}.items():
            missing, made_up = captured - set(got), set(got) - set(recorded)
            assert not missing, f"{name} lacks {len(missing)} of {len(captured)} events: {sorted(missing)[:5]}"
            assert not made_up, f"{name} has {len(made_up)} events that nobody recorded"
            assert len(set(got)) == len(recorded), f"{name} lacks events that were in flight"
        figures = self.figures
        figures.captured, figures.in_flight = len(captured), len(recorded) - len(captured)
        assert figures.in_flight <= AT_ONCE * figures.killed["capturer"]
        figures.repeated = {
            "billing": self._billing.times.total() - len(self._billing.times),
            "audit": self._lines.times.total() - len(self._lines.times),
        }
        figures.refusals, figures.half_lines = self._billing.refusals, self._lines.half
        assert sum(figures.killed.values()) == self.plan.kills


def table(plan: Plan, figures: Figures) -> str:
    """Return the figures as lines of text."""
    rate = figures.backlog / figures.caught_up_s if figures.caught_up_s else 0.0
    rows: list[tuple[str, Any]] = [
        ("events captured, all delivered", figures.captured),
        ("in flight at a kill, delivered too", figures.in_flight),
        ("mode", plan.mode),
        ("capturers killed", figures.killed["capturer"]),
        ("servers killed", figures.killed["server"]),
        ("files cut to what was synced", figures.cut_files),
        ("bytes thrown away", figures.cut_bytes),
        *((f"repeated at {name}", number) for name, number in figures.repeated.items()),
        ("half lines passed over", figures.half_lines),
        ("requests answered with 500", figures.refusals),
        ("behind after the outage", figures.backlog),
        ("caught up with, events/s", f"{rate:.0f}"),
        ("seconds", f"{figures.seconds:.1f}"),
    ]
    return "\n".join(f"{name:<36}{value:>10}" for name, value in rows)
