"""Conversations: the platform's eight routes over our threads and items, and beside them list, search, fork, export.

Additions to the platform's own: `title` and `agent` of a conversation (a POST with `title` renames it), and the routes
that it lacks. What a list gives in `include` is always there, as far as it is kept.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from openai.types.responses import ResponseIncludable

from app.api.conversation_files import FILES, FileFormat, file_reply
from app.api.dependencies import Running, check_agent
from app.api.errors import HttpError
from app.api.json_replies import JsonReply
from app.api.openai.access import Access
from app.api.openai.conversation_items import given_items, shown_item
from app.api.openai.conversation_objects import (
    ConversationDeleted,
    ConversationHitList,
    ConversationObject,
    ConversationObjectList,
    ItemList,
    ItemObject,
    conversation_object,
    conversation_object_list,
    hit_object_list,
)
from app.api.openai.conversation_requests import (
    ConversationCreate,
    ConversationUpdate,
    ForkCreate,
    ItemsCreate,
    changes_of,
    checked_metadata,
    checked_title,
    fork_run,
)
from app.api.openai.response_faults import missing, wrong_value
from app.api.openapi import failures, replies
from app.domain.errors import RunNotFound
from app.domain.models.conversations import ConversationFilter, ConversationItem, NewConversation

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])

Id = Annotated[str, Path(alias="conversationId")]
ItemId = Annotated[str, Path(alias="itemId")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most entries of the page.")]
After = Annotated[str | None, Query(description="The last_id of the page before.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By time.")]
Include = Annotated[list[ResponseIncludable] | None, Query(alias="include[]", description="All of it is, always.")]


@router.post(
    "",
    summary="Create a conversation",
    responses=replies(ConversationObject, 400, 401, 403, 404, 413, 503, description="The conversation."),
    response_class=JsonReply,
    response_model=None,
)
async def create_conversation(access: Access, container: Running, body: ConversationCreate | None = None) -> JsonReply:
    """Open a conversation, with its first items if there are any."""
    body = body or ConversationCreate()
    if body.agent is not None:
        container.provider.agent(body.agent)
        check_agent(access, body.agent)
    new = NewConversation(
        provider=container.provider.name,
        agent=body.agent,
        title=checked_title(body.title),
        metadata=checked_metadata(body.metadata),
        items=given_items(body.items or []),
    )
    return JsonReply(conversation_object(await container.conversations.open(access.caller, new)))


@router.get(
    "",
    summary="List conversations",
    responses=replies(ConversationObjectList, 400, 401, 403, 503, description="A page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_conversations(
    access: Access,
    container: Running,
    limit: Limit = 20,
    after: After = None,
    order: Order = "desc",
    agent: Annotated[str | None, Query(description="Only those that it was opened for, or has answered last.")] = None,
    user: Annotated[str | None, Query(description="Only this user's; a key of one user sees no other's.")] = None,
) -> JsonReply:
    """List conversations, newest first."""
    page, more = await container.conversations.list(
        access.caller,
        limit=limit,
        after=after,
        oldest_first=order == "asc",
        only=ConversationFilter(agent, user),
    )
    return JsonReply(conversation_object_list(page, has_more=more))


@router.get(
    "/search",
    summary="Search messages",
    responses=replies(ConversationHitList, 400, 401, 403, 503, description="What was found, best first."),
    response_class=JsonReply,
    response_model=None,
)
async def search_messages(
    access: Access,
    container: Running,
    q: Annotated[str, Query(max_length=500, description="Words that a message must all hold, or their beginnings.")],
    limit: Limit = 20,
    after: After = None,
) -> JsonReply:
    """Find messages by their words; any text is a query, and only the best hundred are found."""
    if not q.strip():
        raise wrong_value("q", "it must say something.")
    page, more = await container.conversations.search_page(access.caller, q, limit=limit, after=after)
    return JsonReply(hit_object_list(page, has_more=more))


@router.get(
    "/{conversationId}",
    summary="Retrieve a conversation",
    responses=replies(ConversationObject, 401, 403, 404, 503, description="The conversation."),
    response_class=JsonReply,
    response_model=None,
)
async def retrieve_conversation(conversation_id: Id, access: Access, container: Running) -> JsonReply:
    """Show a conversation, without its items."""
    return JsonReply(conversation_object(await container.conversations.get(access.caller, conversation_id)))


@router.post(
    "/{conversationId}",
    summary="Update a conversation",
    responses=replies(ConversationObject, 400, 401, 403, 404, 503, description="The conversation as it is now."),
    response_class=JsonReply,
    response_model=None,
)
async def update_conversation(
    body: ConversationUpdate, conversation_id: Id, access: Access, container: Running
) -> JsonReply:
    """Replace the metadata, or rename the conversation, or both."""
    updated = await container.conversations.update(access.caller, conversation_id, changes_of(body))
    return JsonReply(conversation_object(updated))


@router.delete(
    "/{conversationId}",
    summary="Delete a conversation",
    responses=replies(ConversationDeleted, 401, 403, 404, 503, description="It is gone."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_conversation(conversation_id: Id, access: Access, container: Running) -> JsonReply:
    """Delete a conversation with its items, messages, runs and links; what it used stays on the bill."""
    await container.conversations.delete(access.caller, conversation_id)
    return JsonReply(ConversationDeleted(id=conversation_id))


@router.post(
    "/{conversationId}/items",
    summary="Add items",
    responses=replies(ItemList, 400, 401, 403, 404, 409, 413, 503, description="What was added."),
    response_class=JsonReply,
    response_model=None,
)
async def create_items(
    body: ItemsCreate, conversation_id: Id, access: Access, container: Running, include: Include = None
) -> JsonReply:
    """Add up to 20 items at the end; refused while a run of the conversation has not ended."""
    del include
    if not body.items:
        raise missing("items")
    added = await container.conversations.add_items(access.caller, conversation_id, given_items(body.items))
    return JsonReply(_item_list(added, more=False))


@router.get(
    "/{conversationId}/items",
    summary="List items",
    responses=replies(ItemList, 400, 401, 403, 404, 503, description="A page."),
    response_class=JsonReply,
    response_model=None,
)
async def list_items(
    conversation_id: Id,
    access: Access,
    container: Running,
    limit: Limit = 20,
    order: Order = "desc",
    after: After = None,
    include: Include = None,
) -> JsonReply:
    """List the items of the history, latest first unless asked otherwise."""
    del include
    page, more = await container.conversations.item_page(
        access.caller, conversation_id, limit=limit, after=after, oldest_first=order == "asc"
    )
    return JsonReply(_item_list(page, more=more))


@router.get(
    "/{conversationId}/items/{itemId}",
    summary="Retrieve an item",
    responses=replies(ItemObject, 400, 401, 403, 404, 503, description="The item."),
    response_class=JsonReply,
    response_model=None,
)
async def retrieve_item(
    conversation_id: Id, item_id: ItemId, access: Access, container: Running, include: Include = None
) -> JsonReply:
    """Show an item."""
    del include
    found = await container.conversations.item(access.caller, conversation_id, item_id)
    if found is None:
        raise _no_item(item_id)
    return JsonReply(shown_item(found))


@router.delete(
    "/{conversationId}/items/{itemId}",
    summary="Delete an item",
    responses=replies(ConversationObject, 401, 403, 404, 409, 503, description="The conversation without it."),
    response_class=JsonReply,
    response_model=None,
)
async def delete_item(conversation_id: Id, item_id: ItemId, access: Access, container: Running) -> JsonReply:
    """Delete an item; with a call goes its output, and reasoning that would stand in front of nothing."""
    left = await container.conversations.delete_item(access.caller, conversation_id, item_id)
    if left is None:
        raise _no_item(item_id)
    return JsonReply(conversation_object(left))


@router.post(
    "/{conversationId}/fork",
    summary="Fork a conversation",
    responses=replies(ConversationObject, 400, 401, 403, 404, 409, 503, description="The new conversation."),
    response_class=JsonReply,
    response_model=None,
)
async def fork_conversation(
    conversation_id: Id, access: Access, container: Running, body: ForkCreate | None = None
) -> JsonReply:
    """Copy a conversation up to a point into a new one, with its messages; runs and links are not copied."""
    body = body or ForkCreate()
    try:
        run_id = await fork_run(container, access.caller, body)
        forked = await container.conversations.fork(
            access.caller, conversation_id, after_run_id=run_id, after_item_id=body.after_item_id
        )
    except RunNotFound as error:
        param = "after_run_id" if body.after_response_id is None else "after_response_id"
        raise HttpError(404, error.code, "The conversation has no such run.", param=param) from error
    return JsonReply(conversation_object(forked))


@router.get(
    "/{conversationId}/export",
    summary="Export a conversation",
    responses={200: FILES, **failures(400, 401, 403, 404, 503)},
    response_class=Response,
    response_model=None,
)
async def export_conversation(
    conversation_id: Id, access: Access, container: Running, form: FileFormat = "jsonl"
) -> Response:
    """Download a conversation; it is read and sent in pages."""
    return await file_reply(container.conversations, access.caller, conversation_id, form)


def _item_list(page: Any, *, more: bool) -> dict[str, Any]:
    entries: list[ConversationItem] = list(page)
    return {
        "object": "list",
        "data": [shown_item(entry) for entry in entries],
        "first_id": entries[0].id if entries else "",  # the client's type has no null here
        "last_id": entries[-1].id if entries else "",
        "has_more": more,
    }


def _no_item(item_id: str) -> HttpError:
    return HttpError(404, "item_not_found", f"There is no item '{item_id[:80]}'.", param="item_id")
