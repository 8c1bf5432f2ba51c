"""Many events at once: one statement, once each, and no two writers wait for each other for ever."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from sqlalchemy import event as on
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.deliveries import EventFilter
from app.infrastructure.clock import SystemClock
from app.infrastructure.persistence.engine import writing
from app.infrastructure.persistence.outbox import SqlOutbox
from app.infrastructure.persistence.recorded_events import Recorded, record_events
from app.infrastructure.persistence.signing_keys import SqlSigningKeys
from app.services.event_intake import EventIntake
from tests.contract.completions.receivers import event


async def record(engine: AsyncEngine, *events: Any) -> Recorded:
    async with writing(engine) as connection:
        return await record_events(connection, events)


async def test_rows_are_as_they_were_given(engine: AsyncEngine) -> None:
    strange = event(1, user_id=None, payload={"text": "\x00 \ud800 ünï 'quoted' \\u0000", "deep": [{"x": 1.5}, None]})
    assert await record(engine) == Recorded(0)
    assert await record(engine, strange, event(2, run_id="run_1")) == Recorded(2)
    found = await SqlOutbox(engine).find(EventFilter(event_ids=(strange.id,)), limit=1)
    assert found == [strange]


async def test_what_is_the_same_in_all_rows_and_what_is_not(engine: AsyncEngine) -> None:
    elsewhere = datetime(2026, 11, 21, 14, tzinfo=timezone(timedelta(hours=2)))  # noon, and without microseconds
    same = [event(number, user_id=None, created_at=elsewhere) for number in range(3)]
    first = [event(0, user_id=None), event(1, user_id="ann"), event(2, user_id=None, outcome="error", version=2)]
    last = [event(0, run_id="run_1", type="run.failed"), event(1, source=None)]
    for batch in (same, first, last, [event()]):
        assert await record(engine, *batch) == Recorded(len(batch))
        wanted = EventFilter(event_ids=tuple(one.id for one in batch))
        found = {one.id: one for one in await SqlOutbox(engine).find(wanted, limit=9)}
        assert found == {one.id: one for one in batch}
    assert found[batch[0].id].created_at.tzinfo is UTC
    assert await record(engine, same[0], same[0]) == Recorded(0)
    twice = event()
    assert await record(engine, twice, twice) == Recorded(1)


async def test_whose_an_id_is_decides(engine: AsyncEngine) -> None:
    one, two, three = event(1), event(2), event(3)
    await record(engine, one)
    stolen = replace(one, organization_id="globex", session_id="other")
    assert await record(engine, stolen, two, one, three) == Recorded(2, frozenset({one.id}))
    assert await record(engine, replace(three, session_id="changed")) == Recorded(0)
    found = await SqlOutbox(engine).find(EventFilter(), limit=9)
    assert [(each.id, each.session_id) for each in found] == [(each.id, "conv_1") for each in (three, two, one)]


async def test_a_failed_transaction_leaves_nothing(engine: AsyncEngine) -> None:
    try:
        async with writing(engine) as connection:
            await record_events(connection, [event(1)])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert await SqlOutbox(engine).find(EventFilter(), limit=1) == []


async def test_writers_of_the_same_events_do_not_dead_lock(engine: AsyncEngine) -> None:
    events = [event(number) for number in range(200)]
    orders = [random.Random(seed).sample(events, len(events)) for seed in range(6)]
    done = await asyncio.gather(*(record(engine, *order) for order in orders))
    assert sum(one.new for one in done) == 200
    assert len(await SqlOutbox(engine).find(EventFilter(), limit=1_000)) == 200


async def test_a_batch_over_http_takes_one_statement(postgresql_engine: AsyncEngine) -> None:
    statements: list[str] = []
    on.listen(
        postgresql_engine.sync_engine, "before_cursor_execute", lambda *told: statements.append(told[2].split()[0])
    )
    intake = EventIntake(SqlOutbox(postgresql_engine), SystemClock(), lambda: None)
    sent = [{"session_id": f"s-{number}", "event_id": f"e-{number}"} for number in range(1_000)]
    assert (await intake.take(sent, "acme", "http")).accepted == 1_000
    assert statements == ["INSERT"]
    assert (await intake.take(sent, "acme", "http")).duplicates == 1_000
    assert statements == ["INSERT", "INSERT", "SELECT"]  # whose the ids are is asked only when one was there


async def test_all_processes_of_a_database_sign_with_one_key(engine: AsyncEngine) -> None:
    stores = [SqlSigningKeys(engine) for _ in range(5)]
    found = await asyncio.gather(*(store.secret("tokens") for store in stores))
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert await SqlSigningKeys(engine).secret("other") != found[0]
    assert await stores[0].secret("tokens") == found[0]
