"""A process is killed before and after every commit of a run; another one completes it, and nothing happens twice."""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.engine import build_engine
from tests.crash.audit import Recorded, check_calls, check_history, check_run, recorded
from tests.crash.scenario import CallFile, bookings, build_agent, make_bookings
from tests.crash.worker import CALLER, working

ROOT = Path(__file__).parents[2]
OTHER_POINTS = 12
"""How many points that are no commits are tried, at most."""


class Victims:
    """Processes that are killed one after another, over one database and one file of calls."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, folder: Path) -> None:
        self._process = process
        self._url = url
        self._report = folder / "report.json"
        self.calls = CallFile(folder / "calls")

    async def run(self, name: str, point: int, *, stream: bool) -> dict[str, Any]:
        """Run the scenario in a new process and kill it at a point; -1: at none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "url": self._url,
            "name": name,
            "point": point,
            "stream": stream,
            "calls": str(self.calls.path),
            "report": str(self._report),
        }
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        await self._process.stdin.drain()
        told: dict[str, Any] = json.loads(await self._process.stdout.readline())
        assert "error" not in told, told
        return told


@asynccontextmanager
async def victims(url: str, folder: Path) -> AsyncIterator[Victims]:
    """Start the process that forks one victim for every point."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.crash.victim"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Victims(process, url, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def complete_all(engine: AsyncEngine, calls: CallFile, left: dict[str, Recorded]) -> None:
    """Let another process go on with every run that a killed one has left."""
    async with working(engine, lease_s=0.3, take_over=True, agent=build_agent(calls)) as worker:
        for run in left.values():
            await asyncio.wait_for(worker.runs.result(CALLER, run.run_id), 60)


async def check_all(engine: AsyncEngine, calls: CallFile, names: set[str]) -> None:
    found = await recorded(engine)
    assert found.keys() == names
    for run in found.values():
        await check_run(engine, run)
        await check_history(engine, run.conversation_id, [run.name])
    check_calls(calls, names)
    assert await bookings(engine) == dict.fromkeys(names, 1)


def chosen(kinds: list[str]) -> list[int]:
    """The numbers of all points at commits, and of some of the others, evenly."""
    commits = [number for number, kind in enumerate(kinds, 1) if kind.endswith("commit")]
    others = [number for number, kind in enumerate(kinds, 1) if not kind.endswith("commit")]
    return sorted({*commits, *others[:: max(1, len(others) // OTHER_POINTS)]})


@pytest.mark.crash
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_kill_at_every_commit(database_url: str, tmp_path: Path, stream: bool) -> None:
    engine = build_engine(database_url)
    await make_bookings(engine)
    async with victims(database_url, tmp_path) as killing:
        whole = await killing.run("whole", -1, stream=stream)
        assert not whole["killed"]
        points = chosen(whole["points"])
        assert sum(kind == "after commit" for kind in whole["points"]) >= 8
        killed = 0
        for point in points:
            killed += (await killing.run(f"p{point}", point, stream=stream))["killed"]
    # How many flushes of deltas a streamed run has is a matter of time, so its last points may not be reached.
    assert killed >= len(points) - 4
    left = await recorded(engine)
    before = killing.calls.counts()
    # Whatever was killed before the commit of its start is not there at all; all others are, and go on.
    missing = {f"p{point}" for point in points} - left.keys()
    first = whole["points"].index("after commit") + 1
    assert missing == {f"p{point}" for point in points if point < first}
    assert {run.status for run in left.values()} == {"running", "completed"}

    await complete_all(engine, killing.calls, left)
    after = killing.calls.counts()
    for run in left.values():
        for call in run.committed():
            assert after[call] == before[call], f"{call} was made again"
    await check_all(engine, killing.calls, set(left))
    # A process that was lost once repeats at most the calls that were under way.
    assert max(after.values()) <= 2
    await engine.dispose()


@pytest.mark.crash
async def test_a_transactional_tool_writes_once_over_fifty_kills(database_url: str, tmp_path: Path) -> None:
    engine = build_engine(database_url)
    await make_bookings(engine)
    points = random.Random(3)
    async with victims(database_url, tmp_path) as killing:
        whole = await killing.run("whole", -1, stream=False)
        first = whole["points"].index("after commit") + 1
        for number in range(50):
            told = await killing.run(f"k{number}", points.randint(first, len(whole["points"])), stream=False)
            assert told["killed"]
    left = await recorded(engine)
    assert len(left) == 51
    await complete_all(engine, killing.calls, left)
    await check_all(engine, killing.calls, set(left))
    await engine.dispose()
