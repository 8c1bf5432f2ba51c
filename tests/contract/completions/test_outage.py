"""Destinations that hang, fail for an hour and recover, beside one that works: nothing dropped, order kept by key."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import SendFailed
from app.domain.models.deliveries import EventFilter, Message, OutboxEvent
from app.services.deliveries import DestinationWorker
from tests.contract.completions.receivers import Post, Receiver, event, unavailable

SESSIONS = 9
HOUR_S = 3_600


@dataclass(frozen=True)
class Outage:
    """A destination that is down, and one that is not."""

    post: Post
    down: Receiver
    up: Receiver
    to_down: DestinationWorker
    to_up: DestinationWorker

    async def pass_time(self, times: int, events: int, seconds: float = 60) -> list[OutboxEvent]:
        """Let time pass, `times` spans of so many seconds; events are recorded at the beginning of each."""
        written: list[OutboxEvent] = []
        for first in range(len(self.up.got), len(self.up.got) + times * events, events):
            numbers = range(first, first + events)
            written += await self.post.write(*(event(number, f"s{number % SESSIONS}") for number in numbers))
            await self.post.deliver(self.to_up)
            assert len(self.up.got) == first + events, "what is down must not delay what is up"
            await self.post.deliver(self.to_down, seconds=seconds)
        return written

    async def recover(self) -> float:
        """Let the destination work again, and catch up; returns events per second of real time."""
        self.down.fault, self.down.hang = (lambda _batch: None), None
        began, got = time.perf_counter(), len(self.down.got)
        await self.post.deliver(self.to_down, seconds=600)
        return (len(self.down.got) - got) / (time.perf_counter() - began)


async def outage(engine: AsyncEngine, **fields: int) -> Outage:
    post, down, up = Post(engine), Receiver(unavailable), Receiver()
    to_down = await post.worker(down, "billing", retry_attempts=3, **fields)
    return Outage(post, down, up, to_down, await post.worker(up, "audit", batch_size=20))


def assert_in_order(got: Sequence[Message]) -> None:
    """Each session's events arrived in the order in which they were recorded."""
    for session in {message.body["session_id"] for message in got}:
        numbers = [message.body["number"] for message in got if message.body["session_id"] == session]
        assert numbers == sorted(numbers), session


async def assert_all_there(it: Outage, written: Sequence[OutboxEvent]) -> None:
    """Exactly the written events are there, once each: nothing was answered and then lost on the way back."""
    assert sorted(it.down.ids) == sorted(one.id for one in written)
    assert_in_order(it.down.got)
    assert it.to_down.metrics.dead_letters == 0
    assert await it.post.store.list(EventFilter(state="pending"), limit=1) == []
    assert await it.post.store.list(EventFilter(state="dead"), limit=1) == []


@pytest.mark.parametrize("batch_size", [1, 50], ids=["one-by-one", "batches"])
async def test_an_hour_of_500_while_events_go_on_coming(engine: AsyncEngine, batch_size: int) -> None:
    it = await outage(engine, batch_size=batch_size)
    written = await it.pass_time(6, events=60, seconds=HOUR_S / 6)
    assert it.down.got == []
    assert it.down.calls <= 3 * 60, "a destination that is down is looked at now and then"
    rate = await it.recover()
    print(f"caught up with {len(written)} events after an hour of 500s: {rate:.0f} events/s, batches of {batch_size}")
    await assert_all_there(it, written)


async def test_it_hangs_then_fails_then_recovers(engine: AsyncEngine) -> None:
    it = await outage(engine, timeout_ms=5, batch_size=20)
    it.down.hang = asyncio.Event()
    hung = await it.pass_time(10, events=4)
    (delivery,) = await it.post.store.list(EventFilter(destination="billing", event_ids=(hung[0].id,)), limit=1)
    assert delivery.last_error == "No answer within 5 ms."
    it.down.hang = None
    failed = await it.pass_time(10, events=4)
    (delivery,) = await it.post.store.list(EventFilter(destination="billing", event_ids=(hung[0].id,)), limit=1)
    assert delivery.last_error == "It answered 500."
    await it.recover()
    await assert_all_there(it, [*hung, *failed])


async def test_it_comes_and_goes(engine: AsyncEngine) -> None:
    """What failed many times while it was away is not used up by a moment in which it took others."""
    it = await outage(engine, batch_size=5)
    written = await it.pass_time(5, events=20)
    taken = 0

    def takes_30(batch: Sequence[Message]) -> BaseException | None:
        nonlocal taken
        taken += len(batch)
        return SendFailed("It answered 503.", status=503, retry_after_s=120) if taken > 30 else None

    it.down.fault = takes_30
    await it.post.deliver(it.to_down, seconds=300)
    assert 0 < len(it.down.got) <= 30
    await it.recover()
    await assert_all_there(it, written)


async def test_an_answer_that_was_lost_repeats_the_batch_under_its_ids_and_in_order(engine: AsyncEngine) -> None:
    """The receiver has the batch, the worker was told that it has not: the receiver tells repetitions by the id."""
    it = await outage(engine, batch_size=10)
    kept: list[Message] = []

    def keeps_and_fails(batch: Sequence[Message]) -> BaseException:
        kept.extend(batch)
        return SendFailed("No answer.")

    it.down.fault = keeps_and_fails
    written = await it.pass_time(3, events=10)
    assert kept
    await it.recover()
    await assert_all_there(it, written)
    # Told apart by id, what arrived first of each session is still in order.
    assert_in_order(list({message.id: message for message in reversed([*kept, *it.down.got])}.values())[::-1])


async def test_new_events_are_no_work_while_it_rests(engine: AsyncEngine) -> None:
    it = await outage(engine)
    await it.pass_time(2, events=6)
    await it.post.deliver(it.to_down)
    assert it.to_down.is_resting
    unread = (await it.post.store.stats())[1].unread
    new = await it.post.write(*(event(number, "late") for number in range(5)))
    calls = it.down.calls
    await it.to_down.step()
    (_, billing) = await it.post.store.stats()
    assert (billing.state.name, billing.unread - unread, it.down.calls) == ("billing", len(new), calls)
    await it.recover()
    assert {one.id for one in new} <= set(it.down.ids)
    assert not it.to_down.is_resting


async def test_another_process_takes_over_during_the_outage(engine: AsyncEngine) -> None:
    it = await outage(engine)
    written = await it.pass_time(3, events=6)
    await it.to_down.release()
    heir = await it.post.worker(it.down, "billing", owner="heir", retry_attempts=3)
    calls = it.down.calls
    await it.post.deliver(heir)
    assert it.down.calls <= calls + 2, "the heir knows from the database that it is down"
    it.down.fault = lambda _batch: None
    await it.post.deliver(heir, seconds=600)
    assert sorted(it.down.ids) == sorted(one.id for one in written)
    assert_in_order(it.down.got)
    assert await it.post.store.list(EventFilter(state="dead"), limit=1) == []
