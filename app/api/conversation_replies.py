"""Conversations as replies."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from app.domain.models.conversations import Conversation, Message, MessageHit
from app.services.conversations import ConversationView


class ConversationReply(Struct, frozen=True, kw_only=True, rename="camel"):
    """A conversation, without its messages."""

    object: Literal["conversation"] = "conversation"
    id: str
    title: str | None
    agent: str | None
    """The agent it was opened for."""
    last_agent: str | None
    """The agent that answered last; null before the first answer."""
    run_count: int
    message_count: int
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class MessageReply(Struct, frozen=True, rename="camel"):
    """A message for people."""

    position: int
    """1 for the first message of the conversation, without gaps."""
    role: Literal["user", "assistant"]
    text: str
    agent: str | None
    run_id: str | None
    created_at: datetime


class ConversationDetail(ConversationReply, frozen=True, kw_only=True, rename="camel"):
    """A conversation with all its messages, in order."""

    messages: list[MessageReply]


class ConversationList(Struct, frozen=True, kw_only=True):
    """A page of conversations, newest first; go on with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[ConversationReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class HitReply(Struct, frozen=True, rename="camel"):
    """A message that a search found."""

    conversation_id: str
    title: str | None
    message: MessageReply


class HitList(Struct, frozen=True, kw_only=True):
    """Messages that a search found, best first."""

    object: Literal["list"] = "list"
    data: list[HitReply]


class DeletedReply(Struct, frozen=True):
    """A conversation that is gone."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


def conversation_reply(conversation: Conversation) -> ConversationReply:
    """Return a conversation in wire shape."""
    return ConversationReply(**_facts(conversation))


def conversation_detail(view: ConversationView) -> ConversationDetail:
    """Return a conversation and its messages in wire shape."""
    return ConversationDetail(
        messages=[message_reply(message) for message in view.messages], **_facts(view.conversation)
    )


def _facts(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "title": conversation.title,
        "agent": conversation.agent,
        "last_agent": conversation.last_agent,
        "run_count": conversation.run_count,
        "message_count": conversation.message_count,
        "metadata": dict(conversation.metadata),
        "created_at": conversation.created_at,
        "updated_at": conversation.updated_at,
    }


def message_reply(message: Message) -> MessageReply:
    """Return a message in wire shape."""
    return MessageReply(message.position, message.role, message.text, message.agent, message.run_id, message.created_at)


def conversation_list(page: Sequence[Conversation], *, has_more: bool) -> ConversationList:
    """Return a page in wire shape."""
    return ConversationList(
        data=[conversation_reply(conversation) for conversation in page],
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=has_more,
    )


def hit_list(hits: Sequence[MessageHit]) -> HitList:
    """Return what a search found in wire shape."""
    return HitList(data=[HitReply(hit.conversation_id, hit.title, message_reply(hit.message)) for hit in hits])
