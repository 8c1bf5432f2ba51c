"""Sessions of chat clients."""

import uuid

from fastapi import APIRouter, Depends
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.api.dependencies import Running, check_agent
from app.api.errors import HttpError
from app.api.json_replies import JsonReply
from app.api.openai.access import Access, principal_of
from app.api.openapi import replies
from app.domain.models.access import Principal

router = APIRouter(prefix="/api", tags=["chat"], dependencies=[Depends(principal_of)])


class SessionRequest(BaseModel):
    """Who chats, and with which agent."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)

    tenant_id: str = Field(
        default="default",
        description="The organization: 1 to 64 letters, digits, '.', '_' or '-'. Unset: the key's, where keys "
        "are required; it can be no other then.",
    )
    user_id: str | None = Field(
        default=None, description="1 to 255 characters. Unset: the key's; if it has none, a new one, made up here."
    )
    agent: str | None = Field(default=None, description="The agent that answers. Unset: the default agent.")


class SessionReply(Struct, frozen=True, rename="camel"):
    """A session; its id is the key to its user's conversations."""

    session_id: str
    conversation_id: str
    """The conversation that messages go to which name none."""
    agent: str | None
    tenant_id: str
    user_id: str | None


@router.post(
    "/session",
    status_code=201,
    summary="Open a session",
    responses=replies(SessionReply, 400, 401, 403, 404, 502, 503, 504, ok=201, description="The session."),
    response_class=JsonReply,
    response_model=None,
)
async def open_session(body: SessionRequest, access: Access, container: Running) -> JsonReply:
    """Open a session with an empty conversation."""
    organization_id, user_id = _checked_owner(body, access)
    agent = container.provider.agent(body.agent).key
    check_agent(access, agent)
    session = await container.client_sessions.open(organization_id, user_id, agent)
    reply = SessionReply(
        session_id=session.id,
        conversation_id=session.conversation_id,
        agent=session.agent,
        tenant_id=session.caller.organization_id,
        user_id=session.caller.user_id,
    )
    return JsonReply(reply, 201)


def _checked_owner(body: SessionRequest, access: Principal) -> tuple[str, str]:
    """Return the organization and user of a new session.

    Raises:
        HttpError: the key may not speak for them (403).
    """
    mine = access.caller
    organization_id = body.tenant_id if "tenant_id" in body.model_fields_set else mine.organization_id
    if not access.keyless and organization_id != mine.organization_id:
        raise _not_of_the_key("tenantId", "organization")
    if mine.user_id is not None and body.user_id not in {None, mine.user_id}:
        raise _not_of_the_key("userId", "user")
    # Without a user the session would see every user's conversations.
    made_up = f"anonymous-{uuid.uuid4().hex}"
    return organization_id, next((user for user in (body.user_id, mine.user_id) if user is not None), made_up)


def _not_of_the_key(param: str, what: str) -> HttpError:
    message = f"'{param}' is not the {what} of the API key. Leave it out."
    return HttpError(403, "insufficient_permissions", message, type="permission_error", param=param)
