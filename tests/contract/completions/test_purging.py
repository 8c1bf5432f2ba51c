"""Old events are deleted when nobody needs them any more, and never before."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import event as listen_to
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import SendFailed
from app.domain.models.deliveries import EventFilter, WebhookEndpoint
from app.domain.models.retention import Expiry, Pruned
from app.infrastructure.persistence.retention import SqlRunRetention
from app.infrastructure.persistence.webhook_endpoints import SqlWebhookEndpointStore
from app.services.retention import RetentionAges, RetentionService
from tests.contract.completions.receivers import NOON, Post, Receiver, event

LATER = NOON + timedelta(days=1)


def refused_for_good(*numbers: int) -> Receiver:
    def fault(batch: object) -> BaseException | None:
        if any(message.body["number"] in numbers for message in batch):  # type: ignore[attr-defined]
            return SendFailed("It answered 400.", status=400, permanent=True)
        return None

    return Receiver(fault)


async def left(post: Post) -> list[int]:
    """The numbers of the events that are still there."""
    found = await post.outbox.find(EventFilter(), limit=1000)
    return sorted(one.payload["number"] for one in found)


async def pruned(engine: AsyncEngine, batch_rows: int = 100, *, dry_run: bool = False) -> int:
    expiry = Expiry(None, None, completions_before=LATER)
    done = await SqlRunRetention(engine).prune(expiry, batch_rows=batch_rows, dry_run=dry_run)
    assert done == Pruned(0, 0, 0, done.completion_rows)
    return done.completion_rows


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
async def test_what_every_destination_has_got_goes(engine: AsyncEngine, batch_rows: int) -> None:
    post = Post(engine)
    fast, slow = await post.worker(Receiver(), "fast"), await post.worker(refused_for_good(2), "slow")
    await post.write(*(event(number, f"conv_{number}") for number in range(6)))
    await post.deliver(fast)
    assert await pruned(engine, batch_rows) == 0  # the other one has not read them
    await post.deliver(slow)
    assert await pruned(engine, batch_rows, dry_run=True) == 5
    assert await left(post) == list(range(6))
    assert await pruned(engine, batch_rows) == 5
    assert await left(post) == [2]  # a dead letter waits for a person
    slow.destination.sink.fault = lambda _batch: None  # type: ignore[attr-defined]
    assert await post.store.redeliver("slow", EventFilter(destination="slow", state="dead")) == 1
    await post.deliver(slow)
    assert await pruned(engine, batch_rows) == 1


async def test_what_is_owed_or_young_or_new_stays(engine: AsyncEngine) -> None:
    post = Post(engine)
    worker = await post.worker(Receiver(lambda _batch: SendFailed("It answered 500.", status=500)))
    await post.write(event(1), event(2, created_at=LATER))
    await worker.step()
    await post.outbox.append([event(3)])  # it has no position yet
    assert await pruned(engine) == 0
    assert await left(post) == [1, 2, 3]


async def test_a_transaction_deletes_its_most(engine: AsyncEngine) -> None:
    post = Post(engine)
    await post.write(*(event(number) for number in range(7)))
    deleted: list[int] = []

    def count(_connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE"):
            deleted.append(cursor.rowcount)  # type: ignore[attr-defined]

    listen_to.listen(engine.sync_engine, "after_cursor_execute", count)
    assert await pruned(engine, batch_rows=3) == 7
    listen_to.remove(engine.sync_engine, "after_cursor_execute", count)
    assert [number for number in deleted if number] == [3, 3, 1]


async def test_several_processes_at_once(engine: AsyncEngine) -> None:
    post = Post(engine)
    await post.write(*(event(number) for number in range(40)))
    assert sum(await asyncio.gather(*(pruned(engine, 5) for _ in range(3)))) + await pruned(engine) == 40
    assert await left(post) == []


async def test_an_endpoint_whose_tenant_is_silent_keeps_no_other_tenants_events(engine: AsyncEngine) -> None:
    post = Post(engine)
    endpoint = WebhookEndpoint(
        "we_1", "silent", "mine", "https://example.com", ("run.failed",), "whsec_a", None, None, NOON, NOON
    )
    await SqlWebhookEndpointStore(engine).add(endpoint)
    for name in ("we_1", "we_deleted"):
        await post.store.ensure(name, latest=False)
    await post.write(event(1), event(2, organization_id="silent"))
    assert await pruned(engine) == 1
    assert await left(post) == [2]


async def test_a_destination_of_a_silent_organization_keeps_only_its_own(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    worker = await post.worker(receiver, organization_id="silent", retention_days=None)
    await post.write(event(1), event(2))
    assert await pruned(engine) == 0
    await worker.prune()
    assert await pruned(engine) == 2
    await post.write(event(3), event(4, organization_id="silent"), event(5))
    await worker.prune()
    assert await pruned(engine) == 0
    await post.deliver(worker)
    assert [message.body["number"] for message in receiver.got] == [4]
    await worker.prune()
    assert await pruned(engine) == 3


async def test_an_event_that_is_asked_for_again_is_not_deleted_under_it(postgresql_engine: AsyncEngine) -> None:
    post, receiver = Post(postgresql_engine), Receiver()
    worker = await post.worker(receiver)
    await post.write(event(1))
    await post.deliver(worker)
    asked = EventFilter(destination="billing", since=NOON - timedelta(days=9))
    again, gone = await asyncio.gather(post.store.redeliver("billing", asked), pruned(postgresql_engine))
    await post.deliver(worker)
    # Whichever was first: it was deleted and is not sent again, or it is owed and is sent.
    assert (again, gone, len(receiver.got)) in {(0, 1, 1), (1, 0, 2)}
    assert (await post.store.stats())[0].pending == 0


async def test_the_settings_say_how_old(engine: AsyncEngine) -> None:
    post = Post(engine)
    await post.write(event(1, created_at=NOON - timedelta(days=31)), event(2, created_at=NOON - timedelta(days=29)))
    rows = SqlRunRetention(engine)
    assert (await RetentionService(rows, post.clock, RetentionAges(completions_d=None)).prune()).completion_rows == 0
    assert (await RetentionService(rows, post.clock).prune(dry_run=True)).completion_rows == 1
    assert (await RetentionService(rows, post.clock).prune()).completion_rows == 1
    assert await left(post) == [2]
