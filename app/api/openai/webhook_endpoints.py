"""Webhook endpoints of the organization: the platform's routes, and beside them deliveries with their attempts."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app.api.dependencies import Running
from app.api.errors import HttpError
from app.api.json_replies import JsonReply
from app.api.openai.access import AdminAccess, whole_organization
from app.api.openai.webhook_replies import (
    DeliveryList,
    DeliveryReply,
    WebhookEndpointDeleted,
    WebhookEndpointList,
    WebhookEndpointReply,
    WebhookEventTypes,
    WebhookTestReply,
    delivery_list,
    delivery_reply,
    endpoint_list,
    endpoint_reply,
)
from app.api.openapi import replies
from app.bootstrap import Container
from app.domain.models.access import Principal
from app.domain.models.deliveries import EventFilter, WebhookEndpoint
from app.domain.webhook_events import EVENT_TYPES

router = APIRouter(prefix="/v1", tags=["webhooks"])

EndpointId = Annotated[str, Path()]
EventId = Annotated[str, Path()]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the page.")]
After = Annotated[str | None, Query(description="The id that the page before ended with.")]
EventTypes = Annotated[list[str], Field(min_length=1, max_length=50)]
_ERRORS: Final = (400, 401, 403, 404, 503)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WebhookCreate(_Body):
    """A new endpoint."""

    name: str
    url: str
    event_types: EventTypes


class WebhookUpdate(_Body):
    """What is to change."""

    name: str | None = None
    url: str | None = None
    event_types: EventTypes | None = None


class WebhookRotation(_Body):
    """How a secret is replaced."""

    keep_old_secret_active_for_24_hours: bool = False


class WebhookTestBody(_Body):
    """What to send."""

    event_type: str


@router.post(
    "/webhook_endpoints",
    summary="Register a webhook endpoint",
    responses=replies(WebhookEndpointReply, 400, 401, 403, 503, description="The endpoint, with its signing secret."),
    response_class=JsonReply,
    response_model=None,
)
async def create_endpoint(body: WebhookCreate, access: AdminAccess, container: Running) -> JsonReply:
    """Register an https address; it gets what is recorded from now on."""
    organization = whole_organization(access)
    endpoint = await container.completions.webhooks.create(
        organization, name=body.name, url=body.url, event_types=body.event_types
    )
    return JsonReply(endpoint_reply(endpoint, with_secret=True))


@router.get(
    "/webhook_endpoints",
    summary="List webhook endpoints",
    responses=replies(WebhookEndpointList, 400, 401, 403, 503, description="A page, the newest first."),
    response_class=JsonReply,
    response_model=None,
)
async def list_endpoints(access: AdminAccess, container: Running, limit: Limit = 20, after: After = None) -> JsonReply:
    """List the organization's endpoints."""
    found, more = await container.completions.webhooks.list(whole_organization(access), limit=limit, after=after)
    return JsonReply(endpoint_list(found, has_more=more))


@router.get(
    "/webhook_event_types",
    summary="List event types",
    responses=replies(WebhookEventTypes, 401, 403, description="What endpoints may ask for."),
    response_class=JsonReply,
    response_model=None,
)
async def list_event_types(_access: AdminAccess) -> JsonReply:
    """List the types of events that are ever sent."""
    return JsonReply(WebhookEventTypes(data=EVENT_TYPES))


@router.get(
    "/webhook_endpoints/{webhook_endpoint_id}",
    summary="Show a webhook endpoint",
    responses=replies(WebhookEndpointReply, 401, 403, 404, 503, description="The endpoint, without its secret."),
    response_class=JsonReply,
    response_model=None,
)
async def show_endpoint(webhook_endpoint_id: EndpointId, access: AdminAccess, container: Running) -> JsonReply:
    """Show an endpoint."""
    return JsonReply(endpoint_reply(await _endpoint(container, access, webhook_endpoint_id)))


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}",
    summary="Change a webhook endpoint",
    responses=replies(WebhookEndpointReply, *_ERRORS, description="The endpoint as it is now."),
    response_class=JsonReply,
    response_model=None,
)
async def update_endpoint(
    webhook_endpoint_id: EndpointId, body: WebhookUpdate, access: AdminAccess, container: Running
) -> JsonReply:
    """Change its name, address or types."""
    endpoint = await container.completions.webhooks.update(
        whole_organization(access), webhook_endpoint_id, name=body.name, url=body.url, event_types=body.event_types
    )
    return JsonReply(endpoint_reply(_found(endpoint, webhook_endpoint_id)))


@router.delete(
    "/webhook_endpoints/{webhook_endpoint_id}",
    summary="Delete a webhook endpoint",
    responses=replies(WebhookEndpointDeleted, 401, 403, 404, 503, description="It is gone."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_endpoint(webhook_endpoint_id: EndpointId, access: AdminAccess, container: Running) -> JsonReply:
    """Delete an endpoint with the records of its deliveries."""
    if not await container.completions.webhooks.delete(whole_organization(access), webhook_endpoint_id):
        raise _missing(webhook_endpoint_id)
    return JsonReply(WebhookEndpointDeleted(id=webhook_endpoint_id))


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}/rotate_secret",
    summary="Rotate a signing secret",
    responses=replies(WebhookEndpointReply, *_ERRORS, description="The endpoint, with its new signing secret."),
    response_class=JsonReply,
    response_model=None,
)
async def rotate_secret(
    webhook_endpoint_id: EndpointId, access: AdminAccess, container: Running, body: WebhookRotation | None = None
) -> JsonReply:
    """Replace the secret; for a day requests can carry a signature of the old one, too."""
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    endpoint = await container.completions.webhooks.rotate_secret(
        whole_organization(access), webhook_endpoint_id, keep_old=keep_old
    )
    return JsonReply(endpoint_reply(_found(endpoint, webhook_endpoint_id), with_secret=True))


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}/test",
    summary="Send a test event",
    responses=replies(WebhookTestReply, *_ERRORS, 502, description="The endpoint has answered."),
    response_class=JsonReply,
    response_model=None,
)
async def send_test(
    webhook_endpoint_id: EndpointId, body: WebhookTestBody, access: AdminAccess, container: Running
) -> JsonReply:
    """Send a sample event at once."""
    result = await container.completions.webhooks.test(whole_organization(access), webhook_endpoint_id, body.event_type)
    if result is None:
        raise _missing(webhook_endpoint_id)
    if result.status is None:
        message = f"The endpoint could not be asked. {result.error or ''}".strip()
        raise HttpError(502, "webhook_endpoint_unreachable", message, type="server_error")
    return JsonReply(
        WebhookTestReply(
            webhook_endpoint_id=webhook_endpoint_id, event_type=result.event_type, status_code=result.status
        )
    )


@router.get(
    "/webhook_endpoints/{webhook_endpoint_id}/deliveries",
    summary="List deliveries",
    responses=replies(DeliveryList, *_ERRORS, description="A page, the newest event first."),
    response_class=JsonReply,
    response_model=None,
)
async def list_deliveries(
    webhook_endpoint_id: EndpointId,
    access: AdminAccess,
    container: Running,
    limit: Limit = 20,
    after: After = None,
    status: Annotated[Literal["pending", "delivered", "dead"] | None, Query(description="Only these.")] = None,
) -> JsonReply:
    """List what was sent to an endpoint, with the attempts."""
    endpoint = await _endpoint(container, access, webhook_endpoint_id)
    wanted = EventFilter(organization_id=endpoint.organization_id, destination=endpoint.id, state=status)
    found = await container.completions.records.deliveries(wanted, limit=limit + 1, after=after)
    return JsonReply(delivery_list(found[:limit], has_more=len(found) > limit))


@router.post(
    "/webhook_endpoints/{webhook_endpoint_id}/deliveries/{event_id}/redeliver",
    summary="Send an event again",
    responses=replies(DeliveryReply, *_ERRORS, description="The delivery, which is due now."),
    response_class=JsonReply,
    response_model=None,
)
async def redeliver(
    webhook_endpoint_id: EndpointId, event_id: EventId, access: AdminAccess, container: Running
) -> JsonReply:
    """Send an event again, under the same id."""
    endpoint = await _endpoint(container, access, webhook_endpoint_id)
    records = container.completions.records
    wanted = EventFilter(organization_id=endpoint.organization_id, destination=endpoint.id, event_ids=(event_id,))
    known = await records.deliveries(wanted, limit=1)
    if not known or not await records.redeliver(wanted):
        raise HttpError(404, "delivery_not_found", f"There is no delivery '{event_id[:80]}'.", param="event_id")
    return JsonReply(delivery_reply(next(iter(await records.deliveries(wanted, limit=1)), known[0])))


async def _endpoint(container: Container, access: Principal, endpoint_id: str) -> WebhookEndpoint:
    found = await container.completions.webhooks.get(whole_organization(access), endpoint_id)
    return _found(found, endpoint_id)


def _found(endpoint: WebhookEndpoint | None, endpoint_id: str) -> WebhookEndpoint:
    if endpoint is None:
        raise _missing(endpoint_id)
    return endpoint


def _missing(endpoint_id: str) -> HttpError:
    message = f"There is no webhook endpoint '{endpoint_id[:80]}'."
    return HttpError(404, "webhook_endpoint_not_found", message, param="webhook_endpoint_id")
