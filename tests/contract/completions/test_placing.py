"""When events get their positions: at once where a destination reads, in one go now and then where none does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import RECORDED, Destination
from app.domain.models.deliveries import DestinationSettings
from app.infrastructure.clock import SystemClock
from app.infrastructure.completions.transforms import event_v1
from app.infrastructure.persistence.deliveries import SqlDeliveryStore
from app.infrastructure.persistence.outbox import SqlOutbox
from app.infrastructure.persistence.wakeups import InProcessWakeups
from app.infrastructure.persistence.webhook_endpoints import SqlWebhookEndpointStore
from app.services.delivery_rounds import Deliveries, DeliveryTimes
from tests.contract.completions.receivers import Post, Receiver, event, unavailable

NEVER_S = 3600.0


class Counted(SqlOutbox):
    """Counts the looks for events without a position; the next one can be made to last."""

    looks = 0
    after_look: asyncio.Event | None = None
    looked: asyncio.Event | None = None

    async def place(self, most: int) -> int:
        self.looks += 1
        placed = await super().place(most)
        if self.looked is not None and self.after_look is not None:
            self.looked.set()
            await self.after_look.wait()
        return placed


@asynccontextmanager
async def delivering(
    engine: AsyncEngine, outbox: Counted, wakeups: InProcessWakeups, *receivers: Receiver, poll_s: float = NEVER_S
) -> AsyncGenerator[Deliveries]:
    destinations = [
        Destination(DestinationSettings(f"to-{number}"), receiver, event_v1, lambda one: one.type)
        for number, receiver in enumerate(receivers)
    ]
    store, endpoints = SqlDeliveryStore(engine), SqlWebhookEndpointStore(engine)

    def build(_settings: DestinationSettings) -> Destination:
        raise NotImplementedError

    deliveries = Deliveries(
        destinations, outbox, store, endpoints, build, SystemClock(), wakeups, DeliveryTimes(poll_s, NEVER_S)
    )
    await deliveries.start()
    try:
        yield deliveries
    finally:
        await deliveries.aclose()


async def received(receiver: Receiver, count: int) -> None:
    async with asyncio.timeout(20):
        while len(receiver.got) < count:
            await asyncio.sleep(0.005)


async def looked(outbox: Counted, times: int) -> None:
    async with asyncio.timeout(20):
        while outbox.looks < times:
            await asyncio.sleep(0.005)


async def test_what_is_recorded_reaches_a_destination_without_a_poll(engine: AsyncEngine) -> None:
    outbox, wakeups, receiver = Counted(engine), InProcessWakeups(), Receiver()
    async with delivering(engine, outbox, wakeups, receiver):
        for number in range(3):
            await outbox.append([event(number)])
            wakeups.announce(RECORDED)
            await received(receiver, number + 1)
        assert outbox.looks <= 4  # one at the start, one for each


async def test_what_is_recorded_during_a_look_is_seen_by_the_next_one(engine: AsyncEngine) -> None:
    outbox, wakeups, receiver = Counted(engine), InProcessWakeups(), Receiver()
    outbox.looked, outbox.after_look = asyncio.Event(), asyncio.Event()
    async with delivering(engine, outbox, wakeups, receiver):
        await outbox.looked.wait()
        await outbox.append([event()])
        wakeups.announce(RECORDED)
        await asyncio.sleep(0)
        outbox.after_look.set()
        await received(receiver, 1)


async def test_nobody_pays_for_positions_that_nobody_reads(engine: AsyncEngine) -> None:
    outbox, wakeups = Counted(engine), InProcessWakeups()
    async with delivering(engine, outbox, wakeups):
        await looked(outbox, 1)
        for number in range(3):
            await outbox.append([event(number)])
            wakeups.announce(RECORDED)
            await asyncio.sleep(0.02)
        assert outbox.looks == 1
    assert await outbox.place(10) == 3


async def test_what_comes_while_a_destination_is_busy_waits_for_it(engine: AsyncEngine) -> None:
    outbox, wakeups, slow = Counted(engine), InProcessWakeups(), Receiver()
    slow.hang = asyncio.Event()
    async with delivering(engine, outbox, wakeups, slow):
        await outbox.append([event(0)])
        wakeups.announce(RECORDED)
        async with asyncio.timeout(20):
            while not slow.calls:
                await asyncio.sleep(0.005)
        looks = outbox.looks
        for number in range(1, 10):
            await outbox.append([event(number)])
            wakeups.announce(RECORDED)
            await asyncio.sleep(0.01)
        assert outbox.looks <= looks + 1  # one that had begun when it became busy
        slow.hang.set()
        await received(slow, 10)


async def test_they_get_them_now_and_then(engine: AsyncEngine) -> None:
    outbox, wakeups, down = Counted(engine), InProcessWakeups(), Receiver(unavailable)
    async with delivering(engine, outbox, wakeups, down, poll_s=0.05) as deliveries:
        await outbox.append([event()])
        async with asyncio.timeout(20):
            while not all(worker.is_resting for worker in deliveries.workers):
                await asyncio.sleep(0.005)
        await outbox.append([event(2)])
        await looked(outbox, outbox.looks + 2)
        assert await outbox.place(10) == 0  # it has its position, though the destination reads nothing now


async def test_the_latest_begins_behind_what_has_no_position_yet(engine: AsyncEngine) -> None:
    post, receiver = Post(engine), Receiver()
    await post.outbox.append([event(number) for number in range(1_001)])
    worker = await post.worker(receiver, start_at="latest")
    await post.write(event(2_000))
    await post.deliver(worker)
    assert [message.body["number"] for message in receiver.got] == [2_000]
