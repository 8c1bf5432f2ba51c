"""Waking waiters: within a process, and on PostgreSQL across processes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.approvals import Decision
from app.domain.models.runs import RunBatch
from app.infrastructure.persistence import wakeups as wakeups_module
from app.infrastructure.persistence.engine import build_engine
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.wakeups import InProcessWakeups, PostgresWakeups, build_wakeups
from tests.contract.journal.factory import CALLER, batch, end_of, new_run, parking, running, step, taken, waiting

LONG_S, SHORT_S = 20.0, 0.05
QUEUE = "queue"


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[PostgresWakeups]:
    """Another process: an engine of its own, and what it hears."""
    engine = build_engine(url)
    wakeups = PostgresWakeups(engine)
    await wakeups.start()
    async with asyncio.timeout(LONG_S):
        await wakeups.connected.wait()
    try:
        yield wakeups
    finally:
        await wakeups.aclose()
        await engine.dispose()


async def heard(wakeups: InProcessWakeups, topic: str, doing: Awaitable[object]) -> bool:
    """Tell whether the topic is announced when something is done, and within a second."""
    waiting = asyncio.create_task(wakeups.wait(topic, LONG_S))
    await asyncio.sleep(0)
    await doing
    done, _ = await asyncio.wait((waiting,), timeout=1)
    waiting.cancel()
    await asyncio.wait((waiting,))
    return bool(done)


async def _announce(wakeups: InProcessWakeups, topic: str) -> None:
    wakeups.announce(topic)


async def test_waiters_of_a_topic_are_woken_and_no_others() -> None:
    wakeups = InProcessWakeups()
    await wakeups.start()
    waiters = [asyncio.create_task(wakeups.wait("run_1", LONG_S)) for _ in range(3)]
    other = asyncio.create_task(wakeups.wait("run_2", LONG_S))
    await asyncio.sleep(0)
    wakeups.announce("run_1")
    async with asyncio.timeout(1):
        await asyncio.gather(*waiters)
    assert not other.done()
    wakeups.announce_all()
    await other
    wakeups.announce("run_1")  # nobody waits
    assert wakeups.waiting == 0
    await wakeups.aclose()


async def test_a_wait_ends_by_itself() -> None:
    wakeups = InProcessWakeups()
    began = time.monotonic()
    await wakeups.wait("run_1", SHORT_S)
    assert SHORT_S * 0.9 <= time.monotonic() - began < LONG_S
    assert wakeups.waiting == 0


async def test_no_waiter_is_left_behind() -> None:
    wakeups = InProcessWakeups()
    cancelled = asyncio.create_task(wakeups.wait("run_1", LONG_S))
    staying = asyncio.create_task(wakeups.wait("run_1", LONG_S))
    await asyncio.sleep(0)
    assert wakeups.waiting == 2
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert wakeups.waiting == 1
    wakeups.announce("run_1")
    again = asyncio.create_task(wakeups.wait("run_1", LONG_S))  # before the first one has been resumed
    await staying
    await asyncio.sleep(0)
    assert wakeups.waiting == 1
    wakeups.announce("run_1")
    await again
    assert wakeups.waiting == 0


async def test_each_database_has_the_wakeups_that_fit_it(engine: AsyncEngine) -> None:
    expected = PostgresWakeups if engine.dialect.name == "postgresql" else InProcessWakeups
    assert type(build_wakeups(engine)) is expected


async def test_every_write_is_heard_in_another_process(postgresql_engine: AsyncEngine, postgresql_url: str) -> None:
    journal = SqlRunJournal(postgresql_engine, lease_s=30)
    run = await running(journal)
    async with listening(postgresql_url) as wakeups:
        assert await heard(wakeups, run.id, journal.record(run, batch(1)))
        assert not await heard(wakeups, QUEUE, journal.record(run, batch(2)))

        async def tool() -> None:
            async with journal.transaction(run) as transaction:
                await transaction.commit(batch(3, step()))

        assert await heard(wakeups, run.id, tool())
        assert await heard(wakeups, run.id, journal.park(run, parking(run, last_sequence=3), 3600))
        assert await heard(wakeups, QUEUE, journal.decide(CALLER, run.id, [Decision("a1", approve=True)], None))
        again = (await taken(journal, "me")).run
        assert await heard(wakeups, run.id, journal.request_cancel(CALLER, run.id, "user"))
        assert await heard(wakeups, QUEUE, journal.hand_back(again, RunBatch()))
        last = (await taken(journal, "me")).run
        assert await heard(wakeups, run.id, journal.finish(last, end_of(last, 4)))
        other = await running(journal)
        assert not await heard(wakeups, QUEUE, journal.finish(other, end_of(other, 0)))  # nobody can go on now
        before = await running(journal)
        await journal.start(new_run("next", conversation_id=before.conversation_id), "you")
        assert await heard(wakeups, QUEUE, journal.finish(before, end_of(before, 0)))
        assert await heard(wakeups, QUEUE, journal.hand_back_queued("me"))
        parked = await waiting(journal)
        assert await heard(wakeups, QUEUE, journal.request_cancel(CALLER, parked.id, "user"))
        assert await heard(wakeups, "run_mine", _announce(wakeups, "run_mine"))
        assert wakeups.waiting == 0


async def test_what_is_rolled_back_is_not_heard(postgresql_engine: AsyncEngine, postgresql_url: str) -> None:
    journal = SqlRunJournal(postgresql_engine, lease_s=30)
    run = await running(journal)

    async def tool() -> None:
        with pytest.raises(ValueError, match="boom"):
            async with journal.transaction(run) as transaction:
                await transaction.commit(batch(1, step()))
                raise ValueError("boom")

    async with listening(postgresql_url) as wakeups:
        assert not await heard(wakeups, run.id, tool())


async def test_a_killed_connection_comes_back(
    postgresql_engine: AsyncEngine, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups_module, "FIRST_RETRY_S", 0.05)
    journal = SqlRunJournal(postgresql_engine, lease_s=30)
    run = await running(journal)
    kill = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'"
    )
    async with listening(postgresql_url) as wakeups:
        for round_ in (1, 2):
            waiting = asyncio.create_task(wakeups.wait("run_elsewhere", LONG_S))
            await asyncio.sleep(0)
            async with postgresql_engine.connect() as connection:
                assert (await connection.execute(kill)).scalars().all() == [True]
            async with asyncio.timeout(LONG_S / 2):
                await waiting  # whoever waits looks for itself: something may have been missed
                await wakeups.connected.wait()
            assert await heard(wakeups, run.id, journal.record(run, batch(round_)))
        assert wakeups.waiting == 0


async def test_a_database_that_is_away_at_the_start(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups_module, "FIRST_RETRY_S", 0.01)
    engine = build_engine(postgresql_url.replace("/test_", "/missing_"))
    wakeups = PostgresWakeups(engine)
    await wakeups.start()
    await wakeups.wait("run_1", SHORT_S)
    assert not wakeups.connected.is_set()
    await wakeups.aclose()
    assert wakeups.waiting == 0
    await engine.dispose()


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is gone without a word must not keep us from the one that took over."""
    monkeypatch.setattr(wakeups_module, "CONNECT_TIMEOUT_S", SHORT_S)
    silent: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda _, writer: silent.append(writer), tmp_path / ".s.PGSQL.5432")
    engine = build_engine(f"postgresql://me@/x?host={tmp_path}")
    wakeups = PostgresWakeups(engine)
    await wakeups.start()
    async with asyncio.timeout(LONG_S / 2):
        await wakeups.wait("run_1", LONG_S)  # woken when the try is given up
    assert not wakeups.connected.is_set()
    await wakeups.aclose()
    for writer in silent:
        writer.close()
    server.close()
    await engine.dispose()


async def test_closing_ends_the_connection(postgresql_engine: AsyncEngine, postgresql_url: str) -> None:
    count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")

    async def listeners() -> int:
        async with postgresql_engine.connect() as connection:
            return (await connection.execute(count)).scalar_one()

    async with listening(postgresql_url):
        assert await listeners() == 1
    async with asyncio.timeout(LONG_S):
        while await listeners():  # the server takes a moment to see that the socket is closed
            await asyncio.sleep(0.01)
