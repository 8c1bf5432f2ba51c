"""Many runs over several processes while these are killed and frozen at random, and the check of what is left."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.events import TERMINAL_TYPES
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import runs
from tests.chaos.processes import Process
from tests.crash.audit import check_calls, check_history, check_run, recorded
from tests.crash.scenario import CallFile, bookings, make_bookings
from tests.crash.worker import CALLER

PROCESSES = 3
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Plan:
    """What a storm does; the seed decides whom it hits."""

    seed: int
    runs: int
    conversations: int
    kills: int
    freezes: int
    lease_s: float = 1.0
    pause_s: float = 0.15
    """How long each model call and each tool takes."""


@dataclass
class Figures:
    """What a storm found."""

    seconds: float = 0
    starts_repeated: int = 0
    """Starts that were asked for again, because their process was killed or frozen."""
    events: int = 0
    lost_attempts: int = 0
    """Processes lost, summed over the runs."""
    most_attempts: int = 0
    calls: Counter[str] = field(default_factory=Counter[str])
    repeated: Counter[str] = field(default_factory=Counter[str])
    """Calls beyond one for each step: `model`, and the tools by their names."""
    not_run: int = 0
    """At-most-once tools that were never run, because their process died after it had said that it would."""


class Storm:
    """One storm over one empty PostgreSQL database."""

    def __init__(self, plan: Plan, url: str, folder: Path) -> None:
        self.plan = plan
        self.figures = Figures()
        self._url = url
        self._calls = CallFile(folder / "calls")
        self._random = random.Random(plan.seed)
        self._processes: list[Process] = []
        self._open: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._down: set[int] = set()
        self._done = 0
        self._struck = 0.0
        self._progress = asyncio.Condition()

    async def run(self) -> Figures:
        """Do all of it, and check what is left.

        Raises:
            AssertionError: something is missing, doubled or out of order.
        """
        began = time.monotonic()
        engine = build_engine(self._url)
        await make_bookings(engine)
        self._processes = await asyncio.gather(*(self._launch() for _ in range(PROCESSES)))
        try:
            await self._blow(engine)
        finally:
            codes = await asyncio.gather(*(process.close() for process in self._processes))
        assert codes == [0] * PROCESSES
        self.figures.seconds = time.monotonic() - began
        await self._check(engine)
        await engine.dispose()
        return self.figures

    async def _blow(self, engine: AsyncEngine) -> None:
        store = SqlConversationStore(engine)
        self._conversations = [
            (await store.create(CALLER, agent="scribe", provider="openai", provider_conversation_id=None)).id
            for _ in range(self.plan.conversations)
        ]
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read_all(engine))
            group.create_task(self._strike(engine))
            for index, name in enumerate(self._names()):
                async with self._progress:
                    await self._progress.wait_for(lambda number=index: self._may_start(number))
                group.create_task(self._start(index, name))
            await self._until(self.plan.runs)
            reading.cancel()

    def _may_start(self, index: int) -> bool:
        """Tell whether the run's turn has come: some wait in each conversation, and strikes hit all of the storm."""
        queued = 2 * self.plan.conversations
        return index < self._done + queued and index < self._struck * self.plan.runs + queued

    def _names(self) -> list[str]:
        return [f"r{number:04d}{'hand' if number % 3 == 0 else ''}" for number in range(self.plan.runs)]

    async def _launch(self) -> Process:
        return await Process.launch(self._url, self._calls.path, self.plan.lease_s, self.plan.pause_s)

    async def _start(self, index: int, name: str) -> None:
        asked = {
            "name": name,
            "conversation": self._conversations[index % self.plan.conversations],
            "stream": index % 4 != 0,
        }
        while True:
            process = self._random.choice([one for one in self._processes if one.alive])
            run_id = await process.start(asked, 2 * self.plan.lease_s)
            if run_id is not None:
                self._open.setdefault(run_id, 0)
                return
            self.figures.starts_repeated += 1
            await asyncio.sleep(LOOK_EVERY_S)

    async def _until(self, done: int) -> None:
        async with self._progress:
            await self._progress.wait_for(lambda: self._done >= done)

    async def _strike(self, engine: AsyncEngine) -> None:
        strikes = ["kill"] * self.plan.kills + ["freeze"] * self.plan.freezes
        self._random.shuffle(strikes)
        async with asyncio.TaskGroup() as group:
            for number, strike in enumerate(strikes):
                # Spread over the whole storm: runs and strikes wait for each other.
                await self._until(max(1, number * self.plan.runs * 9 // (10 * len(strikes))))
                await asyncio.sleep(self._random.uniform(0, 0.3))
                while len(self._processes) - len(self._down) < 2:
                    await asyncio.sleep(LOOK_EVERY_S)
                up = [one for one in range(PROCESSES) if one not in self._down]
                # One that has a run: a short storm may otherwise hit idle processes only, and show nothing.
                victim = self._random.choice([one for one in up if await self._is_busy(engine, one)] or up)
                self._down.add(victim)
                group.create_task(self._hit(victim, strike))
                async with self._progress:
                    self._struck = (number + 1) / len(strikes)
                    self._progress.notify_all()

    async def _is_busy(self, engine: AsyncEngine, number: int) -> bool:
        theirs = runs.c.owner.contains(f"-{self._processes[number].pid}-", autoescape=True)
        async with engine.connect() as connection:
            found = await connection.execute(select(runs.c.id).where(runs.c.status == "running", theirs).limit(1))
            return found.first() is not None

    async def _hit(self, victim: int, strike: str) -> None:
        if strike == "kill":
            await self._processes[victim].kill()
            self._processes[victim] = await self._launch()
        else:
            self._processes[victim].freeze()
            await asyncio.sleep(2.5 * self.plan.lease_s)
            self._processes[victim].thaw()
        self._down.discard(victim)

    async def _read_all(self, engine: AsyncEngine) -> None:
        """Follow every run as a reader does; no number may be missing or come twice."""
        journal = SqlRunJournal(engine, lease_s=self.plan.lease_s)
        while True:
            for run_id, after in list(self._open.items()):
                events, _ = await journal.events(CALLER, run_id, after)
                assert [one.sequence for one in events] == list(range(after + 1, after + 1 + len(events))), run_id
                if not events:
                    continue
                self._open[run_id] = events[-1].sequence
                if type(events[-1].event) in TERMINAL_TYPES:
                    self._read[run_id] = self._open.pop(run_id)
                    async with self._progress:
                        self._done += 1
                        self._progress.notify_all()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _check(self, engine: AsyncEngine) -> None:
        names = self._names()
        found = await recorded(engine)
        assert sorted(found) == sorted(names)
        for run in found.values():
            await check_run(engine, run)
        for index, conversation in enumerate(self._conversations):
            await check_history(engine, conversation, names[index :: self.plan.conversations])
        check_calls(self._calls, names)
        assert await bookings(engine) == dict.fromkeys(names, 1)
        journal = SqlRunJournal(engine, lease_s=self.plan.lease_s)
        for run in found.values():
            assert self._read[run.run_id] == await journal.last_sequence(CALLER, run.run_id)
        counts = self._calls.counts()
        for run in found.values():
            self._count(run.name, run.attempts, run.committed(), counts)
        self.figures.events = sum(self._read.values())

    def _count(self, name: str, attempts: int, committed: set[str], counts: Counter[str]) -> None:
        figures = self.figures
        figures.lost_attempts += attempts - 1
        figures.most_attempts = max(figures.most_attempts, attempts)
        for call in committed - {f"tool {name}.hand"}:
            kind = "model" if call.startswith("model") else call.rsplit(".", 1)[1]
            figures.calls[kind] += counts[call]
            if kind == "send":
                figures.not_run += 1 - counts[call]
                continue
            # Each attempt makes a call at most once, whatever was recorded.
            assert 1 <= counts[call] <= attempts, call
            figures.repeated[kind] += counts[call] - 1


def table(plan: Plan, figures: Figures) -> str:
    """Return the figures as lines of text."""
    rows: list[tuple[str, Any]] = [
        ("runs completed", plan.runs),
        ("kills", plan.kills),
        ("freezes", plan.freezes),
        ("seconds", f"{figures.seconds:.1f}"),
        ("events read, without a gap", figures.events),
        ("starts asked for again", figures.starts_repeated),
        ("attempts lost", figures.lost_attempts),
        ("most attempts of a run", figures.most_attempts),
    ]
    rows += [(f"calls: {kind}", count) for kind, count in sorted(figures.calls.items())]
    rows += [(f"repeated: {kind}", count) for kind, count in sorted(figures.repeated.items())]
    rows.append(("at-most-once tools never run", figures.not_run))
    return "\n".join(f"{name:<32}{value:>10}" for name, value in rows)
