"""Deleting what is no longer wanted of finished runs, a little at a time."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.events import RunCompleted
from app.domain.models.retention import Expiry, Pruned
from app.domain.models.runs import Run, RunStatus
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.retention import SqlRunRetention
from app.infrastructure.persistence.tables import runs
from tests.contract.journal.factory import (
    CALLER,
    NOW,
    batch,
    count_rows,
    record_of,
    request,
    running,
    waiting,
)

DAY = timedelta(days=1)
NOTHING = Pruned(0, 0, 0)
# `all_events` makes two events, five neighbouring deltas, six others; the end has a row of its own.
DELTA_ROWS, STATE_ROWS, STEP_ROWS = 1, 3, 2


@pytest.fixture
def retention(engine: AsyncEngine) -> SqlRunRetention:
    return SqlRunRetention(engine)


async def ended(journal: SqlRunJournal, engine: AsyncEngine, at: datetime) -> Run:
    run = await running(journal)
    await journal.finish(run, record_of(run))
    async with writing(engine) as connection:
        await connection.execute(update(runs).where(runs.c.id == run.id).values(finished_at=at))
    return run


async def test_deltas_go_first(journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention) -> None:
    old, young = await ended(journal, engine, NOW), await ended(journal, engine, NOW + DAY)
    assert await retention.prune(Expiry(NOW + DAY, None), batch_rows=100) == Pruned(DELTA_ROWS, 0, 0)
    kept, status = await journal.events(CALLER, old.id)
    assert [item.sequence for item in kept] == [1, 2, *range(8, 15)]
    assert status is RunStatus.COMPLETED
    assert len((await journal.events(CALLER, young.id))[0]) == 14
    assert await retention.prune(Expiry(NOW + DAY, None), batch_rows=100) == NOTHING


async def test_the_last_event_and_what_counts_stay(
    journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention
) -> None:
    run = await ended(journal, engine, NOW)
    before, result = await count_rows(engine), await journal.result(CALLER, run.id)
    pruned = await retention.prune(Expiry(None, NOW + DAY), batch_rows=100)
    assert pruned == Pruned(0, DELTA_ROWS + STATE_ROWS - 1, STEP_ROWS)
    kept, _ = await journal.events(CALLER, run.id)
    assert [item.sequence for item in kept] == [14]
    assert isinstance(kept[0].event, RunCompleted)
    assert await journal.last_sequence(CALLER, run.id) == 14
    assert await journal.result(CALLER, run.id) == result
    after = await count_rows(engine)
    assert {name for name in after if after[name] != before[name]} == {"agent_run_events", "agent_run_steps"}


@pytest.mark.parametrize("expiry", [Expiry(None, None), Expiry(NOW, NOW)])
async def test_nothing_is_old_enough(
    journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention, expiry: Expiry
) -> None:
    await ended(journal, engine, NOW)
    before = await count_rows(engine)
    assert await retention.prune(expiry, batch_rows=100) == NOTHING
    assert await count_rows(engine) == before


async def test_unfinished_runs_are_left_alone(
    journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention
) -> None:
    run = await running(journal)
    await journal.record(run, batch(1, events=3))
    await waiting(journal, request())
    before = await count_rows(engine)
    far = NOW + 100_000 * DAY
    assert await retention.prune(Expiry(far, far), batch_rows=1) == NOTHING
    assert await count_rows(engine) == before


@pytest.mark.parametrize(
    "expiry",
    [Expiry(NOW + DAY, None), Expiry(None, NOW + DAY), Expiry(NOW + DAY, NOW + DAY), Expiry(NOW + 2 * DAY, NOW + DAY)],
)
async def test_a_dry_run_tells_what_would_go(
    journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention, expiry: Expiry
) -> None:
    for days in (0, 0, 1):
        await ended(journal, engine, NOW + days * DAY)
    before = await count_rows(engine)
    told = await retention.prune(expiry, batch_rows=1, dry_run=True)
    assert told != NOTHING
    assert await count_rows(engine) == before
    assert await retention.prune(expiry, batch_rows=1) == told


@pytest.mark.parametrize("batch_rows", [1, 3, 1_000_000])
async def test_a_transaction_deletes_its_most(
    journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention, batch_rows: int
) -> None:
    for _ in range(2):
        await ended(journal, engine, NOW)
    deleted: list[int] = []

    def count(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE"):
            deleted.append(cursor.rowcount)

    event.listen(engine.sync_engine, "after_cursor_execute", count)
    pruned = await retention.prune(Expiry(NOW + DAY, NOW + DAY), batch_rows=batch_rows)
    event.remove(engine.sync_engine, "after_cursor_execute", count)
    assert pruned == Pruned(2 * DELTA_ROWS, 2 * (STATE_ROWS - 1), 2 * STEP_ROWS)
    assert sum(deleted) == pruned.delta_rows + pruned.event_rows + pruned.step_rows
    assert max(deleted) <= batch_rows


async def test_more_rows_than_a_statement_has_parameters(
    journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention
) -> None:
    run = await running(journal)
    steps = 17_000
    async with writing(engine) as connection:
        for first in range(0, steps, 1000):
            await connection.exec_driver_sql(
                "INSERT INTO agent_run_steps (run_id, step, kind, name, agent, state, started_at, duration_ms) VALUES "
                + ", ".join(
                    f"('{run.id}', '{number}', 'tool', 'n', 'a', 'done', '2026-03-04 00:00:00+00', 1)"
                    for number in range(first, first + 1000)
                )
            )
    await journal.finish(run, record_of(run))
    async with writing(engine) as connection:
        await connection.execute(update(runs).values(finished_at=NOW))
    pruned = await retention.prune(Expiry(None, NOW + DAY), batch_rows=1_000_000)
    assert pruned.step_rows == steps + STEP_ROWS


async def test_two_prune_at_once(journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention) -> None:
    for _ in range(6):
        await ended(journal, engine, NOW)
    expiry = Expiry(NOW + DAY, NOW + DAY)
    both = await asyncio.gather(*(SqlRunRetention(engine).prune(expiry, batch_rows=2) for _ in range(3)))
    rest = await retention.prune(expiry, batch_rows=2)
    everything = [*both, rest]
    assert sum(pruned.delta_rows for pruned in everything) == 6 * DELTA_ROWS
    assert sum(pruned.event_rows for pruned in everything) == 6 * (STATE_ROWS - 1)
    assert sum(pruned.step_rows for pruned in everything) == 6 * STEP_ROWS
    assert (await count_rows(engine))["agent_run_events"] == 6


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
async def test_every_run_s_turn_comes(
    journal: SqlRunJournal, engine: AsyncEngine, retention: SqlRunRetention, batch_rows: int
) -> None:
    """A batch goes on where the one before ended, which may be among runs that ended at the same moment."""
    for minutes in (3, 0, 0, 2, 0, 1, 1, 3):
        await ended(journal, engine, NOW + timedelta(minutes=minutes))
    expiry = Expiry(NOW + DAY, NOW + timedelta(minutes=2))
    pruned = await retention.prune(expiry, batch_rows=batch_rows)
    assert pruned == Pruned(8 * DELTA_ROWS, 5 * (STATE_ROWS - 1), 5 * STEP_ROWS)
    assert await retention.prune(expiry, batch_rows=batch_rows) == NOTHING
