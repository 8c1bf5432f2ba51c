"""Conversations, hits and links on the wire; what the platform's objects lack stands in fields of its own."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from app.domain.models.conversations import Conversation, IssuedShare, Message, MessageHit, Share, SharedPage


class ConversationObject(Struct, frozen=True, kw_only=True):
    """A conversation. The platform has `id`, `object`, `created_at` and `metadata`."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, Any]
    title: str | None
    agent: str | None
    """The agent it was opened for."""
    last_agent: str | None
    """The agent that answered last; null before the first answer."""
    user: str | None
    run_count: int
    message_count: int
    updated_at: int


class ConversationObjectList(Struct, frozen=True, kw_only=True):
    """A page of conversations; go on with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[ConversationObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ItemObject(Struct, frozen=True):
    """An item of the Responses format; what else it has is up to its type."""

    id: str
    type: str


class ItemList(Struct, frozen=True):
    """A page of items."""

    object: Literal["list"]
    data: list[ItemObject]
    first_id: str
    """Empty when the page is."""
    last_id: str
    has_more: bool


class ConversationDeleted(Struct, frozen=True, kw_only=True):
    """A conversation that is gone."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


class ConversationMessage(Struct, frozen=True, kw_only=True):
    """A message for people."""

    position: int
    """1 for the first message of the conversation, without gaps."""
    role: Literal["user", "assistant"]
    text: str
    agent: str | None
    run_id: str | None
    created_at: int


class ConversationHit(Struct, frozen=True, kw_only=True):
    """A message that a search found."""

    id: str
    object: Literal["conversation.hit"] = "conversation.hit"
    conversation_id: str
    title: str | None
    snippet: str
    """The text around what was found, on one line; plain text."""
    message: ConversationMessage


class ConversationHitList(Struct, frozen=True, kw_only=True):
    """A page of what a search found, best first; go on with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[ConversationHit]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ShareObject(Struct, frozen=True, kw_only=True):
    """A link that shows a conversation's messages to whoever holds its token."""

    id: str
    object: Literal["conversation.share"] = "conversation.share"
    conversation_id: str
    created_at: int
    expires_at: int
    token: str | UnsetType = UNSET
    """Told once, when the link is made."""
    path: str | UnsetType = UNSET
    """Where the link leads, from this server's address on; told once, too."""


class ShareObjectList(Struct, frozen=True, kw_only=True):
    """A page of links that have not expired, oldest first; go on with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[ShareObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ShareDeleted(Struct, frozen=True, kw_only=True):
    """A link that leads nowhere any more."""

    id: str
    object: Literal["conversation.share.deleted"] = "conversation.share.deleted"
    deleted: bool = True


class SharedMessage(Struct, frozen=True, kw_only=True):
    """A message as everybody with the link may read it."""

    id: str
    role: Literal["user", "assistant"]
    text: str
    created_at: int


class SharedConversation(Struct, frozen=True, kw_only=True):
    """What a link shows: a page of messages; go on with `after` = `last_id`."""

    object: Literal["conversation.shared"] = "conversation.shared"
    title: str | None
    created_at: int
    """When the link was made; what was said later is not shown."""
    expires_at: int
    data: list[SharedMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


def conversation_object(conversation: Conversation) -> ConversationObject:
    """Return a conversation in wire shape."""
    return ConversationObject(
        id=conversation.id,
        created_at=int(conversation.created_at.timestamp()),
        metadata=dict(conversation.metadata),
        title=conversation.title,
        agent=conversation.agent,
        last_agent=conversation.last_agent,
        user=conversation.user_id,
        run_count=conversation.run_count,
        message_count=conversation.message_count,
        updated_at=int(conversation.updated_at.timestamp()),
    )


def conversation_object_list(page: Sequence[Conversation], *, has_more: bool) -> ConversationObjectList:
    """Return a page in wire shape."""
    data = [conversation_object(conversation) for conversation in page]
    return ConversationObjectList(data=data, has_more=has_more, **_ends(data))


def hit_object_list(page: Sequence[MessageHit], *, has_more: bool) -> ConversationHitList:
    """Return what a search found in wire shape."""
    data = [
        ConversationHit(
            id=hit.id,
            conversation_id=hit.conversation_id,
            title=hit.title,
            snippet=hit.snippet,
            message=_message(hit.message),
        )
        for hit in page
    ]
    return ConversationHitList(data=data, has_more=has_more, **_ends(data))


def issued_share_object(issued: IssuedShare) -> ShareObject:
    """Return a new link in wire shape, with its token."""
    share = issued.share
    return ShareObject(
        id=share.id,
        conversation_id=share.conversation_id,
        created_at=int(share.created_at.timestamp()),
        expires_at=int(share.expires_at.timestamp()),
        token=issued.token,
        path=f"/v1/shared/{issued.token}",
    )


def share_object_list(page: Sequence[Share], *, has_more: bool) -> ShareObjectList:
    """Return links in wire shape, without their tokens: nobody knows those any more."""
    data = [
        ShareObject(
            id=share.id,
            conversation_id=share.conversation_id,
            created_at=int(share.created_at.timestamp()),
            expires_at=int(share.expires_at.timestamp()),
        )
        for share in page
    ]
    return ShareObjectList(data=data, has_more=has_more, **_ends(data))


def shared_conversation(page: SharedPage) -> SharedConversation:
    """Return what a link shows in wire shape."""
    data = [
        SharedMessage(
            id=str(message.position),
            role=message.role,
            text=message.text,
            created_at=int(message.created_at.timestamp()),
        )
        for message in page.messages
    ]
    return SharedConversation(
        title=page.title,
        created_at=int(page.created_at.timestamp()),
        expires_at=int(page.expires_at.timestamp()),
        data=data,
        has_more=page.has_more,
        **_ends(data),
    )


def _message(message: Message) -> ConversationMessage:
    return ConversationMessage(
        position=message.position,
        role=message.role,
        text=message.text,
        agent=message.agent,
        run_id=message.run_id,
        created_at=int(message.created_at.timestamp()),
    )


def _ends(data: Sequence[Any]) -> dict[str, Any]:
    return {"first_id": data[0].id if data else None, "last_id": data[-1].id if data else None}
