"""Writers of one SQLite file wait in line, and not for ever."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import StorageUnavailable
from app.infrastructure.persistence.engine import EngineLimits, build_engine, writing

MOST_S = 0.2


@pytest.fixture
async def engine(sqlite_url: str) -> AsyncIterator[AsyncEngine]:
    engine = build_engine(sqlite_url, EngineLimits(sqlite_busy_timeout_s=MOST_S))
    yield engine
    await engine.dispose()


async def _write(engine: AsyncEngine) -> None:
    async with writing(engine) as connection:
        await connection.execute(text("UPDATE agent_runs SET attempts = 1"))


async def test_a_writer_gives_up_when_its_turn_does_not_come(engine: AsyncEngine) -> None:
    async with writing(engine):
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await _write(engine)
        waited_s = time.monotonic() - began
    assert MOST_S <= waited_s < 10 * MOST_S
    await _write(engine)  # the line is as it was before


async def test_a_writer_that_gave_up_leaves_the_line_to_the_others(engine: AsyncEngine) -> None:
    held, done = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with writing(engine):
            held.set()
            await done.wait()

    holding = asyncio.create_task(hold())
    await held.wait()
    cancelled = asyncio.create_task(_write(engine))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    waiting = asyncio.create_task(_write(engine))
    await asyncio.sleep(0)
    done.set()
    await asyncio.gather(holding, waiting)


async def test_a_time_limit_of_the_work_itself_is_not_the_line_s(engine: AsyncEngine) -> None:
    """The limit is for the wait: whoever has its turn may take longer."""
    async with writing(engine) as connection:
        await asyncio.sleep(2 * MOST_S)
        await connection.execute(text("UPDATE agent_runs SET attempts = 1"))


async def test_another_process_that_writes_for_too_long(engine: AsyncEngine, sqlite_url: str) -> None:
    other = build_engine(sqlite_url)
    try:
        async with writing(other) as connection:
            await connection.execute(text("SELECT 1"))
            with pytest.raises(StorageUnavailable):
                await _write(engine)
    finally:
        await other.dispose()
