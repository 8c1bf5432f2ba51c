"""Whom a run is accounted to: kept with it, and written with each of its calls, whoever executes it in the end."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.conversations import Caller
from app.domain.models.runs import RunBatch
from app.infrastructure.persistence.engine import reading
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.tables import run_usage
from tests.contract.journal.factory import CALLER, call, expire, new_run, record_of, row_of, running, taken

PAYER = Caller("acme", "ada", "proj_1", "key_1")


async def _accounts(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    columns = ("step", "organization_id", "user_id", "project_id", "api_key_id", "conversation_id", "endpoint")
    async with reading(engine) as connection:
        rows = await connection.execute(select(*(run_usage.c[name] for name in columns)).order_by(run_usage.c.step))
        return [tuple(row) for row in rows]


@pytest.mark.parametrize("caller", [PAYER, CALLER], ids=["key", "no key"])
async def test_a_run_and_its_calls_name_the_project_and_the_key(
    journal: SqlRunJournal, engine: AsyncEngine, caller: Caller
) -> None:
    run = await running(journal, caller=caller)
    assert run.caller == caller
    await journal.finish(run, record_of(run))
    row = await row_of(engine, run.id)
    paid_by = ("acme", "ada", caller.project_id, caller.api_key_id)
    assert (row.organization_id, row.user_id, row.project_id, row.api_key_id) == paid_by
    assert await _accounts(engine) == [
        ("/m1", *paid_by, run.conversation_id, "run"),
        ("/t:c1/m1", *paid_by, run.conversation_id, "run"),
    ]


async def test_another_process_accounts_to_the_same(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    run = await running(journal, "lost", caller=PAYER)
    await journal.record(run, RunBatch(calls=(call("/m1"),)))
    await expire(engine, run.id)
    claimed = await taken(journal, "me")
    assert claimed.run.caller == PAYER
    await journal.record(claimed.run, RunBatch(calls=(call("/m2"),)))
    assert {row[3:5] for row in await _accounts(engine)} == {("proj_1", "key_1")}
    assert len(await _accounts(engine)) == 2


async def test_a_queued_run_is_accounted_to_its_own_key(journal: SqlRunJournal, engine: AsyncEngine) -> None:
    first = await running(journal, caller=PAYER)
    other = Caller("acme", "ada", "proj_2", "key_2")
    queued = (await journal.start(new_run(conversation_id=first.conversation_id, caller=other), "me")).run
    await journal.finish(first, record_of(first))
    claimed = await taken(journal, "me", queued.id)
    assert claimed.run.caller == other
