"""Links that show a conversation's messages to whoever holds them: made and taken back with a key, read without."""

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query

from app.api.dependencies import Running
from app.api.errors import HttpError
from app.api.json_replies import JsonReply
from app.api.openai.access import Access
from app.api.openai.conversation_objects import (
    SharedConversation,
    ShareDeleted,
    ShareObject,
    ShareObjectList,
    issued_share_object,
    share_object_list,
    shared_conversation,
)
from app.api.openai.conversation_requests import ShareCreate
from app.api.openai.response_faults import wrong_value
from app.api.openapi import replies

router = APIRouter(prefix="/v1", tags=["conversations"])

Id = Annotated[str, Path(alias="conversationId")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the page.")]

MAX_POSITION_DIGITS: Final = 9
_PRIVATE: Final = {"cache-control": "no-store", "referrer-policy": "no-referrer", "x-robots-tag": "noindex"}
"""The address is the key: no cache, no other site and no search engine is to learn of it."""


@router.post(
    "/conversations/{conversationId}/share",
    summary="Share a conversation",
    responses=replies(ShareObject, 400, 401, 403, 404, 503, description="The link, with its token: told this once."),
    response_class=JsonReply,
    response_model=None,
)
async def share_conversation(
    conversation_id: Id, access: Access, container: Running, body: ShareCreate | None = None
) -> JsonReply:
    """Make a link that shows what has been said so far to whoever holds it, until it expires."""
    lifetime_s = (body or ShareCreate()).expires_in_s
    issued = await container.shares.create(access.caller, conversation_id, lifetime_s=lifetime_s)
    return JsonReply(issued_share_object(issued), headers={"cache-control": "no-store"})


@router.get(
    "/conversations/{conversationId}/shares",
    summary="List a conversation's links",
    responses=replies(ShareObjectList, 400, 401, 403, 404, 503, description="A page, oldest first."),
    response_class=JsonReply,
    response_model=None,
)
async def list_shares(
    conversation_id: Id,
    access: Access,
    container: Running,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> JsonReply:
    """List the links that have not expired."""
    page, more = await container.shares.list(access.caller, conversation_id, limit=limit, after=after)
    return JsonReply(share_object_list(page, has_more=more))


@router.delete(
    "/conversations/{conversationId}/shares/{shareId}",
    summary="Take a link back",
    responses=replies(ShareDeleted, 401, 403, 404, 503, description="It leads nowhere any more."),
    response_class=JsonReply,
    response_model=None,
)
async def revoke_share(
    conversation_id: Id, share_id: Annotated[str, Path(alias="shareId")], access: Access, container: Running
) -> JsonReply:
    """Take a link back, at once and for good."""
    if not await container.shares.revoke(access.caller, conversation_id, share_id):
        raise HttpError(404, "share_not_found", f"There is no link '{share_id[:80]}'.", param="share_id")
    return JsonReply(ShareDeleted(id=share_id))


@router.get(
    "/shared/{token}",
    summary="Read a shared conversation",
    responses=replies(SharedConversation, 400, 404, 503, description="A page of its messages."),
    response_class=JsonReply,
    response_model=None,
)
async def read_shared(
    token: Annotated[str, Path()],
    container: Running,
    limit: Limit = 100,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> JsonReply:
    """Show the messages that a link leads to; it needs no key. A link that expired or was taken back does not exist."""
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= MAX_POSITION_DIGITS):
        raise wrong_value("after", "there is no such message.")
    page = await container.shares.read(token, limit=limit, after=int(after or 0))
    if page is None:
        raise HttpError(404, "share_not_found", "There is no such link, or it has expired.", param="token")
    return JsonReply(shared_conversation(page), headers=_PRIVATE)
