"""The revision by which a run may ask for approvals more than once: what ended stays told once."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.infrastructure.persistence.engine import reading, writing
from tests.migrations.commands import APPROVALS, DELIVERIES, down, up


async def tell(engine: AsyncEngine, event: str, kind: str) -> None:
    statement = text(
        "INSERT INTO completion_events (id, type, version, organization_id, session_id, run_id, outcome, payload,"
        " created_at) VALUES (:id, :type, 1, 'acme', 'conv_1', 'run_1', 'success', '{}', CURRENT_TIMESTAMP)"
    )
    async with writing(engine) as connection:
        await connection.execute(statement, {"id": event, "type": kind})


async def told(engine: AsyncEngine) -> list[Any]:
    async with reading(engine) as connection:
        return list((await connection.execute(text("SELECT id FROM completion_events ORDER BY id"))).scalars())


async def test_a_run_ends_once_and_may_ask_often(engine: AsyncEngine) -> None:
    await up(engine, DELIVERIES)
    await tell(engine, "e1", "session.completed")
    await up(engine, APPROVALS)
    for event in ("e2", "e3"):
        await tell(engine, event, "approval.requested")
    with pytest.raises(IntegrityError):
        await tell(engine, "e4", "session.completed")
    assert await told(engine) == ["e1", "e2", "e3"]
    await down(engine, DELIVERIES)
    assert await told(engine) == ["e1"]
    await tell(engine, "e2", "approval.requested")
    with pytest.raises(IntegrityError):
        await tell(engine, "e3", "approval.requested")
