"""Conversations of the session's user: list, search, show, export, delete."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import StreamingResponse

from app.api.conversation_files import FILES, FileFormat, file_reply
from app.api.conversation_replies import (
    ConversationDetail,
    ConversationList,
    DeletedReply,
    HitList,
    conversation_detail,
    conversation_list,
    hit_list,
)
from app.api.dependencies import Running, SessionCaller
from app.api.json_replies import JsonReply
from app.api.openai.access import principal_of
from app.api.openapi import failures, replies

router = APIRouter(prefix="/api/conversations", tags=["conversations"], dependencies=[Depends(principal_of)])

ConversationId = Annotated[str, Path(alias="conversationId")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the reply.")]


@router.get(
    "",
    summary="List conversations",
    responses=replies(ConversationList, 400, 401, 404, 503, description="A page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_conversations(
    caller: SessionCaller,
    container: Running,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="The last_id of the page before.")] = None,
) -> JsonReply:
    """List the user's conversations, newest first."""
    page, has_more = await container.conversations.list(caller, limit=limit, after=after)
    return JsonReply(conversation_list(page, has_more=has_more))


@router.get(
    "/search",
    summary="Search messages",
    responses=replies(HitList, 400, 401, 404, 503, description="What was found."),
    response_class=JsonReply,
    response_model=None,
)
async def search_messages(
    caller: SessionCaller,
    container: Running,
    q: Annotated[str, Query(description="Words that a message must all hold.")],
    limit: Limit = 20,
) -> JsonReply:
    """Find the user's messages that hold all words, best first."""
    return JsonReply(hit_list(await container.conversations.search(caller, q, limit=limit)))


@router.get(
    "/{conversationId}",
    summary="Show a conversation",
    responses=replies(ConversationDetail, 401, 404, 503, description="The conversation and its messages."),
    response_class=JsonReply,
    response_model=None,
)
async def show_conversation(conversation_id: ConversationId, caller: SessionCaller, container: Running) -> JsonReply:
    """Show a conversation with its messages, in order."""
    return JsonReply(conversation_detail(await container.conversations.show(caller, conversation_id)))


@router.get(
    "/{conversationId}/export",
    summary="Export a conversation",
    responses={200: FILES, **failures(400, 401, 404, 503)},
    response_class=StreamingResponse,
    response_model=None,
)
async def export_conversation(
    conversation_id: ConversationId,
    caller: SessionCaller,
    container: Running,
    form: FileFormat = "jsonl",
) -> StreamingResponse:
    """Download a conversation; it is read and sent in pages."""
    return await file_reply(container.conversations, caller, conversation_id, form)


@router.delete(
    "/{conversationId}",
    summary="Delete a conversation",
    responses=replies(DeletedReply, 401, 404, 503, description="It is gone."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_conversation(conversation_id: ConversationId, caller: SessionCaller, container: Running) -> JsonReply:
    """Delete a conversation with its messages, history and runs; what it used stays on the bill."""
    await container.conversations.delete(caller, conversation_id)
    return JsonReply(DeletedReply(conversation_id))
