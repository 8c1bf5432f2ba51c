"""Destinations that new settings add, change and remove while events flow: none lost, none sent twice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import Destination
from app.domain.errors import ConfigurationError, StorageUnavailable
from app.domain.models.deliveries import DestinationSettings, OutboxEvent
from app.infrastructure.clock import SystemClock
from app.infrastructure.completions.transforms import event_v1
from app.infrastructure.persistence.deliveries import SqlDeliveryStore
from app.infrastructure.persistence.outbox import SqlOutbox
from app.infrastructure.persistence.wakeups import build_wakeups
from app.infrastructure.persistence.webhook_endpoints import SqlWebhookEndpointStore
from app.services.delivery_rounds import Deliveries, DeliveryTimes, Replaced
from tests.contract.completions.receivers import Receiver, event

NOTHING = Replaced((), (), ())


def told(name: str, **fields: object) -> DestinationSettings:
    return DestinationSettings(name, **fields)  # pyright: ignore[reportArgumentType]


class FailingStore(SqlDeliveryStore):
    """Cannot begin a cursor while it is away."""

    away = False

    async def ensure(self, name: str, *, latest: bool) -> None:
        if self.away:
            raise StorageUnavailable("The database is away.")
        await super().ensure(name, latest=latest)


@dataclass
class Office:
    """Deliveries at work, and every receiver that was built for a name, the newest last."""

    deliveries: Deliveries
    outbox: SqlOutbox
    store: FailingStore
    receivers: dict[str, list[Receiver]] = field(default_factory=dict[str, list[Receiver]])

    def build(self, settings: DestinationSettings) -> Destination:
        if settings.transform == "nonsense":
            raise ConfigurationError("There is no transform 'nonsense'.")
        receiver = Receiver()
        self.receivers.setdefault(settings.name, []).append(receiver)
        return Destination(settings, receiver, event_v1, lambda one: one.type)

    def got(self, name: str) -> list[str]:
        return [one for receiver in self.receivers.get(name, ()) for one in receiver.ids]

    async def write(self, count: int = 3) -> list[str]:
        events: list[OutboxEvent] = [event(number, f"s{number}") for number in range(count)]
        await self.outbox.append(events)
        return [one.id for one in events]

    async def has(self, name: str, ids: Sequence[str]) -> None:
        """Wait until a destination has these events, each of them once, and no others."""
        await until(lambda: len(self.got(name)) >= len(ids))
        assert sorted(self.got(name)) == sorted(ids)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def opened(engine: AsyncEngine, *settings: DestinationSettings) -> AsyncIterator[Office]:
    outbox, store, endpoints = SqlOutbox(engine), FailingStore(engine), SqlWebhookEndpointStore(engine)
    wakeups = build_wakeups(engine)
    await wakeups.start()
    office: Office

    def build(one: DestinationSettings) -> Destination:
        return office.build(one)

    deliveries = Deliveries([], outbox, store, endpoints, build, SystemClock(), wakeups, DeliveryTimes(0.02, 60.0))
    office = Office(deliveries, outbox, store)
    await deliveries.start()
    await deliveries.replace(settings)
    try:
        yield office
    finally:
        await deliveries.aclose()
        await wakeups.aclose()


async def test_added_changed_and_removed_destinations_get_what_is_theirs_once(engine: AsyncEngine) -> None:
    async with opened(engine, told("billing"), told("audit"), told("same")) as office:
        first = await office.write()
        for name in ("billing", "audit", "same"):
            await office.has(name, first)
        changed = told("audit", retry_attempts=9)
        replaced = await office.deliveries.replace(
            [changed, told("same"), told("new"), told("late", start_at="latest")]
        )
        assert replaced == Replaced(added=("late", "new"), changed=("audit",), removed=("billing",))
        await office.has("new", first)
        second = await office.write()
        for name in ("audit", "same", "new"):
            await office.has(name, first + second)
        await office.has("late", second)
        await office.has("billing", first)
        assert [len(office.receivers[name]) for name in ("audit", "same")] == [2, 1]
        assert office.receivers["audit"][0].closed
        assert office.receivers["billing"][0].closed
        assert not office.receivers["same"][0].closed
        assert await office.deliveries.replace(
            [changed, told("same"), told("new"), told("late", start_at="latest")]
        ) == (NOTHING)


async def test_a_removed_destination_keeps_its_backlog_for_its_return(engine: AsyncEngine) -> None:
    async with opened(engine, told("billing"), told("audit")) as office:
        first = await office.write()
        await office.has("billing", first)
        await office.deliveries.replace([told("audit")])
        assert await office.deliveries.leftovers() == []  # it was owed nothing
        second = await office.write()
        await office.has("audit", first + second)
        (left,) = await office.deliveries.leftovers()
        assert (left.state.name, left.unread) == ("billing", 3)
        await office.has("billing", first)
        assert await office.deliveries.replace([told("audit"), told("billing")]) == Replaced(("billing",), (), ())
        await office.has("billing", first + second)


async def test_a_request_under_way_ends_before_its_destination_changes(sqlite_engine: AsyncEngine) -> None:
    async with opened(sqlite_engine, told("billing", batch_size=10), told("audit")) as office:
        slow = office.receivers["billing"][0]
        slow.hang = asyncio.Event()
        first = await office.write()
        await until(lambda: slow.calls > 0)
        replacing = asyncio.create_task(office.deliveries.replace([told("billing"), told("audit"), told("new")]))
        second = await office.write()
        # Who is not concerned does not wait for it.
        await office.has("audit", first + second)
        await office.has("new", first + second)
        assert not replacing.done()
        slow.hang.set()
        assert await replacing == Replaced(("new",), ("billing",), ())
        await office.has("billing", first + second)
        assert slow.closed
        assert set(first) & set(slow.ids)


async def test_what_is_wrong_changes_nothing(sqlite_engine: AsyncEngine) -> None:
    async with opened(sqlite_engine, told("billing")) as office:
        first = await office.write()
        await office.has("billing", first)
        wanted = [told("new"), told("billing", timeout_ms=7), told("broken", transform="nonsense")]
        with pytest.raises(ConfigurationError):
            await office.deliveries.replace(wanted)
        office.store.away = True
        with pytest.raises(StorageUnavailable):
            await office.deliveries.replace(wanted[:2])
        office.store.away = False
        unused = [office.receivers["new"][0], *office.receivers["billing"][1:]]
        assert all(receiver.closed for receiver in unused)
        second = await office.write()
        await office.has("billing", first + second)
        assert sorted(office.receivers["billing"][0].ids) == sorted(first + second)
        assert office.got("new") == []
        assert (await office.deliveries.replace(wanted[:2])).added == ("new",)
        await office.has("new", first + second)


async def test_the_end_does_not_wait_for_a_change(sqlite_engine: AsyncEngine) -> None:
    async with opened(sqlite_engine, told("billing")) as office:
        slow = office.receivers["billing"][0]
        slow.hang = asyncio.Event()
        await office.write()
        await until(lambda: slow.calls > 0)
        replacing = asyncio.create_task(office.deliveries.replace([told("billing", timeout_ms=7)]))
        await until(lambda: len(office.receivers["billing"]) == 2)
        await office.deliveries.aclose()
        await replacing
        assert office.got("billing") == []
        assert [one.closed for one in office.receivers["billing"]] == [True, True]
    # Nothing is lost: whoever comes next sends it.
    async with opened(sqlite_engine, told("billing")) as office:
        await until(lambda: len(office.got("billing")) == 3)


async def test_a_sink_that_cannot_be_closed_stops_nobody(sqlite_engine: AsyncEngine) -> None:
    async with opened(sqlite_engine, told("billing"), told("audit")) as office:

        async def fail() -> None:
            raise OSError("disk")

        office.receivers["billing"][0].aclose = fail  # pyright: ignore[reportAttributeAccessIssue]
        await office.deliveries.replace([told("billing", timeout_ms=7), told("audit", timeout_ms=7)])
        ids = await office.write()
        await office.has("billing", ids)
        await office.has("audit", ids)


async def test_two_processes_that_change_one_after_the_other_send_once(engine: AsyncEngine) -> None:
    async with opened(engine, told("billing")) as one, opened(engine, told("billing")) as other:
        ids = await one.write(20)
        await until(lambda: len(one.got("billing") + other.got("billing")) >= 20)
        for number in (7_000, 8_000):
            for office in (one, other):
                await office.deliveries.replace([told("billing", timeout_ms=number)])
                ids += await office.write(20)
        await until(lambda: len(one.got("billing") + other.got("billing")) >= len(ids))
        assert sorted(one.got("billing") + other.got("billing")) == sorted(ids)
