"""Sends events by HTTP: CloudEvents to services of the operator, OpenAI's event envelope to endpoints of tenants."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp.helpers import is_ip_address
from yarl import URL

from app import __version__
from app.domain.delivery_ports import SendFailed
from app.domain.errors import ConfigurationError
from app.domain.models.deliveries import DestinationSettings, Message
from app.infrastructure.completions.addresses import AddressRefused, PublicResolver, is_public
from app.infrastructure.completions.signatures import check_secret, signed_headers
from app.infrastructure.persistence import json_text

_TRANSIENT: Final = frozenset({408, 409, 425, 429})
_MAX_RETRY_AFTER_S: Final = 86_400.0
_REFUSED: Final = "The address is not public."


class HttpSink:
    """One URL. Redirects are not followed, proxies of the environment are not used.

    Options: `allow_private` (default: true for `http`, false for `webhook`): whether other than public addresses may
    be reached; `envelope`: `cloudevents` or `none`; `source` of CloudEvents.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        """Check the description.

        Raises:
            ConfigurationError: the URL or a secret is malformed.
        """
        try:
            url = URL(settings.endpoint)
        except ValueError as error:
            raise ConfigurationError(f"destinations.{settings.name}.endpoint: not a URL.") from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise ConfigurationError(f"destinations.{settings.name}.endpoint: an http or https URL is needed.")
        for secret in settings.secrets:
            check_secret(secret, f"destinations.{settings.name}.secrets")
        self._url = url
        self._settings = settings
        self._openai = settings.kind == "webhook"
        self._allow_private = bool(settings.options.get("allow_private", not self._openai))
        self._session: aiohttp.ClientSession | None = None

    async def send(self, batch: Sequence[Message]) -> int | None:
        """Send a request; see the port."""
        if not self._allow_private and is_ip_address(self._url.host) and not is_public(self._url.host or ""):
            raise SendFailed(_REFUSED, permanent=True)
        body, content_type = self._body(batch)
        headers = {
            **self._settings.headers,
            **signed_headers(self._settings.secrets, _message_id(batch), datetime.now(UTC), body),
            "content-type": content_type,
            "user-agent": f"durable-agents/{__version__}",
        }
        request = self._opened().post(self._url, data=body.encode("ascii"), headers=headers, allow_redirects=False)
        try:
            async with request as reply:
                if 200 <= reply.status < 300:
                    return reply.status
                raise _failure(reply.status, reply.headers.get("retry-after"))
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.__cause__, AddressRefused):
                raise SendFailed(_REFUSED, permanent=True) from error
            raise SendFailed(f"No answer: {type(error).__name__}.") from error

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._settings.concurrency,
                # Looked up for every connection: an answer that was public a minute ago may be another now.
                use_dns_cache=False,
                resolver=None if self._allow_private else PublicResolver(),
            )
            timeout = aiohttp.ClientTimeout(total=self._settings.timeout_ms / 1000)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self._session

    def _body(self, batch: Sequence[Message]) -> tuple[str, str]:
        """Return the body, in ASCII, and its type."""
        if self._openai:
            (message,) = batch
            return json_text.encode(_openai_event(message)), "application/json"
        many = self._settings.batch_size > 1
        if self._settings.options.get("envelope", "cloudevents") == "none":
            bodies = [message.body for message in batch]
            return json_text.encode(bodies if many else bodies[0]), "application/json"
        events = [self._cloud_event(message) for message in batch]
        if many:
            return json_text.encode(events), "application/cloudevents-batch+json"
        return json_text.encode(events[0]), "application/cloudevents+json"

    def _cloud_event(self, message: Message) -> Mapping[str, Any]:
        return {
            "specversion": "1.0",
            "id": message.id,
            "source": str(self._settings.options.get("source", "/durable-agents")),
            "type": message.type,
            "time": message.created_at.isoformat(),
            "datacontenttype": "application/json",
            "organizationid": message.organization_id,
            "data": message.body,
        }


def _openai_event(message: Message) -> Mapping[str, Any]:
    return {
        "id": message.id,
        "object": "event",
        "created_at": int(message.created_at.timestamp()),
        "type": message.type,
        "data": message.body,
    }


def _message_id(batch: Sequence[Message]) -> str:
    """Return the id by which a receiver knows a request again: the event's, or one that depends on all of them."""
    if len(batch) == 1:
        return batch[0].id
    return f"batch_{hashlib.sha256(msgspec.json.encode([message.id for message in batch])).hexdigest()[:32]}"


def _failure(status: int, retry_after: str | None) -> SendFailed:
    permanent = 400 <= status < 500 and status not in _TRANSIENT
    return SendFailed(f"It answered {status}.", permanent=permanent, status=status, retry_after_s=_seconds(retry_after))


def _seconds(advice: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which has a number or a date."""
    if advice is None:
        return None
    try:
        seconds = float(advice)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(advice) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):  # no date either, or one without a zone
            return None
    # A comparison with not-a-number is false.
    return min(seconds, _MAX_RETRY_AFTER_S) if seconds >= 0 else None
