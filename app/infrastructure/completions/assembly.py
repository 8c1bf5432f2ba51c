"""Puts destinations together from their descriptions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.domain.delivery_ports import Destination
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import WEBHOOK_PREFIX, DestinationSettings, OutboxEvent
from app.domain.scrubbing import Scrubber
from app.domain.webhook_events import webhook_data, webhook_type
from app.infrastructure.completions.destinations import build_sink
from app.infrastructure.completions.transforms import find_transform

_MAX_NAME_CHARS = 128


def build_destination(settings: DestinationSettings, *, allow_private: bool = False) -> Destination:
    """Return a destination; `allow_private`: endpoints of tenants may have other than public addresses.

    Raises:
        ConfigurationError: it cannot be as it is described; the message names the key.
    """
    _check(settings)
    transform = find_transform(settings.transform)
    Scrubber(settings.scrubbing)
    if settings.kind != "webhook":
        types = settings.event_types

        def wanted(event: OutboxEvent) -> str | None:
            return event.type if not types or event.type in types else None

        return Destination(settings, build_sink(settings), transform, wanted)

    # The owner's setting, not the tenant's.
    settings = replace(settings, options={**settings.options, "allow_private": allow_private})

    def typed(event: OutboxEvent) -> str | None:
        return webhook_type(settings.event_types, event)

    def data(event: OutboxEvent) -> Mapping[str, Any]:
        return webhook_data(typed(event) or event.type, event, transform(event))

    return Destination(settings, build_sink(settings), data, typed)


def _check(settings: DestinationSettings) -> None:
    where = f"destinations.{settings.name}"
    if not settings.name or len(settings.name) > _MAX_NAME_CHARS:
        raise ConfigurationError(f"destinations: a name has 1 to {_MAX_NAME_CHARS} characters.")
    if settings.kind != "webhook" and settings.name.startswith(WEBHOOK_PREFIX):
        raise ConfigurationError(f"{where}.name: those that begin with '{WEBHOOK_PREFIX}' are tenants' endpoints.")
    if not 0 <= settings.sampling_rate <= 1:
        raise ConfigurationError(f"{where}.sampling_rate: 0 to 1.")
    least_one = {
        "retry_attempts": settings.retry_attempts,
        "timeout_ms": settings.timeout_ms,
        "batch_size": settings.batch_size,
        "concurrency": settings.concurrency,
    }
    for key, value in least_one.items():
        if value < 1:
            raise ConfigurationError(f"{where}.{key}: at least 1.")
