"""Builds what takes in and delivers completion events, and builds it anew when its settings change."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from app.capture_settings import CaptureConfiguration, load_capture
from app.domain.delivery_ports import RECORDED
from app.domain.errors import AppError, ConfigurationError
from app.domain.metrics_ports import NO_METRICS, Metrics
from app.domain.models.deliveries import Scrubbing
from app.domain.ports import Clock
from app.domain.run_ports import Wakeups
from app.domain.scrubbing import Scrubber
from app.infrastructure.completions.assembly import build_destination
from app.infrastructure.completions.relay import RelayTimes, SpoolRelay
from app.infrastructure.persistence.deliveries import SqlDeliveryStore
from app.infrastructure.persistence.outbox import SqlOutbox
from app.infrastructure.persistence.signing_keys import SqlSigningKeys
from app.infrastructure.persistence.webhook_endpoints import SqlWebhookEndpointStore
from app.services.completion_reports import CompletionService
from app.services.delivery_rounds import Deliveries, DeliveryTimes, Replaced
from app.services.event_intake import EventIntake, EventReader
from app.services.event_tokens import EventTokens
from app.services.webhook_endpoints import WebhookEndpointService
from app.settings import Settings

log = structlog.get_logger(__name__)

_RELAY_EVENTS: Final = 1_000
_MIN_RELAY_PAUSE_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    """What the settings say of completions."""

    capture: CaptureConfiguration = field(default_factory=CaptureConfiguration)
    allow_private_webhooks: bool = False
    """Whether endpoints of tenants may be http, and have loopback, private and link-local addresses."""
    times: DeliveryTimes = field(default_factory=DeliveryTimes)


def completion_options(settings: Settings) -> CompletionOptions:
    """Return what the settings, the `SCR_*` variables and their file say.

    Raises:
        ConfigurationError: a value is wrong; the message names the variable, or file, line and key.
    """
    delivery = settings.delivery
    return CompletionOptions(
        capture=load_capture(),
        allow_private_webhooks=delivery.allow_private_webhooks,
        times=DeliveryTimes(delivery.poll_s, delivery.endpoints_s),
    )


async def check_destinations(options: CompletionOptions) -> None:
    """Build every destination, connect to none, and put it away again.

    Raises:
        ConfigurationError: one cannot be as it is described; the message names file, line and key.
    """
    for settings in options.capture.destinations:
        try:
            built = build_destination(settings, allow_private=options.allow_private_webhooks)
        except ConfigurationError as error:
            raise options.capture.error(settings.name, error.public_message) from error
        await built.sink.aclose()


class Completions:
    """What the surfaces work with."""

    def __init__(
        self, engine: AsyncEngine, clock: Clock, wakeups: Wakeups, options: CompletionOptions, metrics: Metrics
    ) -> None:
        """Build it; `begin` lets it work."""
        outbox, store, endpoints = SqlOutbox(engine), SqlDeliveryStore(engine), SqlWebhookEndpointStore(engine)
        build = partial(build_destination, allow_private=options.allow_private_webhooks)
        self.records: Final = CompletionService(outbox, store, self._announce)
        self.webhooks: Final = WebhookEndpointService(
            endpoints, store, build, clock, allow_insecure=options.allow_private_webhooks
        )
        self.event_tokens: Final = EventTokens(SqlSigningKeys(engine), clock)
        self.deliveries: Deliveries | None = None
        """The workers of this process; None: it delivers nothing."""
        self.relay: SpoolRelay | None = None
        """What empties the spool of this machine; None: this process does not."""
        self._engine = engine
        self._clock = clock
        self._wakeups = wakeups
        self._outbox = outbox
        self._options = options
        self._metrics = metrics
        self._make_deliveries = partial(
            Deliveries, outbox=outbox, store=store, endpoints=endpoints, build=build, clock=clock, wakeups=wakeups
        )
        self._build = build
        self._intake = self._make_intake()
        self._reloading = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None

    @property
    def intake(self) -> EventIntake:
        """What records events from outside; another one after `reload`."""
        return self._intake

    @property
    def configuration(self) -> CaptureConfiguration:
        """What holds now; another one after `reload`."""
        return self._options.capture

    def destination_names(self) -> Collection[str]:
        """Return the destinations that this process works for."""
        return [] if self.deliveries is None else [one.destination.settings.name for one in self.deliveries.workers]

    def spool_place(self) -> tuple[Path, int] | None:
        """Return the folder that this process empties, and how many bytes it may hold; None: it empties none."""
        capture = self.configuration.capture
        return None if self.relay is None else (capture.spool_dir, capture.spool_max_bytes)

    def relay_failing(self) -> bool:
        """Tell whether the spool could not be emptied at the latest try."""
        return self.relay is not None and self.relay.failing

    async def begin(self) -> None:
        """Deliver, and empty the spool of this machine.

        Raises:
            ConfigurationError: a destination cannot be as it is described; the message names file, line and key.
            StorageUnavailable: the database cannot be reached.
        """
        await check_destinations(self._options)
        built = [self._build(settings) for settings in self.configuration.destinations]
        self.deliveries = self._make_deliveries(built, times=self._options.times)
        self.deliveries.report_to(self._metrics)
        await self.deliveries.start()
        await self._renew_relay()
        self._tell_leftovers()

    async def aclose(self) -> None:
        """Stop; what waits in the spool or for a destination stays there."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait((self._telling,))
        if self.relay is not None:
            await self.relay.aclose()
        if self.deliveries is not None:
            await self.deliveries.aclose()

    async def reload(self) -> Replaced:
        """Read the `SCR_*` variables and their file again, `.env` too, and work as they say; ports stay as they are.

        Requests under way to destinations end first, and no cursor is moved. Whatever is wrong changes nothing.

        Raises:
            ConfigurationError: a value is wrong; the message names the variable, or file, line and key.
            StorageUnavailable: the database cannot be reached.
        """
        async with self._reloading:
            capture = await asyncio.to_thread(load_capture)
            options = CompletionOptions(capture, self._options.allow_private_webhooks, self._options.times)
            await check_destinations(options)
            replaced = Replaced((), (), ())
            if self.deliveries is not None:
                replaced = await self.deliveries.replace(capture.destinations)
            self._options = options
            self._intake = self._make_intake()
            if self.deliveries is not None:
                await self._renew_relay()
                self._tell_leftovers()
            log.info("capture_reloaded", added=replaced.added, changed=replaced.changed, removed=replaced.removed)
            return replaced

    def relay_of(self, folder: Path) -> SpoolRelay:
        """Return what moves the events of a folder into the outbox; it is not started."""
        capture = self.configuration.capture
        return SpoolRelay(
            self._engine,
            folder,
            partial(EventReader(self._clock, self._scrubber()).read, source="spool"),
            on_recorded=self._announce,
            metrics=self._metrics,
            times=RelayTimes(
                batch_events=max(_RELAY_EVENTS, capture.batch_size),
                poll_s=max(_MIN_RELAY_PAUSE_S, capture.flush_interval_ms / 1000),
            ),
        )

    async def _renew_relay(self) -> None:
        relay, self.relay = self.relay, None
        if relay is not None:
            await relay.aclose()
        folder = self._relayed_folder()
        if folder is None:
            return
        self.relay = self.relay_of(folder)
        await self.relay.start()

    def _relayed_folder(self) -> Path | None:
        """Return the folder that this process empties.

        None when processes with these settings send their events themselves, or nobody has asked for a spool here.
        """
        capture = self.configuration.capture
        if not capture.enabled or capture.endpoint is not None:
            return None
        asked = "spool_dir" in capture.model_fields_set or capture.spool_dir.is_dir()
        return capture.spool_dir if asked else None

    def _make_intake(self) -> EventIntake:
        return EventIntake(self._outbox, self._clock, self._announce, self._scrubber(), self._metrics)

    def _scrubber(self) -> Scrubber | None:
        patterns = self.configuration.capture.scrub_before_store
        # Content stays: whether it may leave is each destination's own rule.
        return Scrubber(Scrubbing(content=True, patterns=patterns)) if patterns else None

    def _announce(self) -> None:
        self._wakeups.announce(RECORDED)

    def _tell_leftovers(self) -> None:
        """Log destinations that the settings do not name any more; behind everything else, for it counts rows."""
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._told_leftovers(), name="tell of former destinations")

    async def _told_leftovers(self) -> None:
        if self.deliveries is None:
            return
        try:
            for one in await self.deliveries.leftovers():
                log.warning(
                    "destination_not_configured",
                    destination=one.state.name,
                    pending=one.pending,
                    dead=one.dead,
                    unread=one.unread,
                )
        except AppError as error:
            log.warning("destinations_not_seen", code=error.code)


@asynccontextmanager
async def open_completions(
    engine: AsyncEngine,
    clock: Clock,
    wakeups: Wakeups,
    options: CompletionOptions,
    *,
    deliver: bool,
    metrics: Metrics = NO_METRICS,
) -> AsyncGenerator[Completions]:
    """Give the services; `deliver`: also work for the destinations until the end of the block.

    Raises:
        ConfigurationError: a destination cannot be as it is described; the message names file, line and key.
        StorageUnavailable: the database cannot be reached.
    """
    completions = Completions(engine, clock, wakeups, options, metrics)
    try:
        if deliver:
            await completions.begin()
        yield completions
    finally:
        await completions.aclose()
