"""Writing in the middle of a run: steps, usage and events, fenced, and safe to try again."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import InterfaceError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import LeaseLost, StorageUnavailable
from app.domain.models.runs import RunBatch, RunStatus
from app.infrastructure.persistence.conversations import SqlConversationStore
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import run_steps
from tests.contract.journal.factory import (
    CALLER,
    batch,
    call,
    count_rows,
    deltas,
    end_of,
    expire,
    row_of,
    running,
    step,
    taken,
)


async def states(engine: AsyncEngine) -> dict[str, Any]:
    async with engine.connect() as connection:
        rows = (await connection.execute(select(run_steps.c.step, run_steps.c.state, run_steps.c.result))).all()
    return {row.step: (row.state, row.result) for row in rows}


async def test_a_step_that_had_begun_is_done_later(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    assert await journal.record(run, batch(1, step("/t:a", state="started", result=None), step("/t:b"))) is None
    assert (await states(engine))["/t:a"] == ("started", None)
    await journal.record(run, batch(2, step("/t:a", result="out", duration_ms=8), step("/m1", kind="model")))
    assert await states(engine) == {
        "/t:a": ("done", "out"),
        "/t:b": ("done", step().result),
        "/m1": ("done", step().result),
    }
    await journal.record(run, RunBatch((step("/t:c", state="failed", result="no"),)))  # a batch without events
    assert (await states(engine))["/t:c"] == ("failed", "no")
    assert await journal.last_sequence(CALLER, run.id) == 2


async def test_a_batch_may_tell_of_a_step_twice(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    """It began and ended before the first of it was written; keys that are alike once shortened stay two."""
    run = await running(journal)
    long = "/t:" + "x" * 300
    twice = (step("/t:a", state="started", result=None), step("/t:b"), step("/t:a", result="out"))
    await journal.record(run, RunBatch((*twice, step(long + "1"), step(long + "2"))))
    stored = await states(engine)
    assert (stored["/t:a"], len(stored)) == (("done", "out"), 4)


async def test_events_go_on_where_the_last_batch_ended(journal: SqlRunJournal) -> None:
    run = await running(journal)
    await journal.record(run, batch(1, events=3))
    await journal.record(run, batch(4, events=2))
    stored, status = await journal.events(CALLER, run.id)
    assert stored == list(deltas(1, 5))
    assert status is RunStatus.RUNNING
    await journal.finish(run, end_of(run, 5))
    stored, status = await journal.events(CALLER, run.id, after=5)
    assert [event.sequence for event in stored] == [6]
    assert status is RunStatus.COMPLETED


@pytest.mark.parametrize("first", [1, 2, 5])
async def test_a_batch_that_leaves_a_gap_or_overlaps_is_refused(
    journal: SqlRunJournal, engine: AsyncEngine, first: int
) -> None:
    run = await running(journal)
    await journal.record(run, batch(1, events=3))
    before = await count_rows(engine)
    with pytest.raises(LeaseLost):
        await journal.record(run, batch(first, step(), events=1))
    assert await count_rows(engine) == before


async def test_after_a_newer_claim_nothing_is_written(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal, "lost")
    await journal.record(run, batch(1))
    await expire(engine, run.id)
    claimed = await taken(journal, "me")
    before = await count_rows(engine)
    for late in (batch(2, step(), calls=(call(),)), RunBatch((step(),)), RunBatch()):
        with pytest.raises(LeaseLost):
            await journal.record(run, late)
    with pytest.raises(LeaseLost):
        await journal.hand_back(run, batch(2, step()))
    with pytest.raises(LeaseLost):
        await journal.finish(run, end_of(run, 1))
    assert await count_rows(engine) == before
    assert (await row_of(engine, run.id)).owner == "me"
    await journal.record(claimed.run, batch(2, step()))


async def test_the_old_owner_s_answer_to_the_same_numbers_is_refused(
    journal: SqlRunJournal, engine: AsyncEngine
) -> None:
    """Two attempts give the same number to different events: the numbers alone must not look like a retry."""
    run = await running(journal, "lost")
    await expire(engine, run.id)
    claimed = await taken(journal, "me")
    await journal.record(claimed.run, batch(1))
    with pytest.raises(LeaseLost):
        await journal.record(run, batch(1, step()))
    assert await states(engine) == {}


async def test_the_same_batch_again_changes_nothing(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    made = batch(1, step(), calls=(call(),), events=3)
    await journal.record(run, made)
    before = await count_rows(engine)
    await journal.request_cancel(CALLER, run.id, "user")
    assert await journal.record(run, made) == "user"
    assert await count_rows(engine) == before
    without_events = RunBatch((step("/t:2"),), (call("/m2"),))
    await journal.record(run, without_events)
    before = await count_rows(engine)
    await journal.record(run, without_events)
    assert await count_rows(engine) == before
    assert await journal.last_sequence(CALLER, run.id) == 3


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_the_answer_to_a_write_gets_lost(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    """The write happens and its caller is told that the database is away: trying again finds it done."""
    run = await running(journal)
    made = batch(1, step(), calls=(call(),))

    def lose(*_: Any) -> None:
        raise InterfaceError("record", {}, ConnectionError())

    event.listen(engine.sync_engine, "after_cursor_execute", lose)
    with pytest.raises(StorageUnavailable):
        await journal.record(run, made)
    event.remove(engine.sync_engine, "after_cursor_execute", lose)
    assert await states(engine) == {"/t:c1": ("done", step().result)}
    before = await count_rows(engine)
    assert await journal.record(run, made) is None
    assert await count_rows(engine) == before
    await journal.record(run, batch(2))


async def test_a_cancelled_write_is_whole_or_not_there(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    for yields in range(12):
        first = await journal.last_sequence(CALLER, run.id) + 1
        writing = asyncio.create_task(journal.record(run, batch(first, step(f"/t:{first}"))))
        for _ in range(yields):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait((writing,))
        assert (f"/t:{first}" in await states(engine)) == (await journal.last_sequence(CALLER, run.id) == first)
    stored, _ = await journal.events(CALLER, run.id)
    assert [event.sequence for event in stored] == list(range(1, len(stored) + 1))


async def test_a_write_tells_of_a_wish_to_end_and_extends_the_lease(
    journal: SqlRunJournal, engine: AsyncEngine
) -> None:
    run = await running(journal)
    await journal.request_cancel(CALLER, run.id, "interrupted")
    await expire(engine, run.id)
    assert await journal.record(run, RunBatch()) == "interrupted"
    assert await journal.claim("you", take_over=True) is None


async def test_a_deleted_run_is_lost(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal)
    await SqlConversationStore(engine).delete(CALLER, run.conversation_id)
    with pytest.raises(LeaseLost):
        await journal.record(run, batch(1, step()))
    assert set((await count_rows(engine)).values()) == {0}
