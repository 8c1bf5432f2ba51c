"""Builds what delivers completion events; `bootstrap` calls it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.delivery_ports import RECORDED
from app.domain.models.deliveries import DestinationSettings
from app.domain.ports import Clock
from app.domain.run_ports import Wakeups
from app.infrastructure.completions.assembly import build_destination
from app.infrastructure.persistence.deliveries import SqlDeliveryStore
from app.infrastructure.persistence.outbox import SqlOutbox
from app.infrastructure.persistence.webhook_endpoints import SqlWebhookEndpointStore
from app.services.completion_reports import CompletionService
from app.services.delivery_rounds import Deliveries, DeliveryTimes
from app.services.webhook_endpoints import WebhookEndpointService


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    """What the settings say of deliveries."""

    destinations: Sequence[DestinationSettings] = ()
    allow_private_webhooks: bool = False
    """Whether endpoints of tenants may be http, and have loopback, private and link-local addresses."""
    times: DeliveryTimes = field(default_factory=DeliveryTimes)


@dataclass(frozen=True, slots=True)
class Completions:
    """What the surfaces work with."""

    records: CompletionService
    webhooks: WebhookEndpointService
    deliveries: Deliveries | None
    """The workers of this process; None: it delivers nothing."""


@asynccontextmanager
async def open_completions(
    engine: AsyncEngine, clock: Clock, wakeups: Wakeups, options: CompletionOptions, *, deliver: bool
) -> AsyncGenerator[Completions]:
    """Give the services; `deliver`: also work for the destinations until the end of the block.

    Raises:
        ConfigurationError: a destination cannot be as it is described.
        StorageUnavailable: the database cannot be reached.
    """
    outbox, store, endpoints = SqlOutbox(engine), SqlDeliveryStore(engine), SqlWebhookEndpointStore(engine)
    build = partial(build_destination, allow_private=options.allow_private_webhooks)
    deliveries: Deliveries | None = None
    if deliver:
        built = [build(settings) for settings in options.destinations]
        deliveries = Deliveries(built, outbox, store, endpoints, build, clock, wakeups, options.times)
        await deliveries.start()
    try:
        yield Completions(
            records=CompletionService(outbox, store, lambda: wakeups.announce(RECORDED)),
            webhooks=WebhookEndpointService(
                endpoints, store, build, clock, allow_insecure=options.allow_private_webhooks
            ),
            deliveries=deliveries,
        )
    finally:
        if deliveries is not None:
            await deliveries.aclose()
