"""Keeps all destinations of a process at work: those of the settings, and the endpoints that tenants register."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from app.domain.delivery_ports import DeliveryStore, Destination, Outbox, WebhookEndpointStore
from app.domain.errors import AppError
from app.domain.identifiers import uuid7_hex
from app.domain.models.deliveries import DestinationSettings, WebhookEndpoint
from app.domain.ports import Clock
from app.domain.run_ports import Wakeups
from app.services.deliveries import DestinationWorker

log = structlog.get_logger(__name__)

RECORDED: Final = "completions.recorded"
"""Topic of wake-ups: an event may have been written."""
PLACED: Final = "completions.placed"
"""Topic of wake-ups: destinations may have something to read."""
_PLACED_AT_ONCE: Final = 1_000
_PRUNE_EVERY_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class DeliveryTimes:
    """How often one looks without having been told; seconds."""

    poll_s: float = 1.0
    endpoints_s: float = 5.0
    """Between two looks for endpoints that were registered, changed or deleted."""


class Deliveries:
    """Runs in every server process; what is done by which of them, leases decide."""

    def __init__(
        self,
        destinations: Sequence[Destination],
        outbox: Outbox,
        store: DeliveryStore,
        endpoints: WebhookEndpointStore,
        build: Callable[[DestinationSettings], Destination],
        clock: Clock,
        wakeups: Wakeups,
        times: DeliveryTimes | None = None,
    ) -> None:
        """`build` makes the destinations of endpoints that tenants register."""
        self._configured = destinations
        self._outbox = outbox
        self._store = store
        self._endpoints = endpoints
        self._build = build
        self._clock = clock
        self._wakeups = wakeups
        self._times = times or DeliveryTimes()
        self._owner = f"deliveries_{uuid7_hex()}"
        self._running: dict[str, tuple[DestinationWorker, asyncio.Task[None]]] = {}
        self._registered: dict[str, DestinationSettings] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def workers(self) -> Sequence[DestinationWorker]:
        """Those at work here."""
        return [worker for worker, _ in self._running.values()]

    async def start(self) -> None:
        """Begin cursors for the destinations of the settings, and begin to work."""
        for destination in self._configured:
            settings = destination.settings
            await self._store.ensure(settings.name, latest=settings.start_at == "latest")
            self._begin(destination)
        self._tasks = [
            asyncio.create_task(self._forever(self._place), name="place completions"),
            asyncio.create_task(self._forever(self._refresh), name="refresh webhook endpoints"),
            asyncio.create_task(self._forever(self._prune), name="prune deliveries"),
        ]

    async def aclose(self) -> None:
        """Stop; what was being sent may be sent again by the next who takes over."""
        workers = list(self._running.values())
        tasks = [*self._tasks, *(task for _, task in workers)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for worker, _ in workers:
            try:
                await worker.release()
            except AppError as error:
                log.warning("delivery_release_failed", code=error.code)  # the lease ends by itself
            await worker.destination.sink.aclose()

    def _begin(self, destination: Destination) -> None:
        worker = DestinationWorker(destination, self._store, self._clock, owner=self._owner, poll_s=self._times.poll_s)

        async def work() -> float:
            pause_s = await worker.step()
            if pause_s > 0:
                await self._wakeups.wait(PLACED, pause_s)
            return 0.0

        name = destination.settings.name
        self._running[name] = (worker, asyncio.create_task(self._forever(work), name=f"deliver to {name}"))

    async def _forever(self, work: Callable[[], Awaitable[float]]) -> None:
        """Do something again and again; a database that is away is asked again."""
        while True:
            try:
                pause_s = await work()
            except AppError as error:
                log.warning("deliveries_paused", code=error.code)
                pause_s = self._times.poll_s
            # Also without a pause: a round that never waits must not keep the loop from others.
            await asyncio.sleep(pause_s)

    async def _place(self) -> float:
        if await self._outbox.place(_PLACED_AT_ONCE):
            self._wakeups.announce(PLACED)
        else:
            await self._wakeups.wait(RECORDED, self._times.poll_s)
        return 0.0

    async def _prune(self) -> float:
        for worker in self.workers:
            await worker.prune()
        return _PRUNE_EVERY_S

    async def _refresh(self) -> float:
        """Take up what tenants have changed."""
        found: dict[str, DestinationSettings] = {}
        after, more = None, True
        while more:
            page, more = await self._endpoints.list(None, limit=100, after=after)
            found.update({endpoint.id: endpoint_settings(endpoint, self._clock) for endpoint in page})
            after = page[-1].id if page else None
        for name in [name for name, settings in self._registered.items() if found.get(name) != settings]:
            worker, task = self._running.pop(name)
            task.cancel()
            await asyncio.wait((task,))
            await worker.release()
            await worker.destination.sink.aclose()
            del self._registered[name]
        for name in [name for name in found if name not in self._registered]:
            self._registered[name] = found[name]
            try:
                self._begin(self._build(found[name]))
            except AppError as error:
                log.warning("webhook_endpoint_refused", endpoint=name, code=error.code)
                del self._registered[name]
        return self._times.endpoints_s


def endpoint_settings(endpoint: WebhookEndpoint, clock: Clock) -> DestinationSettings:
    """Return the destination that an endpoint of a tenant is."""
    return DestinationSettings(
        name=endpoint.id,
        kind="webhook",
        endpoint=endpoint.url,
        transform="event_v1",
        retry_attempts=8,
        timeout_ms=10_000,
        event_types=endpoint.event_types,
        organization_id=endpoint.organization_id,
        start_at="latest",
        secrets=tuple(endpoint.secrets(clock.now())),
    )
