"""Calls that belong to no run, on both databases."""

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.errors import StorageUnavailable
from app.domain.models.gateway import GatewayCall
from app.domain.models.runs import CompletionEvent
from app.domain.models.usage import Price
from app.infrastructure.persistence.gateway_calls import SqlGatewayCallStore
from app.infrastructure.persistence.tables import completion_events, run_usage
from app.infrastructure.persistence.usage import SqlUsageStore
from app.services.gateway_records import completion_of
from tests.unit.services.test_gateway_records import call

Row = tuple[GatewayCall, CompletionEvent]


@pytest.fixture
def store(engine: AsyncEngine) -> SqlGatewayCallStore:
    return SqlGatewayCallStore(engine)


def row(number: int) -> Row:
    made = call(number)
    made = replace(made, usage=replace(made.usage, price=Price(Decimal("0.0000000001"), "list 1")))
    return made, completion_of(made)


async def counts(engine: AsyncEngine) -> tuple[int, int]:
    async with engine.connect() as connection:
        usage = await connection.scalar(select(func.count()).select_from(run_usage))
        events = await connection.scalar(select(func.count()).select_from(completion_events))
    return int(usage or 0), int(events or 0)


async def test_a_row_and_its_event(store: SqlGatewayCallStore, engine: AsyncEngine) -> None:
    await store.record([row(1)])
    async with engine.connect() as connection:
        usage = (await connection.execute(select(run_usage))).one()
        event = (await connection.execute(select(completion_events))).one()
    assert (usage.run_id, usage.step, usage.agent, usage.endpoint) == ("req_1", "/responses", "", "responses")
    assert (usage.organization_id, usage.user_id, usage.project_id, usage.api_key_id) == ("acme", "ann", "proj", "key")
    assert (usage.conversation_id, usage.http_status) == (None, 200)
    assert usage.cost_usd == Decimal("0.0000000001")
    assert (event.run_id, event.session_id, event.type) == ("req_1", "req_1", "session.completed")
    assert event.payload["session_type"] == "api"


async def test_they_are_in_the_sums(store: SqlGatewayCallStore, engine: AsyncEngine) -> None:
    await store.record([row(number) for number in range(300)])
    (group,) = await SqlUsageStore(engine).grouped("model", organization_id="acme", since=None)
    assert (group.key, group.tokens.requests, group.cost_usd) == ("known", 300, Decimal("3e-8"))


async def test_a_try_that_came_through_after_all(store: SqlGatewayCallStore, engine: AsyncEngine) -> None:
    await store.record([row(1), row(2)])
    await store.record([row(1), row(2), row(3)], again=True)
    await store.record([row(1)], again=True)
    assert await counts(engine) == (3, 3)


async def test_all_or_none(store: SqlGatewayCallStore, engine: AsyncEngine) -> None:
    good, (made, event) = row(1), row(2)
    with pytest.raises(Exception, match="completion_events"):
        await store.record([good, (made, replace(event, id=good[1].id))])
    assert await counts(engine) == (0, 0)


async def test_nothing(store: SqlGatewayCallStore, engine: AsyncEngine) -> None:
    await store.record([])
    assert await counts(engine) == (0, 0)


async def test_the_database_is_away(sqlite_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(type(sqlite_engine), "connect", refuse)
    with pytest.raises(StorageUnavailable):
        await SqlGatewayCallStore(sqlite_engine).record([row(1)])
