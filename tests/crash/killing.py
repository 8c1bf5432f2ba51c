"""Runs whose process is killed at a chosen point, and the process that goes on with them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.crash.audit import Recorded, check_calls, check_history, check_run, recorded
from tests.crash.scenario import CallFile, bookings, build_agent
from tests.crash.worker import CALLER, working

ROOT = Path(__file__).parents[2]


class Victims:
    """Processes that are killed one after another, over one database and one file of calls."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, folder: Path) -> None:
        self._process = process
        self._url = url
        self._report = folder / "report.json"
        self.calls = CallFile(folder / "calls")

    async def run(self, name: str, point: int, *, stream: bool, asking: bool = False) -> dict[str, Any]:
        """Run the scenario in a new process and kill it at a point; -1: at none. `asking`: until it waits."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "url": self._url,
            "name": name,
            "point": point,
            "stream": stream,
            "asking": asking,
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
    async with working(engine, lease_s=15, take_over=True, agent=build_agent(calls)) as worker:
        for run in left.values():
            await asyncio.wait_for(worker.runs.result(CALLER, run.run_id), 60)


async def check_all(engine: AsyncEngine, calls: CallFile, names: set[str]) -> None:
    """Assert that the database holds exactly these runs, each whole, and that the tools' policies were kept."""
    found = await recorded(engine)
    assert found.keys() == names
    for run in found.values():
        await check_run(engine, run)
        await check_history(engine, run.conversation_id, [run.name])
    check_calls(calls, names)
    assert await bookings(engine) == dict.fromkeys(names, 1)
