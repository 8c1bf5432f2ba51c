"""Sessions of chat clients."""

import uuid

from fastapi import APIRouter
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.api.dependencies import Running
from app.api.json_replies import JsonReply
from app.api.openapi import replies

router = APIRouter(prefix="/api", tags=["chat"])


class SessionRequest(BaseModel):
    """Who chats, and with which agent."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)

    tenant_id: str = Field(default="default", description="The organization: 1 to 64 letters, digits, '.', '_' or '-'.")
    user_id: str | None = Field(
        default=None, description="1 to 255 characters. Unset: a user of its own, made up here."
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
    responses=replies(SessionReply, 400, 404, 502, 503, 504, ok=201, description="The session."),
    response_class=JsonReply,
    response_model=None,
)
async def open_session(body: SessionRequest, container: Running) -> JsonReply:
    """Open a session with an empty conversation."""
    # Without a user the session would see every user's conversations.
    user_id = f"anonymous-{uuid.uuid4().hex}" if body.user_id is None else body.user_id
    session = await container.client_sessions.open(body.tenant_id, user_id, body.agent)
    reply = SessionReply(
        session_id=session.id,
        conversation_id=session.conversation_id,
        agent=session.agent,
        tenant_id=session.caller.organization_id,
        user_id=session.caller.user_id,
    )
    return JsonReply(reply, 201)
