"""The outbox: idempotent, and in an order that a cursor can follow."""

import asyncio
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.models.deliveries import EventFilter
from app.infrastructure.persistence.outbox import SqlOutbox
from app.infrastructure.persistence.recorded_events import insert_events
from tests.contract.completions.receivers import NOON, Post, event


async def test_an_event_is_written_once(engine: AsyncEngine) -> None:
    outbox, one, two = SqlOutbox(engine), event(1), event(2)
    assert await outbox.append([one]) == 1
    assert await outbox.append([one, two]) == 1
    assert await outbox.append([]) == 0
    assert [found.id for found in await outbox.find(EventFilter(), limit=10)] == [two.id, one.id]


async def test_positions_are_given_in_the_order_of_creation(engine: AsyncEngine) -> None:
    post = Post(engine)
    late, early = event(2), event(1)
    await post.write(late, early)
    found = {one.id: one.position for one in await post.outbox.find(EventFilter(), limit=10)}
    assert (found[early.id], found[late.id]) == (1, 2)
    assert await post.outbox.place(10) == 0


async def test_placing_at_once_gives_every_event_one_position(engine: AsyncEngine) -> None:
    outbox = SqlOutbox(engine)
    await outbox.append([event(number) for number in range(60)])
    placed = await asyncio.gather(*(outbox.place(20) for _ in range(5)))
    while await outbox.place(20):
        pass
    positions = sorted(one.position for one in await outbox.find(EventFilter(), limit=100))
    assert positions == list(range(1, 61))
    assert sum(placed) >= 20


async def test_a_transaction_that_commits_late_gets_a_later_position(postgresql_engine: AsyncEngine) -> None:
    post = Post(postgresql_engine)
    slow, quick = event(1), event(2)
    async with postgresql_engine.connect() as connection, connection.begin():
        await insert_events(connection, [slow])
        await post.write(quick)
        worker = await post.worker(None)
        state = await post.store.claim("billing", "one", 30)
        assert state is not None
        read = await post.store.unread(state, None, 10)
        assert [one.id for one in read] == [quick.id]
        assert await post.store.plan("billing", "one", read[-1].position, [])
    await post.outbox.place(10)
    state = await post.store.claim("billing", "one", 30)
    assert state is not None
    assert [one.id for one in await post.store.unread(state, None, 10)] == [slow.id]
    assert worker.metrics.delivered == 0


async def test_finding_is_bound_to_an_organization_and_pages(engine: AsyncEngine) -> None:
    post = Post(engine)
    mine = await post.write(*(event(number) for number in range(5)))
    (other,) = await post.write(event(9, organization_id="other"))
    wanted = EventFilter(organization_id="acme")
    first = await post.outbox.find(wanted, limit=3)
    rest = await post.outbox.find(wanted, limit=3, after=first[-1].id)
    assert [one.id for one in [*first, *rest]] == [one.id for one in reversed(mine)]
    assert await post.outbox.find(EventFilter(organization_id="acme", event_ids=(other.id,)), limit=1) == []
    assert await post.outbox.find(EventFilter(event_ids=("\x00",)), limit=1) == []
    assert await post.outbox.find(wanted, limit=3, after="unknown") == []


async def test_purge_leaves_what_a_destination_has_not_got(engine: AsyncEngine) -> None:
    post = Post(engine)
    await post.write(event(1), event(2))
    await post.store.ensure("billing", latest=False)
    before = NOON + timedelta(days=1)
    assert await post.outbox.purge(before, ["billing"], dry_run=True) == 0
    assert await post.outbox.purge(before, ["billing"]) == 0
    assert await post.store.claim("billing", "one", 30) is not None
    assert await post.store.plan("billing", "one", 1, [])
    assert await post.outbox.purge(before, ["billing"], dry_run=True) == 1
    assert await post.outbox.purge(before, ["billing"]) == 1
    assert await post.outbox.purge(NOON - timedelta(days=9), []) == 0
    assert await post.outbox.purge(before, []) == 1


async def test_events_of_runs_stay_unique(engine: AsyncEngine) -> None:
    outbox = SqlOutbox(engine)
    assert await outbox.append([event(1, run_id="run_1")]) == 1
    assert await outbox.append([event(2, run_id="run_1")]) == 0
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM completion_events"))).scalar_one() == 1
