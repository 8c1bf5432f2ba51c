"""A tool's own writes in the transaction of its step: both are there afterwards, or neither."""

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import LeaseLost, StorageUnavailable
from app.domain.models.runs import RunBatch
from app.infrastructure.persistence.journal import SqlRunJournal
from tests.contract.journal.factory import CALLER, batch, count_rows, end_of, expire, running, step, taken
from tests.databases import PostgresServer

NOTES = Table("notes_of_a_tool", MetaData(), Column("id", Integer, primary_key=True), Column("text", String(50)))


@pytest.fixture(autouse=True)
async def table(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(NOTES.metadata.create_all)


def note(number: int = 1) -> object:
    return insert(NOTES).values(id=number, text=f"note {number}")


async def noted(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(NOTES.c.id).order_by("id"))).scalars())


async def recorded(engine: AsyncEngine) -> int:
    return (await count_rows(engine))["agent_run_steps"]


async def test_both_are_committed(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note())
        assert await transaction.commit(batch(1, step())) is None
    assert await noted(engine) == [1]
    assert await recorded(engine) == 1
    assert await journal.last_sequence(CALLER, run.id) == 1


async def test_without_commit_nothing_is(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note())
    assert await noted(engine) == []
    await journal.record(run, batch(1))


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
@pytest.mark.parametrize("committed", [False, True])
async def test_an_error_in_the_block_takes_all_back(
    journal: SqlRunJournal, engine: AsyncEngine, error: type[BaseException], committed: bool
) -> None:
    run = await running(journal)
    with pytest.raises(error):
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note())
            if committed:
                await transaction.commit(batch(1, step()))
            raise error
    assert await noted(engine) == []
    assert await recorded(engine) == 0
    await journal.record(run, batch(1))


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, OSError])
async def test_a_tool_s_own_failure_does_not_pass_for_the_database_s(
    journal: SqlRunJournal, engine: AsyncEngine, error: type[Exception]
) -> None:
    """A tool whose own service is away must not make its run look like one that goes on when the database is back."""
    run = await running(journal)
    raised = error("of the tool")
    with pytest.raises(error) as caught:
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note())
            raise raised
    assert caught.value is raised
    assert await noted(engine) == []
    await journal.record(run, batch(1))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_database_that_goes_away_under_a_tool_is_unavailable(
    journal: SqlRunJournal, engine: AsyncEngine, postgres_server: PostgresServer
) -> None:
    run = await running(journal)
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    with pytest.raises(StorageUnavailable):
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note())
            await postgres_server.execute(kill)
            await transaction.session.execute(note(2))
    with pytest.raises(StorageUnavailable):
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note())
            await postgres_server.execute(kill)
            await transaction.commit(batch(1, step()))
    with pytest.raises(StorageUnavailable):
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note())
            await postgres_server.execute(kill)
            with suppress(DBAPIError):  # as the SDK does: it tells the model of it
                await transaction.session.execute(note(2))
            await transaction.undo()
    assert await noted(engine) == []
    assert await recorded(engine) == 0


async def test_undo_keeps_the_step_only(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note())
        await transaction.undo()
        await transaction.commit(batch(1, step(state="failed")))
    assert await noted(engine) == []
    assert await recorded(engine) == 1


async def test_the_transaction_goes_on_after_undo(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note(1))
        await transaction.undo()
        await transaction.session.execute(note(2))
        await transaction.undo()
        await transaction.session.execute(note(3))
        await transaction.commit(batch(1, step()))
    assert await noted(engine) == [3]
    assert await recorded(engine) == 1


async def test_undo_after_the_database_refused_a_write(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note())
        with pytest.raises(IntegrityError):
            await transaction.session.execute(note())
        await transaction.undo()
        await transaction.commit(batch(1, step(state="failed")))
    assert await noted(engine) == []
    assert await recorded(engine) == 1


@pytest.mark.parametrize("ending", ["commit", "rollback", "close"])
async def test_what_the_tool_does_to_its_session_ends_nothing(
    journal: SqlRunJournal, engine: AsyncEngine, ending: str
) -> None:
    run = await running(journal)
    with pytest.raises(ValueError, match="boom"):
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note(1))
            await getattr(transaction.session, ending)()
            await transaction.session.execute(note(2))
            raise ValueError("boom")
    assert await noted(engine) == []
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note(1))
        await getattr(transaction.session, ending)()
        await transaction.session.execute(note(2))
        await transaction.commit(batch(1, step()))
    assert await noted(engine) == ([1, 2] if ending == "commit" else [2])
    assert await recorded(engine) == 1


async def test_undo_takes_back_what_the_tool_committed(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note())
        await transaction.session.commit()
        await transaction.undo()
        await transaction.commit(batch(1, step(state="failed")))
    assert await noted(engine) == []


async def test_a_lost_lease_takes_the_tool_s_writes_back(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal, "lost")
    await expire(engine, run.id)
    await taken(journal, "me")
    with pytest.raises(LeaseLost):
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note())
            await transaction.commit(batch(1, step()))
    assert await noted(engine) == []
    assert await recorded(engine) == 0


async def test_a_step_that_is_recorded_already_is_not_done_twice(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    """The first try was committed and its answer lost: what the tool wrote this time must not stay, too."""
    run = await running(journal)
    for number in (1, 2):
        async with journal.transaction(run) as transaction:
            await transaction.session.execute(note(number))
            await transaction.commit(batch(1, step()))
    assert await noted(engine) == [1]
    assert await recorded(engine) == 1


async def test_a_started_step_becomes_done(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    await journal.record(run, RunBatch((step(state="started", result=None),)))
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note())
        await transaction.commit(batch(1, step()))
    await journal.finish(run, end_of(run, 1))
    assert await noted(engine) == [1]
    assert await recorded(engine) == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_renewing_does_not_wait_for_a_tool(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    """A tool may write for longer than a lease: the run would be lost to itself. SQLite has one writer."""
    run = await running(journal)
    async with journal.transaction(run) as transaction:
        await transaction.session.execute(note())
        async with asyncio.timeout(5):
            assert await journal.renew("me", [run.id]) == {run.id: None}
            await journal.record(run, batch(1))  # another tool of the same turn ends meanwhile
        await transaction.commit(batch(2, step()))
    assert await noted(engine) == [1]
