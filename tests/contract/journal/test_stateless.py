"""Conversations that were to be forgotten with their runs: whoever serves the call dies, and retention deletes them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.conversations import ForkPoint
from app.domain.models.retention import Expiry, Pruned
from app.domain.models.runs import RunRequest, RunStatus
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.retention import SqlRunRetention
from app.infrastructure.persistence.tables import conversations
from tests.contract.journal.factory import (
    CALLER,
    count_rows,
    expire,
    new_run,
    parking,
    record_of,
    running,
)
from tests.crash.worker import working

KEPT = {"agent_run_usage", "completion_events"}


def later() -> Expiry:
    """As if some time had passed since all that has happened so far."""
    return Expiry(None, None, stateless_before=datetime.now(UTC) + timedelta(hours=1))


async def prune(engine: AsyncEngine, *, dry_run: bool = False, batch_rows: int = 100) -> Pruned:
    return await SqlRunRetention(engine).prune(later(), batch_rows=batch_rows, dry_run=dry_run)


async def test_what_a_killed_process_has_left_is_gone_on_with_and_forgotten(engine: AsyncEngine) -> None:
    lost = SqlRunJournal(engine, lease_s=30)
    run = (await lost.start(new_run("lost", stateless=True, stream=False), "killed")).run
    assert await prune(engine) == Pruned(0, 0, 0)  # it may still be answered
    await expire(engine, run.id)
    async with working(engine, take_over=True, lease_s=0.3) as worker:
        result = await asyncio.wait_for(worker.runs.result(CALLER, run.id), 30)
        assert result.status is RunStatus.COMPLETED
    assert await prune(engine, dry_run=True) == Pruned(0, 0, 0, 0, 1)
    assert await prune(engine) == Pruned(0, 0, 0, 0, 1)
    assert {name for name, rows in (await count_rows(engine)).items() if rows} == KEPT
    assert await prune(engine) == Pruned(0, 0, 0)


async def test_only_what_is_marked_goes_and_only_when_it_has_ended(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    kept, going, waits, ended = [await running(journal, stateless=number > 0) for number in range(4)]
    for run in (kept, ended):
        await journal.finish(run, record_of(run))
    await journal.park(waits, parking(waits), 3600)
    assert (await prune(engine)).conversation_rows == 1
    async with engine.connect() as connection:
        left = set((await connection.execute(select(conversations.c.id))).scalars())
    assert left == {kept.conversation_id, going.conversation_id, waits.conversation_id}


async def test_the_answer_of_a_moment_ago_can_still_be_read(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal, stateless=True)
    async with writing(engine) as connection:
        long_ago = datetime.now(UTC) - timedelta(days=1)
        await connection.execute(update(conversations).values(created_at=long_ago))
    await journal.finish(run, record_of(run))
    hour_ago = Expiry(None, None, stateless_before=datetime.now(UTC) - timedelta(hours=1))
    assert await SqlRunRetention(engine).prune(hour_ago, batch_rows=10) == Pruned(0, 0, 0)
    assert (await prune(engine)).conversation_rows == 1


async def test_a_copy_for_one_run_goes_even_if_its_run_was_never_started(
    journal: SqlRunJournal, engine: AsyncEngine
) -> None:
    run = await running(journal)
    await journal.finish(run, record_of(run))
    before = await count_rows(engine)
    store = SqlConversationStore(engine)
    copy = await store.fork(CALLER, run.conversation_id, ForkPoint(run.id, stateless=True))
    assert await store.items(CALLER, copy.id) == await store.items(CALLER, run.conversation_id)
    assert (await prune(engine)).conversation_rows == 1
    assert await count_rows(engine) == before


@pytest.mark.parametrize("batch_rows", [1, 2, 1000])
async def test_several_processes_delete_a_few_at_a_time(
    journal: SqlRunJournal, engine: AsyncEngine, batch_rows: int
) -> None:
    for _ in range(5):
        run = await running(journal, stateless=True)
        await journal.finish(run, record_of(run))
    done = await asyncio.gather(*(prune(engine, batch_rows=batch_rows) for _ in range(3)))
    assert sum(pruned.conversation_rows for pruned in done) == 5
    assert (await count_rows(engine))["agent_conversations"] == 0


async def test_a_start_in_a_conversation_that_is_there_does_not_mark_it(engine: AsyncEngine) -> None:
    async with working(engine) as worker:
        first = await worker.runs.run(RunRequest(CALLER, "kept"))
        await worker.runs.run(RunRequest(CALLER, "b", conversation_id=first.conversation_id, stateless=True))
        once = await worker.runs.run(RunRequest(CALLER, "c", stateless=True))
    assert (await prune(engine)).conversation_rows == 1
    async with engine.connect() as connection:
        left = (await connection.execute(select(conversations.c.id))).scalars().all()
    assert left == [first.conversation_id] != [once.conversation_id]
