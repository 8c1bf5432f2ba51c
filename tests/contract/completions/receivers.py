"""Events, a clock that tests turn, and receivers that fail as they are told."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import Destination, SendFailed
from app.domain.identifiers import new_event_id
from app.domain.metrics_ports import NoMetrics
from app.domain.models.deliveries import DestinationSettings, Message, OutboxEvent
from app.infrastructure.completions.transforms import event_v1
from app.infrastructure.persistence.deliveries import SqlDeliveryStore
from app.infrastructure.persistence.outbox import SqlOutbox
from app.services.deliveries import DestinationWorker

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class SimulatedClock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s

    def turn(self, seconds: float) -> None:
        self.elapsed_s += seconds


class Reports(NoMetrics):
    """What a worker reports, added up."""

    def __init__(self) -> None:
        self.delivered = self.dead_letters = 0

    def attempted(self, destination: str, events: int, latency_s: float, *, ok: bool) -> None:
        self.delivered += events if ok else 0

    def dead(self, destination: str) -> None:
        self.dead_letters += 1


def event(number: int = 0, session: str = "conv_1", **fields: Any) -> OutboxEvent:
    values: dict[str, Any] = {
        "id": new_event_id(),
        "type": "session.completed",
        "version": 1,
        "organization_id": "acme",
        "user_id": "ann",
        "session_id": session,
        "run_id": None,
        "outcome": "success",
        "payload": {"number": number, "usage": {"total_tokens": number}},
        "created_at": NOON - timedelta(days=1) + timedelta(milliseconds=number),
        "source": "test",
    }
    return OutboxEvent(**values | fields)


class Receiver:
    """Keeps what it gets, unless `fault` says how it fails."""

    def __init__(self, fault: Callable[[Sequence[Message]], BaseException | None] | None = None) -> None:
        self.fault = fault or (lambda _batch: None)
        self.got: list[Message] = []
        self.calls = 0
        self.closed = False
        self.hang: asyncio.Event | None = None

    async def send(self, batch: Sequence[Message]) -> int | None:
        self.calls += 1
        if self.hang is not None:
            await self.hang.wait()
        error = self.fault(batch)
        if error is not None:
            raise error
        self.got.extend(batch)
        return 200

    async def aclose(self) -> None:
        self.closed = True

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.got]


def unavailable(_batch: Sequence[Message]) -> BaseException:
    return SendFailed("It answered 500.", status=500)


class Post:
    """An outbox, and workers for destinations of it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.outbox = SqlOutbox(engine)
        self.store = SqlDeliveryStore(engine)
        self.clock = SimulatedClock()

    async def write(self, *events: OutboxEvent) -> list[OutboxEvent]:
        await self.outbox.append(events)
        while await self.outbox.place(1_000):
            pass
        return list(events)

    async def worker(
        self, receiver: Any, name: str = "billing", owner: str = "one", **fields: Any
    ) -> DestinationWorker:
        settings = DestinationSettings(name=name, **fields)
        await self.store.ensure(name, latest=settings.start_at == "latest")
        destination = Destination(settings, receiver, event_v1, lambda event: event.type)
        worker = DestinationWorker(destination, self.store, self.clock, owner=owner, poll_s=600.0, jitter=lambda: 1.0)
        worker.metrics = Reports()
        return worker

    async def deliver(self, worker: DestinationWorker, seconds: float = 0.0) -> None:
        """Work until nothing is left to do before `seconds` of the simulated time are over."""
        ends_at = self.clock.elapsed_s + seconds
        while True:
            pause_s = await worker.step()
            if pause_s > 0:
                if self.clock.elapsed_s + pause_s > ends_at:
                    self.clock.elapsed_s = ends_at
                    return
                self.clock.turn(pause_s)
