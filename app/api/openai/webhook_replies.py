"""Webhook endpoints and deliveries as the platform's clients know them, and as we add to them."""

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from app.domain.models.deliveries import Delivery, WebhookEndpoint


class WebhookEndpointReply(Struct, frozen=True, kw_only=True):
    """An endpoint."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    event_types: Sequence[str]
    name: str
    url: str
    signing_secret_hint: str
    signing_secret: str | UnsetType = UNSET
    """Told when the endpoint is made and when its secret is rotated."""


class WebhookEndpointList(Struct, frozen=True, kw_only=True):
    """A page of endpoints."""

    object: Literal["list"] = "list"
    data: Sequence[WebhookEndpointReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookEndpointDeleted(Struct, frozen=True, kw_only=True):
    """An endpoint that is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


class WebhookTestReply(Struct, frozen=True, kw_only=True):
    """What an endpoint has answered to a test."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True
    """It has answered, whatever it said."""


class WebhookEventTypes(Struct, frozen=True, kw_only=True):
    """What endpoints may ask for."""

    object: Literal["list"] = "list"
    data: Sequence[str]


class AttemptReply(Struct, frozen=True, kw_only=True):
    """One try to send."""

    created_at: int
    success: bool
    status_code: int | None
    error: str | None
    latency_ms: int


class DeliveryReply(Struct, frozen=True, kw_only=True):
    """One event on its way to an endpoint."""

    id: str
    """The event's, which is the header `webhook-id` of every attempt."""
    object: Literal["webhook_endpoint.delivery"] = "webhook_endpoint.delivery"
    webhook_endpoint_id: str
    status: Literal["pending", "delivered", "dead"]
    attempt_count: int
    attempts: Sequence[AttemptReply]
    """The latest, oldest first."""
    next_attempt_at: int | None
    """None: none is to come."""
    created_at: int
    delivered_at: int | None


class DeliveryList(Struct, frozen=True, kw_only=True):
    """A page of deliveries, the newest event first."""

    object: Literal["list"] = "list"
    data: Sequence[DeliveryReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


def endpoint_reply(endpoint: WebhookEndpoint, *, with_secret: bool = False) -> WebhookEndpointReply:
    """Return an endpoint, with its secret only where it is told."""
    return WebhookEndpointReply(
        id=endpoint.id,
        created_at=int(endpoint.created_at.timestamp()),
        updated_at=int(endpoint.updated_at.timestamp()),
        event_types=endpoint.event_types,
        name=endpoint.name,
        url=endpoint.url,
        signing_secret_hint=f"whsec_...{endpoint.secret[-4:]}",
        signing_secret=endpoint.secret if with_secret else UNSET,
    )


def endpoint_list(endpoints: Sequence[WebhookEndpoint], *, has_more: bool) -> WebhookEndpointList:
    """Return a page of endpoints."""
    return WebhookEndpointList(
        data=[endpoint_reply(one) for one in endpoints],
        first_id=endpoints[0].id if endpoints else None,
        last_id=endpoints[-1].id if endpoints else None,
        has_more=has_more,
    )


def delivery_reply(delivery: Delivery) -> DeliveryReply:
    """Return a delivery with its attempts."""
    done = delivery.delivered_at
    return DeliveryReply(
        id=delivery.event_id,
        webhook_endpoint_id=delivery.destination,
        status=delivery.state,
        attempt_count=delivery.attempts,
        attempts=[
            AttemptReply(
                created_at=int(one.at.timestamp()),
                success=one.ok,
                status_code=one.status,
                error=one.error,
                latency_ms=one.latency_ms,
            )
            for one in delivery.history
        ],
        next_attempt_at=delivery.next_attempt_ms // 1000 if delivery.state == "pending" else None,
        created_at=int(delivery.created_at.timestamp()),
        delivered_at=None if done is None else int(done.timestamp()),
    )


def delivery_list(deliveries: Sequence[Delivery], *, has_more: bool) -> DeliveryList:
    """Return a page of deliveries."""
    return DeliveryList(
        data=[delivery_reply(one) for one in deliveries],
        first_id=deliveries[0].event_id if deliveries else None,
        last_id=deliveries[-1].event_id if deliveries else None,
        has_more=has_more,
    )
