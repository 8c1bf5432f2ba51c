"""A process is killed between any two statements of a run's last transaction: its rows are all there, or none is."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.infrastructure.persistence.engine import build_engine
from tests.crash.worker import check_conversation, items_of, rows_of, working

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def victims() -> AsyncIterator[asyncio.subprocess.Process]:
    """The process that forks one victim for every point."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.crash.victim",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def killed_at(process: asyncio.subprocess.Process, url: str, point: int, report: Path) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"url": url, "point": point, "report": str(report)}).encode() + b"\n")
    await process.stdin.drain()
    told: dict[str, Any] = json.loads(await process.stdout.readline())
    assert "error" not in told, told
    return told


@pytest.mark.crash
async def test_all_of_a_run_is_there_or_nothing(database_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    engine = build_engine(database_url)
    async with victims() as process:
        whole = await killed_at(process, database_url, -1, report)
        assert not whole["killed"]
        expected = await rows_of(engine, whole["run"])
        assert expected.status == "completed"
        assert expected.items == 4
        assert min(expected.rows) >= 1
        assert whole["points"] >= 8

        kept = 0
        for point in range(1, whole["points"] + 1):
            told = await killed_at(process, database_url, point, report)
            assert told["killed"], f"point {point} was not reached"
            left = await rows_of(engine, told["run"])
            if left.status == "completed":
                kept += 1
                assert left == expected, f"point {point}"
            else:
                assert left.status == "running"
                assert (left.items, *left.rows) == (0,) * 6, f"point {point}: {left}"
            await check_that_it_goes_on(database_url, told, completed=left.status == "completed")
        # Only the point after the commit finds the run recorded.
        assert kept == 1
    await engine.dispose()


async def check_that_it_goes_on(url: str, told: dict[str, Any], *, completed: bool) -> None:
    """Another process closes what was lost, and the conversation takes its next input."""
    engine = build_engine(url)
    async with working(engine, lease_s=0.3, take_over=True) as worker:
        after = await worker.say("two", told["conversation"])
        assert after.output == "re: two"
    left = await rows_of(engine, told["run"])
    assert left.completions == 1
    if completed:
        await check_conversation(engine, told["conversation"], ["tool one", "two"])
    else:
        assert (left.status, left.reason) == ("failed", "process_lost")
        assert (left.items, left.messages, left.usage) == (1, 1, 0)
        kinds = [item.get("type") or item["role"] for item in await items_of(engine, told["conversation"])]
        assert kinds == ["user", "user", "message"]
    await engine.dispose()
