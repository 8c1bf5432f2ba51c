"""Writes events to this process's log."""

from collections.abc import Sequence

import structlog

from app.domain.models.deliveries import DestinationSettings, Message

log = structlog.get_logger(__name__)


class LogSink:
    """One line an event."""

    def __init__(self, settings: DestinationSettings) -> None:
        """Keep the name for the lines."""
        self._name = settings.name

    async def send(self, batch: Sequence[Message]) -> int | None:
        """Log the events; see the port."""
        for message in batch:
            log.info(
                "completion",
                component=self._name,
                event_id=message.id,
                event_type=message.type,
                session_id=message.body.get("session_id"),
                body=dict(message.body),
            )

    async def aclose(self) -> None:
        """Nothing to release."""
