"""What is asked again and again costs what there is to do, not what has ever been done: SQLite's plans are by index."""

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.retention import Expiry
from app.domain.models.runs import RunStatus
from app.infrastructure.persistence.journal import SqlRunJournal
from app.infrastructure.persistence.retention import SqlRunRetention
from tests.contract.journal.factory import CALLER, NOW, new_run

UNFINISHED = "USING INDEX ix_agent_runs_unfinished"
OPEN = "USING INDEX ix_agent_runs_open"
ENDED = "USING INDEX ix_agent_runs_finished_at"
OF_CONVERSATION = "USING INDEX sqlite_autoindex_agent_runs_2 (conversation_id=?)"
EXPIRY = Expiry(NOW, NOW - timedelta(days=1))
Ask = Callable[[SqlRunJournal, AsyncEngine, str], Awaitable[Any]]


async def plans_of(engine: AsyncEngine, asking: Awaitable[Any]) -> list[str]:
    """Do something and return what SQLite says of how it looked into our tables."""
    asked: list[tuple[str, Any]] = []

    def statement(_connection: Any, _cursor: Any, text: str, parameters: Any, *_: Any) -> None:
        if text.startswith(("SELECT", "UPDATE", "INSERT", "DELETE")):
            asked.append((text, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", statement)
    await asking
    event.remove(engine.sync_engine, "before_cursor_execute", statement)
    async with engine.connect() as connection:
        return [
            row[-1]
            for text, parameters in asked
            for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)
        ]


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (lambda journal, _engine, _name: journal.claim("me", take_over=True), UNFINISHED),
        (lambda journal, _engine, _name: journal.claim("me", take_over=False), UNFINISHED),
        (lambda journal, _engine, name: journal.start(new_run(conversation_id=name), "me"), UNFINISHED),
        (lambda journal, _engine, _name: journal.hand_back_queued("me"), UNFINISHED),
        (lambda journal, _engine, _name: journal.list(CALLER, statuses=[RunStatus.QUEUED, RunStatus.WAITING]), OPEN),
        (lambda journal, _engine, _name: journal.approvals(CALLER, open_only=True), OPEN),
        (lambda journal, _engine, name: journal.list(CALLER, conversation_id=name), OF_CONVERSATION),
        (lambda _journal, engine, _name: SqlRunRetention(engine).prune(EXPIRY, batch_rows=10), ENDED),
    ],
    ids=["claim", "claim own", "start", "hand back", "unfinished runs", "open approvals", "conversation", "retention"],
)
async def test_nothing_reads_all_runs_there_ever_were(sqlite_engine: AsyncEngine, ask: Ask, index: str) -> None:
    journal = SqlRunJournal(sqlite_engine, lease_s=30)
    conversation = (await journal.start(new_run(), "me")).run.conversation_id
    plans = await plans_of(sqlite_engine, ask(journal, sqlite_engine, conversation))
    assert any(index in plan for plan in plans), plans
    # A scan by the index of unfinished runs sees these only; any other scan sees all rows.
    scans = [plan for plan in plans if re.match("SCAN (agent_|earlier)", plan) and UNFINISHED not in plan]
    assert scans == []
