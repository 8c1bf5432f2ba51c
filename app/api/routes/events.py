"""Events from outside: taken, shown to operators, and what browsers need to send them."""

from collections.abc import Collection
from dataclasses import replace
from importlib import resources
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from app.api.dependencies import Running
from app.api.errors import HttpError
from app.api.event_bodies import read_events
from app.api.event_door import GRANT
from app.api.event_replies import (
    EventIntakeReply,
    EventList,
    EventTokenReply,
    event_list,
    intake_reply,
    token_reply,
)
from app.api.event_schemas import EVENT_BODY
from app.api.json_replies import JsonReply
from app.api.openai.access import EventsReadAccess, EventsWriteAccess
from app.api.openapi import replies
from app.domain.models.access import Principal
from app.domain.models.completions import EVENT_TYPES, EventScope
from app.domain.models.deliveries import EventFilter
from app.services.access import LOCAL_ORGANIZATION
from app.services.event_intake import TAKEN
from app.services.event_tokens import DEFAULT_LIFETIME_S

router = APIRouter(prefix="/v1", tags=["events"])
alias = APIRouter(tags=["events"])
"""The address under which operators know the list."""
pages = APIRouter(include_in_schema=False)

Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the page.")]
After = Annotated[str | None, Query(description="The id that the page before ended with.")]
Type = Annotated[str | None, Query(alias="type", description="Only events of this type.")]
Token = Annotated[
    str | None, Query(description="A token of POST /v1/events/tokens, for pages that cannot set a header.")
]
_STATUSES: Final = {TAKEN: 409, "event_too_large": 413}
_CLIENT: Final = resources.files("app.ui") / "capture" / "session-completion.js"


class EventTokenCreate(BaseModel):
    """What a token may do, and for how long."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in_s: int = DEFAULT_LIFETIME_S
    user_id: str | None = None
    session_id: str | None = None


@router.post(
    "/events",
    summary="Report events",
    status_code=202,
    responses=replies(
        EventIntakeReply, 400, 401, 403, 409, 413, 503, ok=202, description="What is not refused is recorded for good."
    ),
    response_class=JsonReply,
    response_model=None,
    openapi_extra=EVENT_BODY,
)
async def create_events(
    request: Request, access: EventsWriteAccess, container: Running, _token: Token = None
) -> JsonReply:
    """Report how sessions ended: one event, up to 1,000 as `{"events": [...]}`, or CloudEvents.

    An event that is wrong is refused by itself and the others are taken. Sent again, an event with the same id is a
    duplicate. A CloudEvent may be structured, batched or in binary mode; a body may be compressed with gzip.
    """
    body = read_events(await request.body(), request.headers, container.settings.server.max_body_bytes)
    granted = request.scope.get(GRANT)
    scope = granted if isinstance(granted, EventScope) else _scope(access)
    source = "http" if granted is None else "browser"
    intake = await container.completions.intake.take(body.events, scope.organization_id, source, scope=scope)
    if body.single and intake.refused:
        one = intake.refused[0]
        status = 403 if one.code.endswith("_mismatch") else _STATUSES.get(one.code, 400)
        raise HttpError(status, one.code, one.message, param=one.param)
    return JsonReply(intake_reply(intake), 202)


@router.get(
    "/events/recent",
    summary="List recent events",
    responses=replies(EventList, 400, 401, 403, 503, description="A page, the newest first."),
    response_class=JsonReply,
    response_model=None,
)
async def list_events(
    access: EventsReadAccess, container: Running, limit: Limit = 20, after: After = None, kind: Type = None
) -> JsonReply:
    """List what was recorded of the organization, runs and calls included; without what was said in the sessions."""
    caller = access.caller
    if caller.user_id is not None or caller.project_id is not None:
        message = "Events are the whole organization's; this key is confined to a part of it."
        raise HttpError(403, "insufficient_permissions", message, type="permission_error")
    organization_id = None if access.keyless else caller.organization_id
    wanted = EventFilter(organization_id=organization_id, types=() if kind is None else (_known(kind),))
    found = await container.completions.records.events(wanted, limit=limit + 1, after=after)
    return JsonReply(event_list(found[:limit], has_more=len(found) > limit))


alias.get(
    "/events/recent",
    summary="List recent events (short address)",
    responses=replies(EventList, 400, 401, 403, 503, description="A page, the newest first."),
    response_class=JsonReply,
    response_model=None,
)(list_events)


@router.post(
    "/events/tokens",
    summary="Make a token for a browser",
    status_code=201,
    responses=replies(EventTokenReply, 400, 401, 403, 503, ok=201, description="The token; it is told only here."),
    response_class=JsonReply,
    response_model=None,
)
async def create_token(
    access: EventsWriteAccess, container: Running, body: EventTokenCreate | None = None
) -> JsonReply:
    """Make a token that may report events of the organization, of one user or session if named, and nothing else.

    It is valid for 15 minutes unless the request says otherwise, for 24 hours at most.
    """
    asked, scope = body or EventTokenCreate(), _scope(access)
    if scope.user_id not in {None, asked.user_id} and asked.user_id is not None:
        message = "The key acts for another user than 'user_id' names."
        raise HttpError(403, "user_mismatch", message, type="permission_error", param="user_id")
    granted = replace(
        scope,
        organization_id=scope.organization_id or LOCAL_ORGANIZATION,
        user_id=scope.user_id if asked.user_id is None else asked.user_id,
        session_id=asked.session_id,
    )
    issued = await container.completions.event_tokens.issue(granted, asked.expires_in_s)
    return JsonReply(token_reply(issued), 201, headers={"cache-control": "no-store"})


@pages.get("/ui/session-completion.js")
def client_module() -> Response:
    """Return the browser's module; any page may load it."""
    headers = {"cache-control": "public, max-age=3600", "access-control-allow-origin": "*"}
    return Response(_CLIENT.read_bytes(), media_type="text/javascript; charset=utf-8", headers=headers)


def allowed_origins(app: Any) -> Collection[str]:
    """Return the origins whose pages may read replies to events that they send."""
    container = getattr(app.state, "container", None)
    if container is None:
        return ()
    named: str = container.completions.configuration.capture.allowed_origins
    return [origin.strip() for origin in named.split(",") if origin.strip()] if named else ()


def _scope(access: Principal) -> EventScope:
    """Return whose events somebody may report; without any key on this machine: whose they say."""
    caller = access.caller
    return EventScope(
        organization_id=None if access.keyless else caller.organization_id,
        user_id=caller.user_id,
        project_id=caller.project_id,
        api_key_id=caller.api_key_id,
    )


def _known(kind: str) -> str:
    if kind not in EVENT_TYPES:
        raise HttpError(400, "invalid_value", f"'type': one of {', '.join(EVENT_TYPES)}.", param="type")
    return kind
