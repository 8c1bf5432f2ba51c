"""Endpoints that tenants register for completion events."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from app.domain.delivery_ports import BuildDestination, DeliveryStore, SendFailed, WebhookEndpointStore
from app.domain.errors import ConfigurationError, InvalidInput
from app.domain.identifiers import new_event_id, uuid7_hex
from app.domain.models.deliveries import WEBHOOK_PREFIX, Message, WebhookEndpoint
from app.domain.ports import Clock
from app.domain.webhook_events import EVENT_TYPES, sample_data
from app.services.delivery_rounds import endpoint_settings

MAX_URL_CHARS: Final = 2_048
MAX_NAME_CHARS: Final = 255
MAX_ENDPOINTS: Final = 50
"""Of one organization: each of them reads everything that is recorded of it."""
OLD_SECRET_LIFETIME: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class WebhookTest:
    """What an endpoint has answered to a test; no status: it could not be asked."""

    endpoint_id: str
    event_type: str
    status: int | None
    error: str | None


class WebhookEndpointService:
    """Administers endpoints. An id of another organization is one that does not exist: None."""

    def __init__(
        self,
        store: WebhookEndpointStore,
        deliveries: DeliveryStore,
        build: BuildDestination,
        clock: Clock,
        *,
        allow_insecure: bool = False,
    ) -> None:
        """`allow_insecure`: URLs may be http, for endpoints of one's own network."""
        self._store = store
        self._deliveries = deliveries
        self._build = build
        self._clock = clock
        self._allow_insecure = allow_insecure

    async def create(self, organization_id: str, *, name: str, url: str, event_types: Sequence[str]) -> WebhookEndpoint:
        """Register an endpoint; it gets what is recorded from now on.

        Raises:
            InvalidInput: `param` names the field that is wrong.
        """
        now = self._clock.now()
        endpoint = WebhookEndpoint(
            id=f"{WEBHOOK_PREFIX}{uuid7_hex()}",
            organization_id=organization_id,
            name=name,
            url=url,
            event_types=tuple(dict.fromkeys(event_types)),
            secret=_new_secret(),
            previous_secret=None,
            previous_secret_until=None,
            created_at=now,
            updated_at=now,
        )
        await self._check(endpoint)
        _, full = await self._store.list(organization_id, limit=MAX_ENDPOINTS - 1)
        if full:
            raise InvalidInput(f"An organization has at most {MAX_ENDPOINTS} endpoints. Delete one first.", param="url")
        # The cursor first: an endpoint without one would wait for ever, a cursor without an endpoint does no harm.
        await self._deliveries.ensure(endpoint.id, latest=True)
        await self._store.add(endpoint)
        return endpoint

    async def list(
        self, organization_id: str, *, limit: int = 20, after: str | None = None
    ) -> tuple[Sequence[WebhookEndpoint], bool]:
        """Return endpoints, the newest first, and whether there are more.

        Raises:
            InvalidInput: the limit is not 1 to 100.
        """
        if not 1 <= limit <= 100:
            raise InvalidInput("'limit' must be 1 to 100.", param="limit")
        return await self._store.list(organization_id, limit=limit, after=after)

    async def get(self, organization_id: str, endpoint_id: str) -> WebhookEndpoint | None:
        """Return an endpoint; None: there is none."""
        return await self._store.get(organization_id, endpoint_id)

    async def update(
        self,
        organization_id: str,
        endpoint_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
    ) -> WebhookEndpoint | None:
        """Change what is given; servers take it up within seconds.

        Raises:
            InvalidInput: `param` names the field that is wrong.
        """
        old = await self._store.get(organization_id, endpoint_id)
        if old is None:
            return None
        new = replace(
            old,
            name=old.name if name is None else name,
            url=old.url if url is None else url,
            event_types=old.event_types if event_types is None else tuple(dict.fromkeys(event_types)),
        )
        if new == old:
            return old
        await self._check(new)
        new = replace(new, updated_at=self._clock.now())
        return new if await self._store.save(new) else None

    async def rotate_secret(
        self, organization_id: str, endpoint_id: str, *, keep_old: bool = False
    ) -> WebhookEndpoint | None:
        """Give an endpoint a new secret; `keep_old`: for 24 hours requests carry a signature of the old one, too."""
        old = await self._store.get(organization_id, endpoint_id)
        if old is None:
            return None
        now = self._clock.now()
        new = replace(
            old,
            secret=_new_secret(),
            previous_secret=old.secret if keep_old else None,
            previous_secret_until=now + OLD_SECRET_LIFETIME if keep_old else None,
            updated_at=now,
        )
        return new if await self._store.save(new) else None

    async def delete(self, organization_id: str, endpoint_id: str) -> bool:
        """Delete an endpoint with the records of its deliveries; False: there is none."""
        if not await self._store.delete(organization_id, endpoint_id):
            return False
        await self._deliveries.forget(endpoint_id)
        return True

    async def test(self, organization_id: str, endpoint_id: str, event_type: str) -> WebhookTest | None:
        """Send a sample at once, whatever the endpoint has asked for, and tell what it answered.

        Raises:
            InvalidInput: there is no such type.
        """
        _check_types([event_type], "event_type")
        endpoint = await self._store.get(organization_id, endpoint_id)
        if endpoint is None:
            return None
        destination = self._build(endpoint_settings(endpoint, self._clock))
        sample = Message(
            id=new_event_id(),
            type=event_type,
            key=None,
            organization_id=organization_id,
            created_at=self._clock.now(),
            body=sample_data(event_type),
        )
        try:
            status = await destination.sink.send([sample])
        except SendFailed as error:
            return WebhookTest(endpoint_id, event_type, error.status, error.public_message)
        finally:
            await destination.sink.aclose()
        return WebhookTest(endpoint_id, event_type, status, None)

    async def _check(self, endpoint: WebhookEndpoint) -> None:
        if not endpoint.name.strip() or len(endpoint.name) > MAX_NAME_CHARS or not endpoint.name.isprintable():
            raise InvalidInput(f"A name is 1 to {MAX_NAME_CHARS} printable characters.", param="name")
        _check_types(endpoint.event_types, "event_types")
        schemes = {"https", "http"} if self._allow_insecure else {"https"}
        try:
            parts = urlsplit(endpoint.url)
            right = parts.scheme in schemes and bool(parts.hostname) and parts.username is None and parts.port != 0
        except ValueError:
            right = False
        if not right or len(endpoint.url) > MAX_URL_CHARS or not endpoint.url.isprintable():
            raise InvalidInput("An https URL without user and password is needed.", param="url")
        try:
            destination = self._build(endpoint_settings(endpoint, self._clock))
        except ConfigurationError as error:
            raise InvalidInput("An https URL without user and password is needed.", param="url") from error
        await destination.sink.aclose()


def _check_types(event_types: Sequence[str], param: str) -> None:
    unknown = next((one for one in event_types if one not in EVENT_TYPES), None)
    if unknown is not None or not event_types:
        shown = "" if unknown is None else f" '{unknown[:80]}' is none."
        raise InvalidInput(f"Event types are {', '.join(EVENT_TYPES)}.{shown}", param=param)


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
