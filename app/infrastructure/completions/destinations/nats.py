"""Publishes events to NATS JetStream; needs the extra `nats`."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from app.domain.delivery_ports import SendFailed
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import DestinationSettings, Message
from app.infrastructure.persistence import json_text


class NatsSink:
    """One subject of a stream, which must exist unless option `stream` names one to be made.

    `endpoint` is the server's URL, option `subject` the subject (default `completions`). The event's id goes along as
    `Nats-Msg-Id`, by which the server leaves out what it has got already within its window.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        """Look for the client.

        Raises:
            ConfigurationError: it is not installed.
        """
        try:
            self._nats: Any = import_module("nats")
        except ImportError as error:
            message = f"destinations.{settings.name}: install durable-agents[nats] for destinations of kind nats."
            raise ConfigurationError(message) from error
        self._url = settings.endpoint
        self._subject = str(settings.options.get("subject", "completions"))
        self._stream = settings.options.get("stream")
        self._timeout_s = settings.timeout_ms / 1000
        self._client: Any = None
        self._jetstream: Any = None

    async def send(self, batch: Sequence[Message]) -> int | None:
        """Publish the events and wait until the stream has them; see the port."""
        try:
            jetstream = await self._connected()
            for message in batch:
                await jetstream.publish(
                    self._subject,
                    json_text.encode(message.body).encode("ascii"),
                    timeout=self._timeout_s,
                    headers={"Nats-Msg-Id": message.id, "ce-type": message.type},
                )
        except (self._nats.errors.Error, OSError, TimeoutError) as error:
            raise SendFailed(f"NATS did not take it: {type(error).__name__}.") from error

    async def aclose(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    async def _connected(self) -> Any:
        if self._client is None:
            self._client = await self._nats.connect(
                self._url, connect_timeout=self._timeout_s, allow_reconnect=True, error_cb=_ignore
            )
            self._jetstream = self._client.jetstream()
        if self._stream is not None:
            await self._jetstream.add_stream(name=str(self._stream), subjects=[self._subject])
            self._stream = None
        return self._jetstream


async def _ignore(_error: Exception) -> None:
    """Say nothing by itself: whoever publishes is told."""
