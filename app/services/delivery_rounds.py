"""Keeps all destinations of a process at work: those of the settings, and the endpoints that tenants register."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog

from app.domain.delivery_ports import RECORDED, DeliveryStore, Destination, Outbox, WebhookEndpointStore
from app.domain.errors import AppError
from app.domain.identifiers import uuid7_hex
from app.domain.metrics_ports import NO_METRICS, Metrics
from app.domain.models.deliveries import WEBHOOK_PREFIX, DestinationSettings, DestinationStats, WebhookEndpoint
from app.domain.ports import Clock
from app.domain.run_ports import Wakeups
from app.services.deliveries import DestinationWorker

log = structlog.get_logger(__name__)

PLACED: Final = "completions.placed"
"""Topic of wake-ups: destinations may have something to read."""
_PLACED_AT_ONCE: Final = 1_000
_PRUNE_EVERY_S: Final = 3_600.0
_STOP_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class DeliveryTimes:
    """How often one looks without having been told; seconds."""

    poll_s: float = 1.0
    endpoints_s: float = 5.0
    """Between two looks for endpoints that were registered, changed or deleted."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """What new settings have changed; names."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    """Their cursors and backlogs stay for the day when they come back."""


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
        self._running: dict[str, _Running] = {}
        self._registered: dict[str, DestinationSettings] = {}
        self._tasks: list[_Running] = []
        self._replacing = asyncio.Lock()
        self._metrics: Metrics = NO_METRICS
        self._closing = False
        self._idle: set[DestinationWorker] = set()
        self._awaited = asyncio.Event()
        """Set while somebody is idle, and in the end."""

    def report_to(self, metrics: Metrics) -> None:
        """Have workers report what they do; call it before `start`."""
        self._metrics = metrics

    @property
    def workers(self) -> Sequence[DestinationWorker]:
        """Those at work here."""
        return [one.worker for one in self._running.values() if one.worker is not None]

    async def start(self) -> None:
        """Begin cursors for the destinations of the settings, and begin to work."""
        for destination in self._configured:
            settings = destination.settings
            await self._store.ensure(settings.name, latest=settings.start_at == "latest")
            self._begin(destination)
        works = {"place completions": self._place, "refresh endpoints": self._refresh, "prune": self._prune}
        self._tasks = [_Running(name, work, self._times.poll_s) for name, work in works.items()]

    async def aclose(self) -> None:
        """Stop; what cannot be finished within seconds may be sent again by the next who takes over."""
        self._closing = True
        # Those who wait for news stop waiting; `stop` is set before they run.
        for one in (*self._tasks, *self._running.values()):
            one.stop.set()
        self._awaited.set()
        for topic in (RECORDED, PLACED):
            self._wakeups.announce(topic)
        await _ended([*self._tasks, *self._running.values()])
        for one in list(self._running.values()):
            await self._let_go(one)

    async def replace(self, wanted: Sequence[DestinationSettings]) -> Replaced:
        """Work for these destinations of the settings from now on; tenants' endpoints and unchanged ones go on.

        What is being sent to a changed or removed one is finished first, and its cursor stays where it is. Wrong
        descriptions and a database that is away change nothing.

        Raises:
            ConfigurationError: a destination cannot be as it is described.
            StorageUnavailable: the cursors of new ones could not be begun.
        """
        async with self._replacing:
            old = {one.settings.name: one for one in self._configured}
            names = {settings.name for settings in wanted}
            kept = {one.name for one in wanted if one.name in old and old[one.name].settings == one}
            new: dict[str, Destination] = {}
            try:
                for settings in wanted:
                    if settings.name not in kept:
                        new[settings.name] = self._build(settings)
                for one in new.values():
                    await self._store.ensure(one.settings.name, latest=one.settings.start_at == "latest")
                if self._closing:
                    return Replaced((), (), ())
                self._configured = [new.get(settings.name) or old[settings.name] for settings in wanted]
                for name in new.keys() - old.keys():
                    self._begin(new.pop(name))
                ending = [self._succeed(name, new) for name in old if name not in kept]
                for result in await asyncio.gather(*ending, return_exceptions=True):
                    if isinstance(result, Exception):
                        log.error("destination_close_failed", error=type(result).__name__)
            finally:
                for one in new.values():
                    await one.sink.aclose()
            changed = names & old.keys() - kept
            return Replaced(*(tuple(sorted(found)) for found in (names - old.keys(), changed, old.keys() - names)))

    async def _succeed(self, name: str, new: dict[str, Destination]) -> None:
        """End a worker once it has finished what it is at, and let its successor in `new` go on, if there is one."""
        one = self._running[name]
        # A round ends within its lease.
        await _ended([one], _STOP_S if one.worker is None else one.worker.lease_s)
        if self._closing:
            return
        if name not in new:
            del self._running[name]
            await self._let_go(one)
            return
        # The lease is this process's: to release it now would take it from the successor.
        self._begin(new.pop(name))
        if one.worker is not None:
            await one.worker.destination.sink.aclose()

    async def leftovers(self) -> Sequence[DestinationStats]:
        """Return destinations with a backlog that nobody here works for, since no settings name them any more."""
        return [
            one
            for one in await self._store.stats()
            if one.state.name not in self._running
            and not one.state.name.startswith(WEBHOOK_PREFIX)
            and (one.pending or one.dead or one.unread)
        ]

    def _begin(self, destination: Destination) -> None:
        worker = DestinationWorker(destination, self._store, self._clock, owner=self._owner, poll_s=self._times.poll_s)
        worker.metrics = self._metrics

        async def work() -> float:
            async with self._listening(PLACED) as placed:
                pause_s = await worker.step()
                if worker.is_resting:
                    return pause_s
                if pause_s > 0:
                    with self._waiting(worker):
                        await asyncio.wait((placed,), timeout=pause_s)
            return 0.0

        name = destination.settings.name
        self._running[name] = _Running(f"deliver to {name}", work, self._times.poll_s, worker)

    @contextmanager
    def _waiting(self, worker: DestinationWorker) -> Generator[None]:
        """Have positions given at once meanwhile, if it is the one that sends."""
        if worker.is_idle:
            self._idle.add(worker)
            self._awaited.set()
        try:
            yield
        finally:
            self._idle.discard(worker)
            if not self._idle and not self._closing:
                self._awaited.clear()

    @staticmethod
    async def _let_go(one: "_Running") -> None:
        if one.worker is None:
            return
        try:
            await one.worker.release()
        except AppError as error:
            log.warning("delivery_release_failed", code=error.code)  # the lease ends by itself
        await one.worker.destination.sink.aclose()

    async def _place(self) -> float:
        """Give positions to what was recorded: at once while a worker waits for news, else now and then.

        Runs need not pay for what nobody reads yet, as long as no destination is there, or all of them are down.
        """
        look_again_s = self._clock.monotonic() + self._times.poll_s
        # Listening from before the look: what is recorded during it is seen by the next one.
        async with self._listening(RECORDED) as recorded:
            placed = await self._outbox.place(_PLACED_AT_ONCE)
            if placed:
                self._wakeups.announce(PLACED)
            if placed == _PLACED_AT_ONCE:
                return 0.0
            await recorded
        with suppress(TimeoutError):
            async with asyncio.timeout(look_again_s - self._clock.monotonic()):
                await self._awaited.wait()
        return 0.0

    @asynccontextmanager
    async def _listening(self, topic: str) -> AsyncGenerator[asyncio.Task[None]]:
        """Yield what ends when a topic is announced, from now on, or after the time between two looks."""
        news = asyncio.create_task(self._wakeups.wait(topic, self._times.poll_s), name=f"listen to {topic}")
        try:
            yield news
        finally:
            news.cancel()

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
            one = self._running.pop(name)
            await _ended([one])
            await self._let_go(one)
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


class _Running:
    """Something that is done again and again until it is told to stop; never in the middle of a write."""

    def __init__(
        self, name: str, work: Callable[[], Awaitable[float]], retry_s: float, worker: DestinationWorker | None = None
    ) -> None:
        """`work` returns the seconds until it is done again."""
        self.worker: Final = worker
        self.stop: Final = asyncio.Event()
        self._retry_s = retry_s
        self.task: Final = asyncio.create_task(self._forever(work), name=name)

    async def _forever(self, work: Callable[[], Awaitable[float]]) -> None:
        while not self.stop.is_set():
            try:
                pause_s = await work()
            except AppError as error:  # a database that is away is asked again
                log.warning("deliveries_paused", code=error.code)
                pause_s = self._retry_s
            # Also without a pause: a round that never waits must not keep the loop from others.
            await asyncio.sleep(0)
            if pause_s > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self.stop.wait()


async def _ended(running: Sequence[_Running], within_s: float = _STOP_S) -> None:
    """Let them finish what they are at, and cancel what takes longer than that may."""
    for one in running:
        one.stop.set()
    tasks = [one.task for one in running]
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=within_s)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)
